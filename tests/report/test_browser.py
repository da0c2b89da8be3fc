"""The page in a real browser without a network: drawn, usable by mouse and keyboard, and silent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhcr.report.page import Report
from vhcr.report.write import write

pytest.importorskip("playwright", reason="the browser tests drive Chromium through playwright")
from playwright.sync_api import Browser, Page

from tests.browser import contrast, launched

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def address(report: Report, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(report, tmp_path_factory.mktemp("report")).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def scheme() -> str:
    """What the reader's system prefers; tests for which it could matter take both."""
    return "light"


both_schemes = pytest.mark.parametrize("scheme", ["light", "dark"])


@pytest.fixture
def page(scheme: str, browser: Browser, address: str) -> Iterator[Page]:
    """The open page; whatever it does in a test, it may not complain or ask for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: complaints.append(asked.url) if asked.url not in (address, "data:,") else None,
    )
    page.goto(address)
    page.wait_for_selector("#figure-kl svg path.line")
    yield page
    assert complaints == []
    context.close()


@both_schemes
def test_every_panel_is_drawn(page: Page, report: Report) -> None:
    for figure in report.figures:
        panels = page.locator(f"#figure-{figure.id} .panel")
        assert panels.count() == len(figure.panels)
        for i, panel in enumerate(figure.panels):
            drawn = panels.nth(i).locator("path.line, circle[data-system]")
            assert drawn.count() == len(panel.lines) + len(panel.dots) + len(panel.spots)
            assert panels.nth(i).locator("line.rule").count() == len(panel.rules)
        assert "NaN" not in page.locator(f"#figure-{figure.id}").inner_html()


def test_legend_hides_shows_and_isolates(page: Page) -> None:
    legend = page.locator("#figure-likelihood .legend")
    vhcr = legend.get_by_role("button", name="VHCR + u.d")
    dots = page.locator("#figure-likelihood .panel >> nth=0").locator("circle[data-system]")
    before = dots.count()
    vhcr.click()
    assert vhcr.get_attribute("aria-pressed") == "false"
    assert dots.count() == before - 1
    assert page.locator("#figure-kl path.line[data-system='vhcr-ud']").count() == 0, "in all plots"
    assert not page.locator("dd[data-answer='vhcr-ud'] >> nth=0").is_visible(), "and in conversations"
    legend.get_by_role("button", name="Show all").click()
    assert dots.count() == before
    vhcr.dblclick()
    assert dots.count() == 1
    assert vhcr.get_attribute("aria-pressed") == "true"
    legend.get_by_role("button", name="Show all").click()
    vhcr.focus()
    page.keyboard.press("o")
    assert dots.count() == 1
    page.keyboard.press("Space")
    assert dots.count() == 0
    assert "nothing selected" in page.locator("#figure-likelihood .panel >> nth=0").inner_text()


def test_hover_tells_values(page: Page) -> None:
    panel = page.locator("#figure-kl .panel >> nth=0")
    panel.scroll_into_view_if_needed()
    box = panel.locator("svg").bounding_box()
    assert box is not None
    tip = panel.locator(".tip")
    assert not tip.is_visible()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] / 2)
    assert tip.is_visible()
    text = tip.inner_text()
    assert "training step 600" in text
    assert "VHCR + u.d, seed 0" in text
    assert "0.481" in text
    seen = tip.bounding_box()
    assert seen is not None
    assert seen["x"] >= 0
    assert seen["x"] + seen["width"] <= 1280
    page.mouse.move(5, 5)
    assert not tip.is_visible()


def test_keyboard_reads_a_plot(page: Page) -> None:
    box = page.locator("#figure-likelihood .panel >> nth=0").locator("[tabindex='0']")
    box.focus()
    tip = page.locator("#figure-likelihood .panel >> nth=0").locator(".tip")
    page.keyboard.press("ArrowDown")
    assert "HRED" in tip.inner_text()
    assert "3.873" in tip.inner_text(), "the paper's figure too"
    page.keyboard.press("End")
    assert "VHCR + u.d" in tip.inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_seeds_unfold(page: Page) -> None:
    seed = page.locator("#table1 tr.seed >> nth=0")
    assert not seed.is_visible()
    button = page.locator("button[aria-controls='table1']")
    button.click()
    assert seed.is_visible()
    assert button.get_attribute("aria-expanded") == "true"


def test_frontier_stands_beside_the_exact_nll(page: Page) -> None:
    panel = page.locator("#figure-frontier .panel >> nth=1")
    assert "Importance-weighted bound, K = 50" in panel.inner_text()
    assert "HRED, exact" in panel.inner_text()
    panel.locator("[tabindex='0']").focus()
    page.keyboard.press("End")
    tip = panel.locator(".tip").inner_text()
    assert "VHRED + bow, seed" in tip, "the largest KL"
    assert "HRED, exact" in tip
    page.locator("#figure-frontier .legend").get_by_role("button", name="HRED", exact=True).click()
    assert panel.locator("line.rule").count() == 0


COVERED = """panel => {
    const box = (element) => element.getBoundingClientRect();
    const lines = [...panel.querySelectorAll("line.rule")].map(box);
    const names = [...panel.querySelectorAll("text.name")];
    const others = [...panel.querySelectorAll("circle")].map(box);
    const hit = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
    return names.filter((name, i) =>
        [...others, ...lines, ...names.slice(i + 1).map(box)].some((other) => hit(box(name), other))
    ).map((name) => name.textContent);
}"""


def test_names_on_the_frontier_cover_nothing(browser: Browser, report: Report, tmp_path: Path) -> None:
    """As on Cornell: the run with the largest KL lies on the line of HRED's exact NLL, at its end."""
    text = write(report, tmp_path).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text)
    assert found
    drawn = json.loads(found[1])
    (frontier,) = [figure for figure in drawn["figures"] if figure["id"] == "frontier"]
    for panel in frontier["panels"]:
        max(panel["spots"], key=lambda spot: spot["x"])["y"] = panel["rules"][0]["y"] * 1.0002
    dense = tmp_path / "dense.html"
    dense.write_text(text.replace(found[1], json.dumps(drawn)), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(dense.as_uri())
    for number in (0, 1):
        shown = page.locator("#figure-frontier .panel").nth(number)
        assert shown.locator("text.name").count() > 2
        assert shown.evaluate(COVERED) == []
    page.close()


def test_conversations_by_z_conv_unfold_and_hide(page: Page) -> None:
    steered = page.locator("#control details.steered")
    assert steered.count() == 1, "of VHCR + u.d alone"
    rows = steered.locator(".talks")
    assert rows.count() == 6, "2 pairs on 2 paths, 2 fixed z_conv"
    assert rows.nth(0).locator(".talk").count() == 3
    assert rows.nth(0).locator(".talk >> nth=1").inner_text().startswith("50 % of the way")
    assert rows.nth(0).locator(".talk >> nth=0").locator(".bubble").count() == 3
    steered.locator("summary").click()
    assert not rows.nth(0).is_visible()
    steered.locator("summary").click()
    page.locator("#control .legend").get_by_role("button", name="VHCR + u.d").click()
    assert not steered.is_visible()


def test_every_fold_and_link_can_be_clicked(page: Page) -> None:
    for link in page.locator("nav a").all():
        link.click()
        target = str(link.get_attribute("href")).removeprefix("#")
        assert page.evaluate("location.hash") == f"#{target}"
        page.wait_for_function(
            "id => { const r = document.getElementById(id).getBoundingClientRect();"
            " return r.top < innerHeight && r.bottom > 0; }",
            arg=target,
        )
    for summary in page.locator("summary").all():
        if summary.is_visible():
            before = summary.evaluate("s => s.parentElement.open")
            summary.click()
            assert summary.evaluate("s => s.parentElement.open") is not before
    for button in page.locator("button.seed-toggle").all():
        button.click()
        assert button.get_attribute("aria-expanded") == "true"


@both_schemes
def test_theme_and_its_contrast(page: Page) -> None:
    seen = set()
    for expected in ("light", "dark", "auto"):
        page.locator(".theme").click()
        assert page.locator(".theme").inner_text() == f"Theme: {expected}"
        ink = page.evaluate("getComputedStyle(document.querySelector('figcaption')).color")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert contrast(ink, paper) >= 4.5
        seen.add(paper)
    assert len(seen) == 2


@pytest.mark.parametrize("width", [360, 390, 768, 1280, 2200])
def test_nothing_sticks_out(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_function(
        "[...document.querySelectorAll('.panel svg')].every(s => Math.abs(s.viewBox.baseVal.width"
        " - Math.max(220, s.parentElement.clientWidth)) < 2)"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@both_schemes
def test_prints(page: Page) -> None:
    page.set_viewport_size({"width": 690, "height": 1000})  # A4 between its margins
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 690, "once a table ran off the paper"
    seed, mean = (
        f"getComputedStyle(document.querySelector('#table1 {row} td')).fontSize" for row in ("tr.seed", "tr")
    )
    assert page.evaluate(f"parseFloat({seed}) <= parseFloat({mean})")
    assert not page.locator(".theme").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf(format="A4")) > 50_000


def test_without_scripts_the_numbers_are_there(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(address)
    assert page.locator("#table1 tr.seed >> nth=0").is_visible()
    assert "ending at" in page.locator("#figure-kl .panels").inner_text()
    context.close()
