"""Packing: a layout worked out by hand, its invariants on random shapes, and reading it from files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from tests.models.examples import Conversation, arrays, conversations, packed
from vhcr import token_files
from vhcr.batch import Batch, pack
from vhcr.errors import DataError
from vhcr.token_files import Conversations
from vhcr.tokenisation.specials import EOS, SOS

# Names 10, 11, 12. Conversation 11 is the longest, so it comes first; 10 and 12 keep their order.
BY_HAND: list[Conversation] = [
    [[4, 5, 3]],
    [[6, 3], [7, 8, 9, 3]],
    [[3]],
]


def test_layout_worked_out_by_hand() -> None:
    """Rows are turn-major: 0 = (11, turn 0), 1 = (10, turn 0), 2 = (12, turn 0), 3 = (11, turn 1).

    By falling length rows stand as 3 (4 words), 1 (3), 0 (2), 2 (1). Words step by step:
        step 0: 7 4 6 3 | step 1: 8 5 3 | step 2: 9 3 | step 3: 3
    """
    batch = packed(BY_HAND, [10, 11, 12])
    assert batch.index.tolist() == [11, 10, 12]
    assert batch.sample.tolist() == [0, 0, 0]
    assert batch.turn_sizes == (3, 1)
    assert batch.conversation.tolist() == [0, 1, 2, 0]
    assert batch.turn.tolist() == [0, 0, 0, 1]
    assert batch.previous_row.tolist() == [0]
    assert batch.reversed_row.tolist() == [3, 1, 2, 0]
    assert batch.last_row.tolist() == [3, 1, 2]
    assert batch.num_words.tolist() == [2, 3, 1, 4]
    assert batch.row_order.tolist() == [3, 1, 0, 2]
    assert batch.row_rank.tolist() == [2, 1, 3, 0]
    assert batch.step_sizes == (4, 3, 2, 1)
    assert batch.token_ids.tolist() == [7, 4, 6, 3, 8, 5, 3, 9, 3, 3]
    assert batch.input_ids.tolist() == [2, 2, 2, 2, 7, 4, 6, 8, 5, 9]
    assert batch.word_row.tolist() == [3, 1, 0, 2, 3, 1, 0, 3, 1, 3]
    assert batch.word_step.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 3]
    assert batch.last_word.tolist() == [9, 8, 6, 3]
    assert batch.reversed_word.tolist() == [9, 8, 6, 3, 7, 5, 2, 4, 1, 0]
    assert (batch.num_conversations, batch.num_rows, batch.max_turns) == (3, 4, 2)
    assert batch.by_turn(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [[1.0, 4.0], [2.0, 0.0], [3.0, 0.0]]


def unpack(batch: Batch) -> dict[tuple[int, int], list[list[int]]]:
    """Conversations back from a batch, by (name, draw), read through word_row and word_step alone."""
    rows: list[dict[int, int]] = [{} for _ in range(batch.num_rows)]
    words = zip(batch.word_row.tolist(), batch.word_step.tolist(), batch.token_ids.tolist(), strict=True)
    for row, step, token in words:
        rows[row][step] = token
    found: dict[tuple[int, int], dict[int, list[int]]] = {}
    for row, (conversation, turn) in enumerate(
        zip(batch.conversation.tolist(), batch.turn.tolist(), strict=True)
    ):
        name = (int(batch.index[conversation]), int(batch.sample[conversation]))
        found.setdefault(name, {})[turn] = [rows[row][step] for step in range(len(rows[row]))]
    return {name: [turns[turn] for turn in range(len(turns))] for name, turns in found.items()}


@pytest.mark.parametrize("seed", range(12))
def test_packing_loses_nothing_and_its_indices_agree(seed: int) -> None:
    draw = np.random.default_rng(seed)
    chosen = conversations(draw.integers(1, 6, draw.integers(1, 9)).tolist(), seed)
    index = draw.permutation(100)[: len(chosen)].tolist()
    batch = packed(chosen, index, samples=1 + seed % 3)
    assert unpack(batch) == {
        (name, sample): turns
        for name, turns in zip(index, chosen, strict=True)
        for sample in range(1 + seed % 3)
    }

    # Both orders fall in length, so that what is alive at a step is a prefix.
    assert list(batch.turn_sizes) == sorted(batch.turn_sizes, reverse=True)
    assert (batch.num_words[batch.row_order].diff() <= 0).all()
    assert (batch.row_order[batch.row_rank] == torch.arange(batch.num_rows)).all()
    # Turn by turn and word by word: mirrored items are of the same sequence, at the mirrored place.
    turns = torch.bincount(batch.conversation)
    mirror = batch.reversed_row
    assert (batch.conversation[mirror] == batch.conversation).all()
    assert (batch.turn + batch.turn[mirror] == turns[batch.conversation] - 1).all()
    words = batch.num_words[batch.word_row]
    assert (batch.word_row[batch.reversed_word] == batch.word_row).all()
    assert (batch.word_step + batch.word_step[batch.reversed_word] == words - 1).all()
    # Last items, and the row before.
    assert (batch.token_ids[batch.last_word] == EOS).all()
    assert (batch.word_row[batch.last_word] == batch.row_order).all()
    assert (batch.turn[batch.last_row] == turns - 1).all()
    assert (batch.conversation[batch.last_row] == torch.arange(batch.num_conversations)).all()
    later = batch.turn > 0
    assert (batch.turn[batch.previous_row] == batch.turn[later] - 1).all()
    assert (batch.conversation[batch.previous_row] == batch.conversation[later]).all()
    # The decoder hears SOS, then what came before.
    inputs = {
        (row, step): heard
        for row, step, heard in zip(
            batch.word_row.tolist(), batch.word_step.tolist(), batch.input_ids.tolist(), strict=True
        )
    }
    for row, step, token in zip(
        batch.word_row.tolist(), batch.word_step.tolist(), batch.token_ids.tolist(), strict=True
    ):
        if step == 0:
            assert inputs[row, 0] == SOS
        if (row, step + 1) in inputs:
            assert inputs[row, step + 1] == token


def test_samples_stand_side_by_side_and_are_numbered() -> None:
    data = from_list([[[4, 3]], [[5, 3], [6, 7, 3]], [[3]]])
    once, thrice = data.batch([0, 1, 2]), data.batch([0, 1, 2], samples=3, first_sample=6)
    assert thrice.sample.tolist() == [6, 7, 8] * 3
    assert thrice.index.tolist() == once.index.repeat_interleave(3).tolist()
    assert thrice.turn.tolist() == once.turn.repeat_interleave(3).tolist()
    assert thrice.num_words.tolist() == once.num_words.repeat_interleave(3).tolist()
    assert thrice.turn_sizes == tuple(3 * size for size in once.turn_sizes)
    assert set(unpack(thrice)) == {(name, sample) for name in range(3) for sample in (6, 7, 8)}


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_a_batch_with_copies_knows_itself_without(samples: int) -> None:
    data = from_list(conversations([3, 1, 2, 4, 1, 2], seed=4))
    chosen = [4, 0, 3, 5]
    once, expected = data.batch(chosen, samples).once, data.batch(chosen)
    for field in fields(expected):
        found, wanted = getattr(once, field.name), getattr(expected, field.name)
        assert torch.equal(found, wanted) if isinstance(wanted, Tensor) else found == wanted, field.name


@pytest.mark.parametrize("broken", [[], [[]], [[[4, 3]], []], [[[4, 3], []]]])
def test_nothing_to_pack(broken: list[Any]) -> None:
    with pytest.raises(DataError, match="at least one"):
        pack(arrays(broken), list(range(len(broken))))


# --- Conversations ---


def from_list(of: list[Conversation]) -> Conversations:
    words = [np.array(utterance) for turns in of for utterance in turns]
    return Conversations(
        [f"c{number}" for number in range(len(of))],
        np.concatenate(words),
        np.cumsum([0, *map(len, words)]),
        np.cumsum([0, *map(len, of)]),
    )


def write(path: Path, of: Any, kind: Callable[[pa.DataType], pa.DataType] = pa.list_) -> Path:
    names = [f"c{number}" for number in range(len(of))]
    column = pa.array(of, type=kind(kind(pa.int32())))
    pq.write_table(pa.table({"conversation_id": names, "token_ids": column}), path, row_group_size=2)
    return path


@pytest.mark.parametrize("map_above", [0, 10**6])
@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_load_reads_what_was_written_across_row_groups(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Callable[[pa.DataType], pa.DataType],
    map_above: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(token_files, "PIECE", 2)
    chosen = conversations([2, 1, 3, 1, 2], seed=3)
    path = write(tmp_path / "train.parquet", chosen, kind)
    data = Conversations.load(path, vocabulary_size=11, map_above=map_above)
    assert len(data) == 5
    assert list(data.ids) == ["c0", "c1", "c2", "c3", "c4"]
    assert [[words.tolist() for words in data.utterances(number)] for number in range(5)] == chosen
    assert data.num_turns.tolist() == [2, 1, 3, 1, 2]
    assert data.words_per_conversation.tolist() == [sum(map(len, turns)) for turns in chosen]
    assert data.num_words == sum(len(words) for turns in chosen for words in turns)
    assert unpack(data.batch([3, 0])) == {(3, 0): chosen[3], (0, 0): chosen[0]}


def test_a_large_split_is_mapped_and_spooled_once_per_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spool = tmp_path / ".work" / "token_ids"
    path = write(tmp_path / "train.parquet", GOOD)
    data = Conversations.load(path, map_above=0)
    for flat in (data._tokens, data._word_offsets, data._row_offsets):
        assert isinstance(flat.base, np.memmap)
    made = {file: file.stat().st_mtime_ns for file in spool.rglob("*")}
    Conversations.load(path, map_above=0)
    assert {file: file.stat().st_mtime_ns for file in spool.rglob("*")} == made
    other = Conversations.load(write(path, GOOD[:1]), map_above=0)
    assert len(other) == 1
    assert len(list(spool.iterdir())) == 2
    write(path, [*GOOD, [[4, 5]]])
    with pytest.raises(DataError, match="utterance 3 does not end with EOS"):
        Conversations.load(path, map_above=0)
    assert len(list(spool.iterdir())) == 2, "what cannot be read leaves nothing behind"


def test_batches_cover_every_conversation_once_the_longest_first() -> None:
    """Shortest first, memory grew with every batch of a validation: 4.8 GB where 1.7 are enough."""
    data = from_list(conversations([3, 1, 2, 4, 1, 1, 2], seed=2))
    batches = list(data.batches(3))
    assert [batch.num_conversations for batch in batches] == [1, 3, 3]
    names = [batch.index.tolist() for batch in batches]
    assert sorted(name for some in names for name in some) == list(range(7))
    longest = [max(int(data.words_per_conversation[name]) for name in some) for some in names]
    assert longest == sorted(longest, reverse=True)
    assert sorted(n for batch in data.batches(2, limit=3) for n in batch.index.tolist()) == [0, 1, 2]
    assert len(list(data.batches(7, limit=100))) == 1


GOOD = [[[4, 3]], [[5, 3], [6, 3]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no conversations"),
        ([[[4, 3]], []], "empty conversation or utterance"),
        ([[[4, 3], []]], "empty conversation or utterance"),
        ([[[4, 3]], None], "a null where token ids should be"),
        ([[[4, 3]], [None]], "a null where token ids should be"),
        ([[[4, 3], [4, 5]]], r"utterance 1 does not end with EOS \(3\)"),
        ([[[4, 11, 3]]], "token id 11, but the vocabulary has 11 words"),
        ([[[4, -1, 3]]], "token id -1"),
        ([[[4, None, 3]]], "a null where token ids should be"),
    ],
)
def test_load_refuses_what_no_model_can_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "test.parquet", content)
    for map_above in (0, 10**6):
        with pytest.raises(DataError, match=message) as caught:
            Conversations.load(path, vocabulary_size=11, map_above=map_above)
        assert str(path) in str(caught.value)


def test_load_names_a_file_that_is_missing_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    with pytest.raises(DataError, match=r"test\.parquet: cannot be read"):
        Conversations.load(path)
    whole = write(path, GOOD).read_bytes()
    for damaged in (b"", b"not parquet", whole[: len(whole) // 2], whole[:40] + b"\0" * 40 + whole[80:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"test\.parquet"):
            Conversations.load(path)


@pytest.mark.parametrize(
    "table",
    [
        {"conversation_id": ["a"]},
        {"token_ids": [[[4, 3]]]},
        {"conversation_id": ["a"], "token_ids": [[4, 3]]},
        {"conversation_id": ["a"], "token_ids": ["4 3"]},
        {"conversation_id": ["a"], "token_ids": [[["4", "3"]]]},
    ],
)
def test_load_refuses_another_kind_of_table(tmp_path: Path, table: dict[str, Any]) -> None:
    pq.write_table(pa.table(table), tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet"):
        Conversations.load(tmp_path / "test.parquet")


@pytest.mark.parametrize(
    ("told", "conversation"),
    [
        ("token id 0 inside an utterance", [[5, 0, EOS]]),
        ("token id 2 inside an utterance", [[SOS, 5, EOS]]),
        ("token id 3 inside an utterance", [[5, EOS, 6, EOS]]),
        ("utterance 1 has 9 words, EOS counted; tokenisation.max_words is 8", [[EOS], [5] * 8 + [EOS]]),
    ],
)
def test_specials_inside_and_endless_utterances_are_refused(
    tmp_path: Path, told: str, conversation: list[list[int]]
) -> None:
    """A special word inside changed results; an utterance of 200,000 words hung training and evaluation."""
    with pytest.raises(DataError, match=told):
        Conversations.load(write(tmp_path / "train.parquet", [conversation]), 10, max_words=8)


def test_a_conversation_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Doubled rows were trained on twice, and no one was told."""
    path = write(tmp_path / "train.parquet", [[[5, EOS]], [[6, EOS]]])
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    with pytest.raises(DataError, match="there twice"):
        Conversations.load(path, 10)
