"""Stage train: a run in a folder of its own, whatever happens on the way."""

import json
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.generation.runs import trained_run
from tests.stages import project
from vhcr import layout, recording
from vhcr.conversation import SPLITS
from vhcr.errors import CheckpointError, DataError, ParameterError, ValidationError, VhcrError
from vhcr.files import read_json, write_json, write_text
from vhcr.provenance import dvc_hash, read_run
from vhcr.recording import MlflowRun
from vhcr.stages import train, validate
from vhcr.stages.common import clear_finished
from vhcr.tokenisation.manifest import Manifest
from vhcr.tokenisation.verdict import require_valid, seal
from vhcr.training.run import TrainedRun

REPRODUCIBLE = (
    "best.safetensors",
    "last.safetensors",
    "curves.csv",
    "metrics.json",
    "run.json",
    "summary.json",
    "vocabulary.txt",
)


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VHCR_MLFLOW", "off")
    made = project.make(tmp_path)
    project.prepare(made)
    return made


def train_command(system):
    return [sys.executable, "-m", "vhcr.stages.train", "--corpus", "toy", "--system", system, "--seed", "0"]


def contents(folder):
    return {name: (folder / name).read_bytes() for name in REPRODUCIBLE}


def test_a_run_can_be_loaded_and_equal_seeds_give_equal_bytes(params):
    folder = layout.trained("toy", "vhcr-ud", 0)
    train.run(params, "toy", "vhcr-ud", 0)
    run = TrainedRun.load(folder)
    assert run.info["system"] == "vhcr-ud"
    assert run.params.system == params.system("vhcr-ud", "toy")
    assert not run.model.training
    first = contents(folder)
    assert {path.name for path in folder.iterdir()} == {*REPRODUCIBLE, "provenance.json"}
    said = read_run(folder)
    assert said["seconds"] > 0
    assert said["identity"] == run.info["identity"]
    assert not set(train.PROVENANCE) & set(run.info), "where and when it was made would change run.json"
    shutil.rmtree(folder)
    train.run(params, "toy", "vhcr-ud", 0)
    assert contents(folder) == first
    train.run(params, "toy", "vhcr-ud", 1)
    assert contents(layout.trained("toy", "vhcr-ud", 1))["curves.csv"] != first["curves.csv"]
    assert not list((layout.WORK / "train").iterdir()), "work in progress is cleared away"


def test_killed_while_it_records_a_finished_training_is_not_made_again(params, monkeypatch):
    """Its checkpoint had been moved away by then, and DVC deletes what a stage that did not end has left.

    A training that could not be written down (run.json, of a number that JSON cannot hold) was lost, too.
    """
    folder = layout.trained("toy", "vhcr-ud", 0)

    class Killed(BaseException):
        pass

    def killed(*_args):
        raise Killed

    first = None
    for module, name in ((train, "write_json"), (shutil, "rmtree")):  # in the middle, and the very last
        with monkeypatch.context() as patched:
            patched.setattr(module, name, killed)
            if first is not None:
                patched.setattr("vhcr.training.loop.train_step", killed)
            with pytest.raises(Killed):
                train.run(params, "toy", "vhcr-ud", 0)
        first = contents(folder) if name == "rmtree" else {}
    shutil.rmtree(folder)
    with monkeypatch.context() as patched:
        patched.setattr("vhcr.training.loop.train_step", killed)
        train.run(params, "toy", "vhcr-ud", 0)
    assert contents(folder) == first
    assert not list((layout.WORK / "train").iterdir())


def test_a_finished_training_is_kept_until_dvc_has_noted_it(params, monkeypatch, tmp_path):
    """DVC was killed in the second after its stage had ended: the rerun trained from step 1."""
    folder = layout.trained("toy", "hred", 0)
    monkeypatch.setenv("DVC_STAGE", "train@toy-hred-0")
    train.run(params, "toy", "hred", 0)
    first = contents(folder)
    shutil.rmtree(folder)  # as DVC does before it runs a stage that it has not noted
    with monkeypatch.context() as patched:
        patched.setattr("vhcr.training.loop.train_step", None)
        train.run(params, "toy", "hred", 0)
    assert contents(folder) == first
    clear_finished()
    assert list((layout.WORK / "train").glob("*/state.safetensors"))
    write_text(tmp_path / "dvc.lock", f"md5: {dvc_hash(folder / 'run.json')}")
    clear_finished()
    assert not list((layout.WORK / "train").iterdir())


def test_mlflow_down_at_its_start_or_all_along_costs_no_training(params, monkeypatch, caplog):
    """It failed after half a minute with half a page of urllib3's; a nightly run was lost."""
    sent = []

    def down(*_arguments, **_rest):
        raise recording.RecordingError("MLflow: nobody there")

    monkeypatch.setenv("VHCR_MLFLOW", "on")
    monkeypatch.setattr(MlflowRun, "start", down)
    monkeypatch.setattr(train, "import_run", sent.append)
    folder = layout.trained("toy", "hred", 0)
    train.run(params, "toy", "hred", 0)
    assert sent == [folder], "sent by itself when MLflow answers"
    assert caplog.text.count("nobody there") == 1
    first = contents(folder)
    shutil.rmtree(folder)
    caplog.clear()
    monkeypatch.setattr(train, "import_run", down)
    train.run(params, "toy", "hred", 0)
    assert contents(folder) == first
    assert f"vhcr import-run {folder}" in caplog.text


def test_a_run_from_before_a_setting_existed_loads_with_it_at_rest(tmp_path):
    """Every key of params.yaml is required; a new one must not orphan what older programs trained."""
    folder = trained_run(tmp_path)
    info = read_json(folder / "run.json")
    del info["params"]["system"]["decoder_conditioning"], info["params"]["model"]["initialisation"]
    write_json(folder / "run.json", info)
    run = TrainedRun.load(folder)
    assert run.params.system.decoder_conditioning == "initial_state"
    assert run.params.model.initialisation == "release"
    assert run.model.decoder.skip is None


def test_what_has_learnt_less_than_a_unigram_model_is_told(tmp_path, params, caplog):
    """A learning rate of 1e3 trained on to a bound of 7.5e13 nats without a word."""
    few = {**project.SMALL["training"], "num_epochs": 1}
    train.run(project.make(tmp_path, training={**few, "learning_rate": 1e3}), "toy", "hred", 0)
    assert "above the" in caplog.text
    assert "learning_rate = 1000" in caplog.text
    split = train.read_tokenised("toy")[2]
    p = split.word_counts() + 1
    p = p / p.sum()
    by_hand = -sum(math.log(p[id]) for i in range(len(split)) for said in split.utterances(i) for id in said)
    assert train.unigram_nll(split, split) == pytest.approx(by_hand / split.num_words)


def test_another_vocabulary_is_refused(params):
    train.run(params, "toy", "hred", 0)
    path = layout.trained("toy", "hred", 0) / "vocabulary.txt"
    words = path.read_text(encoding="utf-8").splitlines()
    words[10], words[11] = words[11], words[10]
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not the vocabulary this run was trained with"):
        TrainedRun.load(path.parent)


def test_a_vocabulary_that_the_manifest_does_not_name_is_refused(params):
    manifest = layout.tokenised("toy") / "manifest.json"
    values = json.loads(manifest.read_text())
    write_json(manifest, {**values, "vocabulary_hash": "other"})
    found = {"success": True, "data_hash": values["data_hash"]}
    write_json(layout.validated("toy") / "validation.json", seal(found, manifest.parent))
    with pytest.raises(DataError, match=r"vocabulary\.parquet"):
        train.run(params, "toy", "hred", 0)


def test_data_that_failed_validation_are_not_trained_on(params):
    write_json(layout.validated("toy") / "validation.json", {"success": False, "data_hash": "0" * 64})
    with pytest.raises(ValidationError, match="not valid"):
        train.run(params, "toy", "hred", 0)


def test_a_gpu_that_is_not_there_is_a_plain_error(tmp_path, params):
    import torch

    if torch.cuda.is_available():
        return
    asked = project.make(tmp_path, training={**project.SMALL["training"], "device": "cuda"})
    with pytest.raises(ParameterError, match="no usable GPU"):
        train.run(asked, "toy", "hred", 0)


def test_an_unknown_system_is_one_line_and_status_2(params, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "--corpus", "toy", "--system", "vhrcr", "--seed", "0"])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: params.yaml: systems: 'vhrcr' is not defined (did you mean")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_killed_at_random_moments_a_run_still_ends_in_the_same_bits(tmp_path, monkeypatch):
    """SIGKILL leaves no time for anything: files, curves and MLflow must be as if nothing had happened."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VHCR_MLFLOW", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project.prepare(project.make(tmp_path, training={**project.SMALL["training"], "num_epochs": 30}))
    command = [
        sys.executable,
        "-m",
        "vhcr.stages.train",
        "--corpus",
        "toy",
        "--system",
        "vhcr-ud",
        "--seed",
        "0",
    ]
    environment = {**os.environ, "PYTHONPATH": str(project.ROOT), "OMP_NUM_THREADS": "1"}
    folder = layout.trained("toy", "vhcr-ud", 0)

    def finish() -> dict[str, bytes]:
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return contents(folder)

    expected = finish()
    straight = read_run(folder)["mlflow_run_id"]
    shutil.rmtree(folder)

    draw, kills = random.Random(7), 0
    for _ in range(4):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        states = lambda: list((layout.WORK / "train").glob("*/state.safetensors"))  # noqa: E731
        while not states() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        else:
            break  # it was faster than the last kill: what is there must be complete
    assert kills >= 1
    assert finish() == expected

    from mlflow import MlflowClient

    client = MlflowClient("sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name("vhcr-toy")
    runs = client.search_runs([experiment.experiment_id])
    resumed = read_run(folder)["mlflow_run_id"]
    assert {run.info.run_id for run in runs} == {straight, resumed}

    def curve(run_id: str, name: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in client.get_metric_history(run_id, name)]

    for name in ("train/loss", "train/kl_conv_per_word", "validation/nll_per_word"):
        points = curve(straight, name)
        assert len(points) >= 4
        assert curve(resumed, name) == points


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_and_status_3(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project.prepare(project.make(tmp_path, training={**project.SMALL["training"], "num_epochs": 4000}))
    environment = {
        **os.environ,
        "PYTHONPATH": str(project.ROOT),
        "OMP_NUM_THREADS": "1",
        "VHCR_MLFLOW": "off",
    }
    command = [
        sys.executable,
        "-m",
        "vhcr.stages.train",
        "--corpus",
        "toy",
        "--system",
        "hred",
        "--seed",
        "0",
    ]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not list((layout.WORK / "train").glob("*/state.safetensors")):
        assert process.poll() is None
        time.sleep(0.02)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - asked < 10
    assert process.returncode == train.STOPPED
    assert "run again to resume" in errors


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        ("is about other data", {"success": True, "data_hash": "0" * 64}),
        ("success: .*not 'false'", {"success": "false", "data_hash": "0" * 64}),
        ("data_hash: missing key", {"success": True}),
    ],
)
def test_a_verdict_on_other_data_or_of_another_kind_is_refused(params, told, verdict):
    """A validation.json of other data, or one with "success": "false", let a training begin."""
    write_json(layout.validated("toy") / "validation.json", verdict)
    with pytest.raises(VhcrError, match=rf"validation\.json: {told}"):
        train.run(params, "toy", "hred", 0)


@pytest.mark.parametrize("name", ["validation.json", "manifest.json"])
def test_a_flipped_bit_in_what_says_that_data_are_valid_is_refused_by_name(params, name):
    """It changed no number, and stood in run.json as what was read."""
    tokenised = layout.tokenised("toy")
    verdict = layout.validated("toy") / "validation.json"
    found = {
        "success": True,
        "data_hash": Manifest.load(tokenised).data_hash,
        "results": [{"table": "labels"}],
    }
    write_json(verdict, seal(found, tokenised))
    require_valid("toy")
    path = verdict if name == "validation.json" else tokenised / name
    changed = read_json(path)
    if name == "validation.json":
        changed["results"][0]["table"] = "lacels"
    else:
        changed["splits"]["train"]["words"] += 2
    write_json(path, changed)
    with pytest.raises(ValidationError, match=name):
        train.run(params, "toy", "hred", 0)
    assert not layout.trained("toy", "hred", 0).exists()


@pytest.mark.parametrize("name", ["labels.parquet", "vocabulary.parquet", "token_ids/validation.parquet"])
def test_a_manifest_that_names_no_digest_of_a_table_is_refused(params, name):
    """Such a table was held against nothing, and found valid."""
    path = layout.tokenised("toy") / "manifest.json"
    values = read_json(path)
    del values["files"][name]
    write_json(path, values)
    with pytest.raises(DataError, match=rf"manifest\.json: files\.{name}: missing key"):
        validate.run(params, corpus="toy")


@pytest.mark.parametrize("name", [*(f"token_ids/{split}.parquet" for split in SPLITS), "vocabulary.parquet"])
def test_a_flipped_byte_in_what_a_training_reads_is_refused_by_name(params, name):
    """One byte inverted inside a data page: training went on, with other losses.

    In the test split, which it does not read: run.json then named damaged files as the run's data.
    """
    path = layout.tokenised("toy") / name
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=f"{path.name}: is not the file that manifest.json"):
        train.run(params, "toy", "hred", 0)


def test_a_changed_checkpoint_or_record_is_refused_by_name(params):
    """A bit of best.safetensors inverted: a bound of 6.048 for 5.691; its header's F32 made I32: 3e26."""
    train.run(params, "toy", "hred", 0)
    folder = layout.trained("toy", "hred", 0)
    path = folder / "best.safetensors"
    whole = path.read_bytes()
    for place in (len(whole) - 5, len(whole) // 2):
        damaged = bytearray(whole)
        damaged[place] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"best\.safetensors: damaged"):
            TrainedRun.load(folder)
    path.write_bytes(whole.replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(CheckpointError, match=r"best\.safetensors: "):
        TrainedRun.load(folder)
    path.write_bytes(whole)
    info = read_json(folder / "run.json")
    for rules in (True, {"segmenter": "other"}):
        write_json(folder / "run.json", {**info, "rules": rules})
        with pytest.raises(CheckpointError, match=r"run\.json: rules: "):
            TrainedRun.load(folder)
    info["params"]["system"]["word_drop"] = 0.5
    write_json(folder / "run.json", info)
    with pytest.raises(CheckpointError, match=r"run\.json: changed after it was written"):
        TrainedRun.load(folder)


def test_an_annealing_that_outlasts_the_training_is_said(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4,372 conversations in 30 epochs of 80: 1,650 steps of 15,000, and a KL weight of 0.11 at the end."""
    monkeypatch.chdir(tmp_path)
    params = project.make(tmp_path)
    merged = params.corpus("toy")
    training = merged.training.model_copy(
        update={"num_epochs": 30, "batch_conversations": 80, "kl_annealing_steps": 15_000}
    )

    def remark(system: str, steps: int) -> str | None:
        own = training.model_copy(update={"kl_annealing_steps": steps})
        run_params = train.RunParams(model=merged.model, system=params.system(system), training=own)
        return train.unfinished_annealing(run_params, 4_372)

    said = remark("vhcr", 15_000)
    assert said is not None
    assert said.startswith("the KL weight ends at 0.11 of 1: training has 1,650 steps")
    assert remark("vhcr", 1_650) is None
    assert remark("hred", 15_000) is None
