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

``detokenise`` joins what step 2 split, so that people read "i'm gonna", and ``tokenise(detokenise(words))``
is ``words`` again for what ``tokenise`` makes of any text (but one that repeats "n'tn't"). No model is
downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

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
_WORD = "|".join(  # the first alternative that matches wins
    (
        rf"(?:{'|'.join(ABBREVIATIONS)})\.",
        r"\p{L}(?:\.\p{L})+\b\.?",  # u.s., a.m.
        r"\p{N}+(?:[.,]\p{N}+)+\b",  # 10,000 and 11.04
        rf"{_LETTERS}(?:['.]{_LETTERS})*",
        rf"'(?:{'|'.join(SUFFIXES + CLIPPED)})\b",
        r"\.\.\.",
        r"[,!?'`.]",
    )
)


def words(text: pl.Expr) -> pl.Expr:
    """The words of each text, by the rules above: ``Utf8 -> List(Utf8)``; no text gives no words."""
    text = text.str.replace_all(APOSTROPHES, "'")
    text = text.str.replace_all(r"\p{Cf}", "")  # soft hyphens and other characters without width
    text = text.str.normalize("NFKC").str.to_lowercase()
    for pattern, replacement in _SPLITS:
        text = text.str.replace_all(pattern, replacement)
    return text.str.extract_all(_WORD)


def tokenise(text: str) -> list[str]:
    """The words of one text."""
    return tokenise_all([text])[0]


def tokenise_all(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text; the same expression that stage tokenise evaluates on whole columns."""
    return pl.select(words(pl.lit(pl.Series(texts, dtype=pl.String)))).to_series().to_list()


def detokenise(words: Sequence[str]) -> str:
    """Words as people write them: no blank before punctuation, contractions joined again."""
    text = ""
    for position, word in enumerate(words):
        previous = words[position - 1] if position else ""
        text += word if position == 0 or _joined(previous, word) else f" {word}"
    return text


def _joined(previous: str, word: str) -> bool:
    """Whether ``word`` is written without a blank after ``previous``."""
    after_letter = previous[-1:].isalnum()
    if (previous, word) in HALVES:
        return True
    if word == "n't" or (word[:1] == "'" and word[1:] in SUFFIXES):
        return after_letter
    if word == ".":  # "mr ." and "u.s ." would read as the abbreviations, ". ." as an ellipsis
        return previous not in ABBREVIATIONS and "." not in previous
    if word == "...":
        return not previous.endswith(".")
    return word in {",", "!", "?"}
