"""What the files of a run say, sent to MLflow: at the end of a stage, or later, exactly once."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhcr.errors import DataError
from vhcr.files import digest, file_digest, flatten, read_object
from vhcr.provenance import read_run
from vhcr.recording.run import MlflowRun, input_tags
from vhcr.recording.seeds import group_of, settle
from vhcr.recording.store import client, experiment_id, experiment_name, one_at_a_time, plainly, stored_run
from vhcr.recording.views import save_views

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import RunInfo

REPRODUCIBLE = ("best.safetensors", "curves.csv", "metrics.json", "vocabulary.txt")  # equal in equal runs
KEPT = ("run.json", "provenance.json", *REPRODUCIBLE)
EVALUATION = "evaluation"  # the folder of a run's artifacts that holds its evaluation


def send_trained(run: MlflowRun, folder: Path, info: Mapping[str, Any]) -> None:
    """The outcome of a training: its numbers, its files, and digests of those an equal run would share."""
    trained = read_object(folder / "metrics.json")
    run.log_metrics({f"training/{name}": value for name, value in numbers(trained)}, info.get("best_step", 0))
    kept = [folder / name for name in KEPT if (folder / name).is_file()]
    digests = {f"sha256/{path.name}": file_digest(path) for path in kept if path.name in REPRODUCIBLE}
    there = run.tags() if run.resumed else {}
    same = {path.name for path in kept if there.get(tag := f"sha256/{path.name}", "") == digests.get(tag)}
    run.log_artifacts(kept, unchanged=same)
    run.set_tags(digests)  # after the files, so that a digest there stands for a file there


def send_evaluated(run: MlflowRun, folder: Path, step: int) -> None:
    """The outcome of an evaluation: its numbers, at the step of the parameters, and its files."""
    metrics = read_object(folder / "metrics.json")
    run.log_metrics({f"test/{name}": value for name, value in numbers(metrics)}, step)
    shown = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    run.log_artifacts([path for path in shown if path.is_file()], EVALUATION)
    for inner in (path for path in shown if path.is_dir() and any(path.iterdir())):
        run.log_artifacts([inner], f"{EVALUATION}/{inner.name}")


def import_run(folder: Path, evaluated: Path | None = None, *, uri: str | None = None) -> str:
    """Send a run recorded as files to MLflow, exactly once; returns its MLflow run id.

    The run is recognised by the id it was recorded under, or by a digest of its files, so importing it
    again adds only what is missing. ``evaluated`` is the folder of its evaluation, if there is one.

    Raises:
        DataError: a file of the run is missing or damaged.
        RecordingError: MLflow cannot be reached.
    """
    info = read_run(folder)
    try:
        rows = list(csv.DictReader((folder / "curves.csv").read_text(encoding="utf-8").splitlines()))
        corpus, system, seed = info["corpus"], info["system"], info["seed"]
        params = {**flatten(info["params"]), "seed": seed}
    except OSError as error:
        raise DataError(f"{folder / 'curves.csv'}: cannot be read: {error.strerror}") from None
    except KeyError as error:
        raise DataError(f"{folder / 'run.json'}: {error} is missing") from None
    if "num_parameters" in info:
        params["num_parameters"] = info["num_parameters"]
    imported = _digest_of(folder)
    tags = {"corpus": corpus, "system": system, "seed": str(seed), "started_by": "import"}
    tags |= {"imported": imported, "group": group_of(info), "dirty": str(bool(info.get("dirty"))).lower()}
    if reading := info["params"].get("system", {}).get("reading"):
        tags["reading"] = reading
    for key, tag in (
        ("data_hash", "data_hash"),
        ("device", "device"),
        ("code_version", "git_commit"),
        ("identity", "identity"),
    ):
        if info.get(key):
            tags[tag] = str(info[key])
    tags |= input_tags(info.get("inputs", {}))

    with one_at_a_time("import"):  # two imports at once would both find nothing
        connected = client(uri)
        with plainly():
            experiment = experiment_id(connected, experiment_name(corpus))
            recorded = info.get("mlflow_run_id")
            found = stored_run(connected, recorded) if recorded else None
            found = found or _imported(connected, experiment, imported)
        if found is None:
            run = MlflowRun.start(experiment_name(corpus), f"{system}-{seed}", params, tags, uri=uri)
        else:
            run = MlflowRun(connected, found.run_id, found.experiment_id, resumed=True)
            run.set_tags({"group": tags["group"]})
        ended = found is not None and found.status == "FINISHED"
        with contextlib.nullcontext() if ended else run:  # a run that ended keeps the time when it did
            if info.get("data_hash"):
                run.log_dataset(corpus, info["data_hash"], f"data/tokenised/{corpus}", {})
            run.log_rows(rows)
            send_trained(run, folder, info)
            if evaluated is not None:
                send_evaluated(run, evaluated, info.get("best_step", 0))
        settle(connected, run.experiment_id, tags["group"])
        save_views(connected, run.experiment_id)
    return run.run_id


def imported_as(connected: MlflowClient, folder: Path) -> str | None:
    """The id under which MLflow has a run that was imported from ``folder``; None where it has none."""
    experiment = connected.get_experiment_by_name(experiment_name(read_run(folder)["corpus"]))
    found = experiment and _imported(connected, experiment.experiment_id, _digest_of(folder))
    return str(found.run_id) if found else None


def _digest_of(folder: Path) -> str:
    """Made again, run.json and the curves come out the same; the provenance tells the two apart."""
    files = [folder / name for name in ("run.json", "provenance.json", "curves.csv")]
    return digest(*(file.read_bytes() for file in files if file.exists()))[:32]


def _imported(connected: MlflowClient, experiment: str, imported: str) -> RunInfo | None:
    found = connected.search_runs([experiment], f"tags.imported = '{imported}'", max_results=1)
    return found[0].info if found else None


def numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The finite numbers of a nested mapping, each under its path: ``responses/1/average``."""
    for name, value in flatten(values, "/").items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value)
