"""A report as files: the page, table.json, and every plot and table in the forms that papers take."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from pathlib import Path

from vhcr import layout
from vhcr.report.page import Report, render
from vhcr.report.plots import write_images
from vhcr.report.results import Run
from vhcr.report.tables import as_csv, latex


def write(report: Report, folder: Path, *, commit: str | None = None) -> Path:
    """Write all of a report to ``folder``, the page last; returns its path.

    index.html; table.json (one row a run); curves.csv (one row a run, split and step);
    plots/<figure>.png and .svg; tables/<table>.tex and .csv.
    What an earlier report left in plots/ and tables/ is removed.
    """
    for part in ("plots", "tables"):
        shutil.rmtree(folder / part, ignore_errors=True)
    for table in report.tables:
        layout.write_text(folder / "tables" / f"{table.id}.tex", latex(table))
        layout.write_text(folder / "tables" / f"{table.id}.csv", as_csv(table))
    for figure in report.figures:
        write_images(figure, folder / "plots")
    layout.write_json(folder / "table.json", [run.table_row() for run in report.results.runs])
    layout.write_text(folder / "curves.csv", curves_csv(report.results.runs))
    layout.write_text(folder / "index.html", render(report, commit=commit))
    return folder / "index.html"


def curves_csv(runs: Sequence[Run]) -> str:
    """The training curves of all runs, one below the other, under the columns of each run's own curves.csv.

    The first column names the run: ``vhcr-ud-0``. A cell is empty where there is no such number.
    """
    rows = [
        {"run": f"{run.system}-{run.seed}"} | dict(zip(run.curves, values, strict=True))
        for run in runs
        for values in zip(*run.curves.values(), strict=True)
    ]
    columns = dict.fromkeys(name for row in rows for name in row) or {"run": None}
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        whole = {name: int(row[name]) for name in ("step", "epoch") if row.get(name) is not None}
        writer.writerow(row | whole)
    return text.getvalue()
