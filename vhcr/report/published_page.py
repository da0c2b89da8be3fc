"""The page of published results: results/<corpus>/README.md and its plots, from the rows alone."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vhcr.files import write_text
from vhcr.report.claims import claims, statements
from vhcr.report.evidence import Evidence
from vhcr.report.paper import PaperFigures
from vhcr.report.plots import Figure, figures, write_images
from vhcr.report.published import load
from vhcr.report.results import Results, Run
from vhcr.report.settings import OPERATIONAL
from vhcr.report.tables import Table, tables

PLOTTED = ("kl", "usage", "frontier")


def write(folder: Path) -> Path:
    """README.md and plots of the rows in ``folder``; returns the page.

    Raises:
        DataError: a file of rows is damaged.
    """
    sets = load(folder)
    drawn = [_figures(results, number) for number, results in enumerate(sets)]
    for figure in (figure for each in drawn for figure in each):
        write_images(figure, folder, ("svg",))
    page = folder / "README.md"
    write_text(page, _markdown(folder, sets, drawn))
    return page


def write_overview(folder: Path) -> Path:
    """README.md of ``folder``: what each claim came to on every corpus that is published there."""
    pages = sorted(page for page in folder.glob("*/README.md") if any(page.parent.glob("*.json")))
    newest = {page.parent.name: load(page.parent)[0] for page in pages}
    verdicts = {
        name: {claim.text: claim.finding.verdict for claim in claims(_evidence(results))}
        for name, results in newest.items()
    }
    heads = [f"[{name}]({name}/README.md): {_runs(results)}" for name, results in newest.items()]
    rows = [
        [text, where, *(found.get(text, "–") for found in verdicts.values())]
        for text, where in statements()
        if any(text in found for found in verdicts.values())
    ]
    parts = [
        "<!-- Made from the folders beside it by `python -m vhcr.summary publish`; do not edit. -->",
        "# What each claim came to",
        "By the runs that are published here and the rules of `vhcr/report/claims.py`. The numbers behind a "
        "verdict, tables and plots are on the page of the corpus.",
        _lines(["claim", "where", *heads], rows),
        "Supported: all that it says was found, with 95 % intervals that leave out zero where systems are "
        "compared. Not supported: the contrary was. Undecided: neither, or on too few runs or validations to "
        "tell, or on a run that ended while its KL weight was still to rise. Not run: a system that it needs "
        "has not been. –: the paper does not say it of this corpus.",
    ]
    page = folder / "README.md"
    write_text(page, "\n\n".join(parts) + "\n")
    return page


def markdown(path: Path) -> str:
    """Tables, plots, the paper's claims and what made the runs, as Markdown.

    Raises:
        DataError: a file of rows is missing or damaged.
    """
    sets = load(path)
    return _markdown(path, sets, [_figures(results, number) for number, results in enumerate(sets)])


def _markdown(path: Path, sets: Sequence[Results], drawn: Sequence[Sequence[Figure]]) -> str:
    made_from = "the files beside it" if path.is_dir() else path.name
    parts = [f"<!-- Made from {made_from} by `python -m vhcr.summary publish`; do not edit. -->"]
    for number, (results, plots) in enumerate(zip(sets, drawn, strict=True)):
        title = f"## {results.corpus}"
        parts.append(title if len(sets) == 1 else f"{title}, setting {number + 1} of {len(sets)}")
        parts += _markdown_of(results)
        parts += [f"![{each.alt}]({each.id}.svg)\n\n{each.caption}" for each in plots]
    return "\n\n".join(parts) + "\n"


def _runs(results: Results) -> str:
    runs, systems = len(results.runs), len(results.systems)
    return f"{runs} run{'s' * (runs > 1)} of {systems} system{'s' * (systems > 1)}"


def _figures(results: Results, number: int) -> list[Figure]:
    """The plots that stand on the page: the paper's Figures 1, 2 and 4, and what the use of latents costs."""
    made = figures(_evidence(results), PaperFigures(results.paper_corpus))
    suffix = f"-{number + 1}" if number else ""
    return [replace(each, id=each.id + suffix) for each in made if each.id in PLOTTED]


def _evidence(results: Results) -> Evidence:
    resampled = next((one for run in results.runs for one in run.resampled.values()), None)
    return Evidence(results, num_samples=0, seed=resampled.seed if resampled else 0)


def _markdown_of(results: Results) -> Iterable[str]:
    run = results.runs[0]
    evidence = _evidence(results)
    training = (run.training.get("params") or {}).get("training") or {}
    told = ", ".join(
        f"{name} {value}" for name, value in training.items() if name not in OPERATIONAL and value
    )
    yield (f"{_runs(results)} on data `{str(results.manifest['data_hash'])[:12]}`. Training: {told}.")
    for table in tables(evidence, PaperFigures(results.paper_corpus)):
        yield f"### {table.title}"
        yield table_markdown(table)
        yield table.caption + (" Mean ± standard deviation over seeds." if table.several_seeds else "")
    yield "### The paper's claims"
    rows = [
        [claim.text, claim.where, f"**{claim.finding.verdict}**", claim.finding.evidence]
        for claim in claims(evidence)
    ]
    yield _lines(["claim", "where", "verdict", "evidence"], rows)
    yield (
        "Square brackets hold 95 % intervals of differences, in nats per word unless said otherwise, from a "
        "paired bootstrap over test conversations and seeds; with one seed a system, they say nothing about "
        "how much training varies."
    )
    yield from _control(results)
    yield "### What made the runs"
    yield _lines(
        ["system", "seed", "commit", "on", "training, seconds", "evaluated"],
        [_made(run) for run in results.runs],
    )


def _control(results: Results) -> Iterable[str]:
    """Tables 6 and 7, the first example of each, for the first run of each system that has z_conv."""
    runs = {run.system: run for run in reversed(results.runs) if run.talks}
    if not runs:
        return
    yield "### Tables 6 and 7: conversations from z_conv alone"
    yield (
        "The first example of each, none chosen. Table 6: from one z_conv to another on a straight line, all "
        "other draws alike. Table 7: several conversations from one z_conv, z_utt drawn anew. Where rows are "
        "alike, what was changed does not matter."
    )
    for run in reversed(runs.values()):
        parts = [f"<details><summary>{run.name}</summary>"]
        for key, head in ((("interpolation", "linear", 0), "place"), (("fixed", "", 0), "draw")):
            talks = run.talks.get(key, ())
            if not talks:
                continue
            turns = max(len(talk.turns) for talk in talks)
            rows = [
                [str(talk.sample + 1 if talk.position is None else talk.position), *map(_plain, talk.turns)]
                for talk in talks
            ]
            heads = [head, *(f"turn {turn + 1}" for turn in range(turns))]
            parts.append(_lines(heads, [row + [""] * (len(heads) - len(row)) for row in rows]))
        yield "\n\n".join([*parts, "</details>"])


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([*_`\[\]#~\\])", r"\\\1", html.escape(text, quote=False))


def _made(run: Run) -> list[str]:
    machine = run.training.get("machine")
    device = str(run.training.get("device"))
    if device == "cpu" and isinstance(machine, Mapping):
        device = f"{machine.get('cores')} x {machine.get('cpu')}"
    commit = str(run.training.get("code_version"))[:10] + (
        ", with changes" if run.training.get("dirty") else ""
    )
    seconds = run.training.get("seconds")
    return [
        run.system,
        str(run.seed),
        commit,
        device,
        f"{seconds:,.0f}" if isinstance(seconds, (int, float)) else "–",
        str(run.provenance.get("finished_at", "–")),
    ]


def table_markdown(table: Table) -> str:
    """One table; the paper's figures in italics beside ours, each seed in the JSON alone."""
    heads = ["system"]
    for column in table.columns:
        title = f"{column.group}: {column.title}" if column.group else column.title
        heads += [title, "*paper*"] if column.paper else [title]
    rows = []
    for row in table.rows:
        fields = [row.label]
        for cell in row.cells:
            text = f"{cell.prefix}{cell.text}" + (f" ± {cell.deviation}" if cell.deviation else "")
            fields.append(f"**{text}**" if cell.best else text)
            if cell.paper is not None:
                fields.append(f"*{cell.paper}*")
        rows.append(fields)
    return _lines(heads, rows)


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(fields: Sequence[str]) -> str:
        return "| " + " | ".join(field.replace("|", "\\|").replace("\n", " ") for field in fields) + " |"

    return "\n".join([line(heads), line(["---"] * len(heads)), *map(line, rows)])
