"""Which version is the champion: the rule, and its application to two evaluated runs.

The champion is the version with the lowest bound in nats per test word. A newer version takes its place only
where the difference of the two, by paired bootstrap over the test conversations, has a 95 % interval that
lies wholly below zero. Single runs are compared, not systems: the interval speaks of test data, not of seeds.
Two runs that did not score the same words of the same conversations cannot be compared, and nothing moves.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from vhcr.results.runs import Sums, read_nll
from vhcr.results.statistics import paired_difference

RULE = (
    "**champion** is the version with the lowest bound (nats per test word). A newer version takes its place "
    "only where the 95 % interval of the difference, by paired bootstrap over the test conversations, lies "
    "wholly below zero. Runs that scored other words are not compared. Where several versions cannot be told "
    "apart, the one that was registered first stays."
)


class Verdict(NamedTuple):
    """Whether a challenger takes the champion's place, and why (not)."""

    moves: bool
    reason: str


def judge(challenger: Path, champion: Path, *, num_samples: int, seed: int) -> Verdict:
    """Compare the evaluations in two folders by the rule above.

    Raises:
        DataError: a file that is there is damaged.
    """
    new, old = (read_nll(folder) for folder in (challenger, champion))
    if new is None or old is None:
        lacking = "the new one" if new is None else "the champion"
        return Verdict(False, f"{lacking} has no bound per conversation: it cannot be compared")
    aligned = _aligned(new, old)
    if aligned is None:
        return Verdict(
            False, "it scored other conversations or other words than the champion: not comparable"
        )
    difference = paired_difference(
        new.numerators[0],
        new.denominators[0],
        old.numerators[0, aligned],
        old.denominators[0, aligned],
        num_samples=num_samples,
        seed=seed,
    )
    told = f"{difference.estimate:+.4f} nats a word ({difference.low:+.4f} to {difference.high:+.4f})"
    if difference.high < 0:
        return Verdict(True, f"its bound is lower by a significant difference: {told}")
    if difference.estimate < 0:
        return Verdict(False, f"its bound is lower, but not by a significant difference: {told}")
    return Verdict(False, f"its bound is not lower: {told}")


def _aligned(new: Sums, old: Sums) -> list[int] | None:
    """Where the conversations of ``new`` stand in ``old``; None unless both scored the same words."""
    places = {name: place for place, name in enumerate(old.conversation_ids)}
    if set(places) != set(new.conversation_ids) or len(places) != len(new.conversation_ids):
        return None
    order = [places[name] for name in new.conversation_ids]
    return order if np.array_equal(new.denominators[0], old.denominators[0, order]) else None
