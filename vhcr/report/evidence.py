"""Intervals and differences of systems, from their runs: what a claim or a bold figure rests on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vhcr.evaluation.statistics import Interval, MeanAndDeviation, Resampled, mean_and_deviation, resample
from vhcr.report.results import Results, Sums

LOWER_IS_BETTER = frozenset({"nll_per_word", "reconstruction_per_word"})


class Evidence:
    """Answers by paired bootstrap over test conversations (and over seeds, where there are several).

    Conversations are those that all runs with a number have, so that every two systems can be paired.
    Every answer is None where a run lacks the per-conversation numbers that it needs.
    """

    def __init__(self, results: Results, *, num_samples: int, seed: int) -> None:
        self.results = results
        self.num_samples = num_samples
        self.seed = seed
        self._resampled: dict[tuple[str, str], Resampled | None] = {}
        self._shared: dict[str, list[str]] = {}

    def values(self, system: str, key: str) -> list[float]:
        """The number of each seed that has one."""
        return [value for run in self.results.of(system) if (value := run.value(key)) is not None]

    def mean(self, system: str, key: str) -> MeanAndDeviation | None:
        """Mean and deviation over seeds."""
        return mean_and_deviation(self.values(system, key))

    def interval(self, system: str, key: str) -> Interval | None:
        """The system's number with its 95 % interval."""
        found = self._resample(system, key)
        return found.interval() if found else None

    def difference(self, system: str, other: str, key: str) -> Interval | None:
        """``system`` - ``other`` with its 95 % interval."""
        ours, theirs = self._resample(system, key), self._resample(other, key)
        return ours.minus(theirs) if ours and theirs else None

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

    def _resample(self, system: str, key: str) -> Resampled | None:
        if (system, key) not in self._resampled:
            self._resampled[system, key] = self._make(system, key)
        return self._resampled[system, key]

    def _make(self, system: str, key: str) -> Resampled | None:
        runs = self.results.of(system)
        sums = [run.sums[key] for run in runs if key in run.sums]
        if not sums or len(sums) < len(runs):
            return None
        top, bottom = _stack(sums, self._common(key))
        if bottom.shape[-1] == 0 or not (bottom.sum(axis=-1) > 0).all():
            return None
        return resample(top, bottom, num_samples=self.num_samples, seed=self.seed)

    def _common(self, key: str) -> list[str]:
        """Conversations that every run with this number has: all of them, unless protocols differ."""
        if key not in self._shared:
            every = [set(run.sums[key].conversation_ids) for run in self.results.runs if key in run.sums]
            self._shared[key] = sorted(set.intersection(*every)) if every else []
        return self._shared[key]


def _stack(sums: Sequence[Sums], ids: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numerators and denominators over ``ids``, [seeds, parts, conversations]."""
    tops, bottoms = [], []
    for one in sums:
        position = {name: i for i, name in enumerate(one.conversation_ids)}
        columns = [position[name] for name in ids]
        tops.append(one.numerators[:, columns])
        bottoms.append(one.denominators[:, columns])
    return np.stack(tops), np.stack(bottoms)
