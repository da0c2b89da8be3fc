"""A report as files: the page, table.json, and every plot and table in the forms that papers take."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from pathlib import Path

from vhcr.errors import DataError
from vhcr.files import write_json, write_parquet, write_text
from vhcr.report.charts import write_images
from vhcr.report.page import Report, render
from vhcr.report.tables import as_csv, latex
from vhcr.results.runs import Results, Run

Columns = dict[str, list[object]]


def write(report: Report, folder: Path, *, commit: str | None = None) -> Path:
    """Write all of a report to ``folder``, the page last; returns its path.

    index.html; table.json (one row a run); curves.csv (one row a run, split and step);
    plots/<figure>.png and .svg; tables/<table>.tex and .csv, and of Tables 5 to 7, which are text, .parquet.
    What an earlier report left in plots/ and tables/ is removed.

    Raises:
        DataError: the folder has a plots/ or tables/ that no report left there.
    """
    for part in ("plots", "tables"):
        if (folder / part).exists() and not (folder / "table.json").exists():
            raise DataError(f"{folder / part}: not of a report; give the report a folder of its own")
    write_json(folder / "table.json", [run.table_row() for run in report.results.runs])
    for part in ("plots", "tables"):
        shutil.rmtree(folder / part, ignore_errors=True)
    for table in report.tables:
        write_text(folder / "tables" / f"{table.id}.tex", latex(table))
        write_text(folder / "tables" / f"{table.id}.csv", as_csv(table))
    for name, columns in (
        ("table5", responses(report.results)),
        ("table6", talks(report.results, "interpolation")),
        ("table7", talks(report.results, "fixed")),
    ):
        if columns["system"]:
            write_parquet(folder / "tables" / f"{name}.parquet", columns)
    for figure in report.figures:
        write_images(figure, folder / "plots")
    write_text(folder / "curves.csv", curves_csv(report.results.runs))
    write_text(folder / "index.html", render(report, commit=commit))
    return folder / "index.html"


def curves_csv(runs: Sequence[Run]) -> str:
    """The training curves of all runs, one below the other, under the columns of each run's own curves.csv.

    The first column names the run: ``vhcr-ud-0``. A cell is empty where there is no such number.
    """
    columns = dict.fromkeys(name for run in runs for name in run.curves.columns if name != "epoch")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "step", "epoch", "split", *columns])
    for run in runs:
        curves = run.curves
        numbers = [curves.columns.get(name, [None] * len(curves.steps)) for name in ("epoch", *columns)]
        for step, split, epoch, *row in zip(curves.steps, curves.splits, *numbers, strict=True):
            whole = [None if value is None else int(value) for value in (step, epoch)]
            writer.writerow([f"{run.system}-{run.seed}", *whole, split, *row])
    return text.getvalue()


def responses(results: Results) -> Columns:
    """Table 5: what every run said in the contexts of the page, one row a turn."""
    heads = ("system", "seed", "conversation_id", "num_response_turns", "turn", "context", "reference",
             "response")  # fmt: skip
    rows = [
        (run.system, run.seed, conversation, length, turn, list(response.context), reference, text)
        for run in results.runs
        for (length, conversation), response in run.responses.items()
        for turn, (reference, text) in enumerate(zip(response.references, response.responses, strict=True))
    ]
    return _columns(heads, rows)


def talks(results: Results, table: str) -> Columns:
    """Table 6 (``interpolation``) or 7 (``fixed``): what every run with z_conv said, one row a turn."""
    heads = ("system", "seed", "path", "example", "position", "sample", "turn", "opening", "text")
    rows = [
        (run.system, run.seed, path or None, example, talk.position, talk.sample, turn, talk.opening, text)
        for run in results.runs
        for (of, path, example), conversations in run.talks.items()
        if of == table
        for talk in conversations
        for turn, text in enumerate(talk.turns)
    ]
    return _columns(heads, rows)


def _columns(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Columns:
    return {head: [row[i] for row in rows] for i, head in enumerate(heads)}
