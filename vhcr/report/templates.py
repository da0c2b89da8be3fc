"""Jinja templates of the report: HTML, Markdown and LaTeX, each with its own escaping."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

from pydantic import JsonValue

if TYPE_CHECKING:
    import jinja2

    from vhcr.report.tables import Cell

NOTHING = "–"

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--", "≤": r"$\leq$",
    "µ": r"$\mu$", "±": r"$\pm$", "…": r"\dots{}",
}  # fmt: skip


def rendered(name: str, **values: object) -> str:
    """A template of this room with ``values``; the kind of its escaping goes by its name."""
    return _environment(name.split(".")[-2]).get_template(name).render(**values)


def file(name: str) -> str:
    """A file of this room, as text."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@lru_cache
def _environment(kind: str) -> jinja2.Environment:
    import jinja2

    marks = {"tex": ("<%", "%>", "<<", ">>")}.get(kind, ("{%", "%}", "{{", "}}"))
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(file),
        autoescape=kind == "html",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=kind != "tex",
        keep_trailing_newline=True,
        block_start_string=marks[0],
        block_end_string=marks[1],
        variable_start_string=marks[2],
        variable_end_string=marks[3],
    )
    made.filters |= {
        "plain": plain, "spaced": lambda text: str(text).replace("_", " "), "tex": tex,
        "tex_number": tex_number, "tex_cell": _tex_cell, "md": markdown_cell, "quoted": markdown_text,
    }  # fmt: skip
    return made


def plain(value: JsonValue) -> str:
    """A value as people read it."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        return (f"{value:,.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.4g}").replace(
            "-", "−"
        )
    if isinstance(value, Mapping):
        return ", ".join(f"{str(name).replace('_', ' ')} {plain(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value)) or NOTHING
    return str(value)


def tex(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(_TEX.get(character, character) for character in text)


def tex_number(text: str) -> str:
    """A number in mathematics, a dash where there is none."""
    for sign, written in (("−", "-"), ("±", r"\pm"), ("%", r"\%"), (",", "{,}"), (" [", r"\,[")):
        text = text.replace(sign, written)
    return "--" if text == NOTHING else f"${text}$"


def _tex_cell(cell: Cell) -> str:
    if cell.text == NOTHING:
        return tex_number(NOTHING)
    number = rf"\mathbf{{{cell.text}}}" if cell.best else cell.text
    deviation = rf" \pm {cell.deviation}" if cell.deviation else ""
    return tex_number(cell.prefix.replace("≤", r"\leq") + number + deviation)


def markdown_cell(text: str) -> str:
    """Markdown that stays in its cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([*_`\[\]#~\\])", r"\\\1", html.escape(text, quote=False))
