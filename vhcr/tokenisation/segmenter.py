"""Words of languages that are written without spaces: Chinese, Japanese, Thai; characters of all others.

Libraries do it, which the extra ``segmenters`` installs: rjieba (Chinese), SudachiPy with its core
dictionary (Japanese), PyThaiNLP's newmm (Thai).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable
from functools import cache

from vhcr.errors import ParameterError
from vhcr.tokenisation.rules import Segmenter

HAN = "々〇〡-〩㐀-䶿一-鿿豈-\ufaff\U00020000-\U0003ffff"
KANA = "ぁ-ゖゝ-ヿㇰ-ㇿｦ-ﾝー"
THAI = "ก-ฺเ-๎"
OTHERS = "ກ-ໝក-៓က-႟"  # Lao, Khmer, Burmese
UNSPACED = HAN + KANA + THAI + OTHERS
RUN = re.compile(f"[{UNSPACED}]+")
LETTERS = re.compile(r"[^\W\d_]")
LIBRARIES: dict[str, str] = {"chinese": "rjieba", "japanese": "sudachipy", "thai": "pythainlp"}
# From this share on of a corpus's letters, its words are not divided by spaces.
UNSPACED_FROM = 0.3
LONGEST = 4000  # characters at once, far below what SudachiPy refuses


def unspaced_share(texts: Iterable[str]) -> float:
    """The share of letters that stand in scripts without spaces."""
    letters, unspaced = 0, 0
    for text in texts:
        letters += len(LETTERS.findall(text))
        unspaced += sum(len(run) for run in RUN.findall(text))
    return min(1.0, unspaced / letters) if letters else 0.0


def language_of(texts: Iterable[str]) -> Segmenter:
    """The segmenter for what is written in ``texts``, installed or not; none where spaces divide words."""
    texts = list(texts)
    if unspaced_share(texts) < UNSPACED_FROM:
        return "none"
    together = "".join(texts)
    han, kana, thai, others = (
        len(re.findall(f"[{letters}]", together)) for letters in (HAN, KANA, THAI, OTHERS)
    )
    if others > han + kana + thai:
        return "characters"
    if thai > han + kana:
        return "thai"
    return "japanese" if kana * 20 > han else "chinese"


def choose(texts: Iterable[str]) -> Segmenter:
    """As ``language_of``; characters, where the library for the language is not installed."""
    language = language_of(texts)
    return language if language not in LIBRARIES or is_installed(language) else "characters"


def is_installed(language: str) -> bool:
    """Whether the library for a language is there."""
    return importlib.util.find_spec(LIBRARIES[language]) is not None


def spaced(text: str, segmenter: Segmenter) -> str:
    """The text with a space between all words of its parts in scripts without spaces.

    Raises:
        ParameterError: the library for the language is not installed.
    """
    cut = _cutter(segmenter)

    def words(run: re.Match[str]) -> str:
        parts = (run[0][start : start + LONGEST] for start in range(0, len(run[0]), LONGEST))
        return f" {' '.join(word for part in parts for word in cut(part))} "

    return RUN.sub(words, text)


@cache
def _cutter(segmenter: Segmenter) -> Callable[[str], list[str]]:
    if segmenter == "none":
        return lambda text: [text]
    if segmenter == "characters":
        # A mark above or below a letter (Thai, Khmer) stays with it.
        return re.compile(r"\w[^\w\s]*|\S").findall
    if not is_installed(segmenter):
        raise ParameterError(
            f"tokenisation.segmenter = {segmenter} needs {LIBRARIES[segmenter]}: pip install "
            "'vhcr[segmenters]', or take characters"
        )
    if segmenter == "chinese":
        import rjieba

        return lambda text: list(rjieba.cut(text))
    if segmenter == "japanese":
        from sudachipy import Dictionary

        tokenizer = Dictionary().tokenizer()
        return lambda text: [word for morpheme in tokenizer.tokenize(text) if (word := morpheme.surface())]
    from pythainlp.tokenize import word_tokenize

    return lambda text: list(word_tokenize(text, engine="newmm", keep_whitespace=False))
