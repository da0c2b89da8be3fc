"""A report as files: the page, table.json, and every plot and table in the forms that papers take."""

from __future__ import annotations

import shutil
from pathlib import Path

from vhcr import layout
from vhcr.report.page import Report, render
from vhcr.report.plots import write_images
from vhcr.report.tables import as_csv, latex


def write(report: Report, folder: Path, *, commit: str | None = None) -> Path:
    """Write all of a report to ``folder``, the page last; returns its path.

    index.html; table.json (one row a run); plots/<figure>.png and .svg; tables/<table>.tex and .csv.
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
    layout.write_text(folder / "index.html", render(report, commit=commit))
    return folder / "index.html"
