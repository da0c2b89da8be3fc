"""Figures as Vega-Lite, by Altair: one chart of a panel, drawn in the page, as SVG and PNG, and by DVC.

A chart names its data and holds none. The page draws each panel by itself, in colours that its theme decides;
an image holds all panels of a figure over one legend. ``dvc_template`` is the chart of lines with DVC's marks
in place of names and data.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vhcr import layout
from vhcr.files import write_text
from vhcr.report.figures import EDGE, FEW_RUNS, Figure, Panel, colours, dash
from vhcr.results.labels import label

if TYPE_CHECKING:
    import altair as alt

Spec = dict[str, object]

DASHES = ([1, 0], [6, 4], [2, 4])  # by ``figures.dash``
VEGA_LITE = "6.4"  # the version that Altair writes and the page brings


class Style(NamedTuple):
    """Colours of a chart: of each system, of what is hollow, and of text, frame and grid."""

    systems: Mapping[str, str]
    hollow: str = "#ffffff"
    ink: str = "#1b1e23"
    soft: str = "#535962"
    frame: str = "#b9bdb6"
    grid: str = "#e6e6e6"

    def config(self) -> Spec:
        """What all charts share."""
        text = {"labelColor": self.soft, "titleColor": self.soft, "titleFontWeight": "normal"}
        return {
            "background": "transparent",
            "font": "DejaVu Sans, Verdana, sans-serif",
            "view": {"stroke": None},
            "axis": {**text, "domainColor": self.frame, "tickColor": self.frame, "gridColor": self.grid},
            "legend": {"labelColor": self.ink, "labelLimit": 260, "symbolLimit": 0, "title": None},
            "title": {"color": self.ink, "anchor": "start", "fontSize": 12},
            "text": {"color": self.soft, "fontSize": 10},
        }


def page_style(systems: Sequence[str]) -> Style:
    """Colours that the page's style sheet decides, and changes with the theme."""
    names = {system: f"var(--system-{i})" for i, system in enumerate(systems)}
    return Style(names, "var(--raised)", "var(--ink)", "var(--soft)", "var(--strong-line)", "var(--line)")


def panel_spec(figure: Figure, panel: Panel, style: Style) -> Spec:
    """One panel, as wide as its place on the page; the parameter ``shown`` says which systems are."""
    import altair as alt

    chosen = alt.param(name="shown", value=None)
    made = _chart(panel, style, legend=False)
    made = made.transform_filter("!shown || indexof(shown, datum.system) >= 0").add_params(chosen)
    said = f"{figure.title}: {panel.title}; its numbers are in the table below"
    made = made.properties(width="container", height=_height(panel, 230), description=said)
    spec: Spec = made.to_dict()
    return spec | {"datasets": {"drawn": _rows(panel)}}


def figure_spec(figure: Figure) -> Spec:
    """All panels of a figure with their legend, for an image."""
    import altair as alt

    style = Style({system: light for system, (light, _) in colours(figure.systems).items()})
    charts = [
        _chart(panel, style, legend=True, data=f"drawn-{i}")
        .properties(width=250, height=_height(panel, 170), title=panel.title)
        for i, panel in enumerate(figure.panels)
    ]  # fmt: skip
    spec: Spec = alt.concat(*charts, columns=3).to_dict()
    rows = {f"drawn-{i}": _rows(panel) for i, panel in enumerate(figure.panels)}
    # An image is described where it stands; on each of its marks, words would make it five times as large.
    return spec | {"datasets": rows, "config": style.config() | {"background": "white", "aria": False}}


def write_images(figure: Figure, folder: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """``<id>.png`` (200 dpi) and ``<id>.svg`` for papers and slides; the same bytes each time."""
    import vl_convert

    spec = figure_spec(figure)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{figure.id}.{name}" for name in formats]
    for path in paths:
        if path.suffix == ".svg":
            write_text(path, _renumbered(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)) + "\n")
        else:
            path.write_bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, ppi=200))
    return paths


def _renumbered(svg: str) -> str:
    """With clips counted from 0; Vega counts on from image to image."""
    names = {name: f"clip{i}" for i, name in enumerate(dict.fromkeys(re.findall(r"\bclip\d+", svg)))}
    return re.sub(r"\bclip\d+", lambda found: names[found[0]], svg)


@lru_cache(maxsize=1)
def library() -> str:
    """Vega, Vega-Lite and vega-embed as one script. It takes seconds to put together, so it is kept."""
    import vl_convert

    path = layout.WORK / f"vega-lite-{VEGA_LITE}-{version('vl-convert-python')}.js"
    if not path.exists():
        script = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]
        write_text(path, script)
    return path.read_text(encoding="utf-8")


def dvc_template() -> str:
    """.dvc/plots/curves.json: the chart of lines, over what `dvc plots` puts in place of its marks."""
    import altair as alt

    lines = _lines_chart(
        "<DVC_METRIC_X>", "<DVC_METRIC_Y>", alt.Color("run:N", title="run"), alt.value([1, 0]),
        ("<DVC_METRIC_X_LABEL>", "<DVC_METRIC_Y_LABEL>"), faint="datum.split != 'validation'", name="run",
    )  # fmt: skip
    spec: Spec = (
        lines.transform_filter("isValid(datum['<DVC_METRIC_Y>']) && datum['<DVC_METRIC_Y>'] !== ''")
        .properties(width=440, height=300)
        .facet(column=alt.Column("rev:N", title=None, sort=[]), data=alt.NamedData("drawn"))
        .properties(title="<DVC_METRIC_TITLE>")
        .to_dict()
    )
    data: Spec = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json"}
    data["data"] = {"values": "<DVC_METRIC_DATA>"}
    return json.dumps({**spec, **data}) + "\n"


def _height(panel: Panel, usual: int) -> int:
    if panel.kind == "map":
        return 2 * usual
    return 24 * max(2, len(panel.dots)) if panel.kind == "dots" else usual


def _edge(panel: Panel) -> float | None:
    """What spots beyond stand at, so that those near the exact NLL are not pressed together."""
    edge = min((rule.y + EDGE for rule in panel.rules), default=None)
    return edge if edge is not None and any(spot.y <= edge for spot in panel.spots) else None


def _rows(panel: Panel) -> list[Spec]:
    """What a panel draws, as rows; a line is one row, whose points Vega takes apart."""
    rows: list[Spec] = []
    heights = [y for line in panel.lines if not line.faint for _, y in line.points]
    for line in panel.lines:
        xs, ys = zip(*line.points, strict=True)
        if (
            line.faint
        ):  # a KL that begins at 17 nats in training would make all that it falls to look like zero
            ys = tuple(y if min(heights) <= y <= max(heights) else None for y in ys)
        rows.append({"system": label(line.system), "name": line.name, "x": xs, "y": ys, "faint": line.faint})
    for dot in panel.dots:
        numbers = {"x": dot.value, "low": dot.low, "high": dot.high, "paper": dot.paper}
        rows.append({"system": label(dot.system), "name": dot.name, **numbers})
    edge = _edge(panel)
    for spot in panel.spots:
        beyond = edge is not None and spot.y > edge
        rows.append(
            {"system": label(spot.system), "name": spot.name, "x": spot.x, "y": spot.y}
            | {"at": edge if beyond else spot.y, "beyond": beyond}
        )
    for place in panel.places:
        rows.append(asdict(place) | {"system": label(place.system)})
    rows += [{"system": label(rule.system), "name": rule.name, "rule": rule.y} for rule in panel.rules]
    return rows


def _chart(panel: Panel, style: Style, *, legend: bool, data: str = "drawn") -> alt.LayerChart:
    import altair as alt

    systems = [system for system in style.systems if legend or system in panel.systems]
    names = [label(system) for system in systems]
    below = alt.Legend(orient="bottom", columns=5, symbolType="circle", symbolOpacity=1) if legend else None
    hues = alt.Scale(domain=names, range=[style.systems[system] for system in systems])
    inner = [style.hollow if dash(system) else style.systems[system] for system in systems]
    colour = alt.Color("system:N", scale=hues, legend=below)
    fill = alt.Fill("system:N", scale=alt.Scale(domain=names, range=inner), legend=None)
    if panel.kind == "lines":
        broken = alt.Scale(domain=names, range=[DASHES[dash(system)] for system in systems])
        front = [line for line in panel.lines if not line.faint]
        few = len(front) <= FEW_RUNS and max((len(line.points) for line in front), default=0) < 25
        made = _lines_chart(
            "x",
            "y",
            colour,
            alt.StrokeDash("system:N", scale=broken, legend=None),
            (panel.x, panel.y),
            faint="datum.faint" if any(line.faint for line in panel.lines) else "",
            fill=fill,
            log=(panel.log_x, panel.log_y),
            zero=panel.from_zero,
            dots=few,
            tooltips=not legend,
        ).transform_flatten(["x", "y"])
    elif panel.kind == "dots":
        made = _dots_chart(panel, colour, fill, style)
    elif panel.kind == "map":
        made = _map_chart(panel, style)
    else:
        made = _spots_chart(panel, colour, fill)
    return made.properties(data=alt.NamedData(data))


def _lines_chart(
    x: str,
    y: str,
    colour: alt.Color,
    broken: alt.StrokeDash,
    titles: tuple[str, str],
    *,
    faint: str = "",
    name: str = "name",
    fill: alt.Fill | None = None,
    log: tuple[bool, bool] = (False, False),
    zero: bool = False,
    dots: bool = False,
    tooltips: bool = True,
) -> alt.LayerChart:
    import altair as alt

    scales = [
        alt.Scale(type="log") if logarithmic else alt.Scale(zero=of_zero, nice=False)
        for logarithmic, of_zero in zip(log, (False, zero), strict=True)
    ]
    # In brackets, a name may hold any character.
    across = alt.X(field=x, type="quantitative", title=titles[0], scale=scales[0])
    up = alt.Y(field=y, type="quantitative", title=titles[1], scale=scales[1])
    base = alt.Chart().encode(x=across, y=up, color=colour, detail=f"{name}:N")
    behind = base.transform_filter(faint or "false").mark_line(strokeWidth=1, opacity=0.35, clip=True)
    front = base.transform_filter(f"!({faint})") if faint else base
    line = front.mark_line(strokeWidth=2, clip=True).encode(strokeDash=broken)
    told = [f"{name}:N", alt.Tooltip(field=x, type="quantitative", title=titles[0]),
            alt.Tooltip(field=y, type="quantitative", title=titles[1], format=".4~r")]  # fmt: skip
    mark = {"size": 22, "strokeWidth": 1.5} if dots else {"size": 90, "opacity": 0.0}
    points = front.mark_point(filled=False, **mark).encode(tooltip=told)
    if fill is not None:
        points = points.encode(fill=fill)
    shown = [behind, line] if faint else [line]
    return alt.layer(*shown, points) if dots or tooltips else alt.layer(*shown)


def _dots_chart(panel: Panel, colour: alt.Color, fill: alt.Fill, style: Style) -> alt.LayerChart:
    import altair as alt

    rows = alt.Y("name:N", sort=[dot.name for dot in panel.dots], title=None,
                 axis=alt.Axis(ticks=False, domain=False, labelLimit=240, labelColor=style.ink))  # fmt: skip
    scale = alt.Scale(zero=False)
    told = ["name:N", alt.Tooltip("x:Q", title=panel.x, format=".4~r"),
            alt.Tooltip("low:Q", title="95 % interval, low", format=".4~r"),
            alt.Tooltip("high:Q", title="high", format=".4~r"),
            alt.Tooltip("paper:Q", title="the paper", format=".4~r")]  # fmt: skip
    base = alt.Chart().encode(y=rows, color=colour)
    spans = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=scale, title=panel.x), x2="high:Q")
    ours = base.mark_point(size=60, strokeWidth=2).encode(
        x=alt.X("x:Q", scale=scale), fill=fill, tooltip=told
    )
    papers = (
        alt.Chart()
        .transform_filter("isValid(datum.paper)")
        .mark_point(shape="diamond", size=70, color=style.soft)
        .encode(y=rows, x=alt.X("paper:Q", scale=scale))
    )
    shown = [spans, ours, papers] if any(dot.paper is not None for dot in panel.dots) else [spans, ours]
    return alt.layer(*shown)


def _spots_chart(panel: Panel, colour: alt.Color, fill: alt.Fill) -> alt.LayerChart:
    import altair as alt

    scale = alt.Scale(zero=False, nice=False, padding=12)
    up = alt.Y("at:Q", scale=scale, title=panel.y)
    told = ["name:N", alt.Tooltip("x:Q", title=panel.x, format=".4~r"),
            alt.Tooltip("y:Q", title=panel.y, format=".4~r")]  # fmt: skip
    base = (
        alt.Chart()
        .transform_filter("isValid(datum.at)")
        .encode(x=alt.X("x:Q", scale=scale, title=panel.x), y=up, color=colour)
    )
    spots = base.mark_point(size=55, strokeWidth=2).encode(
        fill=fill,
        tooltip=told,
        shape=alt.condition("datum.beyond", alt.value("triangle-up"), alt.value("circle")),
    )
    beyond = (
        base.transform_filter("datum.beyond")
        .mark_text(dy=11, baseline="top")
        .encode(text=alt.Text("y:Q", format=".2f"))
    )
    level = alt.Chart().transform_filter("isValid(datum.rule)").encode(y=alt.Y("rule:Q", scale=scale))
    rule = level.mark_rule(strokeDash=[7, 4], strokeWidth=1.5).encode(color=colour)
    name = level.mark_text(align="right", baseline="bottom", dy=-3).encode(
        x=alt.value("width"), text="name:N"
    )
    edge = _edge(panel)
    above = [beyond] if edge is not None and any(spot.y > edge for spot in panel.spots) else []
    return alt.layer(*([rule, name] if panel.rules else []), *above, spots)


def _map_chart(panel: Panel, style: Style) -> alt.LayerChart:
    """Colours are of groups, not of systems: it brings its own legend."""
    import altair as alt

    groups = [name for name, _ in Counter(place.group for place in panel.places).most_common()]
    bare = alt.Axis(labels=False, ticks=False, grid=False)
    legend = alt.Legend(orient="bottom", columns=4, symbolOpacity=1, labelColor=style.ink)
    hues = alt.Scale(domain=groups, scheme="tableau10")
    scale = alt.Scale(zero=False, nice=False, padding=8)
    points = (
        alt.Chart()
        .mark_circle(size=22, opacity=0.75)
        .encode(
            x=alt.X("x:Q", title=panel.x, scale=scale, axis=bare),
            y=alt.Y("y:Q", title=panel.y, scale=scale, axis=bare),
            color=alt.Color("group:N", scale=hues, legend=legend),
            tooltip=["group:N", "name:N"],
        )
    )
    return alt.layer(points).resolve_scale(color="independent")


if __name__ == "__main__":
    write_text(Path(".dvc/plots/curves.json"), dvc_template())
