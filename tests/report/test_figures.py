"""Figures: what is drawn, in the page, as images and by DVC."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.report.conftest import with_numbers
from vhcr.params import Params
from vhcr.report.charts import dvc_template, figure_spec, page_style, panel_spec, write_images
from vhcr.report.figures import (
    EDGE,
    MAX_GROUPS,
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
)
from vhcr.report.page import Report
from vhcr.results.compare import Evidence
from vhcr.results.labels import label
from vhcr.results.paper import PaperFigures
from vhcr.results.published import thinned
from vhcr.results.runs import Curves


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
    assert (spot.x, spot.y) == pytest.approx((run.evaluation.kl_per_word, run.bounds[50]), abs=1e-5)
    assert one.table()[1][-1] == ["HRED, exact", "", "3.405"]


def test_nats_of_other_words_are_not_on_the_frontier(report: Report) -> None:
    runs = tuple(
        with_numbers(run, num_words=1) if run.system == "vhred" else run for run in report.results.runs
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


def test_many_runs_have_fewer_points_and_no_background(report: Report) -> None:
    """45 runs of 20,000 steps once would have made a page of several megabytes."""
    curves = Curves(range(4000), ["validation", "train"] * 2000, {"kl_per_word": [0.5] * 4000})
    first = report.results.runs[-1]
    runs = tuple(replace(first, system=f"vhcr-ud-{i // 3}", curves=curves) for i in range(45))
    evidence = Evidence(replace(report.results, runs=runs), num_samples=10, seed=0)
    panel = next(each for each in figures(evidence, PaperFigures(None)) if each.id == "kl").panels[0]
    assert len(panel.lines) == 45
    assert not any(line.faint for line in panel.lines)
    assert max(len(line.points) for line in panel.lines) * 45 <= 1.05 * MAX_POINTS_IN_ALL
    assert len({(light, dash(system)) for system, (light, _) in colours(panel.systems).items()}) >= 12


def test_a_table_says_what_is_drawn(report: Report) -> None:
    heads, rows = figure(report, "likelihood").panels[0].table()
    assert heads == ["system", "nats per word", "95 % interval, low", "high", "the paper"]
    assert (rows[0][0], rows[0][-1]) == ("HRED", "3.873")
    panel = figure(report, "kl").panels[0]
    heads, rows = panel.table()
    assert heads == ["training step", *(line.name for line in panel.lines if not line.faint)]
    assert [row[0] for row in rows] == [str(60 * i) for i in range(1, 11)]
    line = next(line for line in panel.lines if line.name == heads[-1])
    assert [row[-1] for row in rows] == [f"{y:.4g}" for _, y in line.points]


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


def test_every_system_has_its_place_in_the_legend_of_an_image(tmp_path: Path) -> None:
    """With all remedies of params.yaml, the legend once ran off the image."""
    systems = list(Params.load().systems)
    spots = [Spot(system, system, 0.1 * i, 4.0) for i, system in enumerate(systems)]
    panel = Panel("", "spots", "KL", "NLL", spots=spots)
    (svg,) = write_images(Figure("frontier", "", "", [panel] * 2), tmp_path, ("svg",))
    root = ElementTree.parse(svg).getroot()
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(map(label, systems)) <= set(texts)


def drawn(panel: Panel) -> list[dict[str, object]]:
    spec = panel_spec(Figure("f", "F", "", [panel]), panel, page_style(panel.systems))
    return json.loads(json.dumps(spec))["datasets"]["drawn"]  # type: ignore[no-any-return]


def test_background_curves_leave_the_frame() -> None:
    """A KL that begins at 17 nats in training once made all that it falls to look like zero."""
    lines = [
        Line("vhred", "VHRED", [(1, 0.3), (2, 0.1)]),
        Line("vhred", "VHRED (train)", [(1, 17.0), (2, 0.1)], faint=True),
    ]
    front, behind = drawn(Panel("KL", "lines", "step", "nats", lines=lines))
    assert (front["y"], behind["y"]) == ([0.3, 0.1], [None, 0.1])


def test_a_bound_far_above_the_exact_one_stands_at_the_edge() -> None:
    """Word drop of 0.75 is 0.4 nats above all others, between which there are hundredths."""
    spots = [Spot("vhred", "VHRED", 0.1, 4.01), Spot("vhred-wd75", "far", 0.3, 4.36)]
    rules = [Rule("hred", "HRED, exact", 4.0)]
    near, far, _ = drawn(Panel("", "spots", "KL", "NLL", spots=spots, rules=rules))
    assert (near["at"], near["beyond"]) == (4.01, False)
    assert (far["at"], far["beyond"], far["y"]) == (4.0 + EDGE, True, 4.36)


def test_bounds_that_are_all_far_above_the_exact_one_stand_where_they_are() -> None:
    rules = [Rule("hred", "HRED, exact", 4.43)]
    spot, _ = drawn(Panel("", "spots", "KL", "NLL", spots=[Spot("vhcr-ud", "f", 0.4, 4.76)], rules=rules))
    assert (spot["at"], spot["beyond"]) == (4.76, False)


def test_page_and_image_draw_the_same(report: Report) -> None:
    """Of one description: the same rows, marks and scales; only colours and sizes differ."""
    kl = figure(report, "kl")
    image = json.loads(json.dumps(figure_spec(kl)))
    for i, panel in enumerate(kl.panels):
        page = json.loads(json.dumps(panel_spec(kl, panel, page_style(kl.systems))))
        assert image["datasets"][f"drawn-{i}"] == page["datasets"]["drawn"]
        marks = [layer["mark"] for layer in page["layer"]]
        image_marks = [layer["mark"] for layer in image["concat"][i]["layer"]]
        assert image_marks == marks[: len(image_marks)]
        assert all(mark.get("opacity") == 0 for mark in marks[len(image_marks) :]), "only what tells values"
        assert "var(--system-" in json.dumps(page)
        assert "var(--" not in json.dumps(image)


def test_the_template_of_dvc_plots_is_the_chart_of_the_report() -> None:
    """Made by `python -m vhcr.report.charts`; DVC finds what it replaces."""
    text = (Path(__file__).parents[2] / ".dvc" / "plots" / "curves.json").read_text()
    assert text == dvc_template()
    for mark in ("DATA", "TITLE", "X", "Y", "X_LABEL", "Y_LABEL"):
        assert f"<DVC_METRIC_{mark}>" in text


def test_a_map_is_coloured_by_each_label_and_by_topic_where_there_is_none(report: Report) -> None:
    (panel,) = figure(report, "map").panels
    assert panel.title == "VHCR + u.d, by topic"
    assert dict(panel.table()[1]) == {"wine": "59", "ink": "60", "(none)": "1"}
    runs = report.results.runs
    run = next(run for run in runs if run.map is not None)
    assert run.map is not None
    crowded = replace(run.map, labels={}, topics=[(f"w{i}",) for i in range(120)], topic=range(120))
    results = replace(report.results, runs=(replace(run, map=crowded),))
    drawn = figures(Evidence(results, num_samples=1, seed=0), PaperFigures(None))
    (panel,) = next(figure for figure in drawn if figure.id == "map").panels
    assert dict(panel.table()[1])["other"] == str(120 - MAX_GROUPS)
    assert len(panel.table()[1]) == MAX_GROUPS + 1
