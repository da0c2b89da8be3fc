from __future__ import annotations

import unicodedata

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vhcr.errors import ParameterError
from vhcr.tokenisation import segmenter
from vhcr.tokenisation.rules import Rules, Segmenter
from vhcr.tokenisation.segmenter import LIBRARIES, choose, is_installed, language_of
from vhcr.tokenisation.tokeniser import detokenise, readable, tokenise, tokenise_all, words

# Text that runs into the rules: letters of contractions, punctuation, typographic and foreign characters.
TRICKY = st.text(alphabet=" nts'mdrelvogwaicuk.,!?`-09ITé’…ß\u00ad\u0301Я", max_size=30)
WORDS = (
    "i 'm do n't 's 'S gonna wanna cannot can not gon na got ta 'tis 't is mr mr. u.s. u.s . .. ... , ! ? ' "
    "` 'em 'n' o'clock 10,000 3.5 xorg.conf <unk> don’t"
)
PIECES = st.lists(st.sampled_from(WORDS.split()), max_size=8)
TEXTS = TRICKY | st.text(max_size=20) | PIECES.map(" ".join) | PIECES.map("".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm gonna see Louis.", "i 'm gon na see louis ."),
        ("It's not your fault, isn't it?", "it 's not your fault , is n't it ?"),
        ("CAN'T won't shan't cannot", "ca n't wo n't sha n't can not"),
        ("they'd've couldn't've", "they 'd 've could n't 've"),
        ("You've got to, we'll, you're, she'd", "you 've got to , we 'll , you 're , she 'd"),
        ("gotta wanna gimme lemme 'tis 'twas", "got ta wan na gim me lem me 't is 't was"),
        ("gonnabe gottan", "gonnabe gottan"),
        ("get out!!!", "get out ! ! !"),
        ("wait..what..... ok…", "wait ... what ... ok ..."),
        ("Mr. Smith, at 10 a.m. in the U.S.A.", "mr. smith , at 10 a.m. in the u.s.a."),
        ("The end.", "the end ."),
        ("etc... the U.S.... ah", "etc ... the u.s ... ah"),
        ("$10,000 or 11.04, 7", "10,000 or 11.04 , 7"),
        ("edit /etc/X11/xorg.conf", "edit etc x11 xorg.conf"),
        ("o'clock y'all 'em rock 'n' roll", "o'clock y'all 'em rock 'n ' roll"),
        ("'stop that' boys' goin'", "' stop that ' boys ' goin '"),
        ("Don’t `quote`", "do n't ` quote `"),
        ("well-known -- a_b (c) <u>d</u>", "well known a b c u d u"),
        ("head\u00adquarters cafe\u0301 Привет", "headquarters café привет"),
        ("-- ; * \u2014", ""),
        ("", ""),
    ],
)
def test_rules(text: str, expected: str) -> None:
    assert tokenise(text) == expected.split()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("i 'm gon na see louis . is n't it ?", "i'm gonna see louis. isn't it?"),
        ("ca n't , 't is the u.s. ... oh !", "can't, 'tis the u.s. ... oh!"),
        ("who 'd 've thought . . mr .", "who'd've thought. . mr ."),
        ("<unk> , 's", "<unk>, 's"),
        ("", ""),
    ],
)
def test_detokenised(given: str, expected: str) -> None:
    assert detokenise(given.split()) == expected


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(TEXTS, max_size=6))
def test_a_column_and_single_texts_agree(texts: list[str]) -> None:
    column = pl.Series("text", texts, dtype=pl.String).to_frame().select(words(pl.col("text")))
    assert column.to_series().to_list() == [tokenise(text) for text in texts]


@settings(max_examples=250, deadline=None, derandomize=True)
@given(TEXTS)
def test_detokenising_loses_nothing(text: str) -> None:
    found = tokenise(text)
    assume("n'tn't" not in "".join(found))
    assert tokenise(detokenise(found)) == found
    assert tokenise(" ".join(found)) == found


@settings(max_examples=100, deadline=None, derandomize=True)
@given(TEXTS)
def test_words_hold_only_what_the_rules_keep(text: str) -> None:
    for word in tokenise(text):
        assert word
        assert not any(character.isspace() for character in word)
        assert all(
            character.isalnum() or character in ",!?'`." or not character.isascii() for character in word
        )
        assert word == word.lower()


def test_no_text_has_no_words() -> None:
    assert pl.select(words(pl.lit(None, dtype=pl.String))).item() is None


OWN = Rules(strip_html=True, symbols=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("😀😀 ☺️ 👩‍👩‍👧 👍🏽 🇩🇪", "😀 😀 ☺ 👩‍👩‍👧 👍🏽 🇩🇪"),
        ("ok :) :-( <3 :'( ^_^ :P xD", "ok :) :-( <3 :'( ^_^ :p xd"),
        ("at 10:30pm, 3:2", "at 10:30pm , 3 2"),
        ("هل؟ ¿Qué? 好。、 नमस्ते।", "هل ؟ ¿ qué ? 好 。 、 नमस्ते ।"),
        ("don&#39;t <u>do</u> R&amp;B<br/>it &amp;quot;", 'do n\'t do r & b it'),
        ("a < b > c <john> <3", "a b c john <3"),
        ("I don ’ t know , it ’ s ours", "i do n't know , it 's ours"),
        ("note:please (see: this) http://a.b/c?d=1, ok", "note please see this http://a.b/c?d=1 , ok"),
        ("$5, 50 % off & more", "$ 5 , 50 % off & more"),
        ("---", "---"),
        ("* * *", "* * *"),
        ("\u200b", ""),
    ],
)  # fmt: skip
def test_rules_of_ones_own(text: str, expected: str) -> None:
    """A reply of emoji alone was dropped, so that its speaker followed themself; entities were words."""
    assert tokenise(text, OWN) == expected.split()
    found = tokenise(text, OWN)
    assert tokenise(detokenise(found, OWN), OWN) == found


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(TEXTS, max_size=4))
def test_nothing_that_can_be_seen_vanishes(texts: list[str]) -> None:
    rules = Rules(symbols=True)
    for text, found in zip(texts, tokenise_all(texts, rules), strict=True):
        is_seen = any(not c.isspace() and unicodedata.category(c)[0] not in "CZM" for c in text)
        assert found or not is_seen


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("characters", "你好。ok吗 ไทย", "你 好 。 ok 吗 ไ ท ย"),
        ("chinese", "我喜欢这家餐厅，你呢？", "我 喜欢 这家 餐厅 , 你 呢 ?"),
        ("japanese", "今日はいい天気ですね。", "今日 は いい 天気 です ね 。"),
        ("thai", "สวัสดีครับ วันนี้", "สวัสดี ครับ วันนี้"),
    ],
)
def test_languages_without_spaces(name: Segmenter, text: str, expected: str) -> None:
    """Those of Japanese and Thai bring 260 MB, so tests run without: then a text is cut into characters."""
    rules = Rules(symbols=True, segmenter=name)
    if name in LIBRARIES and not is_installed(name):
        with pytest.raises(ParameterError, match=f"segmenter = {name} needs {LIBRARIES[name]}: pip install"):
            tokenise(text, rules)
        rules = Rules(symbols=True, segmenter=choose([text]))
        found = tokenise(text, rules)
        assert (rules.segmenter, "".join(found)) == ("characters", expected.replace(" ", ""))
    else:
        found = tokenise(text, rules)
        assert found == expected.split()
    assert tokenise(detokenise(found, rules), rules) == found


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("我喜欢这家餐厅", "chinese"), ("今日はいい天気", "japanese"), ("สวัสดีครับ", "thai"),
        ("ខ្ញុំសុខសប្បាយ", "characters"), ("I like 寿司", "none"), ("Привет", "none"), ("", "none"),
    ],
)  # fmt: skip
def test_a_look_tells_the_language(text: str, language: str) -> None:
    assert language_of([text]) == language


def test_without_the_library_characters_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "is_installed", lambda language: False)
    assert choose(["我喜欢这家餐厅"]) == "characters"
    with pytest.raises(
        ParameterError, match=r"segmenter = thai needs pythainlp: pip install 'vhcr\[segmenters\]'"
    ):
        segmenter._cutter.__wrapped__("thai")


def test_what_an_evaluation_kept_is_read_by_the_rules_of_its_run() -> None:
    """Reports joined the words of Chinese with blanks."""
    assert readable("i do n't know , sir .") == readable("i do n't know , sir .", {}) == "i don't know, sir."
    assert readable("我 喜欢 茶 。", {"symbols": True, "segmenter": "chinese"}) == "我喜欢茶。"
