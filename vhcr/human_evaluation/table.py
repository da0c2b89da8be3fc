"""Table 4 from studies, beside the paper's figures: as text, JSON, LaTeX, or a table of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from vhcr.errors import StudyError
from vhcr.human_evaluation.preference import LEVEL, NUM_SAMPLES, OUTCOMES, SEED, Preference, Share, preference
from vhcr.human_evaluation.study import Outcome, Study
from vhcr.report.tables import Cell, Column, Row, Table, latex
from vhcr.report.templates import NOTHING
from vhcr.results.labels import label, system_order
from vhcr.results.paper import PaperFigures
from vhcr.results.runs import Results
from vhcr.results.statistics import Interval

PLURALS: dict[Outcome, str] = {"win": "wins", "loss": "losses", "tie": "ties"}
THE_PAPERS_VHCR = {"vhcr", "vhcr-ud"}  # Table 4 says VHCR alone
METHOD = (
    "Shares of all votes. Intervals are percentile intervals of a bootstrap over contexts, since votes on "
    "one context are not independent; `independent_half_width` is the paper's formula, which takes them as "
    "if they were; `two_way` draws contexts and raters."
)


@dataclass(frozen=True)
class Comparison:
    """One row: all studies of one system against one opponent on one corpus, pooled."""

    corpus: str
    system: str
    opponent: str
    studies: tuple[Study, ...]
    preference: Preference | None  # None: nobody has voted

    @property
    def votes_wanted(self) -> int:
        """Votes that make the studies complete."""
        return sum(len(study.items()) * study.settings.votes_per_item for study in self.studies)

    @property
    def identical_share(self) -> float:
        """Of the contexts that pairs were drawn from, the share left out since both responses agree."""
        settings = [study.settings for study in self.studies]
        left_out = sum(0 if each.include_identical else each.num_identical for each in settings)
        return left_out / sum(each.num_contexts for each in settings)

    def paper(self, outcome: Outcome) -> tuple[float, float] | None:
        """The paper's percentage and half width, where it has them."""
        settings = self.studies[0].settings
        system, opponent = (settings.paper_systems.get(name) for name in (self.system, self.opponent))
        if settings.paper_corpus is None or system not in THE_PAPERS_VHCR or opponent is None:
            return None
        figures = PaperFigures(settings.paper_corpus)
        found = [
            figures.value(opponent, f"{PLURALS[outcome]}_{part}", 4) for part in ("percent", "half_width")
        ]
        return None if found[0] is None or found[1] is None else (found[0], found[1])


def compare(studies: Sequence[Study]) -> list[Comparison]:
    """Rows in the paper's order: by corpus, system and opponent.

    Raises:
        StudyError: studies of the same two systems cannot be pooled.
    """
    groups: dict[tuple[str, str, str], list[Study]] = {}
    for study in studies:
        settings = study.settings
        groups.setdefault((settings.corpus, settings.system, settings.opponent), []).append(study)
    for group in groups.values():
        _check_alike(group)
    rows = []
    for key in sorted(groups, key=lambda each: (each[0], system_order(each[1]), system_order(each[2]))):
        votes = [vote for study in groups[key] for vote in study.votes()]
        found = preference(votes) if votes else None
        rows.append(Comparison(*key, tuple(groups[key]), found))
    return rows


def _check_alike(studies: Sequence[Study]) -> None:
    """Votes are pooled over the same data, evaluated in the same way, alone."""
    first = studies[0]
    for study in studies[1:]:
        for name in ("data_hash", "protocol"):
            if study.settings.provenance.get(name) != first.settings.provenance.get(name):
                raise StudyError(f"{first.path} and {study.path}: not to be pooled, their {name} differs")
        if study.settings.num_turns != first.settings.num_turns:
            raise StudyError(f"{first.path} and {study.path}: not to be pooled, responses differ in turns")
    for one, other in combinations(studies, 2):
        if {item.item for item in one.items()} & {item.item for item in other.items()}:
            raise StudyError(
                f"{one.path} and {other.path}: copies of one study, whose votes would count twice"
            )


def as_text(rows: Sequence[Comparison]) -> str:
    """For a terminal."""
    lines = [f"Human evaluation (Table 4): percent of votes, ± half the {LEVEL:.0%} interval"]
    for row in rows:
        lines += ["", f"{row.corpus}: {label(row.system)} vs {label(row.opponent)}"]
        if row.preference is None:
            lines.append(f"  nobody has voted yet; {row.votes_wanted} votes are wanted")
            continue
        lines += _lines(row, row.preference)
    return "\n".join(lines)


def as_json(rows: Sequence[Comparison]) -> str:
    """All numbers, as shares rather than percent, but for the paper's."""
    document = {
        "level": LEVEL,
        "method": METHOD,
        "bootstrap_samples": NUM_SAMPLES,
        "seed": SEED,
        "rows": [_document(row) for row in rows],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def as_table(rows: Sequence[Comparison]) -> Table | None:
    """Table 4 as the report has its tables, ours beside the paper's; None while nobody has voted."""
    counted = [(row, row.preference) for row in rows if row.preference is not None]
    if not counted:
        return None
    beside = any(row.paper("win") for row, _ in counted)
    columns = [
        Column(outcome, PLURALS[outcome].capitalize(), lambda _: None, paper=beside) for outcome in OUTCOMES
    ]
    several = len({row.corpus for row, _ in counted}) > 1
    lines, told = [], []
    for row, found in counted:
        cells = []
        for outcome in OUTCOMES:
            paper = row.paper(outcome)
            printed = NOTHING if paper is None else f"{paper[0]:.1f} ± {paper[1]:.1f}"
            text, deviation = _split(found.shares[outcome])
            cells.append(Cell(text, deviation, paper=printed if beside else None))
        name = f"{row.corpus}: " * several + f"{label(row.system)} vs {label(row.opponent)}"
        lines.append(Row(row.opponent, name, cells, []))
        told.append(f"{name}: {_verdict(row, found)}; {_votes(row, found)}; {_agreement(found)}.")
    caption = (
        f"Percent of votes ± half the {LEVEL:.0%} bootstrap interval over contexts. Differences are in "
        "points, with intervals drawing contexts, then raters too. "
    )
    return Table("table4", "Table 4: human evaluation", caption + " ".join(told), columns, lines)


def of_runs(paths: Sequence[Path], results: Results) -> Table:
    """Table 4 from the studies in ``paths``, for a page that shows ``results``.

    Raises:
        StudyError: a study is damaged, has no votes, or is of runs that are not on the page.
    """
    studies = [Study(path) for path in paths]
    shown = {(run.system, run.seed) for run in results.runs}
    for study in studies:
        settings = study.settings
        asked = {(settings.system, settings.system_seed), (settings.opponent, settings.opponent_seed)}
        other = asked if settings.corpus != results.corpus else asked - shown
        if other:
            told = " and ".join(f"{settings.corpus}/{system}/{seed}" for system, seed in sorted(other))
            raise StudyError(f"{study.path}: of {told}, not on this page")
        if settings.provenance.get("data_hash") != results.data.manifest.data_hash:
            raise StudyError(f"{study.path}: of runs on other data than those of this page")
    table = as_table(compare(studies))
    if table is None:
        raise StudyError(f"{', '.join(map(str, paths))}: nobody has voted yet")
    return table


def as_latex(rows: Sequence[Comparison]) -> str:
    """A table for a paper; empty while nobody has voted."""
    table = as_table(rows)
    return latex(table) if table else ""


def _lines(row: Comparison, found: Preference) -> list[str]:
    """What is said of one row that has votes."""
    lines = ["  " + "   ".join(f"{PLURALS[o]} {_percent(found.shares[o])}" for o in OUTCOMES)]
    papers = {outcome: row.paper(outcome) for outcome in OUTCOMES}
    if papers["win"]:
        printed = "   ".join(f"{PLURALS[o]} {p[0]:.1f} ± {p[1]:.1f}" for o, p in papers.items() if p)
        lines.append(f"  the paper's VHCR: {printed}")
    lines += [f"  {_verdict(row, found)}", f"  {_votes(row, found)}"]
    lines.append("  if votes were independent (the paper's formula): ± " + ", ".join(
        f"{100 * found.shares[o].independent_half_width:.1f}" for o in OUTCOMES
    ) + "; drawing raters too: ± " + ", ".join(
        f"{50 * (found.shares[o].two_way_high - found.shares[o].two_way_low):.1f}" for o in OUTCOMES
    ))  # fmt: skip
    lines.append(f"  {_agreement(found)}")
    if found.left is not None:
        lines.append(f"  the left side got {_percent(found.left)} of the votes for a side")
    share = row.identical_share
    if share:
        rest = 1 - share
        as_ties = [found.shares["win"].share * rest, found.shares["loss"].share * rest]
        lines.append(
            f"  left out: {share:.1%} of contexts, where both say the same; as ties they would make it "
            f"{100 * as_ties[0]:.1f} wins, {100 * as_ties[1]:.1f} losses, {100 * (1 - sum(as_ties)):.1f} ties"
        )
    return lines


def _verdict(row: Comparison, found: Preference) -> str:
    """Who is preferred, and by how much."""
    preferred = label(row.system if found.difference.estimate > 0 else row.opponent)
    verdict = {
        "yes": f"{preferred} is preferred",
        "by these raters": f"these raters prefer {preferred}, others might not",
        "no": "undecided",
    }[found.decided]
    return (
        f"wins - losses {_points(found.difference)} points, "
        f"{_points(found.two_way_difference)} drawing raters too: {verdict}"
    )


def _votes(row: Comparison, found: Preference) -> str:
    """How many, whose, on what."""
    people = f"{found.num_raters} rater{'s' * (found.num_raters > 1)}"
    spread = f"{found.fewest_votes}" + (
        f" to {found.most_votes}" if found.most_votes > found.fewest_votes else ""
    )
    return (
        f"{found.num_votes} of {row.votes_wanted} votes, "
        f"by {people}, on {found.num_items} pairs ({spread} each)"
    )


def _agreement(found: Preference) -> str:
    """Krippendorff's alpha in words."""
    alpha = found.agreement
    if alpha.nominal is None:
        return "agreement: undefined (no pair with two votes, or all votes alike)"
    between = "" if alpha.nominal_low is None else f" [{alpha.nominal_low:.2f}, {alpha.nominal_high:.2f}]"
    return (
        f"agreement: Krippendorff's alpha {alpha.nominal:.2f}{between} with ties as an answer of "
        f"their own, {alpha.ordinal:.2f} with ties between wins and losses"
    )


def _document(row: Comparison) -> dict[str, Any]:
    found = row.preference
    document: dict[str, Any] = {
        "corpus": row.corpus,
        "system": row.system,
        "opponent": row.opponent,
        "votes_wanted": row.votes_wanted,
        "identical_share": row.identical_share,
        "studies": [
            {
                "file": study.path.name,
                "system_seed": study.settings.system_seed,
                "opponent_seed": study.settings.opponent_seed,
                "num_turns": study.settings.num_turns,
                "votes_per_item": study.settings.votes_per_item,
                "seed": study.settings.seed,
                "num_contexts": study.settings.num_contexts,
                "num_identical": study.settings.num_identical,
                "include_identical": study.settings.include_identical,
                "provenance": study.settings.provenance,
            }
            for study in row.studies
        ],
        "paper": {
            PLURALS[outcome]: {"percent": paper[0], "half_width": paper[1]}
            for outcome in OUTCOMES
            if (paper := row.paper(outcome)) is not None
        },
    }
    if found is None:
        return {**document, "num_votes": 0}
    return {
        **document,
        "num_items": found.num_items,
        "num_contexts": found.num_contexts,
        "num_votes": found.num_votes,
        "num_raters": found.num_raters,
        "fewest_votes": found.fewest_votes,
        "most_votes": found.most_votes,
        **{PLURALS[outcome]: found.shares[outcome]._asdict() for outcome in OUTCOMES},
        "wins_minus_losses": found.difference._asdict(),
        "two_way_wins_minus_losses": found.two_way_difference._asdict(),
        "decided": found.decided,
        "agreement": {"coefficient": "Krippendorff's alpha", **found.agreement._asdict()},
        "left": None if found.left is None else found.left._asdict(),
    }


def _split(share: Share) -> tuple[str, str]:
    """Percent and half width; an interval that ends at the share itself is written out instead."""
    percent = f"{100 * share.share:.1f}"
    if share.share in {share.low, share.high}:
        return f"{percent} [{100 * share.low:.1f}, {100 * share.high:.1f}]", ""
    return percent, f"{50 * (share.high - share.low):.1f}"


def _percent(share: Share) -> str:
    return " ± ".join(part for part in _split(share) if part)


def _points(interval: Interval) -> str:
    estimate, low, high = (100 * value for value in interval)
    return f"{estimate:+.1f} [{low:+.1f}, {high:+.1f}]"
