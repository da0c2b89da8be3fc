"""One run in MLflow: parameters, curves sent in batches, data, artifacts, tags."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from vhcr.errors import DataError
from vhcr.provenance import code_version
from vhcr.recording.store import client, experiment_id, plainly, stored_run, told, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from vhcr.training.loop import Progress

log = logging.getLogger(__name__)

BATCH = 1000  # most metrics that MLflow takes in one request
MAX_PARAMS = 100  # most parameters, or tags, that MLflow takes in one request
SEND_SECONDS = 5.0  # send no more often, except at the end of an epoch
RETRY_SECONDS = 60.0  # after a failure, leave the server alone for so long
MACHINE_SECONDS = 5.0  # between two looks at the machine; a run on the embedded corpus takes a minute or two
LARGE_BYTES = 1_000_000  # files of this size are sent once, not again when a run is recorded again

Status = Literal["FINISHED", "FAILED", "KILLED"]


def run_tags(
    *,
    corpus: str,
    system: str,
    seed: int,
    data_hash: str,
    device: str,
    inputs: Mapping[str, str] | None = None,
    root: Path | str = ".",
) -> dict[str, str]:
    """What identifies a run: commit, dirty or not, data, system, corpus, seed, device, flow run.

    ``inputs`` are the files it read, with the hashes that DVC gives them.
    """
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
    return tags | input_tags(inputs or {})


def input_tags(inputs: Mapping[str, str]) -> dict[str, str]:
    """``dvc/data/tokenised/toy/token_ids: 8a1c... .dir``: what dvc.lock says of the same files."""
    return {f"dvc/{path}": digest for path, digest in inputs.items()}


def _started_by() -> str:
    if os.environ.get("VHCR_FLOW_RUN_ID"):
        return "prefect"
    return "dvc" if os.environ.get("DVC_STAGE") or os.environ.get("DVC_ROOT") else "command"


class MlflowRun:
    """One run in MLflow; also an Observer of a training."""

    def __init__(self, connected: MlflowClient, run_id: str, experiment_id: str, *, resumed: bool) -> None:
        self._client = connected
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.resumed = resumed
        self._seen: dict[str, set[int]] = {}  # per curve, the steps that were handed to us
        self._stored: dict[str, set[int]] = {}  # and those that an earlier attempt has sent
        self._numbers: dict[str, float] | None = None if resumed else {}  # the latest of each metric
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
        attempt: str | None = None,
        system_metrics: bool = False,
        uri: str | None = None,
    ) -> MlflowRun:
        """A new run, or the run ``run_id`` again where MLflow still has it.

        ``attempt`` is a tag by which a run is found whose starter was killed before it could note the id.

        Raises:
            RecordingError: MLflow cannot be reached.
        """
        connected = client(uri)
        with plainly():
            belongs = experiment_id(connected, experiment)
            tags = {**tags, "attempt": attempt} if attempt else tags
            if attempt and not run_id:
                begun = connected.search_runs([belongs], f"tags.attempt = '{attempt}'", max_results=1)
                run_id = begun[0].info.run_id if begun else None
            stored = stored_run(connected, run_id) if run_id else None
            if stored is not None:
                connected.update_run(stored.run_id, status="RUNNING")
                run = cls(connected, stored.run_id, stored.experiment_id, resumed=True)
                run.set_tags(tags)
            else:
                if run_id:
                    log.warning("MLflow has no run %s any more; a new one takes its place", run_id)
                created = connected.create_run(belongs, tags=dict(tags), run_name=run_name).info
                run = cls(connected, created.run_id, belongs, resumed=False)
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
        """Single numbers: None is left out, and so is what MLflow has already.

        A number that has changed since (a run evaluated anew) is sent, and is then the latest.
        """
        if self._numbers is None:
            with plainly():
                self._numbers = dict(self._client.get_run(self.run_id).data.metrics)
        when = int(time.time() * 1000)
        for name, value in metrics.items():
            if value is None:
                continue
            known, number = self._numbers.get(name), float(value)
            if known == number or (known is not None and math.isnan(known) and math.isnan(number)):
                continue
            self._numbers[name] = number
            self._waiting.append((name, number, step, when))
        self.flush()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters under flat names."""
        from mlflow.entities import Param

        entities = [Param(name, str(value)) for name, value in params.items()]
        with plainly():
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
        with plainly():
            if self._client.get_run(self.run_id).inputs.dataset_inputs:
                return  # a resumed run has it already
            seen = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
            self._client.log_inputs(self.run_id, [seen])

    def log_artifacts(
        self,
        paths: Sequence[Path | str],
        folder: str | None = None,
        unchanged: Collection[str] = (),
    ) -> None:
        """Files, or whole folders, kept with the run; large ones named ``unchanged`` are not sent again.

        Raises:
            DataError: a path does not exist.
        """
        with plainly():
            for path in map(Path, paths):
                if path.is_dir():
                    self._client.log_artifacts(self.run_id, str(path), folder)
                elif path.is_file():
                    if path.name not in unchanged or path.stat().st_size < LARGE_BYTES:
                        self._client.log_artifact(self.run_id, str(path), folder)
                else:
                    raise DataError(f"{path}: no such file or folder to keep with the MLflow run")

    def tags(self) -> dict[str, str]:
        """The tags that MLflow has of this run."""
        with plainly():
            return dict(self._client.get_run(self.run_id).data.tags)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        from mlflow.entities import RunTag

        entities = [RunTag(name, value) for name, value in tags.items()]
        with plainly():
            for first in range(0, len(entities), MAX_PARAMS):
                self._client.log_batch(self.run_id, tags=entities[first : first + MAX_PARAMS])

    def flush(self) -> None:
        """Send what waits. A server that fails is tried again later, and training goes on."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        if not self._waiting or time.monotonic() < self._not_before:
            return
        while self._waiting:
            try:
                metrics = [
                    Metric(name, value, when, step)
                    for name, value, step, when in self._waiting[:BATCH]
                    if not self._is_stored(name, step)
                ]
                self._client.log_batch(self.run_id, metrics=metrics)
            except MlflowException as error:
                log.warning(
                    "MLflow did not take %d points, which are kept and sent later: %s",
                    len(self._waiting),
                    told(error),
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
            log.warning("MLflow run %s could not be closed: %s", self.run_id, told(error))
        if self._waiting:
            log.warning(
                "%d points of MLflow run %s are in the files only; send them with: "
                "vhcr import-run <folder of the run>",
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
        """Let a point of a curve wait to be sent, unless it was handed to us before."""
        seen = self._seen.setdefault(name, set())
        if step in seen:
            return
        seen.add(step)
        self._waiting.append((name, value, step, int(time.time() * 1000)))

    def _is_stored(self, name: str, step: int) -> bool:
        """Whether MLflow has this point of a curve from an earlier attempt; asked when points are sent.

        Raises:
            MlflowException: MLflow cannot be reached.
        """
        if not self.resumed or name not in self._seen:
            return False
        if name not in self._stored:
            history = self._client.get_metric_history(self.run_id, name)
            self._stored[name] = {metric.step for metric in history}
        return step in self._stored[name]

    def _watch_machine(self, uri: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(
            self.run_id,
            sampling_interval=MACHINE_SECONDS,
            resume_logging=self.resumed,
            tracking_uri=uri,
        )
        self._monitor.start()
