"""What votes mean: shares of wins, losses and ties with intervals, agreement between raters, bias of sides.

The paper's "± 90 % confidence interval" is that of a proportion among independent votes: its half widths
are 1.645 sqrt(p (1 - p) / 1500) to the printed digit, 1,500 being 3 batches x 100 contexts x 5 votes (all
but one of the 18; docs/human-evaluation.md). Five votes on one context are not independent, so that such
an interval is too narrow whenever raters agree at all. Ours comes from a bootstrap that draws whole contexts
(Efron, 1979), as for all other measures here; the paper's formula is computed beside it, for comparison. A
third one draws contexts and raters (Owen, 2007, "pigeonhole bootstrap"): it is about other raters too, errs
on the wide side where they are alike, and on the narrow one where few raters differ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import krippendorff
import numpy as np
from numpy.typing import NDArray

from vhcr.human_evaluation.study import Outcome, Vote
from vhcr.results.statistics import Interval, ratio_interval

LEVEL = 0.90  # of all intervals here, as in the paper
Z_VALUE = 1.6448536269514722  # of the normal distribution, for that level
NUM_SAMPLES = 10_000  # bootstrap replicates: the end of an interval moves by some hundredths of a percent
SEED = 0
OUTCOMES: tuple[Outcome, ...] = ("win", "loss", "tie")
ORDER = {"loss": 0, "tie": 1, "win": 2}  # for agreement on an ordered scale

Counts = NDArray[np.int64]


class Share(NamedTuple):
    """The share of votes with one outcome; each interval at ``LEVEL``."""

    num_votes: int
    share: float
    low: float  # drawing contexts
    high: float
    independent_half_width: float  # the paper's formula: as if votes were independent
    two_way_low: float  # drawing contexts and raters
    two_way_high: float


class Agreement(NamedTuple):
    """Krippendorff's alpha; None where it is undefined (no item with two votes, or all votes alike).

    ``nominal``: win, loss and tie are three answers, any two as different as any others, so that a tie
    disagrees with a win as much as a loss does. ``ordinal``: a tie lies between the two.
    """

    nominal: float | None
    nominal_low: float | None
    nominal_high: float | None
    ordinal: float | None
    num_items: int  # with two votes or more


class Preference(NamedTuple):
    """One system against another, over all votes."""

    num_items: int
    num_contexts: int  # fewer than items where several studies drew the same
    num_votes: int
    num_raters: int
    fewest_votes: int  # on an item that has any
    most_votes: int
    shares: dict[Outcome, Share]
    difference: Interval  # share of wins - share of losses, drawing contexts
    two_way_difference: Interval  # the same, drawing contexts and raters
    agreement: Agreement
    left: Share | None  # votes for the left among those for one side; None without any

    @property
    def decided(self) -> Literal["yes", "by these raters", "no"]:
        """Whether the interval of the difference leaves zero out, also when raters are drawn.

        One rater says nothing of others.
        """
        if not self.difference.excludes_zero:
            return "no"
        others_too = self.num_raters > 1 and self.two_way_difference.excludes_zero
        return "yes" if others_too else "by these raters"


def preference(votes: Sequence[Vote], num_samples: int = NUM_SAMPLES, seed: int = SEED) -> Preference:
    """Shares, difference, agreement and bias of sides of at least one vote.

    Votes of one context are drawn together, also when they come from several studies.

    Raises:
        ValueError: there is no vote.
    """
    if not votes:
        raise ValueError("no vote")
    contexts = sorted({vote.conversation_id for vote in votes})
    raters = sorted({vote.rater for vote in votes})
    kinds = _table(votes, contexts, raters)  # [outcomes, contexts, raters]
    drawn = {"num_samples": num_samples, "seed": seed}
    won_less_lost = kinds[OUTCOMES.index("win")] - kinds[OUTCOMES.index("loss")]
    difference = ratio_interval(won_less_lost.sum(axis=1), kinds.sum(axis=(0, 2)), level=LEVEL, **drawn)
    two_way = _two_way(won_less_lost, kinds.sum(axis=0), num_samples // 5, seed)
    if abs(difference.estimate) == 1:
        reach = 2 * _reach_of_unanimity(len(contexts))  # of a share; a difference is twice as wide
        two_way = (1 - reach, 1.0) if difference.estimate > 0 else (-1.0, reach - 1)
        difference = Interval(difference.estimate, *two_way)
    items = Counter(vote.item for vote in votes)
    sided = [vote for vote in votes if vote.outcome != "tie"]
    left = None
    if sided:
        chose_left = [(vote.outcome == "win") == vote.system_is_left for vote in sided]
        right_and_left = np.stack(
            [_table(_picked(sided, chose_left, on), contexts, raters).sum(0) for on in (False, True)]
        )
        left = _share(right_and_left, 1, **drawn)
    return Preference(
        num_items=len(items),
        num_contexts=len(contexts),
        num_votes=len(votes),
        num_raters=len(raters),
        fewest_votes=min(items.values()),
        most_votes=max(items.values()),
        shares={outcome: _share(kinds, place, **drawn) for place, outcome in enumerate(OUTCOMES)},
        difference=difference,
        two_way_difference=Interval(difference.estimate, *two_way),
        agreement=agreement(votes, num_samples // 10, seed),
        left=left,
    )


def agreement(votes: Sequence[Vote], num_samples: int = 1000, seed: int = SEED) -> Agreement:
    """Krippendorff's alpha over items with two votes or more, its interval by drawing such items.

    Votes count as outcomes of the system, not as sides; a rater's preference for one side is disagreement
    then, since sides change from rater to rater.
    """
    counts: dict[str, list[int]] = {}
    for vote in votes:
        counts.setdefault(vote.item, [0, 0, 0])[ORDER[vote.outcome]] += 1
    table = np.array([row for row in counts.values() if sum(row) > 1], dtype=np.int64).reshape(-1, len(ORDER))
    nominal = _alpha(table, "nominal")
    low = high = None
    if nominal is not None:
        rng = np.random.default_rng([seed, 2])
        draws = [
            _alpha(table[rng.integers(len(table), size=len(table))], "nominal") for _ in range(num_samples)
        ]
        usable = [value for value in draws if value is not None]
        if usable:
            low, high = (float(end) for end in np.quantile(usable, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Agreement(nominal, low, high, _alpha(table, "ordinal"), len(table))


def independent_half_width(share: float, num_votes: int) -> float:
    """Half the width of the normal interval of a proportion among independent votes: the paper's."""
    return Z_VALUE * math.sqrt(share * (1 - share) / num_votes)


def _share(kinds: Counts, place: int, num_samples: int, seed: int) -> Share:
    """The share of one kind; ``kinds`` are counts, [kinds, contexts, raters]."""
    wanted, all_votes = kinds[place], kinds.sum(axis=0)  # [contexts, raters] each
    used = all_votes.sum(axis=1) > 0
    wanted, all_votes = wanted[used], all_votes[used]
    count, total = int(wanted.sum()), int(all_votes.sum())
    interval = ratio_interval(
        wanted.sum(axis=1), all_votes.sum(axis=1), num_samples=num_samples, seed=seed, level=LEVEL
    )
    low, high = interval.low, interval.high
    two_way_low, two_way_high = _two_way(wanted, all_votes, num_samples // 5, seed)
    if count in {0, total}:
        reach = _reach_of_unanimity(len(wanted))
        low, high = (0.0, reach) if count == 0 else (1 - reach, 1.0)
        two_way_low, two_way_high = low, high
    return Share(
        count,
        count / total,
        low,
        high,
        independent_half_width(count / total, total),
        two_way_low,
        two_way_high,
    )


def _reach_of_unanimity(num_contexts: int) -> float:
    """How far from 0 (or 1) a share's interval reaches where all votes agree.

    Nothing varies then, so that a bootstrap would claim certainty. Exact for contexts that are alike in
    themselves (Clopper and Pearson, 1934).
    """
    return float(1 - ((1 - LEVEL) / 2) ** (1 / num_contexts))


def _two_way(wanted: Counts, all_votes: Counts, num_samples: int, seed: int) -> tuple[float, float]:
    """Percentile interval of sum of wanted / sum of all, drawing both axes; [contexts, raters] each."""
    num_contexts, num_raters = wanted.shape
    rng = np.random.default_rng([seed, 3])
    ratios = []
    for _ in range(num_samples):
        rows = np.bincount(rng.integers(num_contexts, size=num_contexts), minlength=num_contexts)
        columns = np.bincount(rng.integers(num_raters, size=num_raters), minlength=num_raters)
        drawn = rows @ all_votes @ columns
        if drawn:
            ratios.append(rows @ wanted @ columns / drawn)
    if not ratios:
        return -math.inf, math.inf
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _alpha(table: Counts, level: Literal["nominal", "ordinal"]) -> float | None:
    """Alpha of counts [items, outcomes], outcomes in the order of ``ORDER``."""
    if len(table) == 0 or np.count_nonzero(table.sum(axis=0)) < 2:
        return None
    return float(krippendorff.alpha(value_counts=table, level_of_measurement=level))


def _table(votes: Sequence[Vote], contexts: Sequence[str], raters: Sequence[str]) -> Counts:
    """How many votes of each outcome, [outcomes, contexts, raters]."""
    table = np.zeros((len(OUTCOMES), len(contexts), len(raters)), dtype=np.int64)
    row, column = ({name: place for place, name in enumerate(names)} for names in (contexts, raters))
    for vote in votes:
        table[OUTCOMES.index(vote.outcome), row[vote.conversation_id], column[vote.rater]] += 1
    return table


def _picked(votes: Sequence[Vote], chosen: Sequence[bool], wanted: bool) -> list[Vote]:
    return [vote for vote, is_chosen in zip(votes, chosen, strict=True) if is_chosen is wanted]
