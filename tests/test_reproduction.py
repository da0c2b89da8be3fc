"""`vhcr reproduce`: the same bits from the record alone, or plain words on why not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.stages import project
from tests.stages.test_evaluate import write_vectors
from tests.test_provenance import git
from vhcr import layout, reproduction
from vhcr.errors import DataError
from vhcr.files import file_digest, write_json, write_text
from vhcr.provenance import dvc_hash, machine, read_run, versions
from vhcr.reproduction import Outcome, Recorded, ReproductionError, obstacles, reproduce

NUMBERS = '{"num_steps": 4, "best_validation": {"nll_per_word": 3.5}}'


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """A run recorded a moment ago in a repository of its own, with nothing in the way of making it again."""
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")
    write_text(Path("data/tokenised/toy/manifest.json"), "{}")
    return recorded()


def recorded(**changes: Any) -> Recorded:
    folder = layout.trained("toy", "vhcr", 0)
    data = Path("data/tokenised/toy/manifest.json")
    info = {
        "corpus": "toy",
        "system": "vhcr",
        "seed": 0,
        "code_version": git(Path(), "rev-parse", "HEAD").strip(),
        "dirty": False,
        "inputs": {str(data): dvc_hash(data)},
        "versions": versions(),
        "machine": machine(),
        "device": "cpu",
        "params": {"training": {"num_threads": 1}},
    }
    write_json(folder / "run.json", {**info, **changes})
    for name in reproduction.REPRODUCIBLE:
        write_text(folder / name, NUMBERS if name.endswith(".json") else "x")
    return Recorded.load(folder)


def test_nothing_is_in_the_way_of_a_run_made_here(run: Recorded) -> None:
    assert obstacles(run) == ([], [])
    assert run.name == "toy/vhcr/0"
    assert run.root == Path.cwd()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"code_version": None}, "outside a git repository"),
        (
            {"code_version": "0" * 40},
            "000000 is not in this repository",
        ),
        ({"inputs": {"data/tokenised/toy/manifest.json": "e" * 32}}, "manifest.json holds other data"),
        ({"inputs": {"data/tokenised/toy/token_ids": "e.dir"}}, "data/tokenised/toy/token_ids is not here"),
        ({"inputs": {}}, "does not say which files it read"),
    ],
)
def test_what_is_missing_cannot_be_passed_over(run: Recorded, changes: dict[str, Any], said: str) -> None:
    missing, _ = obstacles(recorded(**changes))
    assert len(missing) == 1
    assert said in missing[0]
    with pytest.raises(ReproductionError) as caught:
        reproduce(recorded(**changes), anyway=True)
    assert said in str(caught.value)
    assert "--anyway" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dirty": True}, "uncommitted changes"),
        ({"versions": {**versions(), "torch": "1.0"}}, "torch was 1.0, here it is"),
        ({"versions": {}}, "python was not recorded"),
        ({"machine": {**machine(), "cpu": "Abacus 3"}}, "the processor was 'Abacus 3'"),
        ({"device": "NVIDIA Abacus"}, "it ran on 'NVIDIA Abacus', here there is"),
        (
            {"device": "NVIDIA Abacus", "params": {"training": {"num_threads": 1, "device": "cpu"}}},
            "here there is 'cpu'",
        ),
        (
            {"machine": {**machine(), "cores": 999}, "params": {"training": {"num_threads": 0}}},
            "it used 999 cores",
        ),
    ],
)
def test_what_is_doubtful_stops_unless_asked_for(run: Recorded, changes: dict[str, Any], said: str) -> None:
    missing, doubts = obstacles(recorded(**changes))
    assert missing == []
    assert said in doubts[0]
    with pytest.raises(ReproductionError) as caught:
        reproduce(recorded(**changes))
    assert said in str(caught.value)
    assert "--anyway" in str(caught.value)


def test_other_cores_are_no_matter_to_a_run_that_says_how_many_threads(run: Recorded) -> None:
    assert obstacles(recorded(machine={**machine(), "cores": 999})) == ([], [])


def test_a_record_without_its_files_says_which(run: Recorded) -> None:
    (run.folder / "curves.csv").unlink()
    with pytest.raises(DataError, match=r"curves\.csv: is missing"):
        Recorded.load(run.folder)


def test_differences_name_the_place_and_both_values(tmp_path: Path) -> None:
    import torch

    from vhcr.training.state import write_tensors

    old, new = tmp_path / "old", tmp_path / "new"
    for folder, loss, nll, weight in ((old, "3.5", 3.5, 1.0), (new, "3.25", 3.75, 1.5)):
        curves = f"step,split,loss\n2,train,4.0\n4,train,{loss}\n"
        write_text(folder / "curves.csv", curves)
        write_text(folder / "metrics.json", json.dumps({"best": {"nll": nll}, "steps": [1, 2]}))
        tensors = {"a": torch.tensor([1.0, weight]), "b": torch.zeros(3)}
        write_tensors(folder / "best.safetensors", tensors, {})
        write_text(folder / "vocabulary.txt", "the same\n")
    outcome = Outcome()
    reproduction._compare(outcome, old, new, reproduction.REPRODUCIBLE, "")
    assert outcome.same == ["vocabulary.txt"]
    assert outcome.different == {
        "best.safetensors": ["1 of 2 tensors differ, by at most 0.5"],
        "curves.csv": ["line 3 (step 4, train): loss was 3.5, is 3.25"],
        "metrics.json": ["best.nll: 3.5 before, 3.75 now"],
    }
    assert not outcome.is_same
    (new / "vocabulary.txt").unlink()
    reproduction._compare(outcome, old, new, ["vocabulary.txt"], "")
    assert outcome.different["vocabulary.txt"] == ["it was not made"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_is_made_again_from_its_record_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained and evaluated under MLflow; then code and parameters move on, and its files are fetched."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    shutil.copytree(project.ROOT / "vhcr", "vhcr", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "pyproject.toml", "constraints.txt"):
        shutil.copy(project.ROOT / name, name)
    project.prepare(project.make(root, training={**project.SMALL["training"], "num_epochs": 2}))
    vectors = layout.embeddings("toy") / "vectors.bin"
    write_vectors(vectors)
    write_json(vectors.with_name("metrics.json"), {"sha256": file_digest(vectors)})
    write_text(Path(".gitignore"), "data\n.work\nmlflow.db*\nmlruns\nmlartifacts\n__pycache__\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("VHCR_", "MLFLOW_", "GIT_"))},
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
    }

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        full = [sys.executable, "-m", *arguments]
        return subprocess.run(full, env=environment, capture_output=True, text=True, check=False)

    for stage in ("train", "evaluate"):
        done = command(f"vhcr.stages.{stage}", "--corpus", "toy", "--system", "vhcr-ud", "--seed", "3")
        assert done.returncode == 0, done.stderr
    folder = layout.trained("toy", "vhcr-ud", 3)
    run_id = read_run(folder)["mlflow_run_id"]

    # Life goes on: other defaults, another commit, and the folder of the run is given up.
    project.make(root, model={**project.SMALL["model"], "z_utt_size": 9})
    loop = Path("vhcr/training/loop.py")
    loop.write_text("raise SystemExit('this is not the code of that run')\n" + loop.read_text())
    git(root, "commit", "-q", "-a", "-m", "second")
    shutil.rmtree(layout.DATA / "trained")
    shutil.rmtree(layout.DATA / "evaluated")
    loop.write_text(git(root, "show", "HEAD~1:vhcr/training/loop.py"))  # so that the command itself can run

    done = command("vhcr.cli", "reproduce", run_id)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = ["best.safetensors", "curves.csv", "metrics.json", "vocabulary.txt"]
    expected += [f"evaluation/{name}" for name in reproduction.EVALUATED]
    assert f"the same, bit for bit: {', '.join(expected)}" in done.stdout
    assert not list((layout.WORK / "reproduced").iterdir()), "the clone is gone"

    # A record that the code does not bear out.
    kept = layout.WORK / "fetched" / run_id / "curves.csv"
    lines = kept.read_text().splitlines()
    lines[1] = lines[1].replace(lines[1].split(",")[-1], "9.75")
    kept.write_text("\n".join(lines) + "\n")
    done = command("vhcr.cli", "reproduce", run_id)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "DIFFERENT: curves.csv" in done.stdout
    assert "line 2 (step " in done.stdout
    assert "the evaluation was not made again: the training came out different" in done.stdout

    (layout.tokenised("toy") / "manifest.json").write_text("{}")
    done = command("vhcr.cli", "reproduce", run_id)
    assert done.returncode == 2
    assert "manifest.json holds other data" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_project_in_a_subfolder_of_its_repository_is_found_in_the_clone(
    run: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clone was taken for the project: a traceback, since params.yaml lies deeper."""
    write_text(Path("deep/project/params.yaml"), "active: {}\n")
    git(tmp_path, "add", "deep")
    git(tmp_path, "commit", "-q", "-m", "a project below")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    monkeypatch.chdir("deep/project")
    found = reproduction._clone(tmp_path / "clone", commit)
    assert found == tmp_path / "clone" / "deep" / "project"
    with pytest.raises(ReproductionError, match=r"has no deep/project/params\.yaml"):
        reproduction._clone(tmp_path / "clone", str(run.info["code_version"]))
