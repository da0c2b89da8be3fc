"""Pages of published results in Markdown: results/<corpus>/README.md with its plots, and an overview."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vhcr.files import write_text
from vhcr.report.charts import write_images
from vhcr.report.claims import Claim, claims, statements
from vhcr.report.figures import Figure, figures
from vhcr.report.tables import Table, tables
from vhcr.report.templates import rendered
from vhcr.results.compare import Evidence
from vhcr.results.labels import OPERATIONAL
from vhcr.results.paper import PaperFigures
from vhcr.results.published import RUNS, load
from vhcr.results.runs import Results, Run

PLOTTED = ("kl", "usage", "frontier")  # the paper's Figures 1, 2 and 4, and what the use of latents costs


@dataclass(frozen=True)
class Part:
    """What a page shows of one set of runs that compare."""

    results: Results
    tables: list[Table]
    claims: list[Claim]
    figures: list[Figure]

    @property
    def training(self) -> str:
        """The settings of the training that decide what comes out."""
        params = self.results.runs[0].training.params.get("training", {})
        return ", ".join(f"{name} {own}" for name, own in params.items() if name not in OPERATIONAL and own)

    @property
    def talkers(self) -> list[Run]:
        """The first run of each system that says something from z_conv alone."""
        found = {run.system: run for run in reversed(self.results.runs) if run.talks}
        return list(reversed(found.values()))


def write(folder: Path) -> Path:
    """README.md and plots of the runs in ``folder``; returns the page.

    Raises:
        DataError: a file of it is damaged.
    """
    for figure in (figure for part in _parts(folder) for figure in part.figures):
        write_images(figure, folder, ("svg",))
    page = folder / "README.md"
    write_text(page, markdown(folder))
    return page


def write_overview(folder: Path) -> Path:
    """README.md of ``folder``: what each claim came to on every corpus that is published there."""
    newest = {path.parent.name: load(path.parent)[0] for path in sorted(folder.glob(f"*/{RUNS}"))}
    verdicts = {
        name: {claim.text: claim.finding.verdict for claim in claims(_evidence(results))}
        for name, results in newest.items()
    }
    rows = [
        [text, where, *(found.get(text, "–") for found in verdicts.values())]
        for text, where in statements()
        if any(text in found for found in verdicts.values())
    ]
    page = folder / "README.md"
    counts = {name: _counted(results) for name, results in newest.items()}
    write_text(page, rendered("overview.md.jinja", counts=counts, rows=rows))
    return page


def markdown(folder: Path) -> str:
    """Tables, plots, the paper's claims and what made the runs, as Markdown.

    Raises:
        DataError: a file is missing or damaged.
    """
    return rendered("page.md.jinja", parts=_parts(folder), counted=_counted, table_markdown=table_markdown)


def table_markdown(table: Table) -> str:
    """One table; the paper's figures in italics beside ours, each seed in the rows alone."""
    return rendered("table.md.jinja", table=table).strip()


def _parts(folder: Path) -> Sequence[Part]:
    parts = []
    for number, results in enumerate(load(folder)):
        evidence, paper = _evidence(results), PaperFigures(results.data.paper_corpus)
        suffix = f"-{number + 1}" if number else ""
        drawn = [
            replace(each, id=each.id + suffix) for each in figures(evidence, paper) if each.id in PLOTTED
        ]
        parts.append(Part(results, tables(evidence, paper), claims(evidence), drawn))
    return parts


def _counted(results: Results) -> str:
    runs, systems = len(results.runs), len(results.systems)
    return f"{runs} run{'s' * (runs > 1)} of {systems} system{'s' * (systems > 1)}"


def _evidence(results: Results) -> Evidence:
    resampled = next((one for run in results.runs for one in run.resampled.values()), None)
    return Evidence(results, num_samples=0, seed=resampled.seed if resampled else 0)
