"""Which MLflow holds the records, and where its pages are."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vhcr.errors import StorageError, VhcrError
from vhcr.files import atomic, locked
from vhcr.layout import WORK, project_root

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import RunInfo

log = logging.getLogger(__name__)

DATABASE = "mlflow.db"  # in the project root, unless MLFLOW_TRACKING_URI names another store
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._~-]+")  # means the same percent-encoded
# What MLflow's pages call model training. Pages with a switch between that and GenAI (3.17) go by the switch.
KIND = {"mlflow.experimentKind": "custom_model_development"}
DEFAULT_PAGES = "http://127.0.0.1:5000"  # where `make mlflow` shows them, unless VHCR_MLFLOW_PAGES says where


class RecordingError(VhcrError):
    """MLflow cannot be reached, or refused."""


def available() -> bool:
    """Whether runs can be sent to MLflow: it is installed, and VHCR_MLFLOW is not "off"."""
    return os.environ.get("VHCR_MLFLOW") != "off" and importlib.util.find_spec("mlflow") is not None


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or mlflow.db in the project root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or database_uri(Path.cwd())


def database_uri(seen_from: Path, root: Path | None = None) -> str:
    """The address of the project's database, for a process that works in ``seen_from``.

    MLflow reads an address percent-encoded: a folder with a space, an umlaut or one of ``&()+#%`` in its name
    becomes another one. There the address is relative, and so has no such name in it.
    """
    path = (root or project_root()) / DATABASE
    plain = PLAIN_PATH.fullmatch(str(path))
    return f"sqlite:///{path if plain else os.path.relpath(path, seen_from)}"


def experiment_name(corpus: str) -> str:
    """Under which runs on ``corpus`` are kept, and the name of its registered model."""
    return f"vhcr-{corpus}"


def client(uri: str | None = None) -> MlflowClient:
    """A client of the tracking server; a new SQLite database is created first, by one process at a time.

    Raises:
        RecordingError: MLflow cannot be reached, or its database is damaged.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # the default waits for minutes
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    # After MLflow, which sets levels itself; before alembic, which tells of each plugin that it imports.
    for name in ("mlflow.store.db.utils", "alembic", "mlflow.system_metrics"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from alembic.util import CommandError
    from sqlalchemy.exc import SQLAlchemyError

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
            if not path.exists() or path.stat().st_size == 0:
                _create(path)
            connected = MlflowClient(uri)
            connected.search_experiments(max_results=1)
            return connected
    except MlflowException as error:
        if path is not None and "schema" in str(error):
            raise RecordingError(_damaged(path, error)) from None
        raise RecordingError(f"MLflow at {without_password(uri)}: {told(error, uri)}") from None
    except (SQLAlchemyError, CommandError) as error:
        if path is None:
            raise
        raise RecordingError(_damaged(path, error)) from None
    except StorageError as error:
        raise RecordingError(str(error)) from None


def _create(path: Path) -> None:
    """Make the tables in a file of another name: a process that is killed leaves no half of them behind."""
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    with atomic(path, flush=True) as temporary:
        engine = create_sqlalchemy_engine(f"sqlite:///{temporary}")
        _initialize_tables(engine)  # what MLflow's own store calls on a new database
        engine.dispose()


def _damaged(path: Path, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"{path}: MLflow cannot open this database: {reason}. If an older MLflow made it, bring it up "
        f"to date: mlflow db upgrade sqlite:///{path.name}. If its making was cut short, set it aside: "
        f"mv {path.name} {path.name}.damaged; a new one is made, and vhcr import-run sends runs to it again"
    )


def _sqlite_path(uri: str) -> Path | None:
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix).split("?")[0]) if uri.startswith(prefix) else None


def store_exists() -> bool:
    """Whether anything can have been recorded: false while the local database is not there."""
    path = _sqlite_path(tracking_uri())
    return path is None or path.exists()


def without_password(uri: str) -> str:
    """An address as it may be shown: without user name and password."""
    scheme, separator, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}" if separator else uri


def told(error: Exception, uri: str | None = None) -> str:
    """What MLflow says of an error, without the password in the address that it repeats.

    Of a server that does not answer it says what urllib3 says, half a page; the reason at its end is kept.
    """
    text = str(error)
    if "Max retries exceeded" in text:
        reason = text.rpartition(": ")[2].strip("()'\"")
        return f"no answer ({reason})"
    uri = (uri or tracking_uri()).rstrip("/")
    return text.replace(uri, without_password(uri))


@contextlib.contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Among the processes of this project: look in MLflow, then change what was found."""
    with locked(WORK / f"mlflow-{what}.lock"):
        yield


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """MLflow's refusals as errors of ours; files that cannot be sent or kept among them."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise RecordingError(f"MLflow: {told(error)}") from None


@contextlib.contextmanager
def or_later(advice: str) -> Iterator[None]:
    """Go on without MLflow: files hold all results, and ``advice`` says how they are sent later."""
    try:
        yield
    except RecordingError as error:
        log.warning("%s\nThe files are complete; send them to MLflow later with: %s", error, advice)


def stored_run(connected: MlflowClient, run_id: str) -> RunInfo | None:
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


def experiment_id(connected: MlflowClient, name: str) -> str:
    """The experiment ``name``, created where it is missing; another process may do so at the same time."""
    from mlflow.entities import LifecycleStage
    from mlflow.exceptions import MlflowException

    found = connected.get_experiment_by_name(name)
    if found is None:
        try:
            return str(connected.create_experiment(name, artifact_location=_artifacts(name), tags=KIND))
        except MlflowException as error:
            found = connected.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    if found.lifecycle_stage != LifecycleStage.ACTIVE:
        log.warning(
            "MLflow experiment %s was deleted; it is restored with the runs that it had, since its name is "
            "taken. For an empty one, remove it for good first: mlflow gc --experiment-ids %s",
            name,
            found.experiment_id,
        )
        connected.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _artifacts(name: str) -> str | None:
    """Where a new experiment keeps its files, or None: the server decides.

    A store that is a file would take a folder under the working directory, which may be a copy of the
    project that DVC will delete; and it reads a path percent-encoded, so it is given an address.
    """
    local = _sqlite_path(tracking_uri()) is not None
    return (project_root() / "mlruns" / name).as_uri() if local else None


@contextlib.contextmanager
def as_default() -> Iterator[None]:
    """Our address as MLflow's own, for the parts of it that take none.

    Its default is the same file, but percent-encoded: in a folder with a space it is another one.
    """
    missing = "MLFLOW_TRACKING_URI" not in os.environ
    os.environ.setdefault("MLFLOW_TRACKING_URI", tracking_uri())
    try:
        yield
    finally:
        if missing:
            del os.environ["MLFLOW_TRACKING_URI"]


def pages_url() -> str:
    """Where MLflow's pages are: the tracking server itself, or the address `make mlflow` uses."""
    uri = tracking_uri()
    if not uri.startswith(("http://", "https://")):
        uri = os.environ.get("VHCR_MLFLOW_PAGES") or DEFAULT_PAGES
    return without_password(uri).rstrip("/")


def experiment_url(experiment_id: str) -> str:
    """A link that opens an experiment's runs (MLflow would open in its GenAI view)."""
    return f"{pages_url()}/#/experiments/{experiment_id}?workflowType=machine_learning"


def run_url(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """A link that opens one run, or a file that is kept with it."""
    file = f"/artifacts/{artifact}" if artifact else ""
    return f"{pages_url()}/#/experiments/{experiment_id}/runs/{run_id}{file}?workflowType=machine_learning"
