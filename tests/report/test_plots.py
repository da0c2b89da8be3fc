"""Plots: what is drawn, in the page and as images."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vhcr.report.page import Report
from vhcr.report.plots import OTHER_COLOURS, SYSTEM_COLOURS, Figure, colours, thinned, write_images


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


def test_page_data_is_plain_json(report: Report) -> None:
    for each in report.figures:
        data = json.loads(json.dumps(each.data(), allow_nan=False))
        assert data["panels"][0]["kind"] in {"lines", "dots", "spots"}
