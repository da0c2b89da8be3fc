"""Intervals and differences of systems, from their runs: what a claim or a bold figure rests on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vhcr.evaluation.statistics import (
    Interval,
    MeanAndDeviation,
    mean_and_deviation,
    paired_difference,
    ratio_interval,
)
from vhcr.report.results import Results, Sums

LOWER_IS_BETTER = frozenset({"nll_per_word", "reconstruction_per_word"})


class Evidence:
    """Answers by paired bootstrap over test conversations (and over seeds, where there are several).

    Every answer is None where a run lacks the per-conversation numbers that it needs.
    """

    def __init__(self, results: Results, *, num_samples: int, seed: int) -> None:
        self.results = results
        self.num_samples = num_samples
        self.seed = seed
        self._differences: dict[tuple[str, str, str], Interval | None] = {}

    def values(self, system: str, key: str) -> list[float]:
        """The number of each seed that has one."""
        return [value for run in self.results.of(system) if (value := run.value(key)) is not None]

    def mean(self, system: str, key: str) -> MeanAndDeviation | None:
        """Mean and deviation over seeds."""
        return mean_and_deviation(self.values(system, key))

    def interval(self, system: str, key: str) -> Interval | None:
        """The system's number with its 95 % interval."""
        sums = self._sums(system, key)
        if not sums:
            return None
        top, bottom = _stack(sums, _common(sums))
        if not _usable(bottom):
            return None
        return ratio_interval(top, bottom, num_samples=self.num_samples, seed=self.seed)

    def difference(self, system: str, other: str, key: str) -> Interval | None:
        """``system`` - ``other`` with its 95 % interval, over the conversations that all their runs have."""
        if (system, other, key) not in self._differences:
            self._differences[system, other, key] = self._difference(system, other, key)
        return self._differences[system, other, key]

    def _difference(self, system: str, other: str, key: str) -> Interval | None:
        ours, theirs = self._sums(system, key), self._sums(other, key)
        if not ours or not theirs:
            return None
        ids = _common([*ours, *theirs])
        a, b = _stack(ours, ids), _stack(theirs, ids)
        if not (_usable(a[1]) and _usable(b[1])):
            return None
        return paired_difference(*a, *b, num_samples=self.num_samples, seed=self.seed)

    def leaders(self, key: str, systems: Sequence[str]) -> set[str]:
        """The best system, and those that cannot be told apart from it. Empty with fewer than two systems."""
        means = {system: mean.mean for system in systems if (mean := self.mean(system, key)) is not None}
        if len(means) < 2:
            return set()
        sign = 1 if key in LOWER_IS_BETTER else -1
        best = min(means, key=lambda system: sign * means[system])
        tied = set()
        for system in means:
            difference = self.difference(system, best, key) if system != best else None
            if system == best or difference is None or not difference.excludes_zero:
                tied.add(system)
        return tied

    def _sums(self, system: str, key: str) -> list[Sums]:
        runs = self.results.of(system)
        sums = [run.sums[key] for run in runs if key in run.sums]
        return sums if len(sums) == len(runs) else []


def _common(sums: Sequence[Sums]) -> list[str]:
    shared = set(sums[0].conversation_ids)
    for other in sums[1:]:
        shared &= set(other.conversation_ids)
    return sorted(shared)


def _stack(sums: Sequence[Sums], ids: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numerators and denominators over ``ids``, [seeds, parts, conversations]."""
    tops, bottoms = [], []
    for one in sums:
        position = {name: i for i, name in enumerate(one.conversation_ids)}
        columns = [position[name] for name in ids]
        tops.append(one.numerators[:, columns])
        bottoms.append(one.denominators[:, columns])
    return np.stack(tops), np.stack(bottoms)


def _usable(bottom: NDArray[np.float64]) -> bool:
    return bottom.shape[-1] > 0 and bool((bottom.sum(axis=-1) > 0).all())
