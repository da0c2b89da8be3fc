"""Where a run's numbers go: files always (the stages write those), MLflow where it is.

    run = MlflowRun.start("vhcr-toy", "vhcr-ud-0", params=flat(...), tags=run_tags(...), run_id=earlier)
    with run:                       # marks the run finished, killed or failed
        fit(..., observers=[run])   # curves, sent in batches
        run.log_metrics({"validation/best_nll_per_word": 3.2}, step=900)

A run is resumed by its id, and no point is ever stored twice: a step that is already there is skipped, so
the rows that training repeats after a crash leave no trace. MLflow failing in the middle of a training
stops nothing; what it missed is sent again later, or by ``import_run`` from the files.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import importlib.util
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from vhcr.errors import DataError, VhcrError
from vhcr.layout import WORK, read_json
from vhcr.provenance import code_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import RunInfo

    from vhcr.training.loop import Progress

log = logging.getLogger(__name__)

DATABASE = "mlflow.db"  # in the project root, unless MLFLOW_TRACKING_URI names another store
DEFAULT_PAGES = "http://127.0.0.1:5000"  # where `make mlflow` shows them
BATCH = 1000  # most metrics that MLflow takes in one request
MAX_PARAMS = 100  # most parameters that MLflow takes in one request
SEND_SECONDS = 5.0  # send no more often, except at the end of an epoch
RETRY_SECONDS = 60.0  # after a failure, leave the server alone for so long

Status = Literal["FINISHED", "FAILED", "KILLED"]


class RecordingError(VhcrError):
    """MLflow cannot be reached, or refused."""


def available() -> bool:
    """Whether runs can be sent to MLflow: it is installed, and VHCR_MLFLOW is not "off"."""
    return os.environ.get("VHCR_MLFLOW") != "off" and importlib.util.find_spec("mlflow") is not None


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or mlflow.db in the project root (which is the working directory)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(DATABASE).resolve()}"


def experiment_name(corpus: str) -> str:
    """Under which runs on ``corpus`` are kept."""
    return f"vhcr-{corpus}"


def run_tags(
    *, corpus: str, system: str, seed: int, data_hash: str, device: str, root: Path | str = "."
) -> dict[str, str]:
    """What identifies a run: commit, dirty or not, data, system, corpus, seed, device, flow run."""
    commit, dirty = code_version(root)
    tags = {
        "corpus": corpus,
        "system": system,
        "seed": str(seed),
        "device": device,
        "data_hash": data_hash,
        "dirty": str(dirty).lower(),
        "started_by": _started_by(),
    }
    if commit:
        tags |= {"git_commit": commit, "mlflow.source.git.commit": commit}
    if flow_run := os.environ.get("VHCR_FLOW_RUN_ID"):
        tags["flow_run_id"] = flow_run
    if stage := os.environ.get("DVC_STAGE"):
        tags["dvc_stage"] = stage
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc_experiment"] = experiment
    return tags


def _started_by() -> str:
    if os.environ.get("VHCR_FLOW_RUN_ID"):
        return "prefect"
    return "dvc" if os.environ.get("DVC_STAGE") or os.environ.get("DVC_ROOT") else "command"


def client(uri: str | None = None) -> MlflowClient:
    """A client of the tracking server; a new SQLite database is created first, by one process at a time.

    Raises:
        RecordingError: MLflow cannot be reached.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # the default waits for minutes
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = uri or tracking_uri()
    path = _sqlite_path(uri)
    try:
        if path is None:
            connected = MlflowClient(uri)
            connected.search_experiments(max_results=1)
            return connected
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that both find no tables would both create them, and one of them fails.
        with locked(path.with_name(path.name + ".lock")):
            connected = MlflowClient(uri)
            connected.search_experiments(max_results=1)
            return connected
    except MlflowException as error:
        shown = _without_password(uri)
        raise RecordingError(f"MLflow at {shown}: {str(error).replace(uri, shown)}") from None


def _sqlite_path(uri: str) -> Path | None:
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix).split("?")[0]) if uri.startswith(prefix) else None


def store_exists() -> bool:
    """Whether anything can have been recorded: false while the local database is not there."""
    path = _sqlite_path(tracking_uri())
    return path is None or path.exists()


def _without_password(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if separator else uri


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``path`` as a lock among processes; it is free again when the holder ends, however it ends."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class MlflowRun:
    """One run in MLflow; also an Observer of a training."""

    def __init__(self, connected: MlflowClient, run_id: str, experiment_id: str, *, resumed: bool) -> None:
        self._client = connected
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.resumed = resumed
        self._seen: dict[str, set[int]] = {}  # per metric, the steps that are stored or waiting
        self._waiting: list[tuple[str, float, int, int]] = []  # metric, value, step, milliseconds
        self._sent = time.monotonic()
        self._not_before = 0.0
        self._monitor: Any = None

    @classmethod
    def start(
        cls,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        run_id: str | None = None,
        *,
        system_metrics: bool = False,
        uri: str | None = None,
    ) -> MlflowRun:
        """A new run, or the run ``run_id`` again where MLflow still has it.

        Raises:
            RecordingError: MLflow cannot be reached.
        """
        connected = client(uri)
        with _plainly():
            experiment_id = _experiment_id(connected, experiment)
            stored = _stored_run(connected, run_id) if run_id else None
            if stored is not None:
                connected.update_run(stored.run_id, status="RUNNING")
                run = cls(connected, stored.run_id, stored.experiment_id, resumed=True)
                run.set_tags(tags)
            else:
                if run_id:
                    log.warning("MLflow has no run %s any more; a new one takes its place", run_id)
                created = connected.create_run(experiment_id, tags=dict(tags), run_name=run_name).info
                run = cls(connected, created.run_id, experiment_id, resumed=False)
                run.log_params(params)
        if system_metrics:
            run._watch_machine(uri or tracking_uri())
        return run

    # What a training reports (the Observer of vhcr.training.loop)

    def recorded(self, rows: Sequence[Mapping[str, float | int | str]], words_per_second: float) -> None:
        """New rows of the curves; sent at the end of an epoch, or every few seconds."""
        self._wait_to_send(rows)
        trained = [row for row in rows if row["split"] == "train"]
        if trained:
            self._add("train/words_per_second", words_per_second, int(trained[-1]["step"]))
        epoch_ends = len(trained) < len(rows)
        if epoch_ends or time.monotonic() - self._sent > SEND_SECONDS:
            self.flush()

    def progress(self, progress: Progress) -> None:
        """Nothing: the curves say it."""

    # What a stage logs

    def log_rows(self, rows: Sequence[Mapping[str, float | int | str]]) -> None:
        """Rows of curves.csv as metrics ``<split>/<column>`` over the optimiser's steps, sent at once."""
        self._wait_to_send(rows)
        self.flush()

    def log_metrics(self, metrics: Mapping[str, float | int | None], step: int = 0) -> None:
        """Single numbers; those that are None are left out."""
        for name, value in metrics.items():
            if value is not None:
                self._add(name, float(value), step)
        self.flush()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters under flat names."""
        from mlflow.entities import Param

        entities = [Param(name, str(value)) for name, value in params.items()]
        with _plainly():
            for first in range(0, len(entities), MAX_PARAMS):
                self._client.log_batch(self.run_id, params=entities[first : first + MAX_PARAMS])

    def log_dataset(self, name: str, data_hash: str, source: str, profile: Mapping[str, Any]) -> None:
        """The data the run saw, as MLflow's dataset entity; its digest is ours."""
        import json

        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=data_hash[:36],  # MLflow's column is that wide
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps(dict(profile)),
        )
        with _plainly():
            if self._client.get_run(self.run_id).inputs.dataset_inputs:
                return  # a resumed run has it already
            seen = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
            self._client.log_inputs(self.run_id, [seen])

    def log_artifacts(self, paths: Sequence[Path | str], folder: str | None = None) -> None:
        """Files, or whole folders, kept with the run.

        Raises:
            DataError: a path does not exist.
        """
        with _plainly():
            for path in map(Path, paths):
                if path.is_dir():
                    self._client.log_artifacts(self.run_id, str(path), folder)
                elif path.is_file():
                    self._client.log_artifact(self.run_id, str(path), folder)
                else:
                    raise DataError(f"{path}: no such file or folder to keep with the MLflow run")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        from mlflow.entities import RunTag

        with _plainly():
            self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def flush(self) -> None:
        """Send what waits. A server that fails is tried again later, and training goes on."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        if not self._waiting or time.monotonic() < self._not_before:
            return
        while self._waiting:
            part = self._waiting[:BATCH]
            metrics = [Metric(name, value, when, step) for name, value, step, when in part]
            try:
                self._client.log_batch(self.run_id, metrics=metrics)
            except MlflowException as error:
                log.warning(
                    "MLflow did not take %d points, which are kept and sent later: %s",
                    len(self._waiting),
                    error,
                )
                self._not_before = time.monotonic() + RETRY_SECONDS
                return
            del self._waiting[:BATCH]
        self._sent = time.monotonic()

    def finish(self, status: Status = "FINISHED") -> None:
        """Send the rest and close the run. What MLflow cannot take now, ``import_run`` can send later."""
        from mlflow.exceptions import MlflowException

        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        self._not_before = 0.0
        self.flush()
        try:
            self._client.set_terminated(self.run_id, status)
        except MlflowException as error:
            log.warning("MLflow run %s could not be closed: %s", self.run_id, error)
        if self._waiting:
            log.warning(
                "%d points of MLflow run %s are in the files only; send them with: "
                "python -m vhcr.recording import <folder of the run>",
                len(self._waiting),
                self.run_id,
            )

    def __enter__(self) -> MlflowRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
            return
        from vhcr.training.loop import Interrupted

        stopped = issubclass(kind, Interrupted) or not issubclass(kind, Exception)
        self.finish("KILLED" if stopped else "FAILED")

    def _wait_to_send(self, rows: Sequence[Mapping[str, float | int | str]]) -> None:
        for row in rows:
            step = int(row["step"])
            for column, value in row.items():
                if column in ("step", "split") or value == "":
                    continue
                self._add(f"{row['split']}/{column}", float(value), step)

    def _add(self, name: str, value: float, step: int) -> None:
        """Let a point wait to be sent, unless that step of that metric is known already."""
        if name not in self._seen:
            self._seen[name] = self._stored_steps(name) if self.resumed else set()
        if step in self._seen[name]:
            return
        self._seen[name].add(step)
        self._waiting.append((name, value, step, int(time.time() * 1000)))

    def _stored_steps(self, name: str) -> set[int]:
        return {metric.step for metric in self._client.get_metric_history(self.run_id, name)}

    def _watch_machine(self, uri: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(self.run_id, resume_logging=self.resumed, tracking_uri=uri)
        self._monitor.start()


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """MLflow's refusals as errors of ours."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise RecordingError(f"MLflow: {error}") from None


def _stored_run(connected: MlflowClient, run_id: str) -> RunInfo | None:
    """What MLflow knows of a run, or None where it has no such run or it was deleted."""
    from mlflow.entities import LifecycleStage
    from mlflow.exceptions import MlflowException

    try:
        info = connected.get_run(run_id).info
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return info if info.lifecycle_stage == LifecycleStage.ACTIVE else None


def _experiment_id(connected: MlflowClient, name: str) -> str:
    """The experiment ``name``, created where it is missing; another process may do so at the same time."""
    from mlflow.entities import LifecycleStage
    from mlflow.exceptions import MlflowException

    found = connected.get_experiment_by_name(name)
    if found is None:
        try:
            return str(connected.create_experiment(name))
        except MlflowException as error:
            found = connected.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    if found.lifecycle_stage != LifecycleStage.ACTIVE:
        connected.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def pages_url() -> str:
    """Where MLflow's pages are: the tracking server itself, or the address `make mlflow` uses."""
    uri = tracking_uri()
    return uri.rstrip("/") if uri.startswith(("http://", "https://")) else DEFAULT_PAGES


def experiment_url(experiment_id: str) -> str:
    """A link that opens an experiment's runs (MLflow would open in its GenAI view)."""
    return f"{pages_url()}/#/experiments/{experiment_id}?workflowType=machine_learning"


def run_url(experiment_id: str, run_id: str) -> str:
    """A link that opens one run."""
    return f"{pages_url()}/#/experiments/{experiment_id}/runs/{run_id}"


def import_run(folder: Path, evaluated: Path | None = None, *, uri: str | None = None) -> str:
    """Send a run recorded as files to MLflow, exactly once; returns its MLflow run id.

    The run is recognised by a digest of its files, or by the id it was recorded under, so importing it
    again adds only what is missing. ``evaluated`` is the folder of its evaluation, if there is one.

    Raises:
        DataError: a file of the run is missing or damaged.
        RecordingError: MLflow cannot be reached.
    """
    info = read_json(folder / "run.json")
    try:
        rows = list(csv.DictReader((folder / "curves.csv").read_text(encoding="utf-8").splitlines()))
        corpus, system, seed = info["corpus"], info["system"], info["seed"]
        params = dict(_flat(info["params"]))
    except OSError as error:
        raise DataError(f"{folder / 'curves.csv'}: cannot be read: {error.strerror}") from None
    except KeyError as error:
        raise DataError(f"{folder / 'run.json'}: {error} is missing") from None
    digest = hashlib.sha256((folder / "run.json").read_bytes() + (folder / "curves.csv").read_bytes())
    imported = {"imported": digest.hexdigest()[:32]}
    tags = imported | {"corpus": corpus, "system": system, "seed": str(seed), "started_by": "import"}
    tags |= {"dirty": str(bool(info.get("dirty"))).lower()}
    for key, tag in (("data_hash", "data_hash"), ("device", "device"), ("code_version", "git_commit")):
        if info.get(key):
            tags[tag] = str(info[key])

    # Two imports at once would both find nothing.
    with locked(WORK / "import.lock"):
        connected = client(uri)
        experiment = experiment_name(corpus)
        with _plainly():
            found = connected.search_runs(
                [_experiment_id(connected, experiment)],
                filter_string=f"tags.imported = '{imported['imported']}'",
                max_results=1,
            )
            earlier = found[0].info.run_id if found else info.get("mlflow_run_id")
            known = bool(earlier) and _stored_run(connected, earlier) is not None
        run = MlflowRun.start(
            experiment,
            f"{system}-{seed}",
            params,
            imported if known else tags,
            earlier if known else None,
            uri=uri,
        )
        with run:
            run.log_rows(rows)
            best = int(info.get("best_step", 0))
            trained = read_json(folder / "metrics.json")
            run.log_metrics({f"training/{name}": value for name, value in _numbers(trained)}, best)
            if evaluated is not None:
                metrics = read_json(evaluated / "metrics.json")
                run.log_metrics({f"test/{name}": value for name, value in _numbers(metrics)}, best)
    return run.run_id


def _flat(values: Mapping[str, Any], separator: str = ".", prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, separator, f"{prefix}{key}{separator}")
        else:
            yield f"{prefix}{key}", value


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The finite numbers of a nested mapping, named as the evaluate stage names them."""
    for name, value in _flat(values, "/"):
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value)


def main(argv: Sequence[str] | None = None) -> None:
    """Create the database, or import runs that were recorded as files."""
    parser = argparse.ArgumentParser(prog="python -m vhcr.recording", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("create-database", help="create MLflow's database if it is missing")
    importing = commands.add_parser("import", help="send a run recorded as files to MLflow, exactly once")
    importing.add_argument("folder", type=Path, help="data/trained/<corpus>/<system>/<seed>")
    importing.add_argument("--evaluated", type=Path, help="data/evaluated/<corpus>/<system>/<seed>")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "import":
            print(import_run(arguments.folder, arguments.evaluated))
        else:
            client()
    except VhcrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
