"""Figures as data: panels of curves, of intervals, or of runs in a plane; ``charts`` draws them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vhcr.results.compare import Evidence
from vhcr.results.labels import SYSTEM_LABELS, label, system_order
from vhcr.results.paper import PaperFigures
from vhcr.results.published import thinned
from vhcr.results.runs import EMBEDDING_METRICS, Point, Run

MAX_POINTS = 160  # of one line; more cannot be told apart at the size of a panel
MAX_POINTS_IN_ALL = 3000  # of a panel's lines together, which bounds the page's size
FEW_RUNS = 12  # beyond which curves of the training batches would hide those of the validation split
MAX_PLACES = 400  # conversations on a map; more hide one another
MAX_GROUPS = 9  # colours that can be told apart; what is rarer is "other"
EDGE = 0.25  # nats a word above an exact NLL: a bound beyond stands at the edge, its number beside it

# Hue by family (HRED grey, VHRED cool, VHCR warm); second colour for dark backgrounds. Each has a contrast of
# at least 3 to 1 with its background.
SYSTEM_COLOURS: dict[str, tuple[str, str]] = {
    "hred": ("#5b6470", "#a9b2bd"),
    "vhred": ("#2563eb", "#7aa7ff"),
    "vhred-wd": ("#0d8a9e", "#4cc9dc"),
    "vhred-wd50": ("#4a7a8c", "#9cc3d1"),
    "vhred-wd75": ("#123f57", "#2b86b3"),
    "vhred-ud": ("#7c3aed", "#b79bff"),
    "vhred-bow": ("#15803d", "#5fd08a"),
    "vhred-zonly": ("#8a6d0b", "#d6bb55"),
    "vhcr": ("#c2690c", "#ffb066"),
    "vhcr-ud": ("#d11f45", "#ff7d95"),
}
OTHER_COLOURS = (
    ("#a21caf", "#ee8bf8"), ("#4d7c0f", "#a3d65c"), ("#0369a1", "#6cc4f5"), ("#9a3412", "#f59c72"),
    ("#475569", "#b6c2d2"), ("#be185d", "#ff8ec2"), ("#0f766e", "#5eead4"), ("#4338ca", "#a5a8ff"),
    ("#a16207", "#f2cc52"), ("#65431f", "#d1ab83"), ("#7f1d1d", "#f0908f"), ("#166534", "#86dfa6"),
    ("#1e3a8a", "#93b4f7"), ("#86198f", "#f5b8fb"),
)  # fmt: skip
DASHES = {"vhred-wd50": 1, "vhred-wd75": 2}  # 0: drawn out, 1: dashed, 2: dotted; others are dashed


@dataclass(frozen=True)
class Line:
    """One curve; ``faint`` for what is only background (training beside validation)."""

    system: str
    name: str
    points: list[Point]
    faint: bool = False


@dataclass(frozen=True)
class Dot:
    """One system's number with its interval, and the paper's figure where there is one."""

    system: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None
    paper: float | None = None


@dataclass(frozen=True)
class Spot:
    """One run in a plane."""

    system: str
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Place:
    """One conversation on a map, and what it is coloured by."""

    system: str
    name: str
    x: float
    y: float
    group: str


@dataclass(frozen=True)
class Rule:
    """A level to compare with, drawn across the panel."""

    system: str
    name: str
    y: float


@dataclass(frozen=True)
class Panel:
    """One pair of axes: lines over x, dots by system, spots in a plane, or a map of places."""

    title: str
    kind: Literal["lines", "dots", "spots", "map"]
    x: str
    y: str = ""
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    spots: list[Spot] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = False

    @property
    def systems(self) -> list[str]:
        """Systems drawn, each once."""
        marks: list[Line | Dot | Spot | Rule | Place] = [*self.lines, *self.dots, *self.spots, *self.rules]
        marks += self.places
        return list(dict.fromkeys(mark.system for mark in marks))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows of what is drawn; of lines, those that are not mere background."""
        if self.kind == "dots":
            heads = ["system", self.x, "95 % interval, low", "high"]
            rows = [[dot.name, *map(_shown, (dot.value, dot.low, dot.high))] for dot in self.dots]
            if any(dot.paper is not None for dot in self.dots):
                heads.append("the paper")
                rows = [[*row, _shown(dot.paper)] for row, dot in zip(rows, self.dots, strict=True)]
            return heads, rows
        if self.kind == "spots":
            rows = [[spot.name, _shown(spot.x), _shown(spot.y)] for spot in self.spots]
            return ["run", self.x, self.y], rows + [[rule.name, "", _shown(rule.y)] for rule in self.rules]
        if self.kind == "map":
            counts = Counter(place.group for place in self.places)
            return ["group", "conversations drawn"], [[name, str(n)] for name, n in counts.most_common()]
        drawn = [line for line in self.lines if not line.faint]
        numbers = [dict(line.points) for line in drawn]
        places = sorted({x for line in numbers for x in line})
        heads = [self.x, *(line.name for line in drawn)]
        return heads, [[_shown(x), *(_shown(line.get(x)) for line in numbers)] for x in places]


@dataclass(frozen=True)
class Figure:
    """Panels under one title."""

    id: str
    title: str
    caption: str
    panels: list[Panel]

    @property
    def systems(self) -> list[str]:
        """Systems drawn in any panel."""
        return sorted({system for panel in self.panels for system in panel.systems}, key=system_order)

    @property
    def has_paper(self) -> bool:
        """Whether the paper's figures stand beside ours."""
        return any(dot.paper is not None for panel in self.panels for dot in panel.dots)


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return (f"{value:,.0f}" if value == int(value) else f"{value:.4g}").replace("-", "−")


def colours(systems: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Light and dark colour of each system; unknown ones take theirs from a second list, by order."""
    result, others = {}, 0
    for system in systems:
        if system in SYSTEM_COLOURS:
            result[system] = SYSTEM_COLOURS[system]
        else:
            result[system] = OTHER_COLOURS[others % len(OTHER_COLOURS)]
            others += 1
    return result


def dash(system: str) -> int:
    """How a system's lines are broken; what the paper does not have is dashed, its marks are hollow."""
    return DASHES.get(system, 0 if system in SYSTEM_LABELS else 1)


def figures(evidence: Evidence, paper: PaperFigures) -> list[Figure]:
    """All figures that the runs have numbers for."""
    made = [
        _frontier(evidence),
        _kl(evidence),
        _usage(evidence),
        _loss(evidence),
        _likelihood(evidence, paper),
        _bound(evidence),
        _responses(evidence, paper),
        _turns(evidence),
        _lengths(evidence),
        _positions(evidence),
        _dimensions(evidence),
        _map(evidence),
    ]
    return [
        Figure(figure.id, figure.title, figure.caption, panels)
        for figure in made
        if (panels := [panel for panel in figure.panels if panel.systems])
    ]


def _points_each(evidence: Evidence) -> int:
    """Points that a line may have, fewer where there are many lines."""
    return max(40, min(MAX_POINTS, MAX_POINTS_IN_ALL // max(1, len(evidence.results.runs))))


def _lines(evidence: Evidence, points: Callable[[Run], list[Point]], latent: bool = False) -> list[Line]:
    """A line for each run that has points; ``latent``: for each that has a latent variable."""
    limit = _points_each(evidence)
    runs = [run for run in evidence.results.runs if run.is_bound or not latent]
    return [Line(run.system, run.name, thinned(found, limit)) for run in runs if (found := points(run))]


def _curves(
    evidence: Evidence, column: str, *, train: bool = True, lowest: float | None = None
) -> list[Line]:
    """Curves of the validation split; with ``train``, where runs are few, those of training behind them."""

    def points(run: Run) -> list[Point]:
        found = run.curves.points(column, "validation")
        return [point for point in found if lowest is None or point[1] >= lowest]

    lines = _lines(evidence, points)
    if not lines or not train or len(evidence.results.runs) > FEW_RUNS:
        return lines
    behind = _lines(evidence, lambda run: run.curves.points(column, "train"))
    return lines + [Line(line.system, f"{line.name} (train)", line.points, faint=True) for line in behind]


def _used(lines: list[Line]) -> list[Line]:
    """Without systems whose KL is zero by construction."""
    used = {line.system for line in lines if not line.faint and any(y != 0 for _, y in line.points)}
    return [line for line in lines if line.system in used]


def _kl(evidence: Evidence) -> Figure:
    kinds = (
        ("All latents", "kl_per_word"),
        ("z_conv", "kl_conv_per_word"),
        ("z_utt", "kl_utt_per_word"),
    )
    return Figure(
        "kl",
        "KL divergence during training",
        "The paper's Figures 1 and 4: a KL that goes to zero means that the decoder ignores the latent "
        "variable. Validation split; faint, where runs are few, the training batches. Early values "
        "are high while the KL weight is low.",
        [
            Panel(title, "lines", "training step", "nats per word", _used(_curves(evidence, column)),
                  from_zero=True)
            for title, column in kinds
        ],
    )  # fmt: skip


def _loss(evidence: Evidence) -> Figure:
    weight = _lines(evidence, lambda run: run.curves.points("kl_weight", "train"))
    return Figure(
        "loss",
        "Loss during training",
        "NLL bound = reconstruction error + KL, with the KL at full weight whatever the weight in training. "
        "Validation split; faint, where runs are few, the training batches.",
        [
            Panel("NLL bound", "lines", "training step", "nats per word", _curves(evidence, "nll_per_word")),
            Panel("Reconstruction error", "lines", "training step", "nats per word",
                  _curves(evidence, "reconstruction_per_word")),
            Panel("KL weight", "lines", "training step", "weight", weight),
        ],
    )  # fmt: skip


def _dots(evidence: Evidence, paper: PaperFigures, measure: str) -> list[Dot]:
    dots = []
    for system in evidence.results.systems:
        mean, interval = evidence.mean(system, measure), evidence.interval(system, measure)
        if mean is not None:
            figure = paper.value(evidence.results.kinds.get(system, ""), measure)
            low, high = (interval.low, interval.high) if interval else (None, None)
            dots.append(Dot(system, label(system), mean.mean, low, high, figure))
    return dots


def _likelihood(evidence: Evidence, paper: PaperFigures) -> Figure:
    return Figure(
        "likelihood",
        "Likelihood on the test split",
        "Table 1 as a picture: our mean over seeds with its 95 % bootstrap interval"
        f"{paper.diamond}. HRED's NLL is exact, the others' an upper bound. "
        "These intervals are wide because conversations differ in hardness, alike for all systems; "
        "differences between systems are known far better (see the table of differences).",
        [
            Panel(title, "dots", "nats per word", dots=_dots(evidence, paper, measure))
            for title, measure in (
                ("NLL, or its bound", "nll_per_word"),
                ("Reconstruction error", "reconstruction_per_word"),
                ("KL divergence", "kl_per_word"),
            )
        ],
    )


def _responses(evidence: Evidence, paper: PaperFigures) -> Figure:
    return Figure(
        "responses",
        "Embedding metrics of responses",
        f"Table 3 as a picture, by the definition of the paper's program: mean over seeds with its 95 % "
        f"bootstrap interval{paper.diamond}.",
        [
            Panel(
                f"{metric.capitalize()}, {turns} turn{'s' if turns > 1 else ''}",
                "dots",
                "similarity",
                dots=_dots(evidence, paper, f"{metric}_{turns}turn"),
            )
            for turns in (1, 3)
            for metric in EMBEDDING_METRICS
        ],
    )


def _usage(evidence: Evidence) -> Figure:
    ratio = _curves(evidence, "prior_variance_ratio", train=False, lowest=1e-9)
    return Figure(
        "usage",
        "Use of the latents during training",
        "The ratio is that of the paper's Figure 2: it falls towards 0 where priors shrink to separate "
        "points, and grows without limit where they become one and the same, which tells nothing. A unit is "
        "active when its posterior mean varies over the data by more than 0.01. Validation split.",
        [
            Panel("Prior's variance ratio, E[var] / Var(µ)", "lines", "training step", "ratio", ratio,
                  log_y=True),
            *(
                Panel(f"Active units of z_{level}", "lines", "training step", "dimensions",
                      _curves(evidence, f"active_units_{level}", train=False), from_zero=True)
                for level in ("conv", "utt")
            ),
        ],
    )  # fmt: skip


def _frontier(evidence: Evidence) -> Figure:
    systems = evidence.results.systems
    comparable = [system for system in systems if evidence.usual_words(system)]
    apart = [label(system) for system in systems if system not in comparable]

    def panel(title: str, measure: str) -> Panel:
        spots = []
        for run in evidence.results.runs:
            kl, nll = run.value("kl_per_word"), run.value(measure)
            if kl is not None and nll is not None and run.is_bound and run.system in comparable:
                spots.append(Spot(run.system, run.name, round(kl, 5), round(nll, 5)))
        exact = [system for system in comparable if not evidence.results.of(system)[0].is_bound]
        rules = [
            Rule(system, f"{label(system)}, exact", round(mean.mean, 5))
            for system in exact
            if (mean := evidence.mean(system, measure)) is not None
        ]
        unit = "NLL bound, nats per word"
        return Panel(title, "spots", "KL, nats per word", unit, spots=spots, rules=rules if spots else [])

    largest = max((k for run in evidence.results.runs if run.is_bound for k in run.bounds), default=0)
    return Figure(
        "frontier",
        "What the use of latents costs",
        "Each run's bound on the NLL against its KL on the test split: lower is a better bound, further "
        "right a more used latent variable. The line is HRED's exact NLL; a system below it predicts better "
        "for all that is known, one above it may only have a loose bound. The importance-weighted bound is "
        "tighter, and is on a subset of the test split, as is the line beside it."
        + (f" Left out, since their nats are of other words: {', '.join(apart)}." if apart else ""),
        [
            panel("One-sample bound", "nll_per_word"),
            panel(f"Importance-weighted bound, K = {largest}", "importance_weighted"),
        ],
    )


def _counted(values: Iterable[float | None]) -> list[Point]:
    """(place from 1, number), leaving out what is None."""
    return [(place, y) for place, y in enumerate(values, 1) if y is not None]


def _turns(evidence: Evidence) -> Figure:
    nll = _lines(evidence, lambda run: _counted(run.evaluation.nll_by_turn))
    kl = _lines(evidence, lambda run: _counted(run.evaluation.kl_utt_by_turn), latent=True)
    return Figure(
        "turns",
        "NLL by position in the conversation",
        "The context grows with the turn number, so what it is worth shows as a fall. Reconstruction error "
        "+ KL of z_utt; the KL of z_conv belongs to no turn. Test split.",
        [
            Panel("NLL, or its bound", "lines", "turn", "nats per word", nll),
            Panel("KL of z_utt", "lines", "turn", "nats per word", kl, from_zero=True),
        ],
    )


def _lengths(evidence: Evidence) -> Figure:
    def perplexity(run: Run) -> list[Point]:
        bins = run.evaluation.by_utterance_length
        return [(each.last, each.perplexity) for each in bins if each.perplexity is not None]

    def kl(run: Run) -> list[Point]:
        return [(each.last, each.kl_utt_per_word) for each in run.evaluation.by_utterance_length]

    return Figure(
        "lengths",
        "Perplexity by length of the utterance",
        "Utterances of the test split in classes of five lengths, EOS counted; a point stands at the "
        "longest of its class. The KL of z_conv belongs to no utterance and is left out.",
        [
            Panel("Perplexity", "lines", "words, at most", "exp of nats per word",
                  _lines(evidence, perplexity)),
            Panel("KL of z_utt", "lines", "words, at most", "nats per word",
                  _lines(evidence, kl, latent=True), from_zero=True),
        ],
    )  # fmt: skip


def _positions(evidence: Evidence) -> Figure:
    def gain(run: Run) -> list[Point]:
        found = run.evaluation.diagnostics.reconstruction_by_word_position_by_source
        if found is None:
            return []
        pairs = enumerate(zip(found.prior, found.posterior, strict=True), 1)
        return [(x, prior - own) for x, (prior, own) in pairs if prior is not None and own is not None]

    error = _lines(evidence, lambda run: _counted(run.evaluation.reconstruction_by_word_position))
    return Figure(
        "positions",
        "Error and use of z by position in the utterance",
        "A KL belongs to an utterance, not to one of its words; what a word gets from z is how much its "
        "error falls when z comes from the posterior rather than the prior. Few utterances are long, so the "
        "right end is noisy. Test split.",
        [
            Panel("Reconstruction error", "lines", "word of the utterance", "nats", error),
            Panel("What z tells: prior − posterior", "lines", "word of the utterance", "nats",
                  _lines(evidence, gain, latent=True), from_zero=True),
        ],
    )  # fmt: skip


def _bound(evidence: Evidence) -> Figure:
    def gains(run: Run) -> list[Point]:
        found = list(run.bounds.items())
        return [(k, y - found[0][1]) for k, y in found]

    bounds = _lines(evidence, lambda run: [*run.bounds.items()], latent=True)
    changes = _lines(evidence, gains, latent=True)
    return Figure(
        "bound",
        "How the importance-weighted bound tightens",
        "Bound on the NLL with K posterior samples per conversation, on a subset of the test split; it falls "
        "towards the NLL as K grows, so a curve still falling at its end is still loose.",
        [
            Panel("Bound", "lines", "samples K", "nats per word", bounds, log_x=True),
            Panel("Change from K = 1", "lines", "samples K", "nats per word", changes, log_x=True),
        ],
    )


def _dimensions(evidence: Evidence) -> Figure:
    def ranked(values: Sequence[float]) -> list[Point]:
        return list(enumerate(sorted(values, reverse=True), 1))

    found = {
        "z_conv": _lines(evidence, lambda run: ranked(run.evaluation.diagnostics.kl_conv_per_dimension)),
        "z_utt": _lines(evidence, lambda run: ranked(run.evaluation.diagnostics.kl_utt_per_dimension)),
    }
    return Figure(
        "dimensions",
        "KL divergence by latent dimension",
        "Mean over the test split, largest first. A flat line at zero is a dimension that nothing uses.",
        [Panel(title, "lines", "dimension, by rank", "nats", lines) for title, lines in found.items()],
    )


def _map(evidence: Evidence) -> Figure:
    """Of each system the first run that has a map, once for each label, or by topic where there are none."""
    firsts = [
        next((run for run in evidence.results.of(system) if run.map is not None), None)
        for system in evidence.results.systems
    ]
    return Figure(
        "map",
        "Conversations by their z_conv",
        f"The first {MAX_PLACES} conversations of the test split at the two principal components of z_conv's "
        "posterior mean, coloured by what people labelled them, or else by topic: a cluster of z_conv. "
        "Where a colour keeps to a region, z_conv knows of it; islands may also differ in what two "
        "components do not show. `vhcr explore` opens the map to look around in.",
        [panel for run in firsts if run is not None for panel in _map_panels(run)],
    )


def _map_panels(run: Run) -> list[Panel]:
    found = run.map
    assert found is not None
    topics = [" ".join(words[:2]) or f"topic {number}" for number, words in enumerate(found.topics)]
    by: Mapping[str, Sequence[str | None]] = found.labels or {"topic": [topics[t] for t in found.topic]}
    panels = []
    for label_name, values in by.items():
        common = {name for name, _ in Counter(values).most_common(MAX_GROUPS) if name is not None}
        places = [
            Place(run.system, text.replace("\n", " / ")[:80], round(x, 3), round(y, 3),
                  value if value in common else "other" if value is not None else "(none)")
            for x, y, text, value in zip(found.x[:MAX_PLACES], found.y, found.texts, values, strict=False)
        ]  # fmt: skip
        title = f"{label(run.system)}, by {label_name}"
        panels.append(Panel(title, "map", "first component", "second component", places=places))
    return panels
