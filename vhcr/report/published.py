"""Results that are kept in git: results/<corpus>/<system>.json, one row a run.

A row has the numbers of table.json, all metrics, curves thinned to what a plot shows, what made it, what it
said of its own accord (Tables 6 and 7), and bootstrap replicates of what the claims compare. Replicates of
two runs over the same test conversations pair, so that claims are judged, with intervals, long after the
files per conversation are gone.

Publishing adds to what is there: a row gives way only to one of the same corpus, data, parameters and seed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vhcr.errors import DataError
from vhcr.files import read_json, values_digest, write_text
from vhcr.report.evidence import Evidence
from vhcr.report.plots import thinned
from vhcr.report.results import EMBEDDING_METRICS, TABLE_KEYS, Json, Results, Run, Talk, TalkKey
from vhcr.report.settings import heard, trained_with
from vhcr.results.statistics import Resampled

# What claims, bold figures and differences are made of.
RESAMPLED = (
    "nll_per_word",
    "importance_weighted",
    "kl_per_word",
    "kl_conv_per_word",
    "kl_utt_per_word",
    *(f"{metric}_{turns}turn" for turns in (1, 3) for metric in EMBEDDING_METRICS),
)
CURVES = (
    "nll_per_word", "kl_per_word", "kl_conv_per_word", "kl_utt_per_word", "kl_weight", "prior_variance_ratio",
    "active_units_utt", "active_units_conv",
)  # fmt: skip
MAX_POINTS = 60  # of a published curve
MADE_BY = (
    "code_version", "dirty", "data_hash", "device", "machine", "versions", "seconds", "num_parameters",
    "params",
)  # fmt: skip
EVALUATED_BY = ("code_version", "dirty", "device", "machine", "versions", "seconds", "finished_at")


def publish(results: Results, *, num_samples: int, seed: int, folder: Path = Path("results")) -> list[Path]:
    """Add the runs of ``results`` to ``folder``/<corpus>; returns the files written, one a system.

    Raises:
        DataError: a file that is there is damaged.
    """
    place = folder / results.corpus
    evidence = Evidence(results, num_samples=num_samples, seed=seed)
    rows = {key(row): row for row in (read(place) if place.exists() else [])}
    rows.update({key(row): row for row in (as_row(run, evidence) for run in results.runs)})
    written = []
    for system in sorted({run.system for run in results.runs}):
        own = sorted((row for row in rows.values() if row["system"] == system), key=_place)
        written.append(place / f"{system}.json")
        write_text(written[-1], as_json(own))
    return written


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a corpus's folder, or of one file.

    Raises:
        DataError: it is missing or damaged, or a row does not say what made it or is of another system.
    """
    if not path.is_dir():
        return _read(path)
    files = sorted(path.glob("*.json"))
    if not files:
        raise DataError(f"{path}: there is no <system>.json in it")
    rows = []
    for file in files:
        for number, row in enumerate(_read(file)):
            if row["system"] != file.stem:
                raise DataError(f"{file}: row {number}: is of {row['system']}, not of {file.stem}")
            rows.append(row)
    return rows


def _read(path: Path) -> list[dict[str, Any]]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of rows")
    for number, row in enumerate(rows):
        missing = [name for name in ("corpus", "system", "seed", "made_by", "protocol") if name not in row]
        if missing:
            raise DataError(f"{path}: row {number}: {missing[0]} is missing")
    return rows


def key(row: Json) -> str:
    """What a row is of: corpus, data, parameters and seed. Settings that are off count as absent ones."""
    made_by = row["made_by"]
    params = trained_with(made_by.get("params") or {"system": {"name": row["system"]}})
    return values_digest(row["corpus"], made_by.get("data_hash"), params, row["seed"])


def setting(row: Json) -> str:
    """What rows must share to stand in one table: data, sizes, schedule and protocol."""
    params = trained_with(row["made_by"].get("params") or {})
    shared = {section: values for section, values in params.items() if section != "system"}
    return values_digest(row["corpus"], row["made_by"].get("data_hash"), shared, heard(row["protocol"]))


def as_row(run: Run, evidence: Evidence) -> dict[str, Any]:
    """One run as it is published. The MLflow id, which means nothing elsewhere, is left out."""
    results = evidence.results
    row = {name: value for name, value in run.table_row().items() if name != "mlflow_run_id"}
    found = {name: evidence.resampled(run, name) for name in RESAMPLED}
    known = {name: one for name, one in found.items() if one is not None and np.ptp(one.replicates) > 0}
    return row | {
        "importance_weighted_nll_per_word": run.metrics.get("importance_weighted_nll_per_word"),
        "made_by": {name: run.training.get(name) for name in MADE_BY}
        | {"data_hash": results.manifest["data_hash"]},
        "evaluated_by": {name: run.provenance[name] for name in EVALUATED_BY if name in run.provenance},
        "protocol": run.provenance.get("protocol") or {},
        "data": {
            "paper_corpus": results.paper_corpus,
            "splits": results.manifest.get("splits"),
            "embeddings": dict(results.embeddings),
        },
        "metrics": dict(run.metrics),
        "curves": {split: _curves(run, split) for split in ("train", "validation")},
        "talks": _said(run),
        "bootstrap": {
            name: {
                "estimate": one.estimate,
                "seed": one.seed,
                "num_conversations": one.num_conversations,
                **encoded(one),
            }
            for name, one in known.items()
        },
    }


def _said(run: Run) -> list[dict[str, Any]]:
    """Conversations from a chosen z_conv; none that begin with an utterance of the corpus."""
    return [
        {
            "table": table,
            "path": path,
            "example": example,
            "said": [
                {"position": talk.position, "sample": talk.sample, "turns": list(talk.turns)}
                for talk in talks
            ],
        }
        for (table, path, example), talks in run.talks.items()
        if all(talk.opening is None for talk in talks)
    ]


def _talks(entries: Iterable[Json]) -> dict[TalkKey, tuple[Talk, ...]]:
    return {
        (entry["table"], entry["path"], entry["example"]): tuple(
            Talk(talk["position"], talk["sample"], None, tuple(talk["turns"])) for talk in entry["said"]
        )
        for entry in entries
    }


def _curves(run: Run, split: str) -> dict[str, list[float]]:
    """Columns over one list of steps, thinned alike."""
    curves = run.curves
    rows = [i for i, part in enumerate(curves.get("split", ())) if part == split]
    result: dict[str, list[float]] = {}
    for name in CURVES:
        points = [
            (curves["step"][i], curves[name][i])
            for i in rows
            if name in curves and None not in (curves["step"][i], curves[name][i])
        ]
        if points:
            few = thinned(points, MAX_POINTS)
            # All columns of a split have a number in the same rows, or in none.
            result.setdefault("step", [step for step, _ in few])
            if len(few) == len(result["step"]):
                result[name] = [value for _, value in few]
    return result


def encoded(one: Resampled) -> dict[str, Any]:
    """A run's replicates, each minus the estimate: base64 of little-endian int16, in parts of ``unit``.

    The unit is a 32,767th of the largest, so that rounding is far below the width of any interval.
    """
    deviations = one.replicates[:, 0] - one.estimate
    unit = float(np.abs(deviations).max()) / 32767
    text = base64.b64encode(np.rint(deviations / unit).astype("<i2").tobytes()).decode()
    return {"unit": unit, "deviations": text}


def decoded(entry: Json) -> Resampled:
    """What ``as_row`` wrote under ``bootstrap``, for one number."""
    whole = np.frombuffer(base64.b64decode(entry["deviations"]), dtype="<i2").astype(np.float64)
    replicates = entry["estimate"] + entry["unit"] * whole[:, None]
    return Resampled(entry["estimate"], replicates, entry["num_conversations"], entry["seed"])


def as_run(row: Json) -> Run:
    """A published row as a run; rows of before there were metrics in them have their table's alone."""
    metrics = row.get("metrics")
    if metrics is None:
        metrics = {name: row.get(name) for name in TABLE_KEYS if name.endswith("per_word")}
        metrics["importance_weighted_nll_per_word"] = row.get("importance_weighted_nll_per_word")
        metrics["responses"] = {
            str(turns): {name: row.get(f"{name}_{turns}turn") for name in EMBEDDING_METRICS}
            for turns in (1, 3)
        }
    return Run(
        corpus=row["corpus"],
        system=row["system"],
        seed=row["seed"],
        metrics=metrics,
        training=row["made_by"],
        provenance={**row.get("evaluated_by", {}), "protocol": row["protocol"]},
        curves=_joined(row.get("curves", {})),
        resampled={name: decoded(entry) for name, entry in row.get("bootstrap", {}).items()},
        talks=_talks(row.get("talks", ())),
    )


def _joined(curves: Mapping[str, Json]) -> dict[str, list[Any]]:
    """Curves by split as the columns of a curves.csv."""
    names = list(dict.fromkeys(name for columns in curves.values() for name in columns))
    result: dict[str, list[Any]] = {name: [] for name in ("split", *names)} if names else {}
    for split, columns in curves.items():
        length = len(columns.get("step", ()))
        for name in result:
            result[name] += [split] * length if name == "split" else columns.get(name, [None] * length)
    return result


def load(path: Path) -> list[Results]:
    """Published rows as results, one for each set that compares; the one evaluated last comes first.

    Raises:
        DataError: as ``read``.
    """
    sets: dict[str, list[dict[str, Any]]] = {}
    for row in read(path):
        sets.setdefault(setting(row), []).append(row)
    ordered = sorted(sets.values(), key=lambda rows: max(map(_when, rows)), reverse=True)
    return [_results(rows) for rows in ordered]


def _results(rows: Sequence[dict[str, Any]]) -> Results:
    data: Json = next((row["data"] for row in rows if row.get("data")), {})
    hashed = rows[0]["made_by"].get("data_hash")
    return Results(
        title=f"{rows[0]['corpus']}, as published",
        corpus=rows[0]["corpus"],
        runs=tuple(as_run(row) for row in sorted(rows, key=_place)),
        paper_corpus=data.get("paper_corpus"),
        manifest={"data_hash": hashed, "splits": data.get("splits") or {}},
        embeddings=data.get("embeddings") or {},
    )


def _when(row: Json) -> str:
    return str(row.get("evaluated_by", {}).get("finished_at", ""))


def _place(row: Json) -> tuple[Any, ...]:
    """Order of rows: by setting, system and seed, so that what is added changes few lines."""
    return (setting(row), row["system"], row["seed"], key(row))


def as_json(value: Any, indent: str = "") -> str:
    """JSON with a line for each key, but lists of numbers, however long, on one; ends with a newline."""
    return _as_json(value, indent) + "\n"


def _as_json(value: Any, indent: str) -> str:
    inner = indent + " "
    if isinstance(value, Mapping) and value:
        items = [f"{json.dumps(str(name))}: {_as_json(item, inner)}" for name, item in value.items()]
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
    if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        return "[\n" + ",\n".join(inner + _as_json(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
