"""Uncertainty: paired bootstrap over test conversations, and mean and deviation over seeds.

What is reported is a ratio of sums over conversations, such as nats per word = sum of nats / sum of words.
The bootstrap (Efron, 1979) draws whole conversations with replacement, since words of one conversation
are not independent, and draws the same ones for both systems of a difference, since hard conversations
are hard for both. Where a system was trained with several seeds, its seeds are drawn too, so that the
interval covers training as well as test data; with few seeds it is too narrow rather than too wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate with its percentile bootstrap interval."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


class MeanAndDeviation(NamedTuple):
    """Mean and sample standard deviation over seeds; no deviation with one seed alone."""

    mean: float
    deviation: float | None
    num_seeds: int


def mean_and_deviation(values: Sequence[float]) -> MeanAndDeviation | None:
    """Mean and sample standard deviation (n - 1). Null without a value."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return MeanAndDeviation(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return MeanAndDeviation(mean, math.sqrt(variance), len(values))


@dataclass(frozen=True)
class Resampled:
    """A ratio with its bootstrap replicates, kept so that many differences share one resampling.

    Those made with the same ``num_samples`` and ``seed`` over the same conversations, in the same order,
    saw the same draws, which pairs them.
    """

    estimate: float
    replicates: NDArray[np.float64]  # [samples, seeds]
    num_conversations: int
    seed: int

    def interval(self, level: float = LEVEL) -> Interval:
        """The ratio (mean over seeds) with its percentile interval."""
        return _interval(self.estimate, self._over_seeds(0), level)

    def pairs_with(self, other: Resampled) -> bool:
        """Whether both saw the same draws of as many conversations."""
        return (self.num_conversations, len(self.replicates), self.seed) == (
            other.num_conversations,
            len(other.replicates),
            other.seed,
        )

    def minus(self, other: Resampled, level: float = LEVEL) -> Interval:
        """This ratio - the other, paired by conversation.

        Raises:
            ValueError: the two were not drawn together.
        """
        if self.num_conversations != other.num_conversations:
            raise ValueError(
                f"paired systems have {self.num_conversations} and {other.num_conversations} conversations"
            )
        if (len(self.replicates), self.seed) != (len(other.replicates), other.seed):
            raise ValueError("paired systems were resampled by different seeds or numbers of samples")
        draws = self._over_seeds(0) - other._over_seeds(1)
        return _interval(self.estimate - other.estimate, draws, level)

    def _over_seeds(self, side: int) -> NDArray[np.float64]:
        """Mean over training seeds drawn with replacement; apart for the two sides of a difference."""
        rng = np.random.default_rng([self.seed, 1, side])
        chosen = rng.integers(self.replicates.shape[1], size=self.replicates.shape)
        mean: NDArray[np.float64] = np.take_along_axis(self.replicates, chosen, axis=1).mean(axis=1)
        return mean


def resample(numerators: ArrayLike, denominators: ArrayLike, *, num_samples: int, seed: int) -> Resampled:
    """Bootstrap sum of numerators / sum of denominators, drawing whole conversations.

    Both are [conversations], or [seeds, conversations], or [seeds, parts, conversations]. The ratio is
    taken of each seed and part, then averaged; parts are the turns of Table 3's 3-turn scores.

    Raises:
        ValueError: shapes differ, there is no conversation, or the denominators sum to zero.
    """
    top, bottom = _rows(numerators, denominators)
    num_seeds, num_parts, num_conversations = top.shape
    columns = np.concatenate([values.reshape(-1, num_conversations) for values in (top, bottom)]).T
    replicates = np.empty((num_samples, num_seeds))
    for start in range(0, num_samples, 100):
        times = _draws(num_conversations, num_samples, seed)[start : start + 100].astype(np.float64)
        sums = times @ columns
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = sums[:, : num_seeds * num_parts] / sums[:, num_seeds * num_parts :]
        replicates[start : start + 100] = ratios.reshape(-1, num_seeds, num_parts).mean(axis=2)
    estimate = float((top.sum(axis=-1) / bottom.sum(axis=-1)).mean())
    return Resampled(estimate, replicates, num_conversations, seed)


def ratio_interval(
    numerators: ArrayLike, denominators: ArrayLike, *, num_samples: int, seed: int, level: float = LEVEL
) -> Interval:
    """Sum of numerators / sum of denominators with its bootstrap interval; arguments as ``resample``."""
    return resample(numerators, denominators, num_samples=num_samples, seed=seed).interval(level)


def paired_difference(
    numerators_a: ArrayLike,
    denominators_a: ArrayLike,
    numerators_b: ArrayLike,
    denominators_b: ArrayLike,
    *,
    num_samples: int,
    seed: int,
    level: float = LEVEL,
) -> Interval:
    """Ratio of a - ratio of b, both over the same conversations in the same order, drawn together.

    Arguments as ``resample``; the numbers of training seeds may differ.

    Raises:
        ValueError: the numbers of conversations differ, or as in ``resample``.
    """
    a = resample(numerators_a, denominators_a, num_samples=num_samples, seed=seed)
    return a.minus(resample(numerators_b, denominators_b, num_samples=num_samples, seed=seed), level)


def _rows(numerators: ArrayLike, denominators: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as [seeds, parts, conversations]."""
    top, bottom = (np.asarray(values, dtype=np.float64) for values in (numerators, denominators))
    if top.shape != bottom.shape or not 1 <= top.ndim <= 3:
        raise ValueError(f"numerators of shape {top.shape}, but denominators of shape {bottom.shape}")
    top, bottom = (
        values.reshape(-1, values.shape[-2] if values.ndim == 3 else 1, values.shape[-1])
        if values.size
        else values.reshape(1, 1, 0)
        for values in (top, bottom)
    )
    if top.shape[-1] == 0:
        raise ValueError("no conversation to resample")
    if not (np.isfinite(top).all() and np.isfinite(bottom).all()):
        raise ValueError("values to resample are not all finite")
    if (bottom < 0).any() or (bottom.sum(axis=-1) == 0).any():
        raise ValueError("denominators must not be negative, nor all zero")
    return top, bottom


@lru_cache(maxsize=2)
def _draws(num_conversations: int, num_samples: int, seed: int) -> NDArray[np.uint16]:
    """How often each replicate draws each conversation, [num_samples, conversations].

    A function of its arguments alone, so that both systems of a pair see the same draws; kept, since a
    report asks for dozens of intervals over one test split.
    """
    rng = np.random.default_rng([seed, 0])
    times = np.empty((num_samples, num_conversations), dtype=np.uint16)
    for row in times:
        drawn = rng.integers(num_conversations, size=num_conversations)
        row[:] = np.bincount(drawn, minlength=num_conversations)
    return times


def _interval(estimate: float, draws: NDArray[np.float64], level: float) -> Interval:
    # A replicate without a single denominator (few conversations, mostly dropped pairs) says nothing.
    usable = draws[np.isfinite(draws)]
    if len(usable) == 0:
        return Interval(estimate, -math.inf, math.inf)
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))
