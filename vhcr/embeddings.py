"""Word vectors for the embedding metrics (section 4.3): trained on the corpus, or read from a file."""

from __future__ import annotations

import gzip
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vhcr.errors import DataError
from vhcr.params import EmbeddingParams

SOURCES = "VHCR_SOURCES"
GOOGLE_NEWS = "GoogleNews-vectors-negative300*.bin*"
READ_BYTES = 8 * 2**20
MAX_WORD_BYTES = 4096  # no word is as long: the file is something else


@dataclass(frozen=True)
class WordVectors:
    """``vectors[i]``, float32 [words, vector_size], belongs to ``words[i]``."""

    words: list[str]
    vectors: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write the word2vec binary format, under a temporary name first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(f"{len(self.words)} {self.vectors.shape[1]}\n".encode())
                for word, vector in zip(self.words, self.vectors, strict=True):
                    file.write(word.encode() + b" " + vector.astype("<f4").tobytes() + b"\n")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


class Sentences:
    """The words of each utterance of one split, read from utterances.parquet a row group at a time."""

    def __init__(self, path: Path, split: str) -> None:
        self.path, self.split = path, split

    def __iter__(self) -> Iterator[list[str]]:
        for words in self._chunks():
            yield from words.to_pylist()

    def word_counts(self) -> Counter[str]:
        """How often each word occurs."""
        counts: Counter[str] = Counter()
        for words in self._chunks():
            found = pc.value_counts(words.flatten())
            counts.update(dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True)))
        return counts

    def _chunks(self) -> Iterator[Any]:
        try:
            with pq.ParquetFile(self.path) as file:
                for number in range(file.num_row_groups):
                    table = file.read_row_group(number, ["split", "words"])
                    yield table.filter(pc.equal(table["split"], self.split))["words"].combine_chunks()
        except FileNotFoundError:
            raise DataError(f"{self.path}: missing; run the tokenise stage") from None
        except (pa.ArrowException, KeyError, OSError) as error:
            raise DataError(f"{self.path}: damaged, run the tokenise stage again: {error}") from error


def train(sentences: Iterable[list[str]], counts: Mapping[str, int], params: EmbeddingParams) -> WordVectors:
    """word2vec (continuous bag of words, negative sampling; Mikolov et al., 2013) on ``sentences``.

    ``counts`` says how often each word occurs in them. The kind is that of the GoogleNews vectors, and takes
    a quarter of skip-gram's time. With one worker, equal input gives equal vectors, bit for bit.

    Raises:
        DataError: no word occurs ``min_count`` times.
    """
    from gensim.models import Word2Vec

    # Ties of equal counts stand in code point order, not in that of the first occurrence.
    ranked = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    if not any(count >= params.min_count for count in ranked.values()):
        raise DataError(
            f"embeddings: no word of the training split occurs min_count = {params.min_count} times"
        )
    model = Word2Vec(
        vector_size=params.vector_size,
        window=params.window,
        min_count=params.min_count,
        seed=params.seed,
        workers=1,
        sorted_vocab=0,
    )
    model.build_vocab_from_freq(ranked)
    model.train(sentences, total_words=sum(ranked.values()), epochs=params.epochs)
    return WordVectors(list(model.wv.index_to_key), np.asarray(model.wv.vectors, dtype=np.float32))


def read(path: Path, wanted: set[str]) -> WordVectors:
    """The vectors of the ``wanted`` words in a word2vec binary file (.bin or .bin.gz), as they stand there.

    It is streamed, so memory holds what is wanted alone. Of a word that stands twice, the first counts.

    Raises:
        DataError: the file is missing, is cut short, or is not of this format.
    """
    opened: Callable[..., IO[bytes]] = cast("Any", gzip.open if path.suffix == ".gz" else open)
    try:
        with opened(path, "rb") as file:
            return _read(file, path, wanted)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of word vectors") from None
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: cannot be read as word2vec binary: {error}") from error


def _read(file: IO[bytes], path: Path, wanted: set[str]) -> WordVectors:
    header = file.readline(64)
    fields = header.split()
    if len(fields) != 2 or not (fields[0].isdigit() and fields[1].isdigit()) or int(fields[1]) == 0:
        raise DataError(f"{path}: not word2vec binary: it begins with {header[:40]!r}")
    count, size = int(fields[0]), int(fields[1])
    keys = {word.encode(): word for word in wanted}
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
        word = keys.get(buffer[position:blank])
        if word is not None and word not in found:
            found[word] = np.frombuffer(buffer, dtype="<f4", count=size, offset=blank + 1).astype(np.float32)
        position = end
    vectors = np.stack(list(found.values())) if found else np.zeros((0, size), dtype=np.float32)
    return WordVectors(list(found), vectors)


def locate(path: str | None) -> Path:
    """The file of word vectors: ``path``, or one of that name, or GoogleNews, in the folder VHCR_SOURCES.

    Raises:
        DataError: there is none.
    """
    folder = os.environ.get(SOURCES)
    if path is not None and Path(path).expanduser().is_file():
        return Path(path).expanduser()
    pattern = GOOGLE_NEWS if path is None else Path(path).name
    if folder:
        matches = sorted(file for file in Path(folder).expanduser().glob(pattern) if file.is_file())
        if matches:
            return matches[0]
    looked = f"{SOURCES}={folder}" if folder else f"{SOURCES} is not set"
    raise DataError(
        f"embeddings.source = file, but there is no {path or GOOGLE_NEWS} ({looked}); give embeddings.path, "
        "or take embeddings.source = corpus, which trains vectors on the training split"
    )


def coverage(counts: Counter[str], known: set[str]) -> dict[str, float | int]:
    """The share of running words, and of distinct ones, that have a vector; 0 where there is no word."""
    tokens, types = sum(counts.values()), len(counts)
    covered = [word for word in counts if word in known]
    return {
        "tokens": tokens,
        "types": types,
        "token_coverage": sum(counts[word] for word in covered) / tokens if tokens else 0.0,
        "type_coverage": len(covered) / types if types else 0.0,
    }
