"""Text files from strangers: their encoding and delimiter, found by a look at them and said."""

from __future__ import annotations

import codecs
import csv
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from vhcr.corpora.skipped import Skipped, Unit
from vhcr.errors import CorpusError

logger = logging.getLogger(__name__)

UTF8 = "utf-8-sig"  # a byte order mark may come first
MARKS = (
    (codecs.BOM_UTF8, UTF8), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
SAMPLE_BYTES = 2**16
SCAN_BYTES = 2**20
# Fewer lines that are not UTF-8 are damage, which is counted; more of them are another encoding.
FEWEST_FOREIGN_LINES = 3
DELIMITERS = ",;\t|"
SAMPLE_ROWS = 50


def encoding_of(path: Path, named: str | None = None) -> str:
    """The encoding of a text file: the one that ``named`` says, or what its bytes look like.

    A byte order mark decides; null bytes at every other place are UTF-16; then it is UTF-8, unless most of
    the lines beyond ASCII, and three at least, are not. Those are judged by charset_normalizer, whose guess
    among the single-byte encodings of Western Europe is taken for cp1252, which holds what they write.

    Raises:
        CorpusError: ``named`` is no encoding.
    """
    if named is not None:
        try:
            return UTF8 if codecs.lookup(named).name == "utf-8" else codecs.lookup(named).name
        except LookupError:
            raise CorpusError(f"source.encoding = {named!r}: no such encoding") from None
    status = path.stat()
    return _encoding_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)  # a file is opened several times, and what was found is said once
def _encoding_of(path: Path, *version: int) -> str:  # noqa: ARG001
    with path.open("rb") as file:
        start = file.read(SAMPLE_BYTES)
    found = next((encoding for mark, encoding in MARKS if start.startswith(mark)), None)
    if found is None and len(start) > 3 and 0 in start:
        even, odd = start[::2].count(0), start[1::2].count(0)
        if max(even, odd) > len(start) // 4 and min(even, odd) < len(start) // 100:
            found = "utf-16-be" if even > odd else "utf-16-le"
    if found is None:
        found = _by_lines(path)
    if found != UTF8:
        logger.info("%s: read as %s; source.encoding says otherwise", path.name, found.upper())
    return found


def _by_lines(path: Path) -> str:
    beyond_ascii, foreign = 0, 0
    sample = b""
    with path.open("rb") as file:
        for raw in file:
            if raw.isascii():
                continue
            beyond_ascii += 1
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError:
                foreign += 1
                if len(sample) < SAMPLE_BYTES:
                    sample += raw
    if foreign < FEWEST_FOREIGN_LINES or foreign * 2 <= beyond_ascii:
        return UTF8
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    multi_byte = ("big5", "gb", "euc", "shift_jis", "cp932", "cp949", "johab", "hz", "iso2022")
    other_scripts = ("cp1251", "koi8", "cp1253", "cp1255", "cp1256", "mac_cyrillic", "cp866", "iso8859_5")
    if best is not None and best.encoding.startswith((*multi_byte, *other_scripts)):
        return best.encoding
    return "cp1252"


# What a file's encoding lacks becomes half a surrogate pair, which no encoding holds: a reader finds it.
codecs.register_error("vhcr-mark", lambda error: ("\udcff", getattr(error, "end", 0)))


def opened(path: Path, encoding: str | None = None, *, newline: str = "\n") -> IO[str]:
    """The text of a file; bytes that its encoding lacks are marked, for ``is_clean`` to find."""
    return path.open(encoding=encoding_of(path, encoding), errors="vhcr-mark", newline=newline)


def is_clean(text: str) -> bool:
    """Whether all of a text could be decoded."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Part:
    """A range of whole lines of a file, in bytes."""

    start: int
    end: int
    first_line: int = 1  # its number in the file


def parts(path: Path, size: int) -> list[Part]:
    """A file in ranges of some ``size`` bytes, each of which ends with a line."""
    edges, whole = [0], path.stat().st_size
    with path.open("rb") as file:
        while edges[-1] + size < whole:
            file.seek(edges[-1] + size - 1)
            file.readline()
            edges.append(file.tell())
    ends = sorted({*edges, whole})
    return [Part(start, end) for start, end in pairwise(ends)]


def num_lines(path: Path, part: Part) -> int:
    """The number of lines in a part of a file."""
    with path.open("rb") as file:
        file.seek(part.start)
        blocks = (
            file.read(min(SCAN_BYTES, part.end - start)) for start in range(part.start, part.end, SCAN_BYTES)
        )
        return sum(block.count(b"\n") for block in blocks)


def lines(
    path: Path,
    folder: Path,
    skipped: Skipped,
    unit: Unit = "utterance",
    encoding: str | None = None,
    part: Part | None = None,
) -> Iterator[tuple[str, str]]:
    """The lines of a text file and where each stands; blank ones pass, undecodable ones are counted.

    Only a line feed ends a line: texts hold other characters that Python calls line breaks. ``unit`` says
    what one line holds. Of a file in UTF-8 a part may be all that is read.
    """
    name = path.relative_to(folder).as_posix()
    for number, raw in _of_part(path, part) if part else _of_all(path, encoding):
        line = raw.rstrip("\r\n")
        if not line.strip():
            continue
        if is_clean(line):
            yield line, f"{name}:{number}"
        else:
            skipped.add(undecodable(path, encoding), f"{name}:{number}", unit)


def _of_all(path: Path, encoding: str | None) -> Iterator[tuple[int, str]]:
    with opened(path, encoding) as file:
        yield from enumerate(file, start=1)


def _of_part(path: Path, part: Part) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        file.seek(part.start)
        left = part.end - part.start
        for number, raw in enumerate(file, start=part.first_line):
            if left <= 0:
                return
            left -= len(raw)
            yield number, raw.decode(UTF8 if number == 1 else "utf-8", "vhcr-mark")


def _printed(encoding: str) -> str:
    return "UTF-8" if encoding == UTF8 else encoding.upper()


def undecodable(path: Path, encoding: str | None) -> str:
    """The reason under which a line that is not in the file's encoding is counted."""
    return f"not {_printed(encoding_of(path, encoding))}"


def delimiter_of(path: Path, encoding: str | None, quotechar: str | None, default: str) -> str:
    """The delimiter of a table: the one that cuts most of its first rows into the header's width.

    ``default`` is what the file's suffix says; it stands where no other cuts the header at all.
    """
    status = path.stat()
    return _delimiter_of(path, encoding, quotechar, default, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _delimiter_of(
    path: Path,
    encoding: str | None,
    quotechar: str | None,
    default: str,
    *version: int,
) -> str:
    with opened(path, encoding, newline="") as file:
        sample = file.read(SAMPLE_BYTES)
    whole = len(sample) < SAMPLE_BYTES
    scores: dict[str, tuple[float, int]] = {}
    for delimiter in dict.fromkeys((default, *DELIMITERS)):
        widths: list[int] = []
        try:
            rows = csv.reader(io.StringIO(sample), **dialect(delimiter, quotechar, strict=False))
            for row in rows:
                if row:
                    widths.append(len(row))
                if len(widths) > SAMPLE_ROWS:
                    break
        except csv.Error:
            pass
        if len(widths) > 1 and not whole:
            widths.pop()  # the sample may end within it
        if widths and widths[0] > 1:
            same = sum(width == widths[0] for width in widths) / len(widths)
            scores[delimiter] = (same, widths[0])
    if not scores:
        return default
    best = max(scores, key=lambda delimiter: (*scores[delimiter], delimiter == default))
    if default in scores and scores[default] >= scores[best]:
        best = default
    if best != default:
        _say_delimiter(path, best, *version)
    return best


@lru_cache(maxsize=1024)  # said once, though quotation marks were tried both ways
def _say_delimiter(path: Path, delimiter: str, *version: int) -> None:  # noqa: ARG001
    name = {"\t": "tabs"}.get(delimiter, f"{delimiter!r}")
    logger.info("%s: cells are separated by %s; source.delimiter says otherwise", path.name, name)


def dialect(delimiter: str, quotechar: str | None, *, strict: bool) -> dict[str, Any]:
    """Arguments for csv.reader."""
    if quotechar is None:
        return {"delimiter": delimiter, "quoting": csv.QUOTE_NONE, "quotechar": None}
    return {"delimiter": delimiter, "quotechar": quotechar, "strict": strict}
