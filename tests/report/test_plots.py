"""Plots: what is drawn, in the page and as images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vhcr.params import Params
from vhcr.report.evidence import Evidence
from vhcr.report.page import Report
from vhcr.report.paper import PaperFigures
from vhcr.report.plots import (
    EDGE,
    MAX_POINTS_IN_ALL,
    OTHER_COLOURS,
    SYSTEM_COLOURS,
    Figure,
    Line,
    Panel,
    Rule,
    Spot,
    colours,
    dash,
    figures,
    thinned,
    write_images,
)
from vhcr.report.results import Results, Run
from vhcr.report.systems import label


def figure(report: Report, id: str) -> Figure:
    return next(figure for figure in report.figures if figure.id == id)


def test_kl_curves_are_validation_over_steps(report: Report) -> None:
    panel = figure(report, "kl").panels[0]
    assert panel.systems == ["vhred", "vhred-wd", "vhred-bow", "vhcr-ud"], "HRED has no KL to draw"
    line = next(line for line in panel.lines if line.name == "VHCR + u.d, seed 1" and not line.faint)
    assert [x for x, _ in line.points] == [60 * i for i in range(1, 11)]
    assert line.points[-1][1] == pytest.approx(0.48, abs=0.01)
    assert {line.system for line in figure(report, "kl").panels[1].lines} == {"vhcr-ud"}


def test_dots_carry_intervals_and_the_papers_figures(report: Report) -> None:
    dot = figure(report, "likelihood").panels[0].dots[0]
    assert (dot.name, dot.paper) == ("HRED", 3.873)
    assert dot.low is not None
    assert dot.high is not None
    assert dot.low < dot.value < dot.high


def test_exact_nll_has_no_bound_to_tighten(report: Report) -> None:
    panel = figure(report, "bound").panels[0]
    assert "hred" not in panel.systems
    assert [x for x, _ in panel.lines[0].points] == [1, 10, 50]


def test_convergence_starts_from_the_one_sample_bound(report: Report) -> None:
    for line in figure(report, "bound").panels[1].lines:
        assert line.points[0] == (1, 0.0)
        assert [y for _, y in line.points] == sorted((y for _, y in line.points), reverse=True)


def test_frontier_is_of_bounds_with_the_exact_nll_as_a_line(report: Report) -> None:
    one, weighted = figure(report, "frontier").panels
    assert {spot.system for spot in one.spots} == {"vhred", "vhred-wd", "vhred-bow", "vhcr-ud"}
    (rule,) = one.rules
    assert rule.y == pytest.approx(3.405, abs=0.001)
    spot = next(spot for spot in weighted.spots if spot.name == "VHCR + u.d, seed 0")
    run = report.results.of("vhcr-ud")[0]
    assert (spot.x, spot.y) == pytest.approx((run.metrics["kl_per_word"], run.bounds[50]), abs=1e-5)
    assert "a line at 3.405, HRED, exact" in figure(report, "frontier").alt


def test_nats_of_other_words_are_not_on_the_frontier(report: Report) -> None:
    runs = tuple(
        replace(run, metrics={**run.metrics, "num_words": 1}) if run.system == "vhred" else run
        for run in report.results.runs
    )
    evidence = Evidence(replace(report.results, runs=runs), num_samples=10, seed=0)
    found = next(each for each in figures(evidence, report.paper) if each.id == "frontier")
    assert "vhred" not in found.systems
    assert "of other words: VHRED." in found.caption


def test_what_z_tells_a_word_is_prior_minus_posterior(report: Report) -> None:
    panel = figure(report, "positions").panels[1]
    line = next(line for line in panel.lines if line.name == "VHRED + bow, seed 0")
    assert [x for x, _ in line.points] == [1, 2, 4], "a place without words has no point"
    assert [y for _, y in line.points] == pytest.approx([1.10, 0.0, 0.0])
    assert "hred" not in panel.systems


def test_use_during_training_is_on_a_log_scale_without_zeros(report: Report) -> None:
    ratio, units = figure(report, "usage").panels
    assert ratio.log_y
    assert all(y > 0 for line in ratio.lines for _, y in line.points)
    assert units.title == "Active units of z_utt", "no run here has any of z_conv"


def test_many_runs_have_fewer_points_and_no_background() -> None:
    """45 runs of 20,000 steps once would have made a page of several megabytes."""
    steps = list(range(4000))
    curves = {"step": steps, "split": ["validation", "train"] * 2000, "kl_per_word": [0.5] * 4000}
    runs = tuple(Run("toy", f"vhcr-ud-{i}", seed, {}, curves=curves) for i in range(15) for seed in range(3))
    evidence = Evidence(Results("toy", "toy", runs), num_samples=10, seed=0)
    panel = next(each for each in figures(evidence, PaperFigures(None)) if each.id == "kl").panels[0]
    assert len(panel.lines) == 45
    assert not any(line.faint for line in panel.lines)
    assert max(len(line.points) for line in panel.lines) * 45 <= 1.05 * MAX_POINTS_IN_ALL
    assert len({(light, dash(system)) for system, (light, _) in colours(panel.systems).items()}) >= 12


def test_alternative_text_says_what_is_seen(report: Report) -> None:
    alt = figure(report, "likelihood").alt
    assert "HRED 3.4" in alt
    assert "KL divergence: " in alt
    assert "VHCR + u.d, seed 0 0.48" in figure(report, "kl").alt


def test_thinning_keeps_ends_and_means() -> None:
    points = [(float(x), 2.0 * x) for x in range(10_001)]
    few = thinned(points, 100)
    assert len(few) == 100
    assert (few[0], few[-1]) == ((0, 0.0), (10_000, 20_000.0))
    assert all(y == pytest.approx(2 * x, rel=1e-3) for x, y in few)
    assert thinned(points[:50], 100) == points[:50]


def test_every_system_has_a_colour_of_its_own() -> None:
    found = colours([*SYSTEM_COLOURS, "mine", "yours"])
    assert len({light for light, _ in found.values()}) == len(found)
    assert found["mine"] == OTHER_COLOURS[0]


def test_colours_stand_out() -> None:
    """WCAG asks for a contrast of 3 to 1 between a line and what it is drawn on."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for light, dark in (*SYSTEM_COLOURS.values(), *OTHER_COLOURS):
        assert 1.05 / (luminance(light) + 0.05) >= 3
        assert (luminance(dark) + 0.05) / (luminance("#1b1f25") + 0.05) >= 3


def test_images(report: Report, tmp_path: Path) -> None:
    png, svg = write_images(figure(report, "bound"), tmp_path / "a")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    ElementTree.fromstring(text)
    assert "VHCR + u.d" in text, "text stays text"
    again = write_images(figure(report, "bound"), tmp_path / "b")
    assert [path.read_bytes() for path in again] == [png.read_bytes(), svg.read_bytes()]


def texts(svg: Path) -> list[tuple[str, str, float]]:
    """Text, where it is anchored, and its x."""
    found = ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")
    return [
        (e.text or "", e.attrib["style"].rpartition("text-anchor: ")[2], float(e.attrib["x"])) for e in found
    ]


def test_background_curves_leave_the_frame_of_an_image(tmp_path: Path) -> None:
    """A KL that begins at 17 nats in training once made all that it falls to look like zero."""
    lines = [
        Line("vhred", "VHRED (train)", [(1, 17.0), (2, 0.1)], faint=True),
        Line("vhred", "VHRED", [(1, 0.3), (2, 0.1)]),
    ]
    panel = Panel("KL", "lines", "step", "nats", lines=lines, from_zero=True)
    _, svg = write_images(Figure("kl", "KL", "", [panel]), tmp_path)
    heights = [float(text) for text, anchor, _ in texts(svg) if anchor == "end"]
    assert max(heights) == pytest.approx(0.3)


@pytest.mark.parametrize("panels", [1, 2, 3])
def test_all_of_a_legend_is_on_the_image(tmp_path: Path, panels: int) -> None:
    """The frontier's, of two panels, was once as wide as three; with all remedies it had no place again."""
    systems = list(Params.load().systems)
    spots = [Spot(system, system, 0.1, 4.0) for system in systems]
    panel = Panel("", "spots", "KL", "NLL", spots=spots)
    _, svg = write_images(Figure("frontier", "", "", [panel] * panels), tmp_path)
    width, height = map(float, ElementTree.parse(svg).getroot().attrib["viewBox"].split()[2:])
    assert height > 2.6 * 72, "the panels keep their size"
    legend = [(text, x) for text, anchor, x in texts(svg) if text in map(label, systems)]
    assert len(legend) == len(systems)
    for text, x in legend:
        assert x > 20, text  # its mark is left of it
        assert x + 4.7 * len(text) < width, text  # in the mean of a letter of 8 points


def test_a_bound_far_above_the_exact_one_stands_at_the_edge(tmp_path: Path) -> None:
    """Word drop of 0.75 is 0.4 nats above all others, between which there are hundredths."""
    spots = [Spot("vhred", "VHRED", 0.1, 4.01), Spot("vhred-wd75", "far", 0.3, 4.36)]
    panel = Panel("", "spots", "KL", "NLL", spots=spots, rules=[Rule("hred", "HRED, exact", 4.0)])
    _, svg = write_images(Figure("frontier", "", "", [panel]), tmp_path)
    shown = texts(svg)
    assert "4.36" in [text for text, _, _ in shown]
    ticks = [float(text) for text, anchor, _ in shown if anchor == "end"]
    assert max(ticks) < 4.0 + EDGE + 0.05


def test_bounds_that_are_all_far_above_the_exact_one_stand_where_they_are(tmp_path: Path) -> None:
    panel = Panel(
        "",
        "spots",
        "KL",
        "NLL",
        spots=[Spot("vhcr-ud", "far", 0.4, 4.76)],
        rules=[Rule("hred", "HRED, exact", 4.43)],
    )
    _, svg = write_images(Figure("frontier", "", "", [panel]), tmp_path)
    shown = texts(svg)
    assert "4.76" not in [text for text, _, _ in shown], "no number: it can be read from the axis"
    assert max(float(text) for text, anchor, _ in shown if anchor == "end") >= 4.7


def test_page_data_is_plain_json(report: Report) -> None:
    for each in report.figures:
        data = json.loads(json.dumps(each.data(), allow_nan=False))
        assert data["panels"][0]["kind"] in {"lines", "dots", "spots"}
