"""Conversations as token ids, and Batch: some of them packed without padding.

Nothing is padded. A batch lays its conversations out twice, and both orders let a recurrent network take
all that is alive at a step as one contiguous slice:

- *rows* are utterances, turn by turn: the first turn of every conversation, then the second turn of those
  that have one, and so on. Conversations stand in order of falling length.
- *words* are tokens, step by step: the first word of every utterance, then the second word of those that
  have one, and so on. Utterances stand in order of falling length; ``row_order`` says which row is where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from vhcr import layout
from vhcr.errors import DataError
from vhcr.files import atomic_folder, file_digest
from vhcr.tokenisation.vocabulary import EOS, PAD, SOS

Ints = NDArray[np.int64]

PIECE = 20_000  # conversations read from a file at a time: some 10 MB
MAP_ABOVE = 2**26  # bytes of Parquet; Cornell has a tenth of that
# The flat files that a large split is spooled to.
SPOOLED = {"tokens": np.int32, "word_offsets": np.int64, "row_offsets": np.int64}


@dataclass(frozen=True)
class Batch:
    """Conversations packed without padding; conversations fall in length, and so do utterances.

    Sizes: ``batch`` conversations, ``rows`` utterances, ``words`` tokens (EOS counted).
    """

    index: Tensor  # [batch] int64: which conversations of the data set, the key of their noise
    sample: Tensor  # [batch] int64: number of the draw where one conversation stands several times, else 0
    turn_sizes: tuple[int, ...]  # per turn: how many conversations have it
    conversation: Tensor  # [rows] int64: position in the batch
    turn: Tensor  # [rows] int64
    previous_row: (
        Tensor  # [rows - batch] int64: for each row after the first turns, the row of the turn before
    )
    reversed_row: Tensor  # [rows] int64: the row that takes this one's place when turns run backwards
    last_row: Tensor  # [batch] int64: the row of the last turn
    num_words: Tensor  # [rows] int64, EOS counted
    row_order: Tensor  # [rows] int64: rows by falling length
    row_rank: Tensor  # [rows] int64: the inverse of row_order
    step_sizes: tuple[int, ...]  # per word position: how many utterances have it
    token_ids: Tensor  # [words] int64: what is predicted; also the encoder's input
    input_ids: Tensor  # [words] int64: the word before each, SOS at the start: the decoder's input
    reversed_word: Tensor  # [words] int64: as reversed_row, for words within utterances
    last_word: Tensor  # [rows] int64, by falling length: the word index of each utterance's EOS
    word_row: Tensor  # [words] int64: the row of each word
    word_step: Tensor  # [words] int64: the position of each word in its utterance
    samples: int = 1  # how many times each conversation stands here, side by side
    utterance_draws: int = 1  # draws that follow one another share z_conv, so many of them at a time

    @property
    def num_conversations(self) -> int:
        """Conversations in the batch."""
        return len(self.index)

    @property
    def num_rows(self) -> int:
        """Utterances in the batch."""
        return len(self.turn)

    @property
    def max_turns(self) -> int:
        """Turns of the longest conversation."""
        return len(self.turn_sizes)

    def word_place(self) -> Tensor:
        """The place of each word in its conversation, one turn after the other, [words] int64."""
        sizes = self.by_turn(self.num_words)
        before = (sizes.cumsum(1) - sizes)[self.conversation, self.turn]
        return before[self.word_row] + self.word_step

    @cached_property
    def once(self) -> Batch:
        """The batch with every conversation once: what does not depend on the draw is computed on that.

        Copies stand side by side everywhere, so item i there is item i * samples here.
        """
        if self.samples == 1:
            return self
        count = self.samples
        names = {name for name, value in vars(self).items() if isinstance(value, Tensor)}
        places = names - {"index", "sample", "turn", "num_words", "token_ids", "input_ids", "word_step"}
        kept: dict[str, Any] = {name: getattr(self, name)[::count] for name in names}
        kept |= {name: kept[name] // count for name in places}
        for name in ("turn_sizes", "step_sizes"):
            kept[name] = tuple(size // count for size in getattr(self, name))
        return Batch(**kept)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``; copies from pinned memory do not block."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def by_turn(self, values: Tensor) -> Tensor:
        """Per-row ``values`` [rows] laid out as [batch, turns], zero where there is no turn."""
        padded = values.new_zeros(self.num_conversations, self.max_turns)
        return padded.index_put((self.conversation, self.turn), values)


def _offsets(sizes: Ints) -> Ints:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def _step_major(lengths: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Layout of sequences with non-increasing ``lengths``, step by step.

    Returns the size of each step; and per item its step, its sequence, and the item that takes its place
    when every sequence runs backwards.
    """
    longest = int(lengths[0])
    sizes = np.searchsorted(-lengths, -np.arange(longest), side="left")  # lengths > step
    starts = _offsets(sizes)
    step = np.repeat(np.arange(longest), sizes)
    sequence = np.arange(starts[-1]) - starts[step]
    mirrored = starts[lengths[sequence] - 1 - step] + sequence
    return sizes, step, sequence, mirrored


def pack(conversations: Sequence[Sequence[Ints]], index: Sequence[int], samples: int = 1) -> Batch:
    """Pack conversations, each a list of utterances, each an array of token ids that ends with EOS.

    ``index`` names each conversation for good: its noise is keyed by that, not by its place in a batch.
    With ``samples`` > 1 every conversation stands that many times, numbered by ``Batch.sample``.

    Raises:
        DataError: there is no conversation, or one has no turn or an empty utterance.
    """
    flat = [words for turns in conversations for words in turns]
    turns = np.array([len(c) for c in conversations], dtype=np.int64)
    lengths = np.array([len(words) for words in flat], dtype=np.int64)
    if len(turns) == 0 or turns.min() < 1 or lengths.min() < 1:
        raise DataError(
            "a batch needs at least one conversation, each with at least one turn of at least one word"
        )
    tokens = np.concatenate([np.asarray(words, dtype=np.int64) for words in flat])
    return _pack(
        tokens, _offsets(lengths), _offsets(turns), np.arange(len(turns)), np.asarray(index), samples
    )


def _pack(
    tokens: NDArray[Any],
    word_offsets: Ints,
    row_offsets: Ints,
    chosen: Ints,
    index: Ints,
    samples: int = 1,
    first_sample: int = 0,
) -> Batch:
    """Pack the conversations ``chosen`` from flat arrays of all of them; ``index`` are their names."""
    sample = np.tile(np.arange(first_sample, first_sample + samples), len(chosen))
    chosen, index = np.repeat(chosen, samples), np.repeat(index, samples)
    num_turns = row_offsets[chosen + 1] - row_offsets[chosen]
    order = np.argsort(-num_turns, kind="stable")
    chosen, index, sample, num_turns = chosen[order], index[order], sample[order], num_turns[order]

    turn_sizes, turn, conversation, reversed_row = _step_major(num_turns)
    row_starts = _offsets(turn_sizes)
    later = turn > 0
    previous_row = row_starts[turn[later] - 1] + conversation[later]
    last_row = row_starts[num_turns - 1] + np.arange(len(chosen))

    utterance = row_offsets[chosen[conversation]] + turn
    starts = word_offsets[utterance]
    num_words = word_offsets[utterance + 1] - starts
    row_order = np.argsort(-num_words, kind="stable")
    row_rank = np.empty_like(row_order)
    row_rank[row_order] = np.arange(len(row_order))

    sorted_lengths = num_words[row_order]
    step_sizes, step, position, reversed_word = _step_major(sorted_lengths)
    word_starts = _offsets(step_sizes)
    word_row = row_order[position]
    token_ids = np.asarray(tokens[starts[word_row] + step], dtype=np.int64)
    before = word_starts[np.maximum(step - 1, 0)] + position
    input_ids = np.where(step == 0, SOS, token_ids[before])
    last_word = word_starts[sorted_lengths - 1] + np.arange(len(row_order))
    arrays = {
        "index": index,
        "sample": sample,
        "conversation": conversation,
        "turn": turn,
        "previous_row": previous_row,
        "reversed_row": reversed_row,
        "last_row": last_row,
        "num_words": num_words,
        "row_order": row_order,
        "row_rank": row_rank,
        "token_ids": token_ids,
        "input_ids": input_ids,
        "reversed_word": reversed_word,
        "last_word": last_word,
        "word_row": word_row,
        "word_step": step,
    }
    tensors: dict[str, Any] = {
        name: torch.from_numpy(np.ascontiguousarray(value, dtype=np.int64)) for name, value in arrays.items()
    }
    return Batch(
        samples=samples,
        turn_sizes=tuple(turn_sizes.tolist()),
        step_sizes=tuple(step_sizes.tolist()),
        **tensors,
    )


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
        return cls(ids, tokens, _offsets(words), _offsets(turns))

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
        return _pack(
            self._tokens, self._word_offsets, self._row_offsets, chosen, chosen, samples, first_sample
        )

    def batches(
        self, batch_conversations: int, limit: int | None = None, *, every: int = 1, first: int = 0
    ) -> Iterator[Batch]:
        """Every conversation once (or the first ``limit``), in order of length: for evaluation.

        With ``every`` only each so many-th batch, from batch ``first`` on: one worker's share.
        """
        total = len(self) if limit is None else min(limit, len(self))
        order = np.argsort(self.words_per_conversation[:total], kind="stable")
        for start in range(0, total, batch_conversations)[first::every]:
            yield self.batch(order[start : start + batch_conversations])


def epoch_order(num_conversations: int, seed: int, epoch: int) -> Ints:
    """The order of epoch ``epoch``: a function of the seed and the epoch, so resuming needs no memory."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_conversations)
