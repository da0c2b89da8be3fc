"""A trained run by folder, by name, by MLflow run id and by registry alias."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.generation.runs import trained_run
from vhcr import recording
from vhcr.errors import CheckpointError
from vhcr.recording import MlflowRun
from vhcr.stages import resolve
from vhcr.stages.resolve import resolve_run
from vhcr.training.run import TrainedRun

ID = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def test_folder_name_and_run_json_are_the_same_run() -> None:
    folder = trained_run(Path())
    for reference in (str(folder), f"{folder}/run.json", "invented/vhcr-ud/0", str(folder.resolve())):
        assert resolve_run(reference).resolve() == folder.resolve()


def test_an_mlflow_run_that_lies_here_is_found_without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VHCR_MLFLOW", "off")
    trained_run(Path(), seed=0, mlflow_run_id="f" * 32)
    folder = trained_run(Path(), seed=1, mlflow_run_id=ID)
    damaged = trained_run(Path(), seed=2)
    (damaged / "run.json").write_text("{", encoding="utf-8")
    assert resolve_run(ID) == folder
    with pytest.raises(CheckpointError, match="switched off"):
        resolve_run("e" * 32)


def test_unknown_names_are_answered_with_those_there_are() -> None:
    with pytest.raises(CheckpointError, match=r"toy/vhcr/0: no such trained run.*none in data/trained yet"):
        resolve_run("toy/vhcr/0")
    trained_run(Path())
    with pytest.raises(CheckpointError, match="one of: invented/vhcr-ud/0"):
        resolve_run("toy/vhcr/0")


def test_runs_that_lie_elsewhere_are_fetched_once(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By id and by alias; the second time nothing is asked of MLflow. A model kept here is not fetched."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    elsewhere = trained_run(tmp_path / "elsewhere")
    client = recording.client()
    experiment = client.create_experiment("elsewhere", artifact_location=(tmp_path / "kept").as_uri())
    assert experiment
    with MlflowRun.start("elsewhere", "a", {}, {}) as run:
        run.log_artifacts([elsewhere / name for name in resolve.NEEDED])
    with MlflowRun.start("elsewhere", "b", {}, {}) as empty:
        pass
    client.create_registered_model("speaker")
    version = client.create_model_version("speaker", f"runs:/{run.run_id}/", run_id=run.run_id)
    client.set_registered_model_alias("speaker", "champion", version.version)

    fetched = resolve_run(run.run_id)
    assert TrainedRun.load(fetched).vocabulary == TrainedRun.load(elsewhere).vocabulary
    assert sorted(path.name for path in fetched.iterdir()) == sorted(resolve.NEEDED)
    assert [path.name for path in fetched.parent.iterdir()] == [run.run_id], "no half-fetched folder is left"
    assert resolve_run("models:/speaker@champion") == fetched
    assert resolve_run(f"models:/speaker/{version.version}") == fetched
    monkeypatch.setattr(resolve, "_client", lambda: pytest.fail("MLflow was asked again"))
    assert resolve_run(run.run_id) == fetched
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)

    here = trained_run(Path(), mlflow_run_id=run.run_id)
    assert resolve_run("models:/speaker@champion") == here
    with pytest.raises(CheckpointError, match=r"keeps no run\.json, vocabulary\.txt, best\.safetensors"):
        resolve_run(empty.run_id)
    with pytest.raises(CheckpointError, match="cannot be fetched"):
        resolve_run("e" * 32)
    for reference, message in {
        "models:/speaker@nobody": "nobody",
        "models:/nobody/1": "nobody",
        "models:/speaker": "not a registered model; write",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            resolve_run(reference)


def test_what_the_registry_says_of_a_failure_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow repeats the address that could not be reached; the user name and password stood in it."""
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:secret@host/")

    class Unreachable:
        def get_model_version_by_alias(self, *_: str) -> None:
            raise MlflowException("API request to https://ann:secret@host/api/2.0/x failed")

    monkeypatch.setattr(recording, "client", Unreachable)
    with pytest.raises(CheckpointError, match=r"API request to https://host/api/2\.0/x failed"):
        resolve_run("models:/speaker@champion")


class Kept:
    """MLflow as far as fetching asks it: a run with all its files, each of them saying "mine"."""

    def list_artifacts(self, _: str, path: str = "") -> list[SimpleNamespace]:
        names = ("metrics.json",) if path else resolve.NEEDED
        return [SimpleNamespace(path=name) for name in names]

    def download_artifacts(self, _: str, name: str, target: str) -> str:
        made = Path(target) / name
        if name == resolve.EVALUATION:
            made.mkdir()
            (made / "metrics.json").write_text("mine", encoding="utf-8")
        else:
            made.write_text("mine", encoding="utf-8")
        return str(made)


def test_of_two_processes_that_fetch_a_run_the_second_takes_what_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both found no folder and downloaded; the second then could not rename its own onto a filled one.

    Nor may it remove that: the first may be reading it by now.
    """
    monkeypatch.setattr(resolve, "_client", Kept)
    folder = resolve.WORK / "fetched" / ID
    evaluation = folder / resolve.EVALUATION
    rename = Path.rename

    def outrun(path: Path, target: Path) -> Path:
        if target in (folder, evaluation):
            target.mkdir(parents=True)
            for name in ("run.json", "metrics.json"):
                (target / name).write_text("theirs", encoding="utf-8")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", outrun)
    assert resolve_run(ID) == folder
    assert (folder / "run.json").read_text(encoding="utf-8") == "theirs"
    resolve._fetch_evaluation(ID, evaluation)
    assert (evaluation / "metrics.json").read_text(encoding="utf-8") == "theirs"
    assert [path.name for path in folder.parent.iterdir()] == [ID]
    assert not list(folder.glob(".*")), "no half-fetched folder is left"


def test_what_is_left_of_a_fetched_run_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "_client", Kept)
    folder = resolve.WORK / "fetched" / ID
    folder.mkdir(parents=True)
    (folder / "curves.csv").touch()
    assert sorted(path.name for path in resolve_run(ID).iterdir()) == sorted(resolve.NEEDED)
    assert [path.name for path in folder.parent.iterdir()] == [ID]
