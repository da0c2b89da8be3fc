"""Text -> words and back: one set of rules, as polars expressions.

The paper prints both "i'm", "don't", "isn't" and "gon na", "is n't" (Tables 5-7): its words were split as in
the Penn Treebank and printed through a detokeniser that joins most, not all, of the pieces. Here:

1. Unicode is normalised (NFKC: "…" becomes "..."), typographic apostrophes become ', all is lower-cased.
2. Contractions are split: "do n't", "ca n't", "i 'm", "he 's", "we 'll", "you 've", "they 're", "she 'd", and
   "gon na", "wan na", "got ta", "gim me", "lem me", "can not", "'t is", "'t was".
3. Words are runs of letters and digits, with apostrophes or single periods inside ("o'clock", "xorg.conf",
   "11.04", "10,000"). "mr.", "dr." and the like, and "u.s.", "a.m.", keep their period.
4. , ! ? ` and a lone ' or . are words; two or more periods are the word "...".
5. Every other character separates words and is lost.

These are the published corpora's rules. One's own (``Rules``) are more: HTML is taken out, emoji, emoticons,
clock times, addresses and the punctuation of all scripts are words, a text that would have none by these
rules is kept as it stands, and languages without spaces are divided (segmenter.py).

``detokenise`` joins what step 2 split, so that people read "i'm gonna", and ``tokenise(detokenise(words))``
is ``words`` again for what ``tokenise`` makes of any text (but one that repeats "n'tn't"). No model is
downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from html import unescape
from typing import Any

import polars as pl

from vhcr.tokenisation.rules import PAPER, Rules
from vhcr.tokenisation.segmenter import RUN, UNSPACED, spaced

# Departure: the authors keep ASCII letters only. Letters of all scripts are kept here, so that conversations
# in other languages survive; English differs by accented words alone ("café" stays one word).

APOSTROPHES = "[\u2018\u2019\u201b\u02bc\u2032\u00b4]"  # replaced before NFKC, which would take ´ apart
SUFFIXES = ("s", "m", "d", "re", "ll", "ve")
CLIPPED = ("em", "til", "cause", "bout", "round", "n", "t")  # words that begin with an apostrophe
HALVES = (
    ("can", "not"),
    ("gon", "na"),
    ("wan", "na"),
    ("got", "ta"),
    ("gim", "me"),
    ("lem", "me"),
    ("'t", "is"),
    ("'t", "was"),
)
ABBREVIATIONS = ("mr", "mrs", "ms", "dr", "st", "jr", "sr", "prof", "lt", "sgt", "capt", "col", "vs", "etc")

_LETTERS = r"[\p{L}\p{N}][\p{L}\p{M}\p{N}]*"
_SPLITS = (  # in this order: "couldn't've" loses its n't first
    (r"([\p{L}\p{M}\p{N}])(n't)\b", "${1} ${2}"),
    (rf"([\p{{L}}\p{{M}}\p{{N}}])('(?:{'|'.join(SUFFIXES)}))\b", "${1} ${2}"),
    (r"\b(?:(can)(not)|(gon|wan)(na)|(got)(ta)|(gim|lem)(me))\b", "${1}${3}${5}${7} ${2}${4}${6}${8}"),
    (r"(^|[^\p{L}\p{M}\p{N}])('t)(is|was)\b", "${1}${2} ${3}"),
    (r"\.\.+", " ... "),
)
_NUMBER = r"\p{N}+(?:[.,]\p{N}+)+\b"  # 10,000 and 11.04
_PLAIN_WORDS = (
    rf"(?:{'|'.join(ABBREVIATIONS)})\.",
    r"\p{L}(?:\.\p{L})+\b\.?",  # u.s., a.m.
    _NUMBER,
    rf"{_LETTERS}(?:['.]{_LETTERS})*",
    rf"'(?:{'|'.join(SUFFIXES + CLIPPED)})\b",
    r"\.\.\.",
)
_WORD = "|".join((*_PLAIN_WORDS, r"[,!?'`.]"))  # the first alternative that matches wins

# One's own corpora

_PICTURE = r"[\p{Extended_Pictographic}--[©®]]\p{EMod}?"
_WORD_OR_SYMBOL = "|".join(
    (
        r"(?:https?|ftp)://[^\s<>\"]*[^\s<>\".,!?)\]']",
        r"\p{RI}\p{RI}",  # a flag
        r"[0-9#*]\x{20E3}",  # a key
        rf"{_PICTURE}(?:\x{{200D}}{_PICTURE})*",
        r"\p{N}{1,2}:\p{N}{2}(?::\p{N}{2})?(?:[ap]m\b)?",  # 10:30pm
        # Emoticons; those that end in a letter end there: "note:please" holds none.
        r"[>]?[:;=]['\-^]?[()\[\]{}|/\\@*<>$]",
        r"[:;=]['\-]?[dpoxs3]\b",
        r"</?3+",
        r"\^[_.\-]?\^|-_+-|>[_.]+<|\b[tuo]_+[tuo]\b|\\_+\(ツ\)_+/|\\o/",
        *_PLAIN_WORDS,
        r"[\p{Terminal_Punctuation}¿¡'`--[:;]]",
        r"[\p{Sc}\p{So}%&+=]",
    )
)
_SPLIT_APOSTROPHE = rf"(\p{{L}}) ' ?({'|'.join((*SUFFIXES, 't'))})\b"  # "don ' t", as some corpora have it
_ELEMENTS = (
    "a abbr article aside audio b big blockquote body br button center cite code col dd del details div dl "
    "dt em figcaption figure font footer form h[1-6] head header hr html i iframe img input ins kbd label li "
    "link main mark meta nav ol option p pre q s samp script section select small span strike strong style "
    "sub summary sup svg table tbody td textarea tfoot th thead title tr tt u ul var video"
)
# Known elements only: "<3", "<john>" and "a < b > c" are no tags.
_TAG = rf"(?is)<!--.*?-->|</?(?:{'|'.join(_ELEMENTS.split())})(?:\s[^<>]*)?/?>"
_ENTITY = r"&(?:#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);"


_CLOSING = frozenset(",!?。、،؟؛۔।")
_UNSPACED_END = re.compile(rf"[{UNSPACED}。、,!?]$")
_UNSPACED_START = re.compile(rf"[{UNSPACED}]")


def words(text: pl.Expr, rules: Rules = PAPER) -> pl.Expr:
    """The words of each text, by the rules above: ``Utf8 -> List(Utf8)``; no text gives no words.

    Raises:
        ParameterError: the segmenter's library is not installed (when the expression is evaluated).
    """
    if rules.strip_html:
        text = without_html(text)
    text = text.str.replace_all(APOSTROPHES, "'")
    if rules.symbols:
        # Characters without width go, but for what joins pictures to one; so does the sign that asks for
        # colour, which some write and some do not.
        text = text.str.replace_all(r"[\p{Cf}\x{FE0F}--\x{200D}]", "")
        text = text.str.replace_all(r"([\p{L}\p{M}])\x{200D}", "${1}")
    else:
        text = text.str.replace_all(r"\p{Cf}", "")  # soft hyphens and other characters without width
    text = text.str.normalize("NFKC").str.to_lowercase()
    if rules.symbols:
        text = text.str.replace_all(r"\)\)+", ")").str.replace_all(r"\(\(+", "(")
        text = text.str.replace_all(_SPLIT_APOSTROPHE, "${1}'${2}")
    if rules.segmenter != "none":
        text = _mapped(text, RUN.pattern, lambda value: spaced(value, rules.segmenter))
    for pattern, replacement in _SPLITS:
        text = text.str.replace_all(pattern, replacement)
    if not rules.symbols:
        return text.str.extract_all(_WORD)
    found = text.str.extract_all(_WORD_OR_SYMBOL)
    return pl.when(found.list.len() == 0).then(text.str.extract_all(r"[^\s\p{C}]+")).otherwise(found)


def without_html(text: pl.Expr) -> pl.Expr:
    """Each text without tags, and with &amp; and the like as the characters that they stand for."""
    text = text.str.replace_all(_TAG, " ")
    return _mapped(text, _ENTITY, lambda value: unescape(unescape(value)))  # twice: some were escaped twice


def has_html(text: pl.Expr) -> pl.Expr:
    """Whether ``without_html`` changes a text."""
    return text.str.contains(f"{_TAG}|{_ENTITY}")


def _mapped(text: pl.Expr, pattern: str, change: Callable[[str], str]) -> pl.Expr:
    """Texts that hold ``pattern``, changed one by one; the others as they are."""
    holds = re.compile(pattern)

    def changed(column: pl.Series) -> pl.Series:
        values = [change(value) if value and holds.search(value) else value for value in column]
        return pl.Series(column.name, values, dtype=pl.String)

    return text.map_batches(changed, return_dtype=pl.String)


def tokenise(text: str, rules: Rules = PAPER) -> list[str]:
    """The words of one text."""
    return tokenise_all([text], rules)[0]


def tokenise_all(texts: Sequence[str], rules: Rules = PAPER) -> list[list[str]]:
    """The words of each text; the same expression that stage tokenise evaluates on whole columns."""
    return pl.select(words(pl.lit(pl.Series(texts, dtype=pl.String)), rules)).to_series().to_list()


def detokenise(words: Sequence[str], rules: Rules = PAPER) -> str:
    """Words as people write them: no blank before punctuation, contractions joined again."""
    unspaced = rules.segmenter != "none"
    text = ""
    for position, word in enumerate(words):
        previous = words[position - 1] if position else ""
        text += word if position == 0 or _joined(previous, word, unspaced) else f" {word}"
    return text


def readable(words: str, rules: Mapping[str, Any] | None = None) -> str:
    """Words with blanks between them, as evaluations keep text, as people write them.

    ``rules`` are those that a run recorded: the words of a language without blanks are joined.
    """
    return detokenise(words.split(), Rules.of(rules))


def _joined(previous: str, word: str, unspaced: bool) -> bool:
    """Whether ``word`` is written without a blank after ``previous``."""
    if unspaced and _UNSPACED_END.search(previous) and _UNSPACED_START.match(word):
        return True
    after_letter = previous[-1:].isalnum()
    if (previous, word) in HALVES:
        return True
    if word == "n't" or (word[:1] == "'" and word[1:] in SUFFIXES):
        return after_letter
    if word == ".":  # "mr ." and "u.s ." would read as the abbreviations, ". ." as an ellipsis
        return previous not in ABBREVIATIONS and "." not in previous
    if word == "...":
        return not previous.endswith(".")
    return word in _CLOSING
