"""What people do with DVC, in the real project over a few conversations; made once, then copied or cloned."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import vl_convert
import yaml

from tests.processes import free_port, serving, wait_for
from tests.stages.project import SMALL
from vhcr import layout
from vhcr.recording import store
from vhcr.report.write import curves_csv
from vhcr.results.runs import Curves
from vhcr.stages.common import share_work
from vhcr.training.run import TrainedRun

pytestmark = pytest.mark.timeout(1200)  # the first test makes the project
ROOT = Path(__file__).resolve().parent.parent
COPIED = ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml", "constraints.txt")
SYSTEMS = ("hred", "vhcr-ud")
NAME = {
    f"GIT_{who}_{what}": "somebody@example.org"
    for who in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}
ENVIRONMENT = {
    **{
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VHCR_MLFLOW", "MLFLOW_TRACKING_URI")
    },
    **NAME,
    "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
    "OMP_NUM_THREADS": "1",
}


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=900
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def dvc(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-m", "dvc", *arguments, check=check)


def outputs(folder: Path) -> dict[str, str]:
    """Each output and its hash, as dvc.lock has them."""
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, small, reproduced and committed; its results pushed to a remote."""
    folder = tmp_path_factory.mktemp("made")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["active"] = {"corpora": ["toy"], "systems": list(SYSTEMS), "seeds": [0]}
    toy = params["corpora"]["toy"]
    for section, keys in SMALL.items():
        toy[section] = {**(toy[section] or {}), **keys}
    toy["training"] |= {"num_epochs": 2, "checkpoint_seconds": 1}
    toy["validation"] = {"max_unknown_fraction": 0.5}
    toy["embeddings"]["epochs"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for name in COPIED:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "vhcr", folder / "vhcr", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
    run(folder, "git", "init", "-q")
    remote = tmp_path_factory.mktemp("remote")
    dvc(folder, "remote", "add", "--default", "shared", str(remote))
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "-q", "-m", "The project")
    dvc(folder, "repro")
    status = run(folder, "git", "status", "--porcelain").stdout.split()
    assert status == ["??", "dvc.lock"], "all that a run leaves behind is ignored or committed"
    run(folder, "git", "add", "dvc.lock")
    run(folder, "git", "commit", "-q", "-m", "Its results")
    run(folder, "git", "tag", "--annotate", "--message", "The first", "toy-vhcr-ud@v1.0.0")
    dvc(folder, "push")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy to do with as one likes."""
    return Path(shutil.copytree(made, tmp_path / "project"))


@pytest.fixture
def clone(made: Path, tmp_path: Path) -> Path:
    """What a colleague has after `git clone`."""
    run(tmp_path, "git", "clone", "-q", str(made), "clone")
    return tmp_path / "clone"


def turn(folder: Path, *path: str, to: Any) -> None:
    """Turn one dial of params.yaml."""
    values = yaml.safe_load((folder / "params.yaml").read_text())
    section = values
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = to
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def edit(folder: Path, module: str) -> None:
    with (folder / "vhcr" / module).open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")


def of(stage: str, *systems: str, seed: int = 0) -> set[str]:
    return {f"{stage}@toy-{system}-{seed}" for system in systems}


@pytest.mark.slow
def test_only_what_is_concerned_runs_again(project: Path) -> None:
    """By `dvc status`, on results that are really there. What follows from a changed stage comes later."""

    def changed(change: Callable[[], None]) -> set[str]:
        change()
        found = set(json.loads(dvc(project, "status", "--json").stdout))
        run(project, "git", "checkout", "-q", ".")
        return found

    both = SYSTEMS
    evaluations, trainings = of("evaluate", *both), of("train", *both)
    assert changed(lambda: None) == set()
    assert changed(lambda: edit(project, "generation/decode.py")) == evaluations
    assert changed(lambda: edit(project, "report/page.py")) == {"report@toy"}
    assert changed(lambda: edit(project, "cli.py")) == set()
    assert changed(lambda: edit(project, "models/hierarchical.py")) == trainings | evaluations
    assert changed(lambda: turn(project, "systems", "vhcr-ud", "utterance_drop", to=0.5)) == of(
        "train", "vhcr-ud"
    )
    assert changed(lambda: turn(project, "systems", "vhred", "word_drop", to=0.5)) == set()
    assert changed(lambda: turn(project, "corpora", "cornell", "training", to={"num_epochs": 1})) == set()
    assert (
        changed(lambda: turn(project, "corpora", "toy", "generation", to={"strategy": "beam"})) == evaluations
    )
    assert changed(lambda: turn(project, "corpora", "toy", "training", "num_epochs", to=9)) == trainings
    assert changed(lambda: turn(project, "active", "seeds", to=[0, 1])) == {
        *of("train", *both, seed=1),
        *of("evaluate", *both, seed=1),
    }


@pytest.mark.slow
def test_a_colleague_gets_every_result_without_computing_any(made: Path, clone: Path, tmp_path: Path) -> None:
    dvc(clone, "pull")
    said = dvc(clone, "repro").stdout
    assert "Data and pipelines are up to date." in said
    assert "Running stage" not in said
    assert not (clone / "mlflow.db").exists(), "nothing was recorded, because nothing ran"
    assert outputs(clone) == outputs(made)
    for path in outputs(made):
        mine, theirs = clone / path, made / path
        for file in [mine] if mine.is_file() else [found for found in mine.rglob("*") if found.is_file()]:
            assert file.read_bytes() == (theirs / file.relative_to(mine)).read_bytes(), file
    # One model alone, without the project.
    dvc(tmp_path, "artifacts", "get", str(made), "toy-vhcr-ud", "--out", "speaker")
    fetched = TrainedRun.load(tmp_path / "speaker")
    assert fetched.info == json.loads((made / layout.trained("toy", "vhcr-ud", 0) / "run.json").read_text())


@pytest.mark.slow
def test_results_travel_by_a_bucket_and_its_keys_stay_at_home(project: Path, tmp_path: Path) -> None:
    """An S3-like store: moto's server, which keeps a bucket in memory."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
    with serving(command, f"{url}/moto-api/", tmp_path / "moto.log"):
        asked = urllib.request.Request(f"{url}/results", method="PUT")  # makes the bucket
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert answer.status == 200
        dvc(project, "remote", "add", "--default", "bucket", "s3://results/vhcr")
        dvc(project, "remote", "modify", "bucket", "endpointurl", url)
        keys(project)
        dvc(project, "push")
        run(project, "git", "commit", "-q", "--all", "--message", "A bucket for results")
        tracked = run(project, "git", "ls-files", "-z").stdout.split("\0")
        assert not any("SECRET" in (project / name).read_text() for name in tracked if name)

        run(tmp_path, "git", "clone", "-q", str(project), "colleague")
        keys(tmp_path / "colleague")
        dvc(tmp_path / "colleague", "pull")
    assert "Data and pipelines are up to date." in dvc(tmp_path / "colleague", "repro").stdout
    assert outputs(tmp_path / "colleague") == outputs(project)


def keys(folder: Path) -> None:
    """What each person has, in .dvc/config.local."""
    for name in ("access_key_id", "secret_access_key"):
        dvc(folder, "remote", "modify", "--local", "bucket", name, "SECRET")


@pytest.mark.slow
def test_the_same_commit_data_and_seed_give_the_same_bits(made: Path, clone: Path) -> None:
    """Computed again elsewhere, under another MLflow id and at another time."""
    (clone / "dvc.lock").unlink()
    dvc(clone, "repro", "evaluate@toy-vhcr-ud-0")
    here, there = outputs(made), outputs(clone)
    assert {layout.trained("toy", "vhcr-ud", 0) / "best.safetensors", Path("data/raw/toy")} <= set(
        map(Path, there)
    )
    assert {path for path in there if here[path] != there[path]} == {
        (folder("toy", "vhcr-ud", 0) / "provenance.json").as_posix()
        for folder in (layout.trained, layout.evaluated)
    }


@pytest.mark.slow
def test_experiments_in_a_queue_are_compared_and_applied(project: Path) -> None:
    before = outputs(project)
    recorded = {run.info.run_id for run in mlflow_runs(project)}
    dvc(
        project,
        "exp",
        "run",
        "--queue",
        "--name",
        "half",
        "--set-param",
        "systems.vhcr-ud.utterance_drop=0.5",
    )
    faster = "++corpora.toy.training.learning_rate=0.01"
    dvc(project, "exp", "run", "--queue", "--name", "faster", "--set-param", faster, "train@toy-hred-0")
    assert dvc(project, "queue", "status").stdout.count("Queued") == 2
    dvc(project, "exp", "run", "--run-all")
    assert outputs(project) == before, "the workspace is as it was"

    (shown,) = json.loads(dvc(project, "exp", "show", "--json").stdout)[1:]
    found = {exp["name"]: exp["revs"][0]["data"]["metrics"] for exp in shown["experiments"]}
    assert set(found) == {"half", "faster"}

    def value(metrics: dict[str, Any], run: str, name: str, place: Callable[..., Path]) -> float:
        path = place("toy", *run.rsplit("-", 1)) / "summary.json"
        return float(metrics[path.as_posix()]["data"][run][name])

    base = shown["data"]["metrics"]
    nll = "validation_nll_per_word"
    assert value(found["faster"], "hred-0", nll, layout.trained) < value(base, "hred-0", nll, layout.trained)
    for name, place in ((nll, layout.trained), ("nll_per_word", layout.evaluated)):
        assert value(found["half"], "hred-0", name, place) == value(base, "hred-0", name, place)
        assert value(found["half"], "vhcr-ud-0", name, place) != value(base, "vhcr-ud-0", name, place)

    changed = json.loads(dvc(project, "metrics", "diff", "HEAD", "half", "--json").stdout)
    assert {key for file in changed.values() for key in file} <= {
        "vhcr-ud-0.validation_nll_per_word",
        "vhcr-ud-0.nll_per_word",
        "vhcr-ud-0.kl_conv_per_word",
        "vhcr-ud-0.kl_utt_per_word",
        "vhcr-ud-0.average_1turn",
    }
    drawn = json.loads(dvc(project, "plots", "diff", "HEAD", "half", "--json").stdout)["data"]
    assert len(drawn) == 6
    for name, (plot,) in drawn.items():
        content = plot["content"]
        assert {row["rev"] for row in content["data"]["values"]} == {"HEAD", "half"}, name
        svg = vl_convert.vegalite_to_svg(content, vl_version="5.20")
        # Two revisions, two splits, two runs; units are counted in validation alone, and HRED has none.
        lines = 2 if name.startswith("Active") else 8
        assert svg.count('aria-roledescription="line mark"') == lines, name

    # The copies in which they ran are gone; what they recorded is not.
    new = [run for run in mlflow_runs(project) if run.info.run_id not in recorded]
    assert sorted(run.data.tags["system"] for run in new if "system" in run.data.tags) == ["hred", "vhcr-ud"]
    for run_ in new:
        assert ".dvc" not in run_.info.artifact_uri

    dvc(project, "exp", "apply", "half")
    applied = outputs(project)
    assert {path for path in applied if applied[path] != before[path]} == {
        path for path in before if "vhcr-ud" in path or path.startswith("reports/")
    } - {layout.trained("toy", "vhcr-ud", 0).as_posix() + "/vocabulary.txt"}


@pytest.mark.slow
def test_an_experiment_in_a_copy_leaves_the_workspace_as_it_is(project: Path) -> None:
    before, params = outputs(project), (project / "params.yaml").read_text()
    faster = "++corpora.toy.training.learning_rate=0.01"
    dvc(project, "exp", "run", "--temp", "--name", "aside", "-S", faster, "train@toy-hred-0")
    assert outputs(project) == before
    assert (project / "params.yaml").read_text() == params
    (shown,) = json.loads(dvc(project, "exp", "show", "--json").stdout)[1:]
    assert [exp["name"] for exp in shown["experiments"]] == ["aside"]
    dvc(project, "exp", "apply", "aside")
    changed = {path for path, digest in outputs(project).items() if digest != before[path]}
    assert changed
    assert all(layout.trained("toy", "hred", 0).as_posix() in path for path in changed)


def mlflow_runs(folder: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("vhcr-toy")
    return list(client.search_runs([experiment.experiment_id]))


@pytest.mark.slow
def test_the_second_of_two_runs_is_told_who_has_the_project(project: Path) -> None:
    turn(project, "corpora", "toy", "training", "num_epochs", to=100_000)
    with background(project, "repro", "train@toy-hred-0") as first:
        wait_for(lambda: list((project / ".work" / "train").glob("*/state.safetensors")), 120)
        second = dvc(project, "repro", check=False)
        assert second.returncode != 0
        assert "is busy, it is being blocked by" in second.stderr
        assert f"(PID {first.pid})" in second.stderr
        assert "repro train@toy-hred-0" in second.stderr
        assert "Traceback" not in second.stderr


@contextlib.contextmanager
def background(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "dvc", *arguments]
    with subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)  # the stage below ends by itself: vhcr.tether


def test_in_a_copy_for_an_experiment_what_lasts_lies_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc"
    copy.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    share_work()
    assert not layout.WORK.exists()
    assert layout.project_root() == tmp_path
    monkeypatch.chdir(copy)
    assert layout.project_root() == tmp_path
    assert store.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    share_work()
    share_work()
    (layout.WORK / "checkpoint").touch()
    assert (tmp_path / ".work" / "checkpoint").exists()


def test_nothing_leaves_the_machine_unasked() -> None:
    settings = set(dvc(ROOT, "config", "--list", "--project").stdout.split())
    assert {"core.analytics=false", "core.check_update=false", "core.autostage=false"} <= settings


def test_the_curves_of_all_runs_stand_one_below_the_other() -> None:
    """A run without a column, and a validation without a number, leave a cell empty."""
    hred = Curves([10.0], ["train"], {"epoch": [0.0], "nll_per_word": [4.5]})
    columns = {"epoch": [0.0, 1.0], "nll_per_word": [4.25, 0.1], "active_units_conv": [None, 3.0]}
    vhcr = Curves([10.0, 20.0], ["train", "validation"], columns)
    runs = [
        SimpleNamespace(system="hred", seed=0, curves=hred),
        SimpleNamespace(system="vhcr", seed=1, curves=vhcr),
    ]
    assert curves_csv(runs).splitlines() == [
        "run,step,epoch,split,nll_per_word,active_units_conv",
        "hred-0,10,0,train,4.5,",
        "vhcr-1,10,0,train,4.25,",
        "vhcr-1,20,1,validation,0.1,3.0",
    ]
    assert curves_csv([]) == "run,step,epoch,split\n"
