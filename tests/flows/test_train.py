"""The train deployment: what its form refuses, where its run lies, and how it takes being stopped."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml

from flows import compare, rooms, running
from flows import train as flow
from flows.settings import KEPT, CompareSettings, SystemDials, TrainingDials, TrainSettings, chosen
from flows.train import describe, train
from tests.flows.conftest import ROOT, House, open_house, slow
from tests.processes import gone, wait_for
from vhcr import recording
from vhcr.errors import ParameterError, VhcrError
from vhcr.params import Params, TrainingParams
from vhcr.provenance import read_run

DIALS = ("training", "model", "evaluation", "generation")
LONG = {"num_epochs": 75, "record_every_steps": 50, "validate_every_steps": 450}
STEPS = 75 * 12  # a quarter of a minute on an idle machine


def test_every_dial_is_in_the_form_with_its_bounds_and_what_it_is_now() -> None:
    schema = train.parameters.model_dump()["definitions"]
    params = Params.load(ROOT / "params.yaml")
    forms = [type(getattr(params.corpus("toy"), name)) for name in DIALS]
    while forms:
        own = forms.pop()
        form = schema[own.__name__.removesuffix("Params") + "Dials"]
        assert form["additionalProperties"] is False
        assert set(form["properties"]) == set(own.model_fields)
        for name, field in form["properties"].items():
            if "$ref" in field:  # a section within the section
                forms.append(own.model_fields[name].annotation)
                continue
            said, _, present = field["description"].partition("In params.yaml: ")
            assert said, f"{own.__name__}.{name}: no description"
            assert present, f"{own.__name__}.{name}: no present value"
            assert "anyOf" not in field, name  # a plain input, not a choice between a number and null
    rate = schema["TrainingDials"]["properties"]["learning_rate"]
    assert rate["exclusiveMinimum"] == 0
    assert rate["description"].endswith("In params.yaml: 0.001; toy: 0.003; cornell, ubuntu: 0.0001.")
    device = schema["TrainingDials"]["properties"]["device"]
    assert (device["enum"], device["default"]) == ([KEPT, "auto", "cpu", "cuda"], KEPT)
    assert all(isinstance(choice, str) for choice in device["enum"]), "else the page shows a field for text"
    assert schema["TrainingDials"]["title"] == "Training"
    settings = schema["TrainSettings"]["properties"]
    assert settings["corpus"]["enum"] == list(params.corpora)
    assert settings["system"]["enum"] == list(params.systems)


def test_a_dial_left_alone_is_no_setting() -> None:
    assert chosen(TrainingDials.model_validate({"num_epochs": 3, "max_steps": None})) == {"num_epochs": 3}
    assert chosen(SystemDials()) == {}
    assert chosen(TrainingDials.model_validate({"device": KEPT, "precision": "float32"})) == {
        "precision": "float32"
    }
    assert chosen(SystemDials.model_validate({"decoder_sees_context": "no"})) == {
        "decoder_sees_context": False
    }
    assert SystemDials.model_json_schema()["properties"]["decoder_sees_context"]["enum"] == [
        KEPT,
        "yes",
        "no",
    ]
    assert set(TrainingDials.model_fields) == set(TrainingParams.model_fields)


def settings(**values: Any) -> TrainSettings:
    return TrainSettings.model_validate(values)


def test_the_same_settings_lead_to_the_same_room_and_others_to_another(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    room = rooms.of(settings(training={"learning_rate": 0.01}), tmp_path)
    assert room.folder.parent == tmp_path / "runs" / "toy"
    assert room.params.corpus("toy").training.learning_rate == 0.01
    assert room.params.active.model_dump() == {"corpora": ("toy",), "systems": ("vhcr-ud",), "seeds": (0,)}
    assert rooms.of(settings(training={"learning_rate": 0.01}), tmp_path).folder == room.folder
    present = Params.load(tmp_path / "params.yaml").corpus("toy").training.learning_rate
    assert (
        rooms.of(settings(training={"learning_rate": present}), tmp_path).folder
        == rooms.of(settings(), tmp_path).folder
    ), "to say what params.yaml says changes nothing"
    others = (
        settings(training={"learning_rate": 0.02}),
        settings(training={"learning_rate": 0.01}, seed=1),
        settings(training={"learning_rate": 0.01}, system_dials={"word_drop": 0.5}),
    )
    assert len({room.folder, *(rooms.of(other, tmp_path).folder for other in others)}) == 4


def test_local_files_are_found_from_the_room(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["corpora"]["own"]["source"]["path"] = "chats.jsonl"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    room = rooms.of(settings(corpus="own"), tmp_path)
    assert room.params.corpus("own").source.path == str(tmp_path / "chats.jsonl")


def test_a_home_is_found_from_the_room_as_the_download_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """~/chats.jsonl was looked for in a folder named ~ of the project, though `dvc repro` found it."""
    root, home = tmp_path / "project", tmp_path / "home"
    root.mkdir()
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["corpora"]["own"]["source"]["path"] = "~/chats.jsonl"
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setenv("HOME", str(home))
    room = rooms.of(settings(corpus="own"), root)
    assert room.params.corpus("own").source.path == str(home / "chats.jsonl")
    for sources, found in (("~/corpora", home / "corpora"), ("corpora", root / "corpora")):
        monkeypatch.setenv("VHCR_SOURCES", sources)
        assert room.environment("a flow run")["VHCR_SOURCES"] == str(found)


def test_a_room_refuses_what_params_yaml_no_longer_has(tmp_path: Path) -> None:
    """The form lists what there was when it was deployed."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    del values["systems"]["vhcr"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ParameterError, match="'vhcr' is not defined"):
        rooms.of(settings(system="vhcr"), tmp_path)


def test_a_server_that_does_not_answer_stops_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progress and links are for people; an error of theirs had ended the command that was listened to."""
    import httpx

    said: list[str] = []
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    room = rooms.of(TrainSettings(), tmp_path)
    room.folder.mkdir(parents=True)
    hear = flow.Listener(room, said.append)

    def refuse(*_args: object, **_rest: object) -> None:
        raise httpx.ConnectError("nobody there")

    monkeypatch.setattr(flow, "create_progress_artifact", refuse)
    monkeypatch.setattr(flow, "link_mlflow", refuse)
    progress = dict.fromkeys(("epoch", "step", "loss", "nll_per_word", "kl_per_word", "words_per_second"), 1)
    hear(flow.PROGRESS + json.dumps({**progress, "total_steps": 2, "seconds_left": 3}))
    hear(f"MLflow run {'a' * 32}")
    assert said == ["not shown: nobody there", f"MLflow run {'a' * 32}", "not shown: nobody there"]
    assert json.loads(room.heard.read_text()) == {"mlflow_run_id": "a" * 32}


def test_validations_are_kept_and_whoever_listens_to_them_can_stop_the_training(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    room = rooms.of(TrainSettings(), tmp_path)
    room.folder.mkdir(parents=True)

    def enough() -> None:
        if len(room.heard.read_text().splitlines()) == 2:
            raise VhcrError("enough")

    code = (
        "import time\n"
        "from vhcr.stages.train import ProgressLines\n"
        "for step in range(10, 100, 10):\n"
        "    for split in ('train', 'validation'):\n"
        "        row = {'step': step, 'epoch': 0, 'split': split, 'nll_per_word': 3.0, 'loss': 9.0}\n"
        "        ProgressLines().recorded([row], 0.0)\n"
        "    time.sleep(600 if step == 30 else 0)\n"
    )
    said: list[str] = []
    with pytest.raises(VhcrError, match="enough"):
        running.run(
            [sys.executable, "-c", code], flow.Listener(room, said.append, enough), timeout_seconds=60
        )
    kept = [json.loads(line) for line in room.heard.read_text().splitlines()]
    assert kept[:2] == [{"step": 10, "nll_per_word": 3.0}, {"step": 20, "nll_per_word": 3.0}]
    assert len(kept) <= 3
    assert said == []


def test_mlflow_down_at_the_start_ends_no_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A nightly comparison was lost to a server that was restarting. Files come first; it is said once."""

    def refuse() -> None:
        raise recording.RecordingError("MLflow: nobody there")

    def step(name: str, *_rest: object) -> bool:
        steps.append(name)
        return True

    steps: list[str] = []
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VHCR_MLFLOW", raising=False)
    monkeypatch.setattr(recording, "client", refuse)
    monkeypatch.setattr(rooms.Room, "furnish", lambda _room: None)
    for module in (flow, compare):
        monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("flow"))
        monkeypatch.setattr(module, "run_step", SimpleNamespace(with_options=lambda **_options: step))
    monkeypatch.setattr(flow, "results", lambda *_arguments: {})
    monkeypatch.setattr(compare, "run_here", lambda wanted, *_rest: (set(wanted), {}))
    monkeypatch.setattr(compare, "collect", lambda *_arguments: None)
    monkeypatch.setattr(compare, "read_json", lambda _path: [{"mlflow_run_id": None}])
    monkeypatch.setattr(compare, "create_table_artifact", lambda **_content: None)

    train.fn(TrainSettings())
    assert steps == list(flow.STEPS)
    assert len([line for line in caplog.messages if "nobody there\nThe flow goes on" in line]) == 1
    caplog.clear()
    steps.clear()
    compare.compare.fn(CompareSettings(systems=["hred"], seeds=[0]))
    assert steps == ["prepare", "report"]
    assert len([line for line in caplog.messages if "nobody there\nThe flow goes on" in line]) == 1


def test_progress_reads_as_a_table() -> None:
    text = describe(
        {
            "step": 1200,
            "total_steps": 3600,
            "epoch": 1,
            "loss": 2.5,
            "nll_per_word": 2.25,
            "kl_per_word": 0.125,
            "words_per_second": 10000.0,
            "seconds_left": 3661.0,
        }
    )
    assert text.splitlines()[0] == "| epoch | step | loss | bound | KL | words/s | time left |"
    assert text.splitlines()[2] == "| 2 | 1,200 of 3,600 | 2.500 | 2.250 | 0.1250 | 10,000 | 1:01:01 |"


class Asked:
    """In place of the flow: notes the settings it is asked for, and runs nothing."""

    description = ""

    def __init__(self) -> None:
        self.settings: list[TrainSettings] = []

    def __call__(self, settings: TrainSettings) -> None:
        self.settings.append(settings)


def typed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    """The dials that `python -m flows.train` with these arguments sets."""
    asked = Asked()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    monkeypatch.setattr(flow, "train", asked)
    flow.main()
    (found,) = asked.settings
    return found.model_dump(mode="json", exclude_unset=True, exclude={"corpus", "system", "seed"})


def test_dials_are_typed_as_words_as_numbers_and_within_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word ended in a KeyError, unless a number of its section came before it; what lies in a section of a
    section could not be named at all.
    """
    assert typed(monkeypatch) == {}
    assert typed(monkeypatch, "generation.strategy=beam") == {"generation": {"strategy": "beam"}}
    assert typed(
        monkeypatch,
        "evaluation.diversity.num_contexts=5",
        "training.device=cpu",
        "evaluation.diversity.num_samples=3",
        "evaluation.response_turns=[1,2]",
        "training.learning_rate=1e-2",
        "system_dials.decoder_sees_context=false",
        "training.learning_rate=2e-2",
    ) == {
        "training": {"device": "cpu", "learning_rate": 0.02},
        "evaluation": {"diversity": {"num_contexts": 5, "num_samples": 3}, "response_turns": [1, 2]},
        "system_dials": {"decoder_sees_context": False},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpus.x=3"], "corpus.x=3: no section 'corpus'; known: training, model, system_dials, evaluation"),
        (["seed.x=3"], "seed.x=3: no section 'seed'"),
        (["source.path=chats.jsonl"], "source.path=chats.jsonl: no section 'source'"),
        (["corpus=toy"], "corpus=toy: write SECTION.DIAL=VALUE"),
        (["training.num_epochs"], "training.num_epochs: write SECTION.DIAL=VALUE"),
        (["training.=3"], "training.=3: write SECTION.DIAL=VALUE"),
        (
            ["model.z_utt_size=8", "model.z_utt_size.x=3"],
            "model.z_utt_size.x=3: z_utt_size has a value already",
        ),
        (
            ["evaluation.diversity.num_samples=3", "evaluation.diversity=5"],
            "evaluation.diversity=5: some of diversity is set already",
        ),
        (["training.num_epochs=many"], "training.num_epochs: Input should be a valid integer"),
        (["evaluation.diversity.num=3"], "evaluation.diversity.num: Extra inputs are not permitted"),
        (["--corpus", "tay"], "corpus: Value error, not defined in params.yaml"),
    ],
)
def test_what_was_typed_wrong_is_named_on_a_line(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """corpus.x=3 ended in a TypeError about item assignment."""
    with pytest.raises(SystemExit) as ended:
        typed(monkeypatch, *arguments)
    assert str(ended.value).startswith(f"error: {message}")
    assert "\n" not in str(ended.value)


def train_only(house: House, system: str, **training: int) -> None:
    """What `dvc repro` is to train there, and how."""
    path = house.folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["active"]["systems"] = [system]
    values["corpora"]["toy"]["training"] |= training
    path.write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.mark.slow
def test_a_stage_ends_with_a_killed_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kill -9` of dvc repro once left the training running for hours, unseen; now it leaves a checkpoint."""
    command = [sys.executable, "-m", "dvc", "repro", "train"]
    with contextlib.ExitStack() as opened:
        house = opened.enter_context(open_house(tmp_path))
        train_only(house, "hred", num_epochs=1000)
        dvc = opened.enter_context(
            subprocess.Popen(command, cwd=tmp_path, env=house.environment, stdout=subprocess.DEVNULL)
        )
        try:
            wait_for(lambda: list(tmp_path.glob(".work/train/*/state.safetensors")), 120)
            (training,) = house.trainings()
            dvc.kill()
            asked = time.monotonic()
            wait_for(lambda: gone(training), 10)
            assert time.monotonic() - asked < 10
        finally:
            dvc.kill()
            for left in house.trainings():
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()


@slow
def test_what_does_not_fit_the_form_never_becomes_a_run(house: House) -> None:
    def count() -> int:
        answer = house.http.post("/flow_runs/count", json={"deployments": {"name": {"any_": ["train"]}}})
        return int(answer.raise_for_status().json())

    before = count()
    for parameters, reason in (
        ({"settings": {"sede": 1}}, "'sede' was unexpected"),
        ({"sede": 1}, "'sede' was unexpected"),
        ({"settings": {"seed": -1}}, "less than the minimum"),
        ({"settings": {"training": {"num_epochs": 0}}}, "less than the minimum"),
        ({"settings": {"training": {"epochs": 3}}}, "'epochs' was unexpected"),
        ({"settings": {"corpus": "tay"}}, "not one of"),
        ({"settings": {"training": {"device": "tpu"}}}, "not one of"),
    ):
        answer = house.ask("train/train", **parameters)
        assert answer.status_code == 409
        assert reason in answer.text
    assert count() == before


def test_a_device_for_settings_that_name_none() -> None:
    asked = settings(training={"num_epochs": 3})
    assert chosen(asked.on("cuda").training) == {"num_epochs": 3, "device": "cuda"}
    named = settings(training={"device": "cpu"})
    assert named.on("cuda") is named
    with pytest.raises(ParameterError, match=r"VHCR_DEVICE: no device 'tpu'; known: auto, cpu, cuda"):
        asked.on("tpu")


@slow
def test_on_the_gpu_pool_settings_without_a_device_do_not_fall_back_to_a_processor(house: House) -> None:
    """What a request names replaces all of the deployment's settings, its device among them."""
    with house.worker("gpu", CUDA_VISIBLE_DEVICES=""):
        run = house.start("train/train-gpu", settings={"system": "hred", "training": {"max_steps": 24}})
        house.reach(run, "Failed")
        wait_for(lambda: "this machine has no usable GPU" in house.log(run), 60, "for the flow's last lines")


@pytest.fixture(scope="module")
def whole(house: House) -> str:
    """The curves, in full precision, of an undisturbed training with the LONG settings."""
    folder = house.folder / "undisturbed"
    folder.mkdir()
    with open_house(folder) as other:
        train_only(other, "vhcr-ud", **LONG)
        done = other.python("-m", "dvc", "repro", "train", VHCR_MLFLOW="off")
    assert done.returncode == 0, done.stdout
    return (folder / "data/trained/toy/vhcr-ud/0/curves.csv").read_text()


def long(unlike: float) -> dict[str, Any]:
    """Settings of a training that takes a while. Where it differs from others does not show in its numbers,
    but DVC would not run the very same one twice.
    """
    return {"training": {**LONG, "checkpoint_seconds": unlike}}


def begin(house: House, wanted: dict[str, Any]) -> tuple[str, psutil.Process]:
    """A run that is well under way, and the process that trains."""
    run = house.start("train/train", settings=wanted)
    wait_for(lambda: house.steps_done(run) > 100, 600, "for the training to get going")
    (training,) = house.trainings()
    return run, training


def check_the_end(house: House, run: str, wanted: dict[str, Any], whole: str) -> None:
    """The run came out as if nobody had disturbed it, in one MLflow run, each point there once."""
    from mlflow import MlflowClient

    house.reach(run, "Completed")
    assert "resuming at step" in house.log(run)
    trained = rooms.of(settings(**wanted), house.folder).trained
    assert (trained / "curves.csv").read_text() == whole
    info = read_run(trained)
    client = MlflowClient(house.environment["MLFLOW_TRACKING_URI"])
    stored = client.get_run(info["mlflow_run_id"])
    assert stored.info.status == "FINISHED"
    experiment = stored.info.experiment_id
    same = client.search_runs([experiment], f"tags.identity = '{info['identity']}'")
    assert [found.info.run_id for found in same] == [info["mlflow_run_id"]]
    steps = [point.step for point in client.get_metric_history(info["mlflow_run_id"], "train/loss")]
    assert sorted(steps) == sorted(set(steps)), "no point twice"
    assert set(range(50, STEPS + 1, 50)) <= set(steps), "and none lost"
    artifacts = house.artifacts(run)
    assert info["mlflow_run_id"] in artifacts["mlflow"]["data"]
    assert artifacts["report"]["data"].count("/artifacts/report/index.html")
    assert {a.path for a in client.list_artifacts(info["mlflow_run_id"], "report")} == {"report/index.html"}
    assert artifacts["progress"]["data"] == 100.0
    assert house.steps_done(run) == STEPS


@slow
def test_cancelled_it_leaves_a_checkpoint_and_a_retry_goes_on_from_there(house: House, whole: str) -> None:
    wanted = long(unlike=1.1)
    with house.worker():
        run, training = begin(house, wanted)
        house.cancel(run)
        asked = time.monotonic()
        wait_for(lambda: gone(training), 10, "for the training to stop")
        print(f"stopped {time.monotonic() - asked:.1f} s after Cancel")
        house.reach(run, "Cancelled")
        assert list((house.folder / ".work" / "train").glob("*/state.safetensors"))
        house.retry(run)
        check_the_end(house, run, wanted, whole)


@slow
def test_a_killed_worker_takes_its_run_along_and_the_next_goes_on(house: House, whole: str) -> None:
    wanted = long(unlike=1.2)
    with house.worker() as worker:
        run, training = begin(house, wanted)
        worker.kill()
        wait_for(lambda: gone(training), 10, "for the training to stop")
        house.reach(run, "Crashed")
    house.retry(run)
    with house.worker():
        check_the_end(house, run, wanted, whole)


@slow
def test_a_killed_flow_is_crashed_and_leaves_no_training(house: House, whole: str) -> None:
    wanted = long(unlike=1.3)
    with house.worker() as worker:
        run, training = begin(house, wanted)
        (flow,) = psutil.Process(worker.pid).children()
        flow.kill()
        wait_for(lambda: gone(training), 10, "for the training to stop")
        house.reach(run, "Crashed")
    house.retry(
        run
    )  # not before the worker is gone: it says Crashed twice, which would undo a retry in between
    with house.worker():
        check_the_end(house, run, wanted, whole)


@slow
def test_a_killed_training_fails_its_run_and_a_retry_goes_on(house: House, whole: str) -> None:
    """As when memory runs out: nobody could leave a checkpoint, so the last one counts."""
    wanted = long(unlike=1.4)
    with house.worker():
        run, training = begin(house, wanted)
        training.kill()
        house.reach(run, "Failed")
        house.retry(run)
        check_the_end(house, run, wanted, whole)


@slow
def test_out_of_time_it_fails_in_plain_words_with_a_checkpoint(house: House) -> None:
    wanted = {
        "training": {"num_epochs": 10_000, "validate_every_steps": 1_000},
        "limits": {"training_limit_minutes": 0.4},
    }
    with house.worker():
        run = house.start("train/train", settings=wanted)
        house.reach(run, "Failed")
        # What a flow says last is sent after its state, and not at all once its worker is gone.
        wait_for(lambda: "stopped after 24 s" in house.log(run), 60, "for the flow's last lines")
    log = house.log(run)
    assert "SIGTERM: leaving a checkpoint" in log
    assert re.search(r"stopped at step \d+; run again to resume", log)


@slow
def test_of_two_users_with_the_same_wish_the_second_waits_and_finds_it_done(house: House) -> None:
    """And one who runs dvc repro beside them is in nobody's way."""
    wanted = {"training": {"max_steps": 300, "checkpoint_seconds": 1.6}}
    before = (house.folder / "params.yaml").read_bytes()
    with house.worker():
        first = house.start("train/train", settings=wanted)
        house.reach(first, "Running")
        second = house.start("train/train", settings=wanted)
        beside = house.python("-m", "dvc", "repro", "embeddings")
        assert beside.returncode == 0, beside.stdout
        house.reach(first, "Completed")
        house.reach(second, "Completed")
    held = rooms.of(settings(**wanted), house.folder).folder.relative_to(house.folder)
    assert f"waiting: {held} is held by flow run toy vhcr-ud 0 (PID " in house.log(second)
    assert "trained before: nothing to do" in house.log(second)
    assert (house.folder / "params.yaml").read_bytes() == before
    assert house.python("-m", "dvc", "repro", "embeddings").stdout.count("up to date") == 1
