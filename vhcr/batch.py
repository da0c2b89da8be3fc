"""Batch: conversations as tensors of token ids, packed without padding.

Nothing is padded. A batch lays its conversations out twice, and both orders let a recurrent network take
all that is alive at a step as one contiguous slice:

- *rows* are utterances, turn by turn: the first turn of every conversation, then the second turn of those
  that have one, and so on. Conversations stand in order of falling length.
- *words* are tokens, step by step: the first word of every utterance, then the second word of those that
  have one, and so on. Utterances stand in order of falling length; ``row_order`` says which row is where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vhcr.errors import DataError
from vhcr.tokenisation.specials import SOS

Ints = NDArray[np.int64]


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


def offsets(sizes: Ints) -> Ints:
    """Where each of several pieces of these sizes begins, and where the last ends; [sizes + 1]."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def _step_major(lengths: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Layout of sequences with non-increasing ``lengths``, step by step.

    Returns the size of each step; and per item its step, its sequence, and the item that takes its place
    when every sequence runs backwards.
    """
    longest = int(lengths[0])
    sizes = np.searchsorted(-lengths, -np.arange(longest), side="left")  # lengths > step
    starts = offsets(sizes)
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
    return pack_flat(
        tokens, offsets(lengths), offsets(turns), np.arange(len(turns)), np.asarray(index), samples
    )


def pack_flat(
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
    row_starts = offsets(turn_sizes)
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
    word_starts = offsets(step_sizes)
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
