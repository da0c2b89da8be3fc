"""Folders whose names mean something to a reader of addresses: MLflow's own is read percent-encoded.

Registering failed there (`Logged model with ID ... not found`), a database appeared in a folder
`with%20space` outside of the project, and a run of bound 18.93 became champion while the one of 4.79 was
missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import free_port, serving
from tests.serving.test_http import ask
from tests.stages.project import ROOT
from vhcr.recording import client
from vhcr.recording.store import database_uri

NAMES = ("with space", "Übung", "a&b", "c(d)", "e+f", "g#h", "i%20j 100%")


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    client(f"sqlite:///{path}")
    return path


@pytest.fixture
def project(
    request: pytest.FixtureRequest,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    folder = tmp_path / str(request.param)
    folder.mkdir()
    shutil.copyfile(empty_database, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


# MLflow keeps a store for each address, and the address is the same in every folder: so each has its process.
PROGRAM = """
import logging, shutil
logging.basicConfig(level=logging.INFO)
from tests.registry.runs import evaluated_run
from vhcr.recording import client
from vhcr.registry import register
from vhcr.stages.resolve import resolve_run
from vhcr.provenance import read_run
worse, better = evaluated_run("toy", 0, nll=6.0), evaluated_run("toy", 1, nll=4.0)
assert register(*worse).is_champion
entered = register(*better)
assert entered.is_champion, entered.reason
assert client().get_model_version_by_alias("vhcr-toy", "champion").run_id == entered.run_id
shutil.rmtree("data")
assert read_run(resolve_run("models:/vhcr-toy@champion"))["seed"] == 1
"""


def run_there(project: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "setup plugin" not in done.stderr, "alembic tells what only its makers want to know"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("project", NAMES, indirect=True)
def test_the_better_run_is_champion_in_a_folder_of_any_name(project: Path) -> None:
    run_there(project)
    assert len(list((project / "mlruns" / "vhcr-toy").glob("*/artifacts/run.json"))) == 2
    assert [path.name for path in project.parent.iterdir()] == [project.name]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("project", ["a #ü&(b)+ 100%"], indirect=True)
def test_a_champion_is_served_in_a_folder_of_another_name(project: Path, tmp_path: Path) -> None:
    run_there(project)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/vhcr-toy@champion",
        "--env-manager", "local", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": database_uri(project),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    with serving(command, f"{address}/health", project / "serve.log", cwd=project, env=environment):
        status, answer = ask(address, {"inputs": [{"context": ["hello"]}]})
        assert status == 200, answer
    assert [path.name for path in tmp_path.iterdir()] == [project.name]
