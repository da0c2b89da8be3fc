"""Token ids of one split: from Parquet to flat arrays in memory or on disk, and batches cut from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vhcr import layout
from vhcr.batch import Batch, Ints, offsets, pack_flat
from vhcr.errors import DataError
from vhcr.files import atomic_folder, file_digest
from vhcr.tokenisation.specials import EOS, PAD, SOS

PIECE = 20_000  # conversations read from a file at a time: some 10 MB
MAP_ABOVE = 2**26  # bytes of Parquet; Cornell has a tenth of that
# The flat files that a large split is spooled to.
SPOOLED = {"tokens": np.int32, "word_offsets": np.int64, "row_offsets": np.int64}


def _is_lists_of_lists_of_integers(of: pa.DataType) -> bool:
    for _ in range(2):
        if not (pa.types.is_list(of) or pa.types.is_large_list(of)):
            return False
        of = of.value_type
    return bool(pa.types.is_integer(of))


def _pieces(
    path: Path, vocabulary_size: int | None, max_words: int | None
) -> Iterator[tuple[NDArray[Any], Ints, Ints]]:
    """A file piece by piece, checked: token ids, words of each utterance, turns of each conversation."""
    file = pq.ParquetFile(path, page_checksum_verification=True)
    file.schema_arrow.field("conversation_id")  # a KeyError where there is none
    of = file.schema_arrow.field("token_ids").type
    if not _is_lists_of_lists_of_integers(of):
        raise DataError(f"{path}: token_ids are {of}, not lists of lists of integers")
    if file.metadata.num_rows == 0:
        raise DataError(f"{path}: holds no conversations")
    names = file.read(["conversation_id"]).column(0)
    if pc.count_distinct(names, mode="all").as_py() != len(names) or names.null_count:
        raise DataError(f"{path}: the id of a conversation is null or there twice")
    del names
    utterances_before = 0
    for piece in file.iter_batches(batch_size=PIECE, columns=["token_ids"]):
        column = piece.column(0)
        utterances = column.flatten()
        if column.null_count or utterances.null_count or utterances.flatten().null_count:
            raise DataError(f"{path}: holds a null where token ids should be")
        tokens = utterances.flatten().to_numpy()
        turns = np.diff(column.offsets.to_numpy()).astype(np.int64)
        words = np.diff(utterances.offsets.to_numpy()).astype(np.int64)
        if turns.min() < 1 or words.min() < 1:
            raise DataError(f"{path}: holds an empty conversation or utterance")
        last = tokens[np.cumsum(words) - 1]
        if not (last == EOS).all():
            row = utterances_before + int(np.flatnonzero(last != EOS)[0])
            raise DataError(f"{path}: utterance {row} does not end with EOS ({EOS})")
        if vocabulary_size is not None and (tokens.min() < 0 or tokens.max() >= vocabulary_size):
            outside = int(tokens.min()) if tokens.min() < 0 else int(tokens.max())
            raise DataError(
                f"{path}: holds token id {outside}, but the vocabulary has {vocabulary_size} "
                "words: the ids were made with another vocabulary"
            )
        specials = [id for id in (PAD, SOS) if (tokens == id).any()]
        if specials or (tokens == EOS).sum() != len(words):
            raise DataError(f"{path}: holds token id {[*specials, EOS][0]} inside an utterance")
        if max_words is not None and words.max() > max_words:
            row = utterances_before + int(words.argmax())
            raise DataError(
                f"{path}: utterance {row} has {words.max()} words, EOS counted; "
                f"tokenisation.max_words is {max_words}"
            )
        utterances_before += len(words)
        yield tokens, words, turns


def _spool(pieces: Iterator[tuple[NDArray[Any], Ints, Ints]], folder: Path) -> None:
    """Write pieces to the flat files of SPOOLED: token ids as they are, and offsets instead of lengths."""
    with ExitStack() as open_files:
        files = [open_files.enter_context((folder / name).open("wb")) for name in SPOOLED]
        totals = [0, 0]
        for file in files[1:]:
            np.zeros(1, np.int64).tofile(file)
        for tokens, *lengths in pieces:
            tokens.astype(SPOOLED["tokens"]).tofile(files[0])
            for number, counts in enumerate(lengths):
                offsets = totals[number] + np.cumsum(counts)
                offsets.astype(np.int64).tofile(files[1 + number])
                totals[number] = int(offsets[-1])


class Conversations:
    """All conversations of one split, as flat arrays; batches are cut from them without a Python loop."""

    def __init__(
        self,
        ids: Sequence[str] | Callable[[], Sequence[str]],
        tokens: NDArray[Any],
        word_offsets: Ints,
        row_offsets: Ints,
    ) -> None:
        self._ids = ids
        self._tokens = tokens
        self._word_offsets = word_offsets
        self._row_offsets = row_offsets

    @classmethod
    def load(
        cls,
        path: Path,
        vocabulary_size: int | None = None,
        map_above: int = MAP_ABOVE,
        max_words: int | None = None,
    ) -> Conversations:
        """Read ``token_ids/<split>.parquet``.

        A file of more than ``map_above`` bytes is spooled once, piece by piece, to flat files beside the
        work in progress, and mapped from there: memory then does not grow with the corpus.

        Raises:
            DataError: the file is missing, damaged, empty, or holds ids outside the vocabulary, an empty
                conversation, an utterance that does not end with EOS or has more than ``max_words`` ids,
                a special word inside an utterance, or an id of a conversation twice.
        """
        try:
            if path.stat().st_size > map_above:
                return cls._mapped(path, vocabulary_size, max_words)
            pieces = list(_pieces(path, vocabulary_size, max_words))
            ids = pq.read_table(path, columns=["conversation_id"]).column("conversation_id").to_pylist()
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DataError(f"{path}: cannot be read as Parquet: {error}") from None
        tokens, words, turns = (np.concatenate(column) for column in zip(*pieces, strict=True))
        return cls(ids, tokens, offsets(words), offsets(turns))

    @classmethod
    def _mapped(cls, path: Path, vocabulary_size: int | None, max_words: int | None) -> Conversations:
        folder = layout.WORK / "token_ids" / f"{file_digest(path)[:16]}-{vocabulary_size}"
        if not folder.exists():
            with atomic_folder(folder, keep=Path.is_dir) as temporary:  # another process may be quicker
                _spool(_pieces(path, vocabulary_size, max_words), temporary)

        def ids() -> Sequence[str]:
            found: list[str] = (
                pq.read_table(path, columns=["conversation_id"]).column("conversation_id").to_pylist()
            )
            return found

        tokens, words, turns = (
            np.asarray(np.memmap(folder / name, dtype, mode="r")) for name, dtype in SPOOLED.items()
        )
        return cls(ids, tokens, words, turns)

    @property
    def ids(self) -> Sequence[str]:
        """The name of each conversation; read from the file where the rest is mapped."""
        return self._ids() if callable(self._ids) else self._ids

    def __len__(self) -> int:
        return len(self._row_offsets) - 1

    @property
    def num_words(self) -> int:
        """Words of all conversations, EOS counted."""
        return len(self._tokens)

    def word_counts(self) -> Ints:
        """How often each token id occurs, [largest id + 1]."""
        return np.bincount(self._tokens)

    @property
    def num_turns(self) -> Ints:
        """Turns of each conversation, [conversations]."""
        return np.diff(self._row_offsets)

    @property
    def words_per_conversation(self) -> Ints:
        """Words of each conversation, EOS counted, [conversations]."""
        return self._word_offsets[self._row_offsets[1:]] - self._word_offsets[self._row_offsets[:-1]]

    def utterances(self, index: int) -> list[Ints]:
        """Token ids of each utterance of one conversation, EOS included."""
        first, last = self._row_offsets[index], self._row_offsets[index + 1]
        bounds = self._word_offsets[first : last + 1]
        return [np.asarray(self._tokens[a:b], dtype=np.int64) for a, b in pairwise(bounds)]

    def batch(self, chosen: Sequence[int] | Ints, samples: int = 1, first_sample: int = 0) -> Batch:
        """Pack the conversations at ``chosen``, each ``samples`` times, numbered from ``first_sample``.

        Copies of a conversation stand side by side, so per-row and per-conversation values of the batch
        without copies become those of this one by ``repeat_interleave(samples, dim=0)``.
        """
        chosen = np.asarray(chosen, dtype=np.int64)
        return pack_flat(
            self._tokens, self._word_offsets, self._row_offsets, chosen, chosen, samples, first_sample
        )

    def batches(
        self, batch_conversations: int, limit: int | None = None, *, every: int = 1, first: int = 0
    ) -> Iterator[Batch]:
        """Every conversation once (or the first ``limit``), the longest first: for evaluation.

        So what the first batch needs is enough for all. Memory that is kept when it is freed (see
        ``training.device``) grew with every batch while each was larger than those before.

        With ``every`` only each so many-th batch, from batch ``first`` on: one worker's share.
        """
        total = len(self) if limit is None else min(limit, len(self))
        order = np.argsort(self.words_per_conversation[:total], kind="stable")
        for start in reversed(range(0, total, batch_conversations)[first::every]):
            yield self.batch(order[start : start + batch_conversations])
