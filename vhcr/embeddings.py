"""Word vectors for the embedding metrics (section 4.3): trained on the corpus, or read from a file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vhcr.errors import DataError
from vhcr.params import EmbeddingParams
from vhcr.word_vectors import WordVectors

SOURCES = "VHCR_SOURCES"
GOOGLE_NEWS = "GoogleNews-vectors-negative300*.bin*"


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
            with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                for number in range(file.num_row_groups):
                    table = file.read_row_group(number, ["split", "words"])
                    words = table.filter(pc.equal(table["split"], self.split))["words"].combine_chunks()
                    if words.null_count or words.flatten().null_count:
                        raise DataError(f"{self.path}: holds a null where words should be")
                    yield words
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
    return WordVectors.of(model.wv.index_to_key, np.asarray(model.wv.vectors, dtype=np.float32))


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


def require_coverage(found: Mapping[str, float | int], least: float, origin: str) -> None:
    """Nothing, where vectors of a file cover at least this share of running words.

    Raises:
        DataError: they cover less: vectors of another language, or of words written in another way.
    """
    if found["token_coverage"] < least:
        raise DataError(
            f"{origin}: covers {100 * found['token_coverage']:.1f} % of the test split's words, less than "
            f"embeddings.min_coverage = {least:g}; are these vectors of another language, or of words that "
            "are not in lower case?"
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
