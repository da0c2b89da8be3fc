"""The page as text: complete, closed to the outside, and safe with whatever people wrote."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.report.conftest import with_numbers, with_system
from vhcr.evaluation.records import LengthBin
from vhcr.report import page as page_module
from vhcr.report.page import Report, assemble, render
from vhcr.report.templates import plain
from vhcr.results.records import Data, Expectation, Tokenisation, Validation
from vhcr.results.runs import Curves, LeftOut, Response, Talk

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """Open elements, ids, links; complains of elements that close in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        for name in ("href", "src", "srcset", "action", "data"):
            if target := values.get(name):
                (self.links if target.startswith("#") else self.outside).append(target)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


@pytest.fixture(autouse=True, scope="module")
def without_vega() -> Iterator[None]:
    """Its library takes a while to put together; browser tests draw with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "library", lambda: "/* Vega */")
        yield


@pytest.fixture(scope="module")
def page(report: Report, without_vega: None) -> str:
    return render(report, commit="0123456789abcdef")


def test_well_formed_and_closed_to_the_outside(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert {link[1:] for link in outline.links} <= set(outline.ids)
    assert outline.outside == ["data:,"]
    assert not re.findall(
        r"(?:https?:)?//(?!www\.w3\.org/2000/svg|vega\.github\.io/schema)[\w.-]+\.\w+|@import|url\((?!#)",
        page,
    )
    assert len(page.encode()) < 2_000_000, "Vega takes another 0.9 MB of the 3 MB"


def test_shows_what_was_asked_for(page: str) -> None:
    for text in (
        "Table 1: negative log-likelihood", "Table 2: KL divergence", "Table 3: embedding metrics",
        "KL divergence during training", "Conversations", "all 2 expectations hold", "Leakage between splits",
        "2 (1.7 %)", "token coverage", "Settings that tell the systems apart", "0123456789", "2 x Some CPU",
        "14 min 00 s together",
        "runs that record it took 2 min 00 s together", "2026-01-02 03:04:05",
        "HRED has the lowest NLL", "4.026", "by greedy decoding",
    ):  # fmt: skip
        assert text in page, text


def test_a_kl_at_its_free_bits_is_said_to_be_that(report: Report) -> None:
    """Three free nats were praised for a KL of three nats, on five corpora."""
    run = with_numbers(report.results.of("vhcr-ud")[0], num_conversations=100, num_words=1000,
                       kl_conv_per_word=0.31, kl_utt_per_word=0.5,
                       by_utterance_length=[LengthBin(first=1, last=9, num_utterances=100, num_words=1000,
                                                      kl_utt_per_word=0.5, perplexity=None)])  # fmt: skip

    def told(**free: float) -> list[str]:
        results = replace(report.results, runs=(with_system(run, architecture="vhcr", **free),))
        page = render(assemble(results, num_samples=10, seed=0))
        return re.findall(
            r"The KL of (z_\w+) sits at its free bits, nats an? \w+: .*?([\d.]+ \([\d.]+ free\))", page
        )

    assert told(free_bits_conv=3.0, free_bits_utt=3.0) == [("z_conv", "3.10 (3.00 free)")]
    assert told(free_bits_conv_per_word=0.3) == [("z_conv", "3.10 (3.00 free)")]
    assert told(free_bits_conv=1.0, free_bits_conv_per_word=0.2) == [("z_conv", "3.10 (3.00 free)")]
    assert told(free_bits_utt=4.8) == [("z_utt", "5.00 (4.80 free)")]
    assert told(free_bits_conv=2.0, free_bits_utt=4.0) == told() == []


def test_conversations_by_z_conv(report: Report, page: str) -> None:
    talks = report.results.of("vhcr-ud")[0].talks
    for key in (("interpolation", "spherical", 1), ("fixed", "", 0)):
        for talk in talks[key]:
            for text in talk.turns:
                assert html.escape(text, quote=True).replace("&#x27;", "&#39;") in page
    assert "Pair 2, spherical path" in page
    assert "3 of the 3 conversations are different ones." in page
    alike = {key: (talks[key][0],) * 3 for key in talks}
    runs = tuple(replace(run, talks=alike) for run in report.results.of("vhcr-ud"))
    again = render(assemble(replace(report.results, runs=runs), num_samples=10, seed=0))
    assert "All 3 conversations are the same, word for word." in again


def test_the_first_utterance_that_was_given_is_marked(report: Report) -> None:
    talk = Talk(0.0, 0, "hello you", ("hello me",))
    run = replace(report.results.runs[-1], talks={("interpolation", "linear", 0): (talk,)})
    page = render(assemble(replace(report.results, runs=(run,)), num_samples=10, seed=0))
    assert '<span class="who">given</span> hello you' in page


def test_what_people_wrote_cannot_become_markup(report: Report) -> None:
    evil = "</script><script>alert(1)</script>&amp;\"'"
    response = Response((evil,), (evil,), (evil,))
    talks = {("fixed", evil, 0): (Talk(None, 0, evil, (evil,)),)}
    run = replace(report.results.runs[0], system=evil, responses={(1, evil): response}, talks=talks)
    data = Data(
        manifest=report.results.data.manifest,
        tokenisation=Tokenisation.model_validate({evil: {evil: [evil]}}),
        validation=Validation(success=False, results=(Expectation(expectation=evil),)),
    )
    left_out = (LeftOut(evil, evil, evil),)
    results = replace(report.results, title=evil, runs=(run,), left_out=left_out, data=data)
    page = render(assemble(results, num_samples=10, seed=0))
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert page.count("<script") == 3, "the data, Vega and our own"
    assert "&lt;/script&gt;" in page
    found = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    assert evil in json.dumps(json.loads(found[1])["panels"], ensure_ascii=False).replace('\\"', '"')


def test_scarce_results_still_make_a_page(report: Report) -> None:
    runs = tuple(
        replace(run, sums={}, responses={}, talks={}, curves=Curves()) for run in report.results.runs[:2]
    )
    results = replace(report.results, runs=runs, data=Data(manifest=report.results.data.manifest))
    page = render(assemble(results, num_samples=10, seed=0))
    assert "No validation result was found" in page
    assert 'id="conversations"' not in page
    assert "HRED, seed 0" in page


def test_failed_validation_comes_first_and_open(report: Report) -> None:
    bad = Expectation(expectation="bad", unexpected_count=3, examples=[7, 8], explanation="Why")
    validation = Validation(success=False, results=(Expectation(expectation="good", success=True), bad))
    data = report.results.data.model_copy(update={"validation": validation})
    page = render(replace(report, results=replace(report.results, data=data)))
    assert "not all 2 expectations hold (1 failed)" in page
    assert page.index("✗ fails") < page.index("✓ holds")
    assert "such as 7, 8" in page
    assert "<details open>" in page


def test_left_out_runs_are_listed(report: Report) -> None:
    left = (LeftOut("vhcr-ud", "4", "trained, but not evaluated"),)
    page = render(replace(report, results=replace(report.results, left_out=left)))
    assert "VHCR + u.d, seed 4: trained, but not evaluated" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (True, "yes"), (1234, "1,234"), (-5, "−5"), (0.0001, "0.0001"), (1e6, "1,000,000"),
        (0.25, "0.25"), ([], "–"), ([1, 2], "1, 2"), ({"num_x": 1}, "num x 1"), ("a", "a"),
        (0, "0"), (0.0, "0"),
    ],
)  # fmt: skip
def test_plain(value: object, text: str) -> None:
    assert plain(value) == text


def test_topics_are_a_table_with_words_and_a_typical_conversation(page: str) -> None:
    table = page.partition('id="topics"')[2].partition("</table>")[0]
    assert re.findall(
        r"<th scope=.row.>(\d+)</th><td class=.left.>(\d+)</td><td class=.left.>([^<]+)", table
    ) == [
        ("0", "60", "wine, glass"),
        ("1", "60", "printer, ink"),
    ]
    assert "what about the printer ?" in table
    assert "nothing" not in table, "of the typical conversation, only how it begins"
