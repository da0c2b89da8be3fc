"""Who is champion: better, significantly, on the same words; else nothing moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vhcr.registry.champion import judge

NUM = 200
WORDS = np.random.default_rng(3).integers(20, 60, NUM)
HARDNESS = np.random.default_rng(4).normal(4.0, 1.0, NUM)  # conversations differ far more than systems do


@pytest.fixture
def rng():
    """Of each test its own: a verdict at five per cent must not depend on which tests ran before it."""
    return np.random.default_rng(5)


def evaluation(folder, nll_per_word, words=WORDS, order=None) -> Path:
    folder.mkdir()
    place = np.arange(len(words)) if order is None else order
    columns = {
        "conversation_id": [f"c{i}" for i in place],
        "num_words": words[place],
        "nll": (nll_per_word * words)[place],
    }
    pq.write_table(pa.table(columns), folder / "conversations.parquet")
    return folder


def verdict(challenger: Path, champion: Path):
    return judge(challenger, champion, num_samples=500, seed=0)


def test_a_small_but_consistent_difference_is_significant(tmp_path, rng):
    """Unpaired, the spread of the conversations would drown it."""
    old = evaluation(tmp_path / "old", HARDNESS)
    new = evaluation(tmp_path / "new", HARDNESS - 0.02 + rng.normal(0, 0.02, NUM))
    found = verdict(new, old)
    assert found.moves, found.reason
    assert not verdict(old, new).moves
    assert "not lower" in verdict(old, new).reason


def test_a_difference_within_noise_moves_nothing(tmp_path, rng):
    old = evaluation(tmp_path / "old", HARDNESS)
    new = evaluation(tmp_path / "new", HARDNESS - 0.001 + rng.normal(0, 0.2, NUM))
    found = verdict(new, old)
    assert not found.moves
    assert "to +" in found.reason, "the interval is told, and it covers zero"


def test_conversations_are_paired_by_name_not_by_place(tmp_path, rng):
    old = evaluation(tmp_path / "old", HARDNESS)
    new = evaluation(tmp_path / "new", HARDNESS - 0.02, order=rng.permutation(NUM))
    assert verdict(new, old).moves


def test_other_words_or_conversations_are_not_compared(tmp_path):
    """The reading `release` does not score first utterances: its bound is over other words."""
    old = evaluation(tmp_path / "old", HARDNESS)
    fewer = evaluation(tmp_path / "fewer", HARDNESS - 1.0, words=WORDS - 5)
    part = evaluation(tmp_path / "part", HARDNESS[:50] - 1.0, words=WORDS[:50])
    for new in (fewer, part):
        found = verdict(new, old)
        assert not found.moves
        assert "not comparable" in found.reason


def test_without_rows_nothing_moves(tmp_path):
    old = evaluation(tmp_path / "old", HARDNESS)
    (tmp_path / "none").mkdir()
    assert verdict(tmp_path / "none", old).reason.startswith("the new one has no bound")
    assert verdict(old, tmp_path / "none").reason.startswith("the champion has no bound")
