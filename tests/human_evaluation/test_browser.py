"""Raters in a real browser: by mouse and keys, at once, interrupted, and never told what is whose."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.human_evaluation.studies import make_study
from vhcr.human_evaluation.study import Study

pytest.importorskip("playwright", reason="the browser tests drive Chromium through playwright")
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from playwright.sync_api import Error as PlaywrightError

from tests.browser import contrast, launched

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PATIENCE = 60_000  # ms; a busy machine is slow, not broken
CONFLICT = "409"  # what a second vote is answered with; the browser notes it on its console
# What would tell systems apart: their names, words for their part in the study, the conversations' ids.
TELLING = re.compile(r"vhcr|hred|opponent|outcome|system_|\bwins?\b|\bloss|talk\d|seed", re.IGNORECASE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with launched() as browser:
        yield browser


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Six pairs for two votes each; one text would be markup if it were not escaped."""
    made = {}
    for system, word in (("vhcr-ud", "alpha"), ("hred", "beta")):
        made[system] = {n: f"{word} {n} <b id='injected'>&amp;</b> <unk> ." for n in range(12)}
    return make_study(tmp_path, responses=made)


@contextmanager
def served(study: Study, *names: str, port: int = 0) -> Iterator[dict[str, str]]:
    """The command as a person types it; links by name, as it prints them."""
    command = [sys.executable, "-m", "vhcr.cli", "human-eval", "serve", str(study.path), *names]
    with subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            links = {}
            for _ in names or study.invited():
                name, _, link = process.stdout.readline().strip().partition(": ")
                links[name] = link
            yield links
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0, "Ctrl-C is how one ends it"


class Watched:
    """A browser of one person; keeps all that it received and every complaint."""

    def __init__(self, browser: Browser, scheme: str = "light", width: int = 1280) -> None:
        self.context: BrowserContext = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,  # type: ignore[arg-type]
        )
        self.context.set_default_timeout(PATIENCE)
        self.received: list[str] = []
        self.asked: list[str] = []
        self.complaints: list[str] = []

    def open(self, link: str) -> Page:
        page = self.context.new_page()
        page.route("**", self._pass_on)
        page.on("request", lambda asked: self.asked.append(asked.url))
        page.on("console", lambda said: CONFLICT in said.text or self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(link)
        ready(page)
        return page

    def _pass_on(self, route: Route) -> None:
        """Keep each answer on its way to the browser: afterwards its text may be gone."""
        try:
            response = route.fetch()
        except PlaywrightError:  # the server is stopped
            route.abort()
            return
        self.received.append(f"{response.url}\n{response.headers}\n{response.text()}")
        route.fulfill(response=response)


def ready(page: Page) -> None:
    """Wait until the page takes a vote, or has none to take."""
    expect(page.locator("body")).to_have_attribute("data-state", re.compile("^(ready|done|waiting)$"))


def counted(page: Page, voted: int, to_go: int) -> None:
    expect(page.locator("#count")).to_have_text(f"{voted} voted, {to_go} to go")
    ready(page)


def texts(page: Page) -> tuple[str, str, str]:
    return tuple(page.locator(f"#{name}").inner_text() for name in ("context", "left-reply", "right-reply"))  # type: ignore[return-value]


def test_two_raters_from_the_first_pair_to_the_last(browser: Browser, study: Study) -> None:
    anna, ben = Watched(browser), Watched(browser, "dark", 390)
    with served(study, "anna", "ben") as links:
        port = int(re.findall(r":(\d+)/", links["anna"])[0])
        mine, his = anna.open(links["anna"]), ben.open(links["ben"])
        counted(mine, 0, 6)
        counted(his, 0, 6)
        assert "<unk>" in texts(mine)[1]
        assert mine.locator("#injected").count() == 0, "text is text"

        mine.keyboard.press("ArrowLeft")
        counted(mine, 1, 5)
        his.locator("#right").click()
        counted(his, 1, 5)
        expect(mine.locator("#status")).to_have_text("Stored: left.")

        # A reload and a second window show the pair that is open.
        open_pair = texts(mine)
        mine.reload()
        ready(mine)
        assert texts(mine) == open_pair
        second = anna.open(links["anna"])
        assert texts(second) == open_pair
        second.keyboard.press("t")
        counted(second, 2, 4)
        mine.evaluate("vote('right')")  # the first window still shows it, and votes too
        expect(mine.locator("#status")).to_contain_text("voted on that pair already (about the same)")
        counted(mine, 2, 4)
        second.close()
        assert Counter(vote.rater for vote in study.votes()) == {"page:anna": 2, "page:ben": 1}

        # A double click and a key held down are one vote each.
        mine.locator("#left").dblclick()
        counted(mine, 3, 3)
        mine.keyboard.down("3")
        for _ in range(5):
            mine.keyboard.down("3")
        mine.keyboard.up("3")
        counted(mine, 4, 2)

    # The server was stopped; the same links go on where they were.
    mine.locator("#left").click()
    expect(mine.locator("#status")).to_contain_text("not stored yet")
    anna.complaints.clear()  # of the connection
    with served(study, port=port) as links:
        ready(mine)
        mine.locator("#left").click()
        counted(mine, 5, 1)

        # Back to the last one, and another opinion.
        before = {vote.item: vote.outcome for vote in study.votes() if vote.rater == "page:anna"}
        mine.keyboard.press("b")
        expect(mine.locator("#left")).to_have_attribute("aria-pressed", "true")
        expect(mine.locator("#status")).to_contain_text("You chose left.")
        ready(mine)
        mine.locator("#right").click()
        counted(mine, 5, 1)
        after = {vote.item: vote.outcome for vote in study.votes() if vote.rater == "page:anna"}
        assert [before[item] == after[item] for item in after] == [True] * 4 + [False]
        assert {before[item] for item in after if before[item] != after[item]} < {"win", "loss"}

        mine.locator("#tie").click()
        expect(mine.locator("#end-title")).to_have_text("That was the last one. Thank you!")
        for voted in range(1, 6):
            counted(his, voted, 6 - voted)
            his.keyboard.press("2")
        expect(his.locator("#end-title")).to_be_visible()
        assert "Voting as" not in his.locator("#pair").inner_text()
    votes = study.votes()
    assert Counter(vote.rater for vote in votes) == {"page:anna": 6, "page:ben": 6}
    assert set(Counter(vote.item for vote in votes).values()) == {2}
    for person in (anna, ben):
        assert person.complaints == []
        assert all(re.match(r"http://127\.0\.0\.1:\d+/|data:,", url) for url in person.asked), person.asked
        assert len(person.received) >= 10
        assert [found for text in person.received if (found := TELLING.search(text))] == []
        person.context.close()


def test_a_side_is_the_side_that_is_stored(browser: Browser, study: Study) -> None:
    """Whoever always takes the text of the first system makes it win every time."""
    person = Watched(browser)
    with served(study, "anna") as links:
        page = person.open(links["anna"])
        seen = []
        for voted in range(6):
            counted(page, voted, 6 - voted)
            side = "left" if texts(page)[1].startswith("alpha") else "right"
            seen.append(side)
            page.locator(f"#{side}").click()
        expect(page.locator("#end-title")).to_be_visible()
    assert {vote.outcome for vote in study.votes()} == {"win"}
    assert len(set(seen)) == 2
    assert person.complaints == []
    person.context.close()


def test_the_last_pair_may_be_somebody_elses(browser: Browser, tmp_path: Path) -> None:
    study = make_study(tmp_path, 1, votes=1)
    anna, ben = Watched(browser), Watched(browser)
    with served(study, "anna", "ben") as links:
        mine, his = anna.open(links["anna"]), ben.open(links["ben"])
        expect(his.locator("#end-title")).to_have_text("Nothing to do just now")
        mine.keyboard.press("1")
        expect(mine.locator("#end-title")).to_contain_text("Thank you")
        his.evaluate("refresh()")  # which it does by itself after a while
        expect(his.locator("#end-title")).to_contain_text("Thank you")
        stranger = anna.context.new_page()
        assert stranger.goto(links["anna"].replace("/r/", "/r/0")).status == 404  # type: ignore[union-attr]
        expect(stranger.locator("h1")).to_have_text("Your own link is needed")
    anna.context.close()
    ben.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_at_every_width(browser: Browser, study: Study, scheme: str) -> None:
    person = Watched(browser, scheme)
    with served(study, "anna") as links:
        page = person.open(links["anna"])
        for width in (320, 390, 768, 1280, 2200):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            lines = page.evaluate("[...document.querySelectorAll('.choices button')].map(b => b.offsetTop)")
            assert len(set(lines)) == 1, "left is left of right at any width"
        page.evaluate("document.querySelector('details').open = true")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (contrast(paper, "rgb(0, 0, 0)") > 10) == (scheme == "light")
        for selector in ("h2", "#count", "summary", "footer", "kbd", ".turns li", "#left", "article h3"):
            style = f"getComputedStyle(document.querySelector('{selector}'))"
            ink, behind = (page.evaluate(f"{style}.{name}") for name in ("color", "backgroundColor"))
            assert contrast(ink, paper if behind == "rgba(0, 0, 0, 0)" else behind) >= 4.5, selector
    assert person.complaints == []
    person.context.close()


def test_by_keyboard_alone(browser: Browser, study: Study) -> None:
    person = Watched(browser)
    with served(study, "anna") as links:
        page = person.open(links["anna"])
        assert page.evaluate("document.activeElement.id") == "conversation", "a reader starts there"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "left"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        counted(page, 1, 5)
        expect(page.locator("#status")).to_have_text("Stored: about the same.")
        page.keyboard.press("Control+ArrowLeft")
        page.keyboard.press("x")
        page.keyboard.press("b")
        expect(page.locator("#tie")).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("n")
        expect(page.locator("#tie")).to_have_attribute("aria-pressed", "false")
        counted(page, 1, 5)
    assert len(study.votes()) == 1
    assert person.complaints == []
    person.context.close()
