"""Word vectors in the formats they are published in: word2vec binary and text, fastText's .vec, GloVe.

All are streamed, and memory holds the wanted words alone. gensim's reader of text keeps all words, and
refuses the words of GloVe (840B) that hold a blank; the tests compare with it elsewhere.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from vhcr.errors import DataError
from vhcr.files import atomic

SPECIAL_WORDS = frozenset({"<pad>", "<unk>", "<sos>", "<eos>"})

LOOK_BYTES = 64 * 2**10
READ_BYTES = 8 * 2**20
MAX_WORD_BYTES = 4096  # no word is as long: the file is something else


@dataclass(frozen=True)
class WordVectors:
    """A word's vector is row ``index[word]`` of ``vectors``, float32 [words, dimensions], as it was read."""

    index: dict[str, int]
    vectors: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.index) != len(self.vectors):
            raise ValueError(f"{len(self.index)} words, but vectors of shape {self.vectors.shape}")

    @classmethod
    def of(cls, words: Sequence[str], vectors: NDArray[np.float32]) -> WordVectors:
        """One vector for each of ``words``, which are different ones, in their order."""
        return cls({word: row for row, word in enumerate(words)}, vectors)

    @property
    def words(self) -> list[str]:
        """The words in the order of their vectors."""
        return sorted(self.index, key=self.index.__getitem__)

    def __contains__(self, word: object) -> bool:
        return word in self.index

    def __len__(self) -> int:
        return len(self.index)

    def save(self, path: Path) -> None:
        """Write the word2vec binary format, whole or not at all."""
        with atomic(path) as temporary, temporary.open("wb") as file:
            file.write(f"{len(self)} {self.vectors.shape[1]}\n".encode())
            for word, vector in zip(self.words, self.vectors, strict=True):
                file.write(word.encode() + b" " + vector.astype("<f4").tobytes() + b"\n")

    @classmethod
    def load(cls, path: Path, only: Collection[str] | None = None) -> WordVectors:
        """Read a file of vectors (gzipped if it ends in .gz), keeping just the words in ``only``.

        The format is found by a look: word2vec binary; text with a header "<words> <dimensions>" (word2vec,
        fastText's .vec); text without one (GloVe).

        Special words are never kept, and of a word that occurs twice the first vector counts. The file is
        streamed and memory holds what is kept, so that 3.6 GB of vectors need not fit.

        Raises:
            DataError: the file is missing, cut short, or not of this format, or a vector is not finite.
        """
        opened: Callable[..., IO[bytes]] = cast("Any", gzip.open if path.suffix == ".gz" else open)
        try:
            with opened(path, "rb") as raw, io.BufferedReader(cast("Any", raw), READ_BYTES) as file:
                return _read(file, path, only)
        except FileNotFoundError:
            raise DataError(f"{path}: no such file of word vectors") from None
        except (EOFError, zlib.error, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(f"{path}: cannot be read as word vectors: {reason}") from None


def _read(file: io.BufferedReader[Any], path: Path, only: Collection[str] | None) -> WordVectors:
    start = file.peek(LOOK_BYTES)[:LOOK_BYTES]
    header = start.split(b"\n", 1)[0]
    fields = header.split()
    if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit() and int(fields[1]) > 0:
        count, size = int(fields[0]), int(fields[1])
        file.readline()
        if not _is_text(start[len(header) + 1 :], size):
            return _read_binary(file, path, only, count, size)
        return _read_text(file, path, only, size, first_line=2, count=count)
    size = len(fields) - 1
    if size < 2 or not _is_text(start, size):
        raise DataError(
            f"{path}: neither word2vec (binary or text), nor .vec, nor GloVe: it begins with {header[:40]!r}"
        )
    return _read_text(file, path, only, size, first_line=1, count=None)


def _is_text(start: bytes, size: int) -> bool:
    """Whether the first line is a word and ``size`` numbers as text; a part of it where it is long."""
    line, end, _ = start.partition(b"\n")
    fields = line.rstrip().split(b" ")
    numbers = fields[-size:] if end else fields[1:-1]
    if len(fields) <= size and end:
        return False
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        return False
    return bool(values)


def _read_text(
    file: io.BufferedReader[Any],
    path: Path,
    only: Collection[str] | None,
    size: int,
    *,
    first_line: int,
    count: int | None,
) -> WordVectors:
    wanted = None if only is None else {word.encode() for word in only}
    found: dict[str, NDArray[np.float32]] = {}
    number = first_line - 1
    for number, line in enumerate(file, start=first_line):
        fields = line.rstrip().rsplit(b" ", size)  # from the end: some words of GloVe hold blanks
        if len(fields) != size + 1:
            raise DataError(f"{path}:{number}: not a word and {size} numbers: {line[:40]!r}")
        if wanted is not None and fields[0] not in wanted:
            continue
        word = fields[0].decode("utf-8", errors="replace")
        if word in found or word in SPECIAL_WORDS:
            continue
        try:
            vector = np.array(fields[1:], dtype=np.float32)
        except ValueError:
            raise DataError(f"{path}:{number}: the vector of {word!r} is no numbers") from None
        if not np.isfinite(vector).all():
            raise DataError(f"{path}:{number}: the vector of {word!r} is not finite")
        found[word] = vector
    read = number - first_line + 1
    if count is not None and read < count:
        raise DataError(f"{path}: cut short or damaged: it announces {count} vectors, {read} can be read")
    return _gathered(found, size)


def _gathered(found: dict[str, NDArray[np.float32]], size: int) -> WordVectors:
    vectors = np.stack(list(found.values())) if found else np.zeros((0, size), dtype=np.float32)
    return WordVectors.of(list(found), vectors)


def _read_binary(
    file: io.BufferedReader[Any], path: Path, only: Collection[str] | None, count: int, size: int
) -> WordVectors:
    wanted = None if only is None else {word.encode() for word in only}
    found: dict[str, NDArray[np.float32]] = {}
    buffer, position = b"", 0
    for number in range(count):
        if len(buffer) - position < MAX_WORD_BYTES + 4 * size:
            buffer, position = buffer[position:] + file.read(READ_BYTES), 0
        while buffer[position : position + 1] == b"\n":  # some writers end each vector with a line break
            position += 1
        blank = buffer.find(b" ", position, position + MAX_WORD_BYTES)
        end = blank + 1 + 4 * size
        if blank < 0 or end > len(buffer):
            raise DataError(
                f"{path}: cut short or damaged: it announces {count} vectors, {number} can be read"
            )
        if wanted is None or buffer[position:blank] in wanted:
            word = buffer[position:blank].decode("utf-8", errors="replace")
            if word not in found and word not in SPECIAL_WORDS:
                vector = np.frombuffer(buffer, dtype="<f4", count=size, offset=blank + 1)
                if not np.isfinite(vector).all():
                    raise DataError(f"{path}: the vector of {word!r} is not finite")
                found[word] = vector.astype(np.float32)  # a copy: the buffer goes
        position = end
    return _gathered(found, size)
