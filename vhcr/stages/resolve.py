"""Which folder a trained run lies in, named by folder, by MLflow run id or by registry alias."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vhcr.errors import CheckpointError, DataError, StorageError
from vhcr.files import atomic_folder
from vhcr.layout import DATA, WORK
from vhcr.provenance import read_run
from vhcr.recording.files import EVALUATION
from vhcr.recording.store import told

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_ID = re.compile(r"[0-9a-f]{32}")
MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
NEEDED = ("run.json", "vocabulary.txt", "best.safetensors")
WELCOME = ("provenance.json", "curves.csv", "metrics.json")  # fetched where they are kept


def trained_runs() -> dict[str, Path]:
    """Every trained run in the project: ``corpus/system/seed`` -> its folder."""
    folders = sorted(path.parent for path in (DATA / "trained").glob("*/*/*/run.json"))
    return {"/".join(folder.parts[-3:]): folder for folder in folders}


def resolve_run(reference: str) -> Path:
    """The folder of a trained run, fetched from MLflow where it does not lie here.

    ``reference`` is a folder; ``corpus/system/seed``; the id of an MLflow run (32 hexadecimal digits); or a
    registered model, ``models:/<name>@<alias>`` or ``models:/<name>/<version>``. What is fetched is kept
    under ``.work/fetched``.

    Raises:
        CheckpointError: there is no such run; the message names those there are.
        RecordingError: MLflow cannot be reached.
    """
    runs = trained_runs()
    folder = Path(reference)
    if folder.name == "run.json":
        folder = folder.parent
    if any((folder / name).is_file() for name in ("run.json", "config.json")):  # of the Hub's form the latter
        return folder
    if reference in runs:
        return runs[reference]
    if RUN_ID.fullmatch(reference):
        return _recorded_here(reference, runs) or _fetched(reference)
    if reference.startswith("models:"):
        run_id = _registered(reference)
        return _recorded_here(run_id, runs) or _fetched(run_id)
    known = ", ".join(runs) if runs else f"none in {DATA / 'trained'} yet"
    raise CheckpointError(
        f"{reference}: no such trained run; give a folder, an MLflow run id, models:/<name>@<alias>, "
        f"or one of: {known}"
    )


def fetched_run_id(folder: Path) -> str | None:
    """The MLflow run that was fetched to ``folder``; None where the folder is a run's own."""
    return folder.name if folder.parent == WORK / "fetched" else None


def evaluation_of(folder: Path) -> Path:
    """Where the evaluation of a trained run lies: beside it in the project, or fetched as MLflow has it now.

    Raises:
        DataError: it was not evaluated, or the folder is of neither kind.
        CheckpointError: it cannot be fetched.
    """
    fetched = folder / EVALUATION
    if (run_id := fetched_run_id(folder)) is not None:
        _fetch_evaluation(run_id, fetched)
    beside = folder.resolve()
    if len(beside.parts) > 4 and beside.parts[-4] == "trained":
        found = beside.parents[3].joinpath("evaluated", *beside.parts[-3:])
        beside = found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found
    for place in (fetched, beside):
        if (place / "metrics.json").is_file() and (place / "conversations.parquet").is_file():
            return place
    raise DataError(f"{folder}: no evaluation of this run lies in {beside} (dvc repro makes it)")


def resolve_results(reference: str) -> list[tuple[str, Path, Path]]:
    """(name, folder of the run, folder of its evaluation) of each run that ``reference`` names.

    As ``resolve_run``; a folder stands for all runs in and below it too.

    Raises:
        CheckpointError: there is no such run.
        DataError: a run was not evaluated.
        RecordingError: MLflow cannot be reached.
    """
    folder = Path(reference)
    below = sorted(path.parent for path in folder.rglob("run.json")) if folder.is_dir() else []
    if below:
        return [(str(each), each, evaluation_of(each)) for each in below]
    found = resolve_run(reference)
    return [(reference, found, evaluation_of(found))]


def _recorded_here(run_id: str, runs: dict[str, Path]) -> Path | None:
    """The folder that says it is MLflow run ``run_id``."""
    for folder in runs.values():
        try:
            info = read_run(folder)
        except DataError:
            continue  # damaged: whoever loads it will be told, but it is not what was asked for
        if info.get("mlflow_run_id") == run_id:
            return folder
    return None


def _registered(reference: str) -> str:
    """The MLflow run that a registered model version came from."""
    parts = MODEL.fullmatch(reference)
    if parts is None:
        raise CheckpointError(
            f"{reference}: not a registered model; write models:/<name>@<alias> or models:/<name>/<version>"
        )
    client = _client()
    from mlflow.exceptions import MlflowException

    try:
        if parts["alias"]:
            version = client.get_model_version_by_alias(parts["name"], parts["alias"])
        else:
            version = client.get_model_version(parts["name"], parts["version"])
    except MlflowException as error:
        raise CheckpointError(f"{reference}: {told(error)}") from None
    if not version.run_id:
        raise CheckpointError(f"{reference}: version {version.version} does not say which run it came from")
    return str(version.run_id)


def _fetched(run_id: str) -> Path:
    """The files of a run that MLflow keeps, copied here once; a model never changes."""
    folder = WORK / "fetched" / run_id
    if (folder / "run.json").is_file():
        return folder
    with _fetching(run_id, folder, anew=False) as (client, temporary):
        kept = {Path(file.path).name for file in client.list_artifacts(run_id)}
        missing = [name for name in NEEDED if name not in kept]
        if missing:
            raise CheckpointError(f"MLflow run {run_id} keeps no {', '.join(missing)}: nothing to load")
        for name in (*NEEDED, *(name for name in WELCOME if name in kept)):
            client.download_artifacts(run_id, name, str(temporary))
    return folder


def _fetch_evaluation(run_id: str, folder: Path) -> None:
    """The evaluation of a run, copied here each time it is asked for: it may be made anew."""
    with _fetching(run_id, folder, anew=True) as (client, temporary):
        if client.list_artifacts(run_id, EVALUATION):
            inner = Path(client.download_artifacts(run_id, EVALUATION, str(temporary)))
            for file in inner.iterdir():
                file.rename(temporary / file.name)
            inner.rmdir()


@contextlib.contextmanager
def _fetching(run_id: str, folder: Path, *, anew: bool) -> Iterator[tuple[MlflowClient, Path]]:
    """MLflow's client, and a folder to fill that becomes ``folder`` where nothing went wrong."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = _client()
    from mlflow.exceptions import MlflowException

    try:
        with atomic_folder(folder, keep=None if anew else _is_run) as temporary:
            yield client, temporary
    except (MlflowException, OSError, StorageError) as error:
        raise CheckpointError(
            f"MLflow run {run_id} does not lie in {DATA / 'trained'}, and cannot be fetched: {told(error)}"
        ) from None


def _is_run(folder: Path) -> bool:
    return (folder / "run.json").is_file()


def _client() -> MlflowClient:
    from vhcr import recording

    if not recording.available():
        raise CheckpointError("MLflow is not installed, or switched off: name the run by its folder")
    return recording.client()
