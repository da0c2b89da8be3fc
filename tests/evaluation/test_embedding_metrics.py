"""Embedding metrics against answers worked out by hand with two-dimensional vectors."""

from __future__ import annotations

import gzip
import math
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from vhcr.errors import DataError
from vhcr.evaluation.embedding_metrics import (
    EmbeddingScores,
    WordVectors,
    embedding_diversity,
    embedding_scores,
    n_turn_summary,
    response_metrics,
)

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
    assert summary["average"] == pytest.approx(0.625)
    assert summary["average_by_turn"] == pytest.approx([1.0, 0.25])
    assert (summary["num_pairs"], summary["num_dropped"]) == (3, 1)
    lost = n_turn_summary(EmbeddingScores(column, column, column), [0, 1, 0, 0])
    assert lost["greedy"] is None, "a turn without a kept pair has no mean to average"


def test_response_metrics_name_both_definitions() -> None:
    result = response_metrics([["east"], ["east"]], [["west"], ["zzz"]], [0, 0], VECTORS)
    assert (result["greedy"], result["num_pairs"], result["num_dropped"]) == (pytest.approx(-1.0), 1, 1)
    serban = result["serban"]
    assert (serban["greedy"], serban["num_pairs"], serban["num_dropped"]) == (0.0, 2, 0)
    assert serban["average"] == pytest.approx(-0.5)


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


def word2vec(newline: bytes = b"") -> bytes:
    """Three words of two dimensions; é to be two bytes long; a vector byte that looks like a space."""
    entries = [("<unk>", 9.0, 9.0), ("é", 1.0, 2.5), ("east", struct.unpack("<f", b"    ")[0], -1.0)]
    body = b"".join(w.encode() + b" " + struct.pack("<2f", x, y) + newline for w, x, y in entries)
    return b"3 2\n" + body


@pytest.mark.parametrize("newline", [b"", b"\n"], ids=["as gensim writes", "as the original tool writes"])
@pytest.mark.parametrize("suffix", [".bin", ".bin.gz"])
def test_load(tmp_path: Path, newline: bytes, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    path.write_bytes(gzip.compress(word2vec(newline)) if suffix.endswith("gz") else word2vec(newline))
    vectors = WordVectors.load(path)
    assert list(vectors.index) == ["é", "east"]
    np.testing.assert_array_equal(vectors.vectors[0], np.float32([1.0, 2.5]))
    assert vectors.vectors[1][1] == -1.0
    assert list(WordVectors.load(path, only=["east", "other"]).index) == ["east"]


def test_of_two_vectors_of_one_word_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "v.bin"
    path.write_bytes(b"3 1\n" + b"".join(b"%s " % w + struct.pack("<f", x) for w, x in zip(
        (b"a", b"b", b"a"), (1.0, 2.0, 3.0), strict=True
    )))  # fmt: skip
    vectors = WordVectors.load(path)
    assert vectors.vectors[vectors.index["a"]] == 1.0
    assert len(vectors) == 2


def test_load_agrees_with_gensim(tmp_path: Path) -> None:
    from gensim.models import KeyedVectors

    made = KeyedVectors(vector_size=5)
    words = [f"wörd{i}" for i in range(40)]
    table = np.random.default_rng(3).standard_normal((40, 5)).astype(np.float32)
    made.add_vectors(words, table)
    made.save_word2vec_format(str(tmp_path / "v.bin"), binary=True)
    vectors = WordVectors.load(tmp_path / "v.bin")
    assert sorted(vectors.index) == sorted(words)
    for word, row in zip(words, table, strict=True):
        np.testing.assert_array_equal(vectors.vectors[vectors.index[word]], row)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "first line"),
        (b"not vectors\n", "first line"),
        (word2vec()[:-3], "breaks off at word 3 of 3"),
        (b"1 2\nbad " + struct.pack("<2f", math.nan, 1.0), "vector of 'bad' is not finite"),
        (b"2 2\n" + b"x" * 200_000, "breaks off at word 1 of 2"),
    ],
)
def test_load_names_what_is_wrong(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "vectors.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint) as caught:
        WordVectors.load(path)
    assert "vectors.bin" in str(caught.value)


def test_load_names_a_missing_file_and_a_broken_gzip(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.bin: cannot be read"):
        WordVectors.load(tmp_path / "none.bin")
    (tmp_path / "cut.bin.gz").write_bytes(gzip.compress(word2vec())[:-12])
    with pytest.raises(DataError, match=r"cut\.bin\.gz: cannot be read"):
        WordVectors.load(tmp_path / "cut.bin.gz")
