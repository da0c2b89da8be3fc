"""The page in a headless Chromium: every part is clicked through, in light and dark, on phone and wide."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect

from tests.browser import contrast, launched
from tests.explore.example import atlas
from tests.explore.test_server import GENERATION, TOKEN
from vhcr.explore.server import address, create_app
from vhcr.loopback import open_socket, uvicorn_config

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def served(made: object, *others: object) -> Iterator[str]:
    listener = open_socket(0)
    server = uvicorn.Server(uvicorn_config(create_app(made, GENERATION, TOKEN, others)))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield address(listener.getsockname()[1], TOKEN)
    server.should_exit = True
    thread.join(timeout=60)
    listener.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    made = atlas(tmp_path_factory.mktemp("explored"))
    yield from served(made, made.run)


def opened(browser: Browser, at: str, scheme: str = "light", width: int = 1400, touch: bool = False) -> Page:
    context = browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": 850},
        has_touch=touch,
        is_mobile=touch,
    )
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.on(
        "request",
        lambda request: request.url.startswith(("http://127.0.0.1", "data:")) or pytest.fail(request.url),
    )
    page.goto(at)
    page.wait_for_selector("body[data-ready]")
    return page


def spot(page: Page, place: int) -> tuple[float, float]:
    """Where a point is on the screen."""
    x, y = page.evaluate("(i) => [vhcr.map.toX(i) / vhcr.map.ratio, vhcr.map.toY(i) / vhcr.map.ratio]", place)
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    return box["x"] + x, box["y"] + y


def test_a_point_is_read_and_conversations_are_made_from_it(browser: Browser, site: str) -> None:
    page = opened(browser, site)
    page.mouse.click(*spot(page, 3))
    expect(page.locator("#point h2").first).to_have_text("test-3")
    expect(page.locator("#conversation li")).to_have_count(4)
    page.select_option("#point select", "with_z")
    assert "nats with z" in (page.locator("#conversation .word").first.get_attribute("title") or "")
    page.get_by_role("button", name="Use as A").click()
    page.get_by_role("tab", name="Point").click()
    page.locator("#point .list button").first.click()
    expect(page.locator("#point h2").first).not_to_have_text("test-3")
    page.get_by_role("button", name="Use as B").click()
    for way, count in (("point", 5), ("path", 5), ("middle", 5)):
        page.select_option("[name=way]", way)
        page.get_by_role("button", name="Generate", exact=True).click()
        expect(page.locator("#status")).to_have_text("5 conversations")
        expect(page.locator("#made .made")).to_have_count(count)
        assert any(page.locator("#made li").all_inner_texts())


def test_lasso_search_legend_and_keys(browser: Browser, site: str) -> None:
    page = opened(browser, site)
    page.keyboard.press("/")
    page.keyboard.type("printer")
    expect(page.locator("#status")).to_have_text("12 conversations hold “printer”")
    page.keyboard.press("Escape")
    assert page.evaluate("vhcr.map.shown") is None
    page.get_by_role("button", name="Lasso").click()
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    corners = [(5, 5), (box["width"] - 5, 5), (box["width"] - 5, box["height"] - 5), (5, box["height"] - 5)]
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    for x, y in corners:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=4)
    page.mouse.up()
    expect(page.locator("#topics h2")).to_have_text("24 conversations in the lasso")
    page.select_option("#colour", "kind (label)")
    page.locator("#legend button").first.click()
    assert page.evaluate("vhcr.map.shown.reduce((a, b) => a + b)") == 12
    page.keyboard.press("Escape")
    page.locator("#canvas").focus()
    before = page.evaluate("vhcr.map.scale")
    page.keyboard.press("+")
    assert page.evaluate("vhcr.map.scale") > before
    page.keyboard.press("0")
    assert page.evaluate("vhcr.map.scale") == before
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#conversation li")
    page.select_option("#level", "utterance")
    expect(page.locator("#status")).to_contain_text("utterances")
    page.select_option("#projection", "tsne")
    expect(page.locator("#status")).to_have_text("60 utterances", timeout=60_000)


def test_two_runs_talk_side_by_side_and_can_be_asked_again(browser: Browser, site: str) -> None:
    page = opened(browser, site)
    page.get_by_role("tab", name="Talk").click()
    page.select_option("[name=hold]", "held")
    for number, text in enumerate(("hello", "how are you ?"), start=1):
        page.fill("#say input", text)
        page.keyboard.press("Enter")
        expect(page.locator("#talks li")).to_have_count(4 * number)
        expect(page.locator("#status")).to_have_text("")
    page.get_by_text("How it speaks").click()
    page.select_option("#dials [name=strategy]", "sample")
    page.get_by_role("button", name="Another reply").click()
    expect(page.locator("#status")).to_have_text("")
    page.fill("#say input", "—")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("there is no word in")
    assert page.input_value("#say input") == "—"
    expect(page.locator("#talks li")).to_have_count(8)
    page.get_by_role("button", name="New talk").click()
    page.get_by_role("button", name="Let it begin").click()
    expect(page.locator("#talks li")).to_have_count(2)
    page.select_option("#dials [name=unknown_words]", "never")
    page.fill("#say input", "zzyzx")
    page.keyboard.press("Enter")
    expect(page.get_by_text("no word of 'zzyzx' is in the vocabulary")).to_have_count(2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_runs_over_and_all_is_readable(browser: Browser, site: str, scheme: str, width: int) -> None:
    page = opened(browser, site, scheme, width, touch=width < 500)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(page.locator("#topics .made").all()) == 2
    for selector in ("body", ".soft", "button.primary"):
        ink, paper = page.locator(selector).first.evaluate(
            """(e) => { const own = getComputedStyle(e); let at = e;
            while (at && getComputedStyle(at).backgroundColor === "rgba(0, 0, 0, 0)") at = at.parentElement;
            return [own.color, getComputedStyle(at || document.body).backgroundColor]; }"""
        )
        assert contrast(ink, paper) >= 4.5, selector


def test_a_system_without_z_conv_says_so(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = atlas(tmp_path_factory.mktemp("vhred"), "vhred")
    for at in served(made):
        page = opened(browser, at)
        expect(page.locator("#about")).to_contain_text("it has no z_conv")
        expect(page.locator("#tab-generate")).to_be_hidden()
        expect(page.locator("#topics")).to_contain_text("no z_conv, so its conversations have no topics")


def test_the_page_loads_within_its_budget() -> None:
    """One static bundle that a phone on the same tunnel loads at once."""
    folder = Path(__file__).parents[2] / "vhcr" / "explore"
    assert (
        sum((folder / name).stat().st_size for name in ("page.html", "page.css", "page.js", "map.js"))
        < 60_000
    )
