"""The bootstrap against closed forms, and against its own promises."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vhcr.results.statistics import (
    Interval,
    mean_and_deviation,
    paired_difference,
    ratio_interval,
    resample,
)


def test_mean_and_deviation() -> None:
    # 1, 2, 4: mean 7/3; squares 16/9 + 1/9 + 25/9 = 42/9; / 2 = 7/3
    result = mean_and_deviation([1.0, 2.0, 4.0])
    assert result is not None
    assert result.mean == pytest.approx(7 / 3)
    assert result.deviation == pytest.approx(math.sqrt(7 / 3))
    assert mean_and_deviation([5.0]) == (5.0, None, 1)
    assert mean_and_deviation([]) is None


def test_ratio_of_sums_not_mean_of_ratios() -> None:
    # 10 nats over 10 words and 6 over 2: 16/12; the mean of ratios would be 2
    assert ratio_interval([10, 6], [10, 2], num_samples=10, seed=0).estimate == pytest.approx(16 / 12)


def test_interval_has_the_width_that_theory_gives() -> None:
    """For a mean of n values the 95 % interval is +-1.96 sd / sqrt(n)."""
    values = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    interval = ratio_interval(values, np.ones(2000), num_samples=4000, seed=1)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.high - interval.estimate == pytest.approx(half, rel=0.08)
    assert interval.estimate - interval.low == pytest.approx(half, rel=0.08)


def test_level_sets_the_width() -> None:
    values = np.random.default_rng(0).normal(size=500)
    wide = ratio_interval(values, np.ones(500), num_samples=2000, seed=1, level=0.99)
    narrow = ratio_interval(values, np.ones(500), num_samples=2000, seed=1, level=0.5)
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(2.576 / 0.674, rel=0.12)


def test_coverage() -> None:
    """Of 300 data sets with a true difference of 0.1, about 95 % have it inside."""
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(300):
        hardness = rng.normal(0, 5, size=80)
        a = hardness + 0.1 + rng.normal(0, 0.5, size=80)
        b = hardness + rng.normal(0, 0.5, size=80)
        interval = paired_difference(a, np.ones(80), b, np.ones(80), num_samples=200, seed=trial)
        covered += interval.low <= 0.1 <= interval.high
    assert (
        270 <= covered <= 297
    )  # binomial(300, .95) within some four deviations, less the known slight undercover


def test_pairing_cancels_what_conversations_share() -> None:
    rng = np.random.default_rng(3)
    words = rng.integers(5, 60, size=400)
    a = words * 4.0 + rng.normal(0, 40, size=400)
    b = a - 0.05 * words
    paired = paired_difference(a, words, b, words, num_samples=1000, seed=0)
    assert paired.estimate == pytest.approx(0.05)
    assert paired.high - paired.low < 1e-9, "a constant difference per word has no sampling error"
    shuffled = rng.permutation(400)
    unpaired = paired_difference(a, words, b[shuffled], words[shuffled], num_samples=1000, seed=0)
    assert unpaired.high - unpaired.low > 0.05
    assert paired.excludes_zero


def test_difference_of_a_system_with_itself_is_nothing() -> None:
    values = np.arange(1.0, 50.0)
    assert paired_difference(values, values + 1, values, values + 1, num_samples=50, seed=0) == (0, 0, 0)


def test_seeds_are_averaged_and_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(4.0, 0.1, size=1000)
    words = np.ones((3, 1000))
    alike = ratio_interval(np.stack([one, one, one]), words, num_samples=1000, seed=0)
    apart = ratio_interval(np.stack([one - 0.3, one, one + 0.3]), words, num_samples=1000, seed=0)
    assert alike.estimate == pytest.approx(apart.estimate) == pytest.approx(one.mean())
    assert apart.high - apart.low > 10 * (alike.high - alike.low)


def test_seeds_of_two_systems_are_drawn_apart() -> None:
    """Seed 0 of one has nothing to do with seed 0 of the other: 0 and 1 on both sides differ by -1 to 1."""
    values, words = np.repeat([[0.0], [1.0]], 50, axis=1), np.ones((2, 50))
    both = paired_difference(values, words, values, words, num_samples=400, seed=0)
    assert both == (0.0, -1.0, 1.0)


def test_parts_are_averaged_after_their_ratios() -> None:
    # One seed, two turns, two conversations: turn 0: (1 + 0) / 2 = .5; turn 1: 1 / 1 = 1 (one dropped).
    scores, kept = [[[1.0, 0.0], [1.0, 0.0]]], [[[1, 1], [1, 0]]]
    assert ratio_interval(scores, kept, num_samples=20, seed=0).estimate == pytest.approx(0.75)
    two_seeds = ratio_interval(
        [*scores, [[0.0, 0.0]] * 2], [*kept, [[1, 1]] * 2], num_samples=20, seed=0
    ).estimate
    assert two_seeds == pytest.approx(0.375)


def test_deterministic_by_seed() -> None:
    values = np.random.default_rng(0).normal(size=100)

    def interval(seed: int) -> Interval:
        return ratio_interval(values, np.ones(100), num_samples=100, seed=seed)

    first = interval(1)
    assert len({interval(seed) for seed in range(1, 6)}) == 5
    assert interval(1) == first, "although draws of other seeds were kept meanwhile"


def test_only_what_was_drawn_together_is_paired() -> None:
    a = resample([1.0, 2.0, 4.0], [1, 1, 1], num_samples=10, seed=0)
    for other in ({"num_samples": 11, "seed": 0}, {"num_samples": 10, "seed": 1}):
        with pytest.raises(ValueError, match="different seeds or numbers of samples"):
            a.minus(resample([1.0, 2.0, 4.0], [1, 1, 1], **other))


def test_a_replicate_without_words_is_left_out() -> None:
    # One of two conversations has all the words: a quarter of replicates draw none of it.
    interval = ratio_interval([3.0, 0.0], [1.0, 0.0], num_samples=200, seed=0)
    assert interval == (3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    ("a", "words", "complaint"),
    [
        ([1.0], [1.0, 2.0], "shape"),
        ([], [], "no conversation"),
        ([1.0, 2.0], [0.0, 0.0], "zero"),
        ([1.0, math.nan], [1.0, 1.0], "finite"),
        ([1.0, 1.0], [1.0, -1.0], "negative"),
    ],
)
def test_wrong_arguments_are_refused(a: list[float], words: list[float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ratio_interval(a, words, num_samples=10, seed=0)
    with pytest.raises(ValueError, match="paired systems have 1 and 2"):
        paired_difference([1.0], [1.0], [1.0, 2.0], [1.0, 1.0], num_samples=10, seed=0)
