"""Prefect's and MLflow's pages in a real browser: a training from the form to the comparison with another."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.settings import KEPT
from tests.flows.conftest import ROOT, House
from tests.processes import wait_for
from tests.recording.servers import mlflow_server
from vhcr.params import Params

pytest.importorskip("playwright", reason="the browser tests drive Chromium through playwright")
from playwright.sync_api import Page, expect
from playwright.sync_api import TimeoutError as Slow

from tests.browser import launched

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

BUSY = "Service Unavailable"  # Prefect's answer where two write to SQLite at the same moment: ask again
PATIENCE = 60_000  # milliseconds for a page on a busy machine
RUN_PATIENCE = 900_000  # and for a run
# What Prefect's pages ask for as soon as they are opened, although analytics are off: a configuration.
# They send nothing; docs/orchestration.md says how to be without that, too.
KNOWN_OUTSIDE = {"sr-client-cfg.amplitude.com"}


@pytest.fixture(scope="module")
def mlflow(house: House) -> Iterator[str]:
    """MLflow's pages, as `make mlflow` shows them."""
    created = house.python("-m", "vhcr.cli", "create-database")
    assert created.returncode == 0, created.stdout
    with mlflow_server(house.folder, house.environment["MLFLOW_TRACKING_URI"]) as address:
        yield address


@pytest.fixture
def page() -> Iterator[Page]:
    """A page that looks nothing up outside of this machine."""
    with launched() as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 1000})
        outside: set[str] = set()

        def asked(url: str) -> None:
            place = urlsplit(url)
            if place.scheme in ("http", "https") and place.hostname != "127.0.0.1":
                outside.add(str(place.hostname))

        context.on("request", lambda request: asked(request.url))
        context.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: route.abort())
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield page
        context.close()
    assert outside <= KNOWN_OUTSIDE


def shot(page: Page, name: str) -> None:
    """A picture for people, where VHCR_SCREENSHOTS names a folder."""
    if folder := os.environ.get("VHCR_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_a_training_is_asked_for_watched_and_compared(house: House, mlflow: str, page: Page) -> None:
    with house.worker(MLFLOW_TRACKING_URI=mlflow):
        other = house.start("train/train", settings={"system": "hred", "training": {"max_steps": 24}})
        run = fill_the_form(house, page)
        watch(house, page, run)
        house.reach(other, "Completed", seconds=900)
        compare_in_mlflow(page, mlflow)


def choose(page: Page, select: str, option: str) -> None:
    """One of an enumeration; its list may close under a click while the page draws itself anew."""
    button = page.get_by_role("button", name=select, exact=True)
    wanted = page.get_by_role("option", name=option, exact=True)
    for _ in range(10):
        with contextlib.suppress(Slow, AssertionError):
            if not wanted.is_visible():
                button.click(timeout=6_000)
            wanted.click(timeout=6_000)
            expect(button).to_have_text(option, timeout=6_000)
            return
    expect(button).to_have_text(option)


def fill_the_form(house: House, page: Page) -> str:
    """From the first page to a run with settings of one's own; a value out of bounds starts none."""
    page.goto(house.api.removesuffix("/api"))
    page.get_by_role("link", name="Deployments").first.click()
    page.get_by_role("link", name="train", exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()

    page.get_by_role("button", name="Select System", exact=True).click()
    known = Params.load(ROOT / "params.yaml").systems
    expect(page.get_by_role("option")).to_have_text(list(known))
    choose(page, "Select System", "vhred")
    expect(page.get_by_role("button", name="Select Device", exact=True)).to_have_text(KEPT)
    page.get_by_role("button", name="Select Device", exact=True).click()
    expect(page.get_by_role("option")).to_have_text([KEPT, "auto", "cpu", "cuda"])
    choose(page, "Select Device", "cpu")
    expect(
        page.get_by_text("Stop after this many steps, whatever the epoch. In params.yaml:")
    ).to_be_visible()
    page.get_by_label("Seed (Optional)").first.fill("3")
    page.get_by_label(re.compile("^Learning Rate")).fill("0.002")
    page.get_by_label("Max Steps").fill("24")

    before = runs(house)
    epochs = page.get_by_label("Num Epochs")
    epochs.fill("0")
    page.get_by_role("button", name="Submit").click()
    assert "greater than or equal to 1" in epochs.evaluate("field => field.validationMessage")
    shot(page, "form-refuses")
    epochs.fill("2")
    shot(page, "form")
    assert runs(house) == before, "the bad value started one"
    submit(page)
    (run,) = wait_for(lambda: runs(house) - before, 60, "for the run")
    asked = house.http.get(f"/flow_runs/{run}").json()["parameters"]["settings"]
    assert (asked["system"], asked["seed"]) == ("vhred", 3)
    touched = {name: value for name, value in asked["training"].items() if value not in (None, KEPT)}
    assert touched == {"device": "cpu", "learning_rate": 0.002, "max_steps": 24, "num_epochs": 2}
    page.locator(f"a[href*='{run}']").first.click()
    return run


def submit(page: Page) -> None:
    """Press Submit. A busy server refuses: the page says so, keeps what was typed, and may be asked again."""
    pressed = re.compile("/create_flow_run$")
    page.route(pressed, lambda route: route.fulfill(status=503, json={"exception_message": BUSY}), times=1)
    for press in range(20):
        with page.expect_response(pressed) as answer:
            page.get_by_role("button", name="Submit").click()
        if answer.value.status != 503:
            break
        expect(page.get_by_text("Unknown error while creating flow run").first).to_be_visible()
        if press == 0:
            shot(page, "form-busy")
    assert press > 0, "the first one is to be refused"
    assert answer.value.status == 201, answer.value.text()


def runs(house: House) -> set[str]:
    wanted = {"deployments": {"name": {"any_": ["train"]}}}
    return {run["id"] for run in house.http.post("/flow_runs/filter", json=wanted).json()}


def watch(house: House, page: Page, run: str) -> None:
    """Its log comes while it runs; in the end there are the numbers, and the way to MLflow."""
    page.get_by_role("tab", name="Logs").click()
    expect(page.get_by_text("submitting flow run")).to_be_visible(timeout=RUN_PATIENCE)
    shot(page, "log")
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible(timeout=RUN_PATIENCE)
    assert house.state(run) == "Completed"
    assert "Running stage 'train@toy-vhred-3'" in house.log(run)
    page.get_by_role("tab", name="Artifacts").click()
    expect(page.get_by_text("24 of 24").first).to_be_visible()
    shot(page, "artifacts")
    page.get_by_role("link", name="mlflow-toy-vhred-3").first.click()
    link = page.get_by_role("link", name="The run in MLflow")
    shot(page, "artifact")
    link.first.evaluate("link => link.removeAttribute('target')")
    link.first.click()


def compare_in_mlflow(page: Page, mlflow: str) -> None:
    """From the run to its experiment, and there side by side with the other one."""
    page.wait_for_url(f"{mlflow}/#/experiments/**")
    expect(page.get_by_text("vhred-3").first).to_be_visible()
    shot(page, "mlflow-run")
    page.get_by_role("link", name="Runs", exact=True).last.click()
    page.get_by_role("checkbox", name="Select all runs").click()
    page.get_by_role("button", name="Compare").first.click()
    page.wait_for_url("**/compare-runs?**")
    for name, here, there in (
        ("system.architecture", "hred", "vhred"),
        ("training.learning_rate", "0.003", "0.002"),
        ("seed", "0", "3"),
    ):
        row = re.compile(rf"\b{re.escape(name)}\s+({here}\s+{there}|{there}\s+{here})\s")
        expect(page.locator("body")).to_contain_text(row, use_inner_text=True)
    shot(page, "mlflow-compare")
