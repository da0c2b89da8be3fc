"""Results that are kept in git: results/<corpus>/runs.parquet, one row a run, and its replicates beside it.

A row has the numbers of table.json as columns, the records of the training, of the evaluation and of the data
as JSON, curves thinned to what a plot shows, and what the run said of its own accord (Tables 6 and 7).
Replicates are those of a bootstrap over the test conversations: of two runs over the same conversations they
pair, so that claims are judged, with intervals, long after the files per conversation are gone. They are kept
as whole parts of a 2,047th of the largest deviation from the estimate, which moves no printed digit.

Publishing adds to what is there: a run gives way only to one of the same corpus, data, parameters and seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from pydantic import Json, JsonValue

from vhcr.errors import DataError
from vhcr.evaluation.records import Evaluation, Record
from vhcr.files import parse_record, values_digest, write_parquet
from vhcr.results.compare import Evidence
from vhcr.results.labels import protocol_settings, trained_with
from vhcr.results.records import Data, EvaluationRecord, TrainingRecord
from vhcr.results.runs import MEASURES, RESPONSE_MEASURES, Curves, Point, Results, Run, Talk, TalkKey
from vhcr.results.statistics import Resampled

R = TypeVar("R", bound=Record)

RUNS, REPLICATES = "runs.parquet", "replicates.parquet"
# What claims, bold figures and differences are made of; the KL of both levels is their sum.
RESAMPLED = ("nll_per_word", "importance_weighted", "kl_conv_per_word", "kl_utt_per_word", *RESPONSE_MEASURES)
CURVES = (
    "nll_per_word", "kl_per_word", "kl_conv_per_word", "kl_utt_per_word", "kl_weight", "prior_variance_ratio",
    "active_units_utt", "active_units_conv",
)  # fmt: skip
MAX_POINTS = 60  # of a published curve
STEPS = 2047  # of the largest deviation of a replicate


class Published(NamedTuple):
    """A run as it is kept, and the data it saw."""

    run: Run
    data: Data

    @property
    def key(self) -> str:
        """What it is of: corpus, data, parameters and seed. Settings that are off count as absent ones."""
        made = self.run.training
        return values_digest(made.corpus, made.data_hash, trained_with(made.params), made.seed)

    @property
    def setting(self) -> str:
        """What runs must share to stand in one table: data, sizes, schedule and protocol."""
        made = self.run.training
        params = trained_with(made.params)
        shared: dict[str, JsonValue] = {name: own for name, own in params.items() if name != "system"}
        return values_digest(
            made.corpus, made.data_hash, shared, protocol_settings(self.run.evaluated.protocol)
        )


class TalkRow(Record):
    """A conversation from a chosen z_conv, and which table's it is."""

    table: str
    path: str
    example: int
    position: float | None
    sample: int
    turns: tuple[str, ...]


class CurveRow(Record):
    """Thinned curves: a step and a split for each place, and numbers by column."""

    steps: tuple[float, ...]
    splits: tuple[str, ...]
    columns: tuple[tuple[float | None, ...], ...]  # as ``CURVES``; empty where a run has no such curve


class RunRow(Record):
    """A row of runs.parquet, but for the numbers that it repeats as columns of their own."""

    key: str
    training: Json[TrainingRecord]
    evaluated: Json[EvaluationRecord]
    evaluation: Json[Evaluation]
    data: Json[Data]
    talks: tuple[TalkRow, ...]
    curves: CurveRow


class ReplicatesRow(Record):
    """A row of replicates.parquet: one number of one run."""

    key: str
    measure: str
    estimate: float
    seed: int
    num_conversations: int
    unit: float
    deviations: list[int]  # of each replicate from the estimate, in parts of ``unit``


def publish(results: Results, *, num_samples: int, seed: int, folder: Path = Path("results")) -> list[Path]:
    """Add the runs of ``results`` to ``folder``/<corpus>; returns the files written.

    Raises:
        DataError: a file that is there is damaged.
    """
    place = folder / results.corpus
    compared = Evidence(results, num_samples=num_samples, seed=seed)
    rows = {row.key: row for row in (read(place) if (place / RUNS).exists() else [])}
    manifest = results.data.manifest
    data = Data(
        manifest=manifest.model_copy(update={"tokenisation": {}, "vocabulary_hash": None}),
        embeddings=results.data.embeddings,
        paper_corpus=results.data.paper_corpus,
    )
    if results.data.account is not None:  # that it is somebody's own is kept, what was read is not
        data = data.model_copy(update={"account": ()})
    for run in results.runs:
        row = Published(_to_keep(run, compared), data)
        rows[row.key] = row
    return write(place, rows.values())


def write(place: Path, rows: Iterable[Published]) -> list[Path]:
    """The two files of a corpus, rows ordered by setting, system and seed."""
    ordered = sorted(rows, key=lambda row: (row.setting, row.run.system, row.run.seed, row.key))
    runs = [_columns(row) for row in ordered]
    replicates = [
        _encoded(row.key, measure, row.run.resampled[measure]).model_dump()
        for row in ordered
        for measure in RESAMPLED
        if measure in row.run.resampled
    ]
    for name, table in ((RUNS, runs), (REPLICATES, replicates)):
        columns = {column: [row[column] for row in table] for column in (table[0] if table else ())}
        write_parquet(place / name, columns)
    return [place / RUNS, place / REPLICATES]


def _to_keep(run: Run, compared: Evidence) -> Run:
    """A run without what means nothing elsewhere (MLflow ids, hashes of files) and what is not ours to keep.

    Conversations that begin with an utterance of the corpus are left out.
    """
    found = {measure: compared.resampled(run, measure) for measure in RESAMPLED}
    nothing: dict[str, object] = {"mlflow_run_id": None, "inputs": {}}
    return replace(
        run,
        training=run.training.model_copy(update=nothing),
        evaluated=run.evaluated.model_copy(update=nothing),
        curves=_thinned(run.curves),
        resampled={
            name: one for name, one in found.items() if one is not None and np.ptp(one.replicates) > 0
        },
        talks={key: talks for key, talks in run.talks.items() if all(talk.opening is None for talk in talks)},
    )


def thinned(points: Sequence[Point], limit: int) -> list[Point]:
    """At most ``limit`` points: means of equal stretches, the first and the last point kept as they are."""
    if len(points) <= limit:
        return [_rounded(point) for point in points]
    inner, buckets = points[1:-1], limit - 2
    result = [points[0]]
    for bucket in range(buckets):
        part = inner[bucket * len(inner) // buckets : (bucket + 1) * len(inner) // buckets]
        result.append((sum(p[0] for p in part) / len(part), sum(p[1] for p in part) / len(part)))
    return [_rounded(point) for point in (*result, points[-1])]


def _rounded(point: Point) -> Point:
    x, y = float(f"{point[0]:.6g}"), float(f"{point[1]:.6g}")
    return (int(x) if x == int(x) else x, y)


def _thinned(curves: Curves) -> Curves:
    """Columns over one list of steps a split, thinned alike."""
    steps: list[float] = []
    splits: list[str] = []
    columns: dict[str, list[float | None]] = {name: [] for name in CURVES if name in curves.columns}
    for split in ("train", "validation"):
        few = {name: thinned(curves.points(name, split), MAX_POINTS) for name in columns}
        first = next((points for points in few.values() if points), [])
        steps += [step for step, _ in first]
        splits += [split] * len(first)
        for name, points in few.items():  # all columns of a split have a number in the same rows, or in none
            same = len(points) == len(first)
            columns[name] += [y for _, y in points] if same else [None] * len(first)
    return Curves(steps, splits, columns)


def _columns(row: Published) -> dict[str, object]:
    run = row.run
    talks = [
        {"table": table, "path": path, "example": example}
        | {"position": talk.position, "sample": talk.sample, "turns": talk.turns}
        for (table, path, example), said in run.talks.items()
        for talk in said
    ]
    curves = [[None if y is None else float(y) for y in run.curves.columns.get(name, ())] for name in CURVES]
    steps = [float(step) for step in run.curves.steps]
    return {
        "key": row.key,
        "corpus": run.corpus,
        "system": run.system,
        "seed": run.seed,
        **{measure: run.value(measure) for measure in MEASURES},
        "training": json.dumps(run.training.as_json()),
        "evaluated": json.dumps(run.evaluated.as_json()),
        "evaluation": json.dumps(run.evaluation.as_json()),
        "data": json.dumps(row.data.as_json()),
        "talks": talks,
        "curves": {"steps": steps, "splits": run.curves.splits, "columns": curves},
    }


def _encoded(key: str, measure: str, one: Resampled) -> ReplicatesRow:
    deviations = one.replicates[:, 0] - one.estimate
    unit = float(np.abs(deviations).max()) / STEPS
    whole = np.rint(deviations / unit).astype(int).tolist()
    return ReplicatesRow(
        key=key,
        measure=measure,
        estimate=one.estimate,
        seed=one.seed,
        num_conversations=one.num_conversations,
        unit=unit,
        deviations=whole,
    )


def _decoded(row: ReplicatesRow) -> Resampled:
    replicates = row.estimate + row.unit * np.asarray(row.deviations, dtype=np.float64)[:, None]
    return Resampled(row.estimate, replicates, row.num_conversations, row.seed)


def _with_total_kl(found: dict[str, Resampled]) -> dict[str, Resampled]:
    """With the KL of both levels, whose replicates are of the same words and so add up."""
    parts = [found[name] for name in ("kl_conv_per_word", "kl_utt_per_word") if name in found]
    if not parts:
        return found
    replicates = np.sum([one.replicates for one in parts], axis=0)
    total = replace(parts[0], estimate=sum(one.estimate for one in parts), replicates=replicates)
    return found | {"kl_per_word": total}


def read(place: Path) -> list[Published]:
    """The runs of a corpus's folder.

    Raises:
        DataError: a file is missing or damaged.
    """
    replicates: dict[str, dict[str, Resampled]] = {}
    for one in _rows(ReplicatesRow, place / REPLICATES):
        replicates.setdefault(one.key, {})[one.measure] = _decoded(one)
    found = []
    for row in _rows(RunRow, place / RUNS):
        talks: dict[TalkKey, list[Talk]] = {}
        for talk in row.talks:
            said = Talk(talk.position, talk.sample, None, talk.turns)
            talks.setdefault((talk.table, talk.path, talk.example), []).append(said)
        run = Run(
            system=row.training.system,
            training=row.training,
            evaluation=row.evaluation,
            evaluated=row.evaluated,
            curves=Curves(
                row.curves.steps,
                row.curves.splits,
                {name: values for name, values in zip(CURVES, row.curves.columns, strict=True) if values},
            ),
            resampled=_with_total_kl(replicates.get(row.key, {})),
            talks={key: tuple(said) for key, said in talks.items()},
        )
        found.append(Published(run, row.data))
    return found


def _rows(kind: type[R], path: Path) -> list[R]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, page_checksum_verification=True)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    return [parse_record(kind, row, f"{path}, row {i}") for i, row in enumerate(table.to_pylist())]


def load(place: Path) -> list[Results]:
    """Published runs as results, one for each set that compares; the one evaluated last comes first.

    Raises:
        DataError: as ``read``.
    """
    sets: dict[str, list[Published]] = {}
    for row in read(place):
        sets.setdefault(row.setting, []).append(row)
    ordered = sorted(
        sets.values(), key=lambda rows: max(row.run.evaluated.finished_at for row in rows), reverse=True
    )
    return [
        Results(
            title=f"{rows[0].run.corpus}, as published",
            corpus=rows[0].run.corpus,
            runs=tuple(sorted((row.run for row in rows), key=lambda run: (run.system, run.seed))),
            data=rows[0].data,
        )
        for rows in ordered
    ]
