"""What the reports say, as a table in the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vhcr.files import read_json

COLUMNS = {  # key of table.json -> heading
    "system": "system",
    "seed": "seed",
    "nll_per_word": "nll",
    "reconstruction_per_word": "reconstr.",
    "kl_per_word": "kl",
    "kl_conv_per_word": "kl_conv",
    "kl_utt_per_word": "kl_utt",
    "average_1turn": "average",
    "extrema_1turn": "extrema",
    "greedy_1turn": "greedy",
}


def table(rows: Sequence[Mapping[str, str | int | float | None]]) -> str:
    """Rows of a table.json as aligned text; a number that was not computed is shown as a dash."""
    cells = [list(COLUMNS.values())] + [[_cell(row.get(key)) for key in COLUMNS] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    lines = []
    for line in cells:
        first, *rest = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append("  ".join(("  " + first, *rest)).rstrip())
    lines.insert(1, "  " + "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def summary(reports: Path) -> str:
    """One table per corpus under ``reports``, then where the pages are.

    Raises:
        DataError: a table.json is damaged.
    """
    folders = sorted(path.parent for path in reports.glob("*/table.json"))
    if not folders:
        return f"No report lies in {reports}/ yet: make run"
    parts = [f"{folder.name}\n{table(read_json(folder / 'table.json'))}" for folder in folders]
    parts.append(
        "nats per test word (lower is better); embedding metrics of 1-turn responses (higher is better)"
    )
    parts.append("\n".join(_where(folders)))
    return "\n\n".join(parts)


def _where(folders: Iterable[Path]) -> Iterable[str]:
    for folder in folders:
        yield f"Report:  {folder / 'index.html'}"
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http://", "https://")):
        yield f"MLflow:  {uri.rpartition('@')[2] if '@' in uri else uri}"
    else:
        pages = os.environ.get("VHCR_MLFLOW_PAGES") or "http://127.0.0.1:5000"
        yield f"MLflow:  make mlflow, then open {pages}/#/experiments"
