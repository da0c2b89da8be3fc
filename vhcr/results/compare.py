"""Intervals and differences of systems, from their runs: what a claim or a bold figure rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vhcr.results.runs import Results, Run, Sums
from vhcr.results.statistics import Interval, MeanAndDeviation, Resampled, mean_and_deviation, resample
from vhcr.results.use import unused

LOWER_IS_BETTER = frozenset({"nll_per_word", "reconstruction_per_word", "importance_weighted"})
USED_KL = "used_kl_per_word"  # the KL of those latents alone that are used
LIKELIHOODS = LOWER_IS_BETTER | {"kl_per_word", "kl_conv_per_word", "kl_utt_per_word", USED_KL}


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
        self._each: dict[tuple[int, str], Resampled | None] = {}

    def in_roles(self) -> Evidence:
        """The same numbers, with each system under the paper's name of what it is."""
        cast = Evidence(self.results.in_roles(), num_samples=self.num_samples, seed=self.seed)
        cast._each = self._each
        return cast

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
        if ours is None or theirs is None or not ours.pairs_with(theirs):
            return None
        return ours.minus(theirs) if self.comparable(system, other, key) else None

    def comparable(self, system: str, other: str, key: str) -> bool:
        """Whether a difference means anything: bounds on the NLL of other words do not compare.

        The reading ``release`` scores no first utterance, so its nats are of fewer words.
        """
        if key not in LIKELIHOODS:
            return True
        return self._num_words(system) == self._num_words(other)

    def usual_words(self, system: str) -> bool:
        """Whether its NLL is of the words that most systems' is of."""
        counts = Counter(self._num_words(name) for name in self.results.systems)
        return counts[self._num_words(system)] == max(counts.values())

    def _num_words(self, system: str) -> int:
        """Words that its NLL is of."""
        return self.results.of(system)[0].evaluation.num_words

    def leaders(self, key: str, systems: Sequence[str]) -> set[str]:
        """The best system, and those that cannot be told apart from it.

        Empty with fewer than two systems, and where one has no numbers per conversation to tell by.
        """
        means = {system: mean.mean for system in systems if (mean := self.mean(system, key)) is not None}
        sign = 1 if key in LOWER_IS_BETTER else -1
        if key in LIKELIHOODS:  # among those that score the words that most score
            means = {system: mean for system, mean in means.items() if self.usual_words(system)}
        if len(means) < 2:
            return set()
        best = min(means, key=lambda system: sign * means[system])
        tied = {best}
        for system in means.keys() - {best}:
            difference = self.difference(system, best, key)
            if difference is None:
                return set()
            if not difference.excludes_zero:
                tied.add(system)
        return tied

    def _resample(self, system: str, key: str) -> Resampled | None:
        if (system, key) not in self._resampled:
            self._resampled[system, key] = self._make(system, key)
        return self._resampled[system, key]

    def _make(self, system: str, key: str) -> Resampled | None:
        """Over the seeds of a system; None where one of them cannot be resampled as the others are."""
        each = [self.resampled(run, key) for run in self.results.of(system)]
        known = [one for one in each if one is not None]
        if not known or len(known) < len(each) or not all(known[0].pairs_with(one) for one in known):
            return None
        return replace(
            known[0],
            estimate=sum(one.estimate for one in known) / len(known),
            replicates=np.concatenate([one.replicates for one in known], axis=1),
        )

    def resampled(self, run: Run, key: str) -> Resampled | None:
        """One run's number, resampled from its sums per conversation; of a published run, as it was then."""
        name = (id(run.evaluation), key)  # a run under another name holds the same record
        if name not in self._each:
            self._each[name] = self._resample_run(run, key)
        return self._each[name]

    def _resample_run(self, run: Run, key: str) -> Resampled | None:
        if key == USED_KL:
            return self._resample_used_kl(run)
        if key not in run.sums:
            return run.resampled.get(key)
        top, bottom = _columns(run.sums[key], self._common(key))
        if bottom.shape[-1] == 0 or not (bottom.sum(axis=-1) > 0).all():
            return None
        return resample(top[None], bottom[None], num_samples=self.num_samples, seed=self.seed)

    def _resample_used_kl(self, run: Run) -> Resampled | None:
        whole = self.resampled(run, "kl_per_word")
        for level in unused(run):
            part = self.resampled(run, f"kl_{level}_per_word")
            if whole is None or part is None or not whole.pairs_with(part):
                return None
            whole = replace(
                whole,
                estimate=whole.estimate - part.estimate,
                replicates=whole.replicates - part.replicates,
            )
        return whole

    def _common(self, key: str) -> list[str]:
        """Conversations that every run with this number has: all of them, unless protocols differ."""
        if key not in self._shared:
            every = [set(run.sums[key].conversation_ids) for run in self.results.runs if key in run.sums]
            self._shared[key] = sorted(set.intersection(*every)) if every else []
        return self._shared[key]


def _columns(sums: Sums, ids: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numerators and denominators over ``ids``, [parts, conversations]."""
    position = {name: i for i, name in enumerate(sums.conversation_ids)}
    columns = [position[name] for name in ids]
    return sums.numerators[:, columns], sums.denominators[:, columns]
