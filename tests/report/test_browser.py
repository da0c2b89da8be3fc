"""The page in a real browser without a network: drawn, usable by mouse and keyboard, and silent."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from vhcr.report.page import Report
from vhcr.report.write import write

pytest.importorskip("playwright", reason="the browser tests drive Chromium through playwright")
from playwright.sync_api import Browser, Locator, Page, expect

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
    page.wait_for_selector("html.drawn")
    yield page
    assert complaints == []
    context.close()


# What Vega draws: a path for each line, a rule for each interval and each exact NLL.
LINES, RULES = ".mark-line.role-mark path", ".mark-rule.role-mark line"


def ours(panel: Locator) -> Locator:
    """Symbols that stand for a system's number; the paper's are beside them, and have no system."""
    return panel.locator(".mark-symbol.role-mark path[aria-label*='system: ']")


@both_schemes
def test_every_panel_is_drawn(page: Page, report: Report) -> None:
    for figure in report.figures:
        panels = page.locator(f"#figure-{figure.id} .panel")
        assert panels.count() == len(figure.panels)
        for i, panel in enumerate(figure.panels):
            shown = panels.nth(i)
            assert shown.locator(LINES).count() == len(panel.lines)
            if panel.kind != "lines":
                assert ours(shown).count() == len(panel.dots) + len(panel.spots)
            intervals = [dot for dot in panel.dots if dot.low is not None]
            assert shown.locator(RULES).count() == len(intervals) + len(panel.rules)
        assert "NaN" not in page.locator(f"#figure-{figure.id}").inner_html()


def test_legend_hides_shows_and_isolates(page: Page) -> None:
    legend = page.locator("#figure-likelihood .legend")
    vhcr = legend.get_by_role("button", name="VHCR + u.d")
    dots = ours(page.locator("#likelihood-0"))
    before = dots.count()
    vhcr.click()
    assert vhcr.get_attribute("aria-pressed") == "false"
    expect(dots).to_have_count(before - 1)
    lines = page.locator("#kl-0 .mark-line.role-mark path[aria-label*='VHCR + u.d']")
    expect(lines).to_have_count(0)  # in all plots
    assert not page.locator("dd[data-answer='VHCR + u.d'] >> nth=0").is_visible(), "and in conversations"
    legend.get_by_role("button", name="Show all").click()
    expect(dots).to_have_count(before)
    vhcr.dblclick()
    expect(dots).to_have_count(1)
    assert vhcr.get_attribute("aria-pressed") == "true"
    legend.get_by_role("button", name="Show all").click()
    vhcr.focus()
    page.keyboard.press("o")
    expect(dots).to_have_count(1)
    page.keyboard.press("Space")
    expect(dots).to_have_count(0)


def test_hover_tells_values(page: Page) -> None:
    tip = page.locator("#vg-tooltip-element")
    assert not tip.is_visible()
    # Both seeds have the same KL here, and the last one drawn lies on top.
    dot = page.locator("#kl-0 .mark-symbol path[aria-label*='step: 600'][aria-label*='VHCR + u.d, seed 1']")
    dot.hover()
    expect(tip).to_be_visible()
    text = tip.inner_text()
    assert re.search(r"training step\s+600", text)
    assert "VHCR + u.d, seed 1" in text
    assert "0.481" in text
    seen = tip.bounding_box()
    assert seen is not None
    assert seen["x"] >= 0
    assert seen["x"] + seen["width"] <= 1280
    page.mouse.move(5, 5)
    expect(tip).not_to_be_visible()


def test_keyboard_reads_the_numbers_of_a_plot(page: Page) -> None:
    numbers = page.locator("#figure-likelihood .numbers-of")
    assert not numbers.locator("table >> nth=0").is_visible()
    legend = page.locator("#figure-likelihood .legend button:visible")
    legend.last.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(numbers.locator("table >> nth=0")).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").endswith("NLL, or its bound")
    text = page.evaluate("document.activeElement.innerText")
    assert "HRED" in text
    assert "3.873" in text, "the paper's figure too"
    assert "VHCR + u.d" in text


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
    assert panel.locator(RULES).count() == 1
    page.locator("#figure-frontier .legend").get_by_role("button", name="HRED", exact=True).click()
    expect(panel.locator(RULES)).to_have_count(0)
    assert "HRED, exact" not in panel.inner_text()


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
        "[...document.querySelectorAll('.panel svg')].every("
        "s => Math.abs(s.viewBox.baseVal.width - s.closest('.chart').clientWidth) < 2)"
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
    kl = page.locator("#figure-kl")
    assert "scripts are switched off" in kl.locator(".panels").inner_text()
    kl.locator(".numbers-of summary").click()
    assert kl.locator(".numbers-of td", has_text=re.compile(r"^0\.481")).first.is_visible()
    context.close()
