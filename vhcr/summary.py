"""What the reports say: a table in the terminal, and results/<corpus>.json to keep in git.

python -m vhcr.summary                  the table of every report
python -m vhcr.summary publish toy      results/toy.json: its rows, each with what made it
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vhcr.errors import VhcrError
from vhcr.layout import evaluated, read_json, trained, write_json

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


MADE_BY = (
    "code_version",
    "dirty",
    "data_hash",
    "device",
    "machine",
    "versions",
    "seconds",
    "num_parameters",
    "params",
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
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


def _cell(value: Any) -> str:
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
        yield "MLflow:  make mlflow, then open http://127.0.0.1:5000/#/experiments"


def publish(corpus: str, *, reports: Path = Path("reports"), results: Path = Path("results")) -> Path:
    """Write results/<corpus>.json: the rows of its table.json, each with what made it; returns the path.

    Each row has the commit, data hash, parameters, device, machine and seconds of its training, and the
    protocol of its evaluation. The MLflow id, which means nothing elsewhere, is left out.

    Raises:
        DataError: the report, or the record of a run, is missing or damaged.
    """
    rows = []
    for row in read_json(reports / corpus / "table.json"):
        run = read_json(trained(corpus, row["system"], row["seed"]) / "run.json")
        measured = read_json(evaluated(corpus, row["system"], row["seed"]) / "provenance.json")
        metrics = read_json(evaluated(corpus, row["system"], row["seed"]) / "metrics.json")
        made = {key: run[key] for key in MADE_BY}
        rows.append(
            {key: value for key, value in row.items() if key != "mlflow_run_id"}
            | {"importance_weighted_nll_per_word": metrics.get("importance_weighted_nll_per_word")}
            | {"made_by": made, "protocol": measured["protocol"]}
        )
    path = results / f"{corpus}.json"
    write_json(path, rows)
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, or write a corpus's results."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        match arguments:
            case []:
                print(f"\n{summary(Path('reports'))}")
            case ["publish", corpus]:
                print(publish(corpus))
            case _:
                print(__doc__, file=sys.stderr)
                sys.exit(2)
    except VhcrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
