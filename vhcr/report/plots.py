"""Plots as data: one description is drawn by charts.js in the page and by matplotlib as PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vhcr.report.evidence import Evidence
from vhcr.report.paper import PaperFigures
from vhcr.report.results import EMBEDDING_METRICS, Run, number
from vhcr.report.systems import label, system_order

MAX_POINTS = 160  # of one line; more cannot be told apart at the size of a panel
MAX_POINTS_IN_ALL = 4800  # of a panel's lines together, which bounds the page's size
FEW_RUNS = 12  # beyond which curves of the training batches would hide those of the validation split

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
    ("#a21caf", "#ee8bf8"),
    ("#4d7c0f", "#a3d65c"),
    ("#0369a1", "#6cc4f5"),
    ("#9a3412", "#f59c72"),
    ("#475569", "#b6c2d2"),
    ("#be185d", "#ff8ec2"),
    ("#0f766e", "#5eead4"),
    ("#4338ca", "#a5a8ff"),
    ("#a16207", "#f2cc52"),
    ("#65431f", "#d1ab83"),
    ("#7f1d1d", "#f0908f"),
    ("#166534", "#86dfa6"),
    ("#1e3a8a", "#93b4f7"),
    ("#86198f", "#f5b8fb"),
)
EDGE = 0.25  # nats a word above an exact NLL: a bound beyond stands at an image's edge, its number beside it
DASHES = {"vhred-wd50": 1, "vhred-wd75": 2}  # 0: drawn out, 1: dashed, 2: dotted; others are dashed


@dataclass(frozen=True)
class Line:
    """One curve; ``faint`` for what is only background (training beside validation)."""

    system: str
    name: str
    points: list[tuple[float, float]]
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
class Rule:
    """A level to compare with, drawn across the panel."""

    system: str
    name: str
    y: float


@dataclass(frozen=True)
class Panel:
    """One pair of axes: lines over x, dots by system, or spots in a plane."""

    title: str
    kind: Literal["lines", "dots", "spots"]
    x: str
    y: str = ""
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    spots: list[Spot] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = False

    @property
    def systems(self) -> list[str]:
        """Systems drawn, each once."""
        return list(
            dict.fromkeys(
                [line.system for line in self.lines]
                + [dot.system for dot in self.dots]
                + [spot.system for spot in self.spots]
                + [rule.system for rule in self.rules]
            )
        )


@dataclass(frozen=True)
class Figure:
    """Panels under one title, with what a reader who cannot see them is told."""

    id: str
    title: str
    caption: str
    panels: list[Panel]

    @property
    def systems(self) -> list[str]:
        """Systems drawn in any panel."""
        return sorted({system for panel in self.panels for system in panel.systems}, key=system_order)

    @property
    def alt(self) -> str:
        """What the panels show, in words."""
        return f"{self.title}. " + " ".join(_in_words(panel) for panel in self.panels)

    def data(self) -> dict[str, Any]:
        """What charts.js draws."""
        return {"id": self.id, "alt": self.alt, "panels": [_compact(panel) for panel in self.panels]}


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
    return DASHES.get(system, 0 if system in SYSTEM_COLOURS else 1)


def figures(evidence: Evidence, paper: PaperFigures) -> list[Figure]:
    """All plots that the runs have numbers for."""
    made = [
        _frontier_figure(evidence),
        _kl_figure(evidence),
        _usage_figure(evidence),
        _loss_figure(evidence),
        _likelihood_figure(evidence, paper),
        _bound_figure(evidence),
        _responses_figure(evidence, paper),
        _turn_figure(evidence),
        _length_figure(evidence),
        _position_figure(evidence),
        _dimension_figure(evidence),
    ]
    return [
        Figure(figure.id, figure.title, figure.caption, panels)
        for figure in made
        if (panels := [panel for panel in figure.panels if panel.systems])
    ]


def _compact(panel: Panel) -> dict[str, Any]:
    return {key: value for key, value in asdict(panel).items() if value not in ([], "", False)}


def _in_words(panel: Panel) -> str:
    head = f"{panel.title}:" if panel.title else ""
    if panel.lines:
        drawn = [line for line in panel.lines if not line.faint]
        if len(drawn) > FEW_RUNS:
            by_system: dict[str, list[float]] = {}
            for line in drawn:
                by_system.setdefault(line.system, []).append(line.points[-1][1])
            means = [f"{label(name)} {sum(ys) / len(ys):.3g}" for name, ys in by_system.items()]
            return f"{head} lines over {panel.x}, ending on average at {', '.join(means)}."
        ends = [f"{line.name} {line.points[-1][1]:.3g}" for line in drawn]
        return f"{head} lines over {panel.x}, ending at {', '.join(ends)}."
    if panel.dots:
        return f"{head} {', '.join(f'{dot.name} {dot.value:.3f}' for dot in panel.dots)}."
    spots = ", ".join(f"{spot.name} at {spot.x:.3f} and {spot.y:.3f}" for spot in panel.spots)
    rules = "".join(f"; a line at {rule.y:.3f}, {rule.name}" for rule in panel.rules)
    return f"{head} {panel.y} over {panel.x}; {spots}{rules}."


def thinned(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most ``limit`` points: means of equal stretches, the first and the last point kept as they are."""
    if len(points) <= limit:
        return [_rounded(point) for point in points]
    inner, buckets = points[1:-1], limit - 2
    result = [points[0]]
    for bucket in range(buckets):
        part = inner[bucket * len(inner) // buckets : (bucket + 1) * len(inner) // buckets]
        result.append((sum(p[0] for p in part) / len(part), sum(p[1] for p in part) / len(part)))
    return [_rounded(point) for point in (*result, points[-1])]


def _rounded(point: tuple[float, float]) -> tuple[float, float]:
    x, y = float(f"{point[0]:.6g}"), float(f"{point[1]:.6g}")
    return (int(x) if x == int(x) else x, y)


def _curve(run: Run, column: str, split: str) -> list[tuple[float, float]]:
    if column not in run.curves:
        return []
    rows = zip(run.curves["step"], run.curves["split"], run.curves[column], strict=True)
    return [(step, y) for step, part, y in rows if part == split and None not in (step, y)]


def _curve_lines(
    evidence: Evidence, column: str, systems: Sequence[str], splits: Sequence[str] = ("train", "validation")
) -> list[Line]:
    lines = []
    shown = splits if len(evidence.results.runs) <= FEW_RUNS else splits[-1:]
    for split in shown:
        for system in systems:
            for run in evidence.results.of(system):
                if points := _curve(run, column, split):
                    name = run.name if split == splits[-1] else f"{run.name} ({split})"
                    few = thinned(points, _points_each(evidence))
                    lines.append(Line(system, name, few, faint=split != splits[-1]))
    return lines


def _points_each(evidence: Evidence) -> int:
    """Points that a line may have, fewer where there are many lines."""
    return max(40, min(MAX_POINTS, MAX_POINTS_IN_ALL // max(1, len(evidence.results.runs))))


def _uses_latents(evidence: Evidence, column: str) -> list[str]:
    """Systems whose KL is not zero by construction."""
    return [
        system
        for system in evidence.results.systems
        if any(y != 0 for run in evidence.results.of(system) for _, y in _curve(run, column, "validation"))
    ]


def _kl_figure(evidence: Evidence) -> Figure:
    panels = [
        Panel(
            title,
            "lines",
            "training step",
            "nats per word",
            lines=_curve_lines(evidence, column, _uses_latents(evidence, column)),
            from_zero=True,
        )
        for title, column in (
            ("All latents", "kl_per_word"),
            ("z_conv", "kl_conv_per_word"),
            ("z_utt", "kl_utt_per_word"),
        )
    ]
    return Figure(
        "kl",
        "KL divergence during training",
        "The paper's Figures 1 and 4: a KL that goes to zero means that the decoder ignores the latent "
        "variable. Validation split; faint, where runs are few, the training batches. Early values "
        "are high while the KL weight is low.",
        panels,
    )


def _loss_figure(evidence: Evidence) -> Figure:
    systems = evidence.results.systems
    panels = [
        Panel(title, "lines", "training step", unit, lines=_curve_lines(evidence, column, systems, splits))
        for title, unit, column, splits in (
            ("NLL bound", "nats per word", "nll_per_word", ("train", "validation")),
            ("Reconstruction error", "nats per word", "reconstruction_per_word", ("train", "validation")),
            ("KL weight", "weight", "kl_weight", ("train",)),
        )
    ]
    return Figure(
        "loss",
        "Loss during training",
        "NLL bound = reconstruction error + KL, with the KL at full weight whatever the weight in training. "
        "Validation split; faint, where runs are few, the training batches.",
        panels,
    )


def _dots(evidence: Evidence, paper: PaperFigures, key: str, systems: Sequence[str]) -> list[Dot]:
    dots = []
    for system in systems:
        mean, interval = evidence.mean(system, key), evidence.interval(system, key)
        if mean is not None:
            figure = paper.value(evidence.results.kinds.get(system, ""), key)
            low, high = (interval.low, interval.high) if interval else (None, None)
            dots.append(Dot(system, label(system), mean.mean, low, high, figure))
    return dots


def _likelihood_figure(evidence: Evidence, paper: PaperFigures) -> Figure:
    systems = evidence.results.systems
    panels = [
        Panel(title, "dots", "nats per word", dots=_dots(evidence, paper, key, systems))
        for title, key in (
            ("NLL, or its bound", "nll_per_word"),
            ("Reconstruction error", "reconstruction_per_word"),
            ("KL divergence", "kl_per_word"),
        )
    ]
    return Figure(
        "likelihood",
        "Likelihood on the test split",
        "Table 1 as a picture: our mean over seeds with its 95 % bootstrap interval"
        f"{paper.diamond}. HRED's NLL is exact, the others' an upper bound. "
        "These intervals are wide because conversations differ in hardness, alike for all systems; "
        "differences between systems are known far better (see the table of differences).",
        panels,
    )


def _responses_figure(evidence: Evidence, paper: PaperFigures) -> Figure:
    panels = [
        Panel(
            f"{metric.capitalize()}, {turns} turn{'s' if turns > 1 else ''}",
            "dots",
            "similarity",
            dots=_dots(evidence, paper, f"{metric}_{turns}turn", evidence.results.systems),
        )
        for turns in (1, 3)
        for metric in EMBEDDING_METRICS
    ]
    return Figure(
        "responses",
        "Embedding metrics of responses",
        f"Table 3 as a picture, by the definition of the paper's program: mean over seeds with its 95 % "
        f"bootstrap interval{paper.diamond}.",
        panels,
    )


def _usage_figure(evidence: Evidence) -> Figure:
    def lines(column: str, lowest: float = 0.0) -> list[Line]:
        found = _curve_lines(evidence, column, evidence.results.systems, ("validation",))
        kept = [replace(line, points=[p for p in line.points if p[1] >= lowest]) for line in found]
        return [line for line in kept if line.points]

    panels = [
        Panel(
            "Prior's variance ratio, E[var] / Var(µ)",
            "lines",
            "training step",
            "ratio",
            lines=lines("prior_variance_ratio", 1e-9),
            log_y=True,
        ),
        *(
            Panel(
                f"Active units of z_{level}",
                "lines",
                "training step",
                "dimensions",
                lines=lines(f"active_units_{level}"),
                from_zero=True,
            )
            for level in ("conv", "utt")
        ),
    ]
    return Figure(
        "usage",
        "Use of the latents during training",
        "The ratio is that of the paper's Figure 2: it falls towards 0 where priors shrink to separate "
        "points, and grows without limit where they become one and the same, which tells nothing. A unit is "
        "active when its posterior mean varies over the data by more than 0.01. Validation split.",
        panels,
    )


def _frontier_figure(evidence: Evidence) -> Figure:
    systems = evidence.results.systems
    comparable = {system for system in systems if evidence.usual_words(system)}
    apart = [label(system) for system in systems if system not in comparable]

    def panel(title: str, key: str, y: str) -> Panel:
        spots = []
        for run in evidence.results.runs:
            kl, nll = run.value("kl_per_word"), run.value(key)
            if kl is not None and nll is not None and run.is_bound and run.system in comparable:
                spots.append(Spot(run.system, run.name, round(kl, 5), round(nll, 5)))
        exact = [system for system in comparable if not evidence.results.of(system)[0].is_bound]
        rules = [
            Rule(system, f"{label(system)}, exact", round(mean.mean, 5))
            for system in exact
            if (mean := evidence.mean(system, key)) is not None
        ]
        return Panel(title, "spots", "KL, nats per word", y, spots=spots, rules=rules if spots else [])

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
            panel("One-sample bound", "nll_per_word", "NLL bound, nats per word"),
            panel(
                f"Importance-weighted bound, K = {largest}",
                "importance_weighted",
                "NLL bound, nats per word",
            ),
        ],
    )


def _listed(run: Run, *path: str) -> list[tuple[float, float]]:
    """(place from 1, number) of a list in the metrics, leaving out what is null."""
    tree: Any = run.metrics
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    values = tree if isinstance(tree, list) else []
    return [(place, y) for place, y in enumerate(values, 1) if isinstance(y, (int, float))]


def _latent_lines(evidence: Evidence, points: Callable[[Run], list[tuple[float, float]]]) -> list[Line]:
    """As ``_run_lines``, of the systems that have latents."""
    return [line for line in _run_lines(evidence, points) if line.system in _with_latents(evidence)]


def _with_latents(evidence: Evidence) -> set[str]:
    return {run.system for run in evidence.results.runs if run.is_bound}


def _turn_figure(evidence: Evidence) -> Figure:
    return Figure(
        "turns",
        "NLL by position in the conversation",
        "The context grows with the turn number, so what it is worth shows as a fall. Reconstruction error "
        "+ KL of z_utt; the KL of z_conv belongs to no turn. Test split.",
        [
            Panel(
                "NLL, or its bound",
                "lines",
                "turn",
                "nats per word",
                lines=_run_lines(evidence, lambda run: _listed(run, "nll_by_turn")),
            ),
            Panel(
                "KL of z_utt",
                "lines",
                "turn",
                "nats per word",
                lines=_latent_lines(evidence, lambda run: _listed(run, "kl_utt_by_turn")),
                from_zero=True,
            ),
        ],
    )


def _length_figure(evidence: Evidence) -> Figure:
    def points(key: str) -> Callable[[Run], list[tuple[float, float]]]:
        def found(run: Run) -> list[tuple[float, float]]:
            entries = run.metrics.get("by_utterance_length")
            pairs = [
                (number(entry, "to"), number(entry, key))
                for entry in (entries if isinstance(entries, list) else [])
            ]
            return [(x, y) for x, y in pairs if x is not None and y is not None]

        return found

    return Figure(
        "lengths",
        "Perplexity by length of the utterance",
        "Utterances of the test split in classes of five lengths, EOS counted; a point stands at the "
        "longest of its class. The KL of z_conv belongs to no utterance and is left out.",
        [
            Panel(
                "Perplexity",
                "lines",
                "words, at most",
                "exp of nats per word",
                lines=_run_lines(evidence, points("perplexity")),
            ),
            Panel(
                "KL of z_utt",
                "lines",
                "words, at most",
                "nats per word",
                lines=_latent_lines(evidence, points("kl_utt_per_word")),
                from_zero=True,
            ),
        ],
    )


def _position_figure(evidence: Evidence) -> Figure:
    path = ("diagnostics", "reconstruction_by_word_position_by_source")

    def gain(run: Run) -> list[tuple[float, float]]:
        prior = dict(_listed(run, *path, "prior"))
        return [(x, prior[x] - y) for x, y in _listed(run, *path, "posterior") if x in prior]

    return Figure(
        "positions",
        "Error and use of z by position in the utterance",
        "A KL belongs to an utterance, not to one of its words; what a word gets from z is how much its "
        "error falls when z comes from the posterior rather than the prior. Few utterances are long, so the "
        "right end is noisy. Test split.",
        [
            Panel(
                "Reconstruction error",
                "lines",
                "word of the utterance",
                "nats",
                lines=_run_lines(evidence, lambda run: _listed(run, "reconstruction_by_word_position")),
            ),
            Panel(
                "What z tells: prior − posterior",
                "lines",
                "word of the utterance",
                "nats",
                lines=_latent_lines(evidence, gain),
                from_zero=True,
            ),
        ],
    )


def _bound_figure(evidence: Evidence) -> Figure:
    def bounds(run: Run) -> list[tuple[float, float]]:
        return list(run.bounds.items()) if run.is_bound else []

    def gains(run: Run) -> list[tuple[float, float]]:
        found = bounds(run)
        return [(k, y - found[0][1]) for k, y in found]

    return Figure(
        "bound",
        "How the importance-weighted bound tightens",
        "Bound on the NLL with K posterior samples per conversation, on a subset of the test split; it falls "
        "towards the NLL as K grows, so a curve still falling at its end is still loose.",
        [
            Panel(
                "Bound", "lines", "samples K", "nats per word", lines=_run_lines(evidence, bounds), log_x=True
            ),
            Panel(
                "Change from K = 1",
                "lines",
                "samples K",
                "nats per word",
                lines=_run_lines(evidence, gains),
                log_x=True,
            ),
        ],
    )


def _dimension_figure(evidence: Evidence) -> Figure:
    def points(level: str) -> Callable[[Run], list[tuple[float, float]]]:
        def found(run: Run) -> list[tuple[float, float]]:
            known = sorted(
                (y for _, y in _listed(run, "diagnostics", f"kl_{level}_per_dimension")), reverse=True
            )
            return list(enumerate(known, 1))

        return found

    panels = [
        Panel(f"z_{level}", "lines", "dimension, by rank", "nats", lines=_run_lines(evidence, points(level)))
        for level in ("conv", "utt")
    ]
    return Figure(
        "dimensions",
        "KL divergence by latent dimension",
        "Mean over the test split, largest first. A flat line at zero is a dimension that nothing uses.",
        panels,
    )


def _run_lines(evidence: Evidence, points: Callable[[Run], list[tuple[float, float]]]) -> list[Line]:
    runs = [(run, points(run)) for run in evidence.results.runs]
    return [
        Line(run.system, run.name, thinned(found, _points_each(evidence))) for run, found in runs if found
    ]


STYLES = ("-", (0, (4, 2)), (0, (1, 1.5)))  # by ``dash``


def write_images(figure: Figure, folder: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """``<id>.png`` (200 dpi) and ``<id>.svg`` for papers and slides; the same bytes each time."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D

    palette = colours(figure.systems)
    columns = min(3, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 8,
        "svg.fonttype": "none",
        "svg.hashsalt": figure.id,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#888888",
        "axes.titlesize": 9,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
    }
    with mpl.rc_context(style):
        width = 3.3 * columns if columns > 1 else 5.2
        canvas = Canvas(figsize=(width, 2.6 * rows), layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.subplots(rows, columns, squeeze=False)
        for axis, panel in zip(axes.flat, figure.panels, strict=False):
            _draw(axis, panel, palette)
        for axis in axes.flat[len(figure.panels) :]:
            axis.set_visible(False)
        handles = [
            Line2D(
                [],
                [],
                color=palette[system][0],
                ls=STYLES[dash(system)],
                marker="o",
                mfc="white" if dash(system) else None,
                ms=4,
                label=label(system),
            )
            for system in figure.systems
        ]
        if any(dot.paper is not None for panel in figure.panels for dot in panel.dots):
            handles.append(
                Line2D([], [], color="#888888", marker="D", mfc="none", ls="", ms=4, label="the paper")
            )
        _add_legend(canvas, handles)
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")  # laid out once, not again for each format
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{figure.id}.{name}" for name in formats]
        for path, name in zip(paths, formats, strict=True):  # savefig would draw all twice
            if name == "png":
                canvas.set_dpi(200)
                agg: Any = FigureCanvasAgg(canvas)
                agg.print_png(path, metadata={"Software": None})
            elif name == "svg":
                canvas.set_dpi(72)
                svg: Any = FigureCanvasSVG(canvas)
                svg.print_svg(path, metadata={"Date": None, "Creator": None})
            else:
                raise ValueError(f"images are png or svg, not {name}")
    return paths


def _add_legend(canvas: Any, handles: Sequence[Any]) -> None:
    """Below the panels, in as many columns as fit; the canvas grows by its height."""
    width, height = canvas.get_size_inches()
    canvas.set_size_inches(width, height + len(handles))  # room for any, while they are measured
    for columns in range(min(6, len(handles)), 0, -1):
        legend = canvas.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
        box = legend.get_window_extent(canvas.canvas.get_renderer())
        if box.width <= canvas.bbox.width or columns == 1:
            canvas.set_size_inches(width, height + box.height / canvas.dpi)
            return
        legend.remove()


def _draw(axis: Any, panel: Panel, palette: dict[str, tuple[str, str]]) -> None:
    axis.set_title(panel.title, loc="left")
    axis.set_xlabel(panel.x)
    axis.set_ylabel(panel.y)
    main = sum(not line.faint for line in panel.lines)
    for drawn, line in enumerate(sorted(panel.lines, key=lambda line: line.faint)):
        if drawn == main > 0:
            axis.autoscale_view()
            axis.autoscale(False, axis="y")  # background curves may leave the frame, as in the page
        x, y = zip(*line.points, strict=True)
        few = len(x) < 25 and not line.faint
        axis.plot(
            x,
            y,
            color=palette[line.system][0],
            ls=STYLES[dash(line.system)],
            lw=0.8 if line.faint else 1.5,
            alpha=0.3 if line.faint else 1,
            marker="o" if few else None,
            ms=2.5,
            zorder=1.5 if line.faint else 2,
        )
    for row, dot in enumerate(panel.dots):
        colour = palette[dot.system][0]
        if dot.low is not None and dot.high is not None:
            axis.plot([dot.low, dot.high], [row, row], color=colour, lw=1.5)
        axis.plot([dot.value], [row], "o", color=colour, ms=5)
        if dot.paper is not None:
            axis.plot([dot.paper], [row], "D", mec="#888888", mfc="none", ms=4.5)
    if panel.dots:
        axis.set_yticks(range(len(panel.dots)), [dot.name for dot in panel.dots])
        axis.set_ylim(len(panel.dots) - 0.5, -0.5)
        axis.grid(False, axis="y")
    edge = min((rule.y + EDGE for rule in panel.rules), default=math.inf)
    if all(spot.y > edge for spot in panel.spots):  # nothing near that the others would press together
        edge = math.inf
    beyond = 0
    for spot in sorted(panel.spots, key=lambda spot: spot.x):
        style = {"color": palette[spot.system][0], "mfc": "none" if dash(spot.system) else None, "ms": 5}
        if spot.y <= edge:
            axis.plot([spot.x], [spot.y], "o", **style)
        else:
            axis.plot([spot.x], [edge], "^", **style)
            axis.annotate(
                f"{spot.y:.2f}",
                (spot.x, edge),
                xytext=(0, -5 - 9 * (beyond % 3)),  # neighbours at three heights
                textcoords="offset points",
                ha="center",
                va="top",
            )
            beyond += 1
    for rule in panel.rules:
        axis.axhline(rule.y, color=palette[rule.system][0], lw=1, ls=(0, (6, 3)))
    if panel.log_x:
        axis.set_xscale("log")
    if panel.log_y:
        axis.set_yscale("log")
    if panel.from_zero:
        axis.set_ylim(bottom=0)
