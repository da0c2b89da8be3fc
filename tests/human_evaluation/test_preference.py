"""Shares, intervals and agreement: worked by hand, against the paper's figures, and against simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from vhcr.human_evaluation import preference as module
from vhcr.human_evaluation.preference import LEVEL, Z_VALUE, Preference, agreement, independent_half_width
from vhcr.human_evaluation.study import Outcome, Vote
from vhcr.results.paper import PaperFigures

OUTCOME: dict[str, Outcome] = {"w": "win", "l": "loss", "t": "tie"}


def preference(given: Sequence[Vote], num_samples: int = 1000) -> Preference:
    return module.preference(given, num_samples)


def votes(*items: str, raters: Sequence[str] = "abcdefghij", left: bool = True) -> list[Vote]:
    """One string an item, one letter a rater: "wwt" is two wins and a tie, "-" no vote."""
    return [
        Vote(f"i{number}", f"c{number}", raters[place], "page", OUTCOME[letter], left)
        for number, letters in enumerate(items)
        for place, letter in enumerate(letters)
        if letter != "-"
    ]


def test_the_papers_intervals_are_those_of_independent_votes() -> None:
    """All half widths of Table 4 but one follow from their percentages and 1,500 votes."""
    other = []
    for corpus, opponent, outcome in itertools.product(
        ("cornell", "ubuntu"), ("hred", "vhred-wd", "vhred-bow"), ("wins", "losses", "ties")
    ):
        figures = PaperFigures(corpus)
        percent, printed = (
            figures.value(opponent, f"{outcome}_{part}", 4) for part in ("percent", "half_width")
        )
        assert percent is not None
        if round(100 * independent_half_width(percent / 100, 1500), 1) != printed:
            other.append((corpus, opponent, outcome, printed))
    assert other == [("ubuntu", "vhred-wd", "losses", 3.6)]


def test_shares_by_hand() -> None:
    found = preference(votes("wwt", "wl", "ttl"))
    assert [found.shares[outcome].num_votes for outcome in ("win", "loss", "tie")] == [3, 2, 3]
    assert found.shares["win"].share == pytest.approx(3 / 8)
    assert found.difference.estimate == pytest.approx(1 / 8)
    assert (found.num_items, found.num_votes, found.num_raters) == (3, 8, 3)
    assert (found.fewest_votes, found.most_votes) == (2, 3)
    assert found.shares["tie"].independent_half_width == pytest.approx(
        1.645 * math.sqrt(15 / 64 / 8), rel=1e-3
    )


def test_votes_on_one_context_are_not_independent() -> None:
    """Five raters who always agree know no more than one: the interval is sqrt(5) times the paper's."""
    rng = np.random.default_rng(0)
    agreed = [letter * 5 for letter in rng.choice(list("wlt"), size=200)]
    share = preference(votes(*agreed)).shares["win"]
    assert (share.high - share.low) / 2 == pytest.approx(
        math.sqrt(5) * share.independent_half_width, rel=0.06
    )


def test_where_votes_are_independent_the_formula_is_right() -> None:
    rng = np.random.default_rng(1)
    apart = ["".join(rng.choice(list("wlt"), size=5)) for _ in range(300)]
    for share in preference(votes(*apart)).shares.values():
        assert (share.high - share.low) / 2 == pytest.approx(share.independent_half_width, rel=0.12)


def test_raters_who_differ_widen_the_two_way_interval_alone() -> None:
    """Each rater always says the same: over contexts nothing varies, over raters everything does."""
    share = preference(votes(*["wwwll"] * 50)).shares["win"]
    assert (share.low, share.high) == (0.6, 0.6)
    assert share.two_way_low <= 0.4
    assert share.two_way_high >= 0.8


def test_no_certainty_where_nothing_varies() -> None:
    found = preference(votes(*["wwwww"] * 30))
    reach = 1 - 0.05 ** (1 / 30)  # so rare an outcome is seen in none of 30 contexts one time in 20
    assert (found.shares["win"].low, found.shares["win"].high) == pytest.approx((1 - reach, 1))
    assert (found.shares["loss"].low, found.shares["loss"].high) == pytest.approx((0, reach))
    for interval in (found.difference, found.two_way_difference):
        assert interval == pytest.approx((1, 1 - 2 * reach, 1))
    lost = preference(votes(*["lllll"] * 30)).difference
    assert lost == pytest.approx((-1, -1, 2 * reach - 1))


@pytest.mark.parametrize("few", [["w"], ["l"], ["w"] * 3, ["ww", "ww"]])
def test_a_few_votes_that_agree_decide_nothing(few: list[str]) -> None:
    """One vote was once enough for "preferred"."""
    assert preference(votes(*few)).decided == "no"


def test_one_rater_does_not_speak_for_others() -> None:
    found = preference(votes(*["w"] * 70, *["l"] * 30))
    assert found.num_raters == 1
    assert found.difference.low > 0
    assert found.decided == "by these raters"


def test_the_verdict_follows_the_interval_of_the_difference() -> None:
    assert preference(votes(*["ww"] * 20, *["ll"] * 3)).decided == "yes"
    assert preference(votes(*["ll"] * 20, *["ww"] * 3)).decided == "yes"
    assert preference(votes(*["ww"] * 10, *["ll"] * 9, *["tt"] * 80)).decided == "no"
    biased = preference(votes(*["wwwll"] * 50))
    assert biased.decided == "by these raters", "the next five may be two and three"
    assert biased.two_way_difference.low < 0 < biased.two_way_difference.high


def coverage(raters_deviation: float, num_studies: int = 200) -> dict[str, float]:
    """How often each interval holds the true share of wins (the table of docs/human-evaluation.md).

    100 contexts, five raters of all of them. The log odds of a win are a context's (normal, mean -0.5,
    deviation 1.2) plus a rater's own (deviation as given).
    """

    def odds(shape: tuple[int, ...], mean: float, deviation: float) -> NDArray[np.float64]:
        return rng.normal(mean, deviation, size=shape)

    rng = np.random.default_rng(5)
    sample = odds((400_000,), -0.5, math.hypot(1.2, raters_deviation))
    truth = float((1 / (1 + np.exp(-sample))).mean())
    holds = dict.fromkeys(("independent", "contexts", "two_way"), 0)
    for _ in range(num_studies):
        chance = 1 / (1 + np.exp(-odds((100, 1), -0.5, 1.2) - odds((1, 5), 0, raters_deviation)))
        drawn = np.where(rng.random((100, 5)) < chance, "w", "l")
        share = preference(votes(*map("".join, drawn))).shares["win"]
        holds["independent"] += abs(share.share - truth) <= share.independent_half_width
        holds["contexts"] += share.low <= truth <= share.high
        holds["two_way"] += share.two_way_low <= truth <= share.two_way_high
    return {name: count / num_studies for name, count in holds.items()}


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Three standard errors of 200 studies are six percent."""
    alike = coverage(0.0)
    assert alike["independent"] < 0.84, "the paper's formula covers too little when contexts differ"
    assert abs(alike["contexts"] - LEVEL) < 0.065
    assert alike["two_way"] > LEVEL
    apart = coverage(0.6)
    assert apart["contexts"] < 0.75, "drawing contexts says nothing of other raters"
    assert apart["two_way"] > 0.78


def test_one_context_in_two_studies_is_drawn_as_one() -> None:
    once = votes(*["wwwww", "lllll"] * 20)
    again = [vote._replace(item=f"other {vote.item}") for vote in once]
    single, pooled = preference(once), preference(once + again)
    assert (pooled.num_items, pooled.num_contexts) == (80, 40)
    assert pooled.shares["win"].low == pytest.approx(single.shares["win"].low)


def pairwise_alpha(items: Iterable[Sequence[str]]) -> float:
    """Krippendorff's nominal alpha from its definition, over all pairs of values."""
    units = [unit for unit in items if len(unit) > 1]
    values = [value for unit in units for value in unit]
    observed = sum(
        sum(a != b for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in units
    ) / len(values)
    expected = sum(a != b for a, b in itertools.permutations(values, 2)) / (len(values) * (len(values) - 1))
    return 1 - observed / expected


def test_agreement_by_hand_and_by_definition() -> None:
    assert agreement(votes("ww", "ll", "tt")).nominal == pytest.approx(1)
    # Two wins and two losses: 8 of 12 ordered pairs differ by chance, all do within items: 1 - 1 / (2/3).
    assert agreement(votes("wl", "lw")).nominal == pytest.approx(-0.5)
    rng = np.random.default_rng(3)
    drawn = ["".join(rng.choice(list("wlt"), size=size, p=(0.5, 0.3, 0.2))) for size in (5, 3, 2, 1, 4) * 6]
    assert agreement(votes(*drawn)).nominal == pytest.approx(pairwise_alpha(drawn))
    assert agreement(votes(*drawn)).num_items == 24


def test_a_tie_is_an_answer_of_its_own_or_lies_between() -> None:
    near = agreement(votes("wt", "lt", "ww", "ll", "wt", "lt"))
    far = agreement(votes("wl", "lw", "ww", "ll", "tt", "tt"))
    assert near.nominal is not None
    assert near.ordinal is not None
    assert near.ordinal > near.nominal, "win against tie is half a disagreement"
    assert far.nominal is not None
    assert far.ordinal is not None
    assert far.ordinal < far.nominal, "win against loss is a whole one"


def test_agreement_is_undefined_rather_than_perfect() -> None:
    assert agreement(votes("ww", "ww")) == (None, None, None, None, 2)
    assert agreement(votes("w", "l")) == (None, None, None, None, 0)


def test_a_preference_for_one_side_shows_and_is_no_agreement() -> None:
    """All raters always choose left; sides are halved within items, so that outcomes are, too."""
    both = votes(*["ww--"] * 20) + votes(*["--ll"] * 20, left=False)
    found = preference(both)
    assert found.left is not None
    assert found.left.share == 1
    assert found.shares["win"].share == 0.5
    assert found.agreement.nominal is not None
    assert found.agreement.nominal < 0
    assert found.decided == "no"
    balanced = preference(votes("ww", "ll", "ww", "ll"))
    assert balanced.left is not None
    assert balanced.left.share == 0.5


def test_without_a_vote_for_a_side_or_any_vote() -> None:
    assert preference(votes("tt", "tt")).left is None
    with pytest.raises(ValueError, match="no vote"):
        preference([])


def test_the_level_and_its_quantile_belong_together() -> None:
    assert math.erf(Z_VALUE / math.sqrt(2)) == pytest.approx(LEVEL)
