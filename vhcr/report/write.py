"""A report as files: the page, table.json, and every plot and table in the forms that papers take."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vhcr.errors import DataError
from vhcr.files import write_json, write_parquet, write_text
from vhcr.report.page import Report, render
from vhcr.report.plots import write_images
from vhcr.report.results import Results, Run
from vhcr.report.tables import as_csv, latex


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


def responses(results: Results) -> dict[str, list[Any]]:
    """Table 5: what every run said in the contexts of the page, one row a turn."""
    rows = [
        {
            "system": run.system,
            "seed": run.seed,
            "conversation_id": conversation,
            "num_response_turns": length,
            "turn": turn,
            "context": list(response.context),
            "reference": reference,
            "response": text,
        }
        for run in results.runs
        for (length, conversation), response in run.responses.items()
        for turn, (reference, text) in enumerate(zip(response.references, response.responses, strict=True))
    ]
    return _columns(rows)


def talks(results: Results, table: str) -> dict[str, list[Any]]:
    """Table 6 (``interpolation``) or 7 (``fixed``): what every run with z_conv said, one row a turn."""
    rows = [
        {
            "system": run.system,
            "seed": run.seed,
            "path": path or None,
            "example": example,
            "position": talk.position,
            "sample": talk.sample,
            "turn": turn,
            "opening": talk.opening,
            "text": text,
        }
        for run in results.runs
        for (of, path, example), conversations in run.talks.items()
        if of == table
        for talk in conversations
        for turn, text in enumerate(talk.turns)
    ]
    return _columns(rows)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ("system",))}
