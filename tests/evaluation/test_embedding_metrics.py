"""Embedding metrics against answers worked out by hand with two-dimensional vectors."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from vhcr.evaluation.embedding_metrics import (
    EmbeddingScores,
    embedding_diversity,
    embedding_scores,
    n_turn_summary,
)
from vhcr.word_vectors import WordVectors

# east (1,0)   north (0,2)   west (-3,0)   diagonal (1,1)
# Lengths differ on purpose: cosines must not see them, sums and extrema must.
VECTORS = WordVectors(
    {"east": 0, "north": 1, "west": 2, "diagonal": 3},
    np.array([[1, 0], [0, 2], [-3, 0], [1, 1]], dtype=np.float32),
)
ROOT = math.sqrt(0.5)  # cos 45 degrees


def one(reference: str, response: str, definition: str = "release") -> tuple[float, float, float]:
    scores = embedding_scores([reference.split()], [response.split()], VECTORS, definition)  # type: ignore[arg-type]
    return tuple(float(v[0]) for v in scores)  # type: ignore[return-value]


def test_by_hand_release() -> None:
    # reference: east north -> sum (1,2); extrema (1,2)
    # response:  diagonal west -> sum (-2,1); extrema: x in {1,-3} -> -3, y in {1,0} -> 1: (-3,1)
    # average: (1,2).(-2,1) = 0
    # extrema: (1,2).(-3,1) = -1; lengths sqrt5 sqrt10: -1/sqrt50
    # greedy: east: max(cos diagonal = .7071, cos west = -1) = .7071; north: max(.7071, 0) = .7071; mean .7071
    average, extrema, greedy = one("east north", "diagonal west")
    assert average == pytest.approx(0.0, abs=1e-7)
    assert extrema == pytest.approx(-1 / math.sqrt(50), abs=1e-6)
    assert greedy == pytest.approx(ROOT, abs=1e-6)


def test_by_hand_serban() -> None:
    # As above, but greedy also from the response: diagonal: max(.7071, .7071) = .7071;
    # west: max(cos east = -1, cos north = 0) = 0; mean .35355. Both ways: (.7071 + .35355) / 2 = .53033
    average, extrema, greedy = one("east north", "diagonal west", "serban")
    assert average == pytest.approx(0.0, abs=1e-7)
    assert extrema == pytest.approx(-1 / math.sqrt(50), abs=1e-6)
    assert greedy == pytest.approx((ROOT + ROOT / 2) / 2, abs=1e-6)


def test_greedy_starts_from_the_reference() -> None:
    # From each reference word: east -> east 1. The other way round it would be (1 + 0) / 2.
    assert one("east", "east north")[2] == pytest.approx(1.0, abs=1e-6)
    assert one("east north", "east")[2] == pytest.approx(0.5, abs=1e-6)


def test_greedy_below_zero_counts_as_it_is_in_release_and_zero_in_serban() -> None:
    assert one("east", "west")[2] == pytest.approx(-1.0, abs=1e-6)
    assert one("east", "west", "serban")[2] == 0.0


def test_extrema_keeps_the_value_farthest_from_zero_and_prefers_plus_on_a_tie() -> None:
    vectors = WordVectors({"plus": 0, "minus": 1, "up": 2}, np.array([[2, 0], [-2, 0], [0, 2]], np.float32))
    # response: x in {2,-2,0}: tie -> 2; y 2: (2,2); reference (2,0): cos 45 degrees, and positive
    scores = embedding_scores([["plus"]], [["minus", "plus", "up"]], vectors)
    assert scores.extrema[0] == pytest.approx(ROOT, abs=1e-6)
    # All values negative: zeros of padding must not win. The second pair makes the first one padded.
    scores = embedding_scores([["minus"], ["up"] * 5], [["minus"], ["up"]], vectors)
    assert scores.extrema[0] == pytest.approx(1.0, abs=1e-6)


def test_unknown_words_are_passed_over_and_special_words_are_never_known() -> None:
    assert one("east zzz", "zzz zzz east") == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)
    trained = WordVectors({"east": 0, "<unk>": 1}, np.array([[1, 0], [0, 1]], dtype=np.float32))
    scores = embedding_scores([["east", "<unk>"]], [["east"]], trained)
    assert scores.average[0] == pytest.approx(1.0, abs=1e-6)


def test_pairs_without_a_known_word() -> None:
    for reference, response in [("zzz", "east"), ("east", "zzz"), ("east", ""), ("", "east"), ("", "")]:
        assert all(math.isnan(v) for v in one(reference, response)), "release drops them"
    assert one("east", "zzz", "serban") == (0.0, 0.0, 0.0)
    average, extrema, greedy = one("zzz", "east", "serban")
    assert math.isnan(average)
    assert math.isnan(extrema)
    assert greedy == 0.0


def test_three_turns_average_turn_means_and_count_pairs() -> None:
    # Turn 0: 1 and dropped -> 1. Turn 1: 0 and 0.5 -> 0.25. Mean over turns .625; pooled it would be .5.
    column = np.array([1.0, math.nan, 0.0, 0.5])
    summary = n_turn_summary(EmbeddingScores(column, column, column), [0, 0, 1, 1])
    assert summary.average == pytest.approx(0.625)
    assert summary.average_by_turn == pytest.approx([1.0, 0.25])
    assert (summary.num_pairs, summary.num_dropped) == (3, 1)
    lost = n_turn_summary(EmbeddingScores(column, column, column), [0, 1, 0, 0])
    assert lost.greedy is None, "a turn without a kept pair has no mean to average"


def test_summaries_of_both_definitions() -> None:
    pairs = [["east"], ["east"]], [["west"], ["zzz"]]
    release = n_turn_summary(embedding_scores(*pairs, VECTORS), [0, 0])
    assert (release.greedy, release.num_pairs, release.num_dropped) == (pytest.approx(-1.0), 1, 1)
    serban = n_turn_summary(embedding_scores(*pairs, VECTORS, "serban"), [0, 0])
    assert (serban.greedy, serban.num_pairs, serban.num_dropped) == (0.0, 2, 0)
    assert serban.average == pytest.approx(-0.5)


def test_diversity() -> None:
    # east & north: cos 0 -> 1. three alike: 0. east & west: 2. A lone or unknown response counts nothing.
    def value(*groups: list[str]) -> float | None:
        return embedding_diversity([[text.split() for text in group] for group in groups], VECTORS)

    assert value(["east", "north"]) == pytest.approx(1.0)
    assert value(["east", "east east", "east zzz"]) == pytest.approx(0.0, abs=1e-7)
    assert value(["east", "north"], ["east", "west"], ["east"], ["east", "zzz"]) == pytest.approx(1.5)
    assert value(["east"]) is None


def test_batched_equals_a_plain_loop() -> None:
    """Chunks, padding and sorting by length change nothing: the same as one pair at a time in float64."""
    rng = np.random.default_rng(5)
    vectors = WordVectors(
        {f"w{i}": i for i in range(60)}, rng.standard_normal((60, 7)).astype(np.float32) - 0.5
    )
    texts = [[f"w{i}" for i in rng.integers(0, 75, size=rng.integers(0, 12))] for _ in range(1200)]
    references, responses = texts[:600], texts[600:]
    scores = embedding_scores(references, responses, vectors)
    checked = 0
    for i in range(0, 600, 7):
        left = [vectors.vectors[vectors.index[w]].astype(float) for w in references[i] if w in vectors]
        right = [vectors.vectors[vectors.index[w]].astype(float) for w in responses[i] if w in vectors]
        if not left or not right:
            assert math.isnan(scores.average[i])
            continue

        def cosine(a: np.ndarray, b: np.ndarray) -> float:
            return float(a @ b / math.sqrt((a @ a) * (b @ b)))

        def far(rows: list[np.ndarray]) -> np.ndarray:
            return np.array([max(column, key=abs) for column in zip(*rows, strict=True)])

        assert scores.average[i] == pytest.approx(cosine(np.mean(left, 0), np.mean(right, 0)), abs=1e-5)
        assert scores.extrema[i] == pytest.approx(cosine(far(left), far(right)), abs=1e-5)
        best = [max(cosine(a, b) for b in right) for a in left]
        assert scores.greedy[i] == pytest.approx(np.mean(best), abs=1e-5)
        checked += 1
    assert checked > 50


def test_ten_thousand_pairs_take_seconds() -> None:
    rng = np.random.default_rng(1)
    words = [f"w{i}" for i in range(2000)]
    vectors = WordVectors(
        {w: i for i, w in enumerate(words)}, rng.standard_normal((2000, 100)).astype(np.float32)
    )
    texts = [[words[j] for j in rng.integers(0, 2000, size=10)] for _ in range(10_000)]
    start = time.process_time()
    embedding_scores(texts, texts[::-1], vectors)
    assert time.process_time() - start < 10


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="1 references, but 0 responses"):
        embedding_scores([["a"]], [], VECTORS)
    with pytest.raises(ValueError, match="unknown definition 'gready'"):
        embedding_scores([], [], VECTORS, "gready")  # type: ignore[arg-type]
    assert embedding_scores([], [], VECTORS).average.shape == (0,)
