"""A sweep: its ranges, its trials, and what is left of it when the flow is killed."""

from __future__ import annotations

import csv
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows import rooms
from flows.compare import read_range
from flows.settings import DIALS, CompareSettings
from flows.sweep import JOURNAL, Pruned, Sweep
from tests.flows.conftest import ROOT, House, slow
from tests.processes import running, wait_for
from vhcr import recording
from vhcr.errors import ParameterError

RATE = {"dial": "training.learning_rate", "low": 1e-4, "high": 1e-2, "log": True}
SIZE = {"dial": "model.z_utt_size", "low": 8, "high": 64}
SEED = 5  # draws the first of two choices, then the second
CONTEXT = {"dial": "model.context_size", "low": 16, "high": 48}
LOSS = {"dial": "training.loss_reduction", "choices": ["mean", "sum"]}


def settings(**values: Any) -> CompareSettings:
    asked = {"systems": ["hred"], "ranges": [RATE, SIZE, LOSS], "trials": 4, "prune_after": 1}
    return CompareSettings.model_validate({**asked, **values})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A project with params.yaml alone."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path


def opened(place: Path, **values: Any) -> Sweep:
    return Sweep(place / "sweep", settings(**values), "hred")


def room(place: Path, values: dict[str, Any]) -> rooms.Room:
    found = rooms.of(settings().trial("hred", values), place)
    found.folder.mkdir(parents=True, exist_ok=True)
    return found


def said(at: rooms.Room, *bounds: float) -> None:
    """Validations of a training that goes on, at steps 10, 20, ..."""
    lines = [{"step": 10 * (i + 1), "nll_per_word": bound} for i, bound in enumerate(bounds)]
    at.heard.write_text("".join(json.dumps(line) + "\n" for line in lines))


def trained(at: rooms.Room, *bounds: float, run_id: str | None = None) -> None:
    """What a training leaves that has ended."""
    at.trained.mkdir(parents=True)
    rows = [f"{10 * (i + 1)},validation,{bound}" for i, bound in enumerate(bounds)]
    (at.trained / "curves.csv").write_text("\n".join(["step,split,nll_per_word", "5,train,9.0", *rows, ""]))
    best = {"best_validation": {"nll_per_word": min(bounds)}}
    (at.trained / "metrics.json").write_text(json.dumps(best))
    (at.trained / "provenance.json").write_text(json.dumps({"mlflow_run_id": run_id}))


def end(sweep: Sweep, place: Path, number: int, *bounds: float) -> dict[str, Any]:
    """Run a trial to its end; gives its dials."""
    values = sweep.values(number)
    at = room(place, values)
    trained(at, *bounds)
    sweep.tell(number, at, pruned=False)
    return values


# Ranges


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        ({**RATE, "dial": "training.learning_rat"}, "did you mean training.learning_rate"),
        ({**RATE, "dial": "evaluation.seed"}, "no dial 'evaluation.seed'"),
        ({**RATE, "low": None}, "training.learning_rate: give low and high, or choices"),
        ({**RATE, "low": 0.0}, "training.learning_rate: low = 0"),
        ({**RATE, "low": 0.1}, "low = 0.1 is not below high = 0.01"),
        ({**SIZE, "high": 64.5}, "model.z_utt_size: high = 64.5: .*integer"),
        ({**SIZE, "low": 0}, "model.z_utt_size: low = 0.*greater than or equal to 1"),
        ({"dial": "system_dials.word_drop", "low": 0.1, "high": 1.5}, "high = 1.5: .*less than"),
        ({"dial": "training.precision", "low": 1, "high": 2}, "training.precision: .*no number"),
        ({"dial": "system_dials.decoder_sees_context", "low": 0, "high": 1}, "no number; give choices"),
        ({**SIZE, "low": 0, "high": 1e12}, "model.z_utt_size"),
        ({"dial": "training.loss_reduction", "choices": ["mean", "max"]}, "choices = max"),
        ({"dial": "training.loss_reduction", "choices": ["mean"]}, "two or more, each once"),
        ({**LOSS, "low": 1}, "either low and high"),
        ({**SIZE, "log": True, "low": -1}, "log scale begins above 0"),
    ],
)  # fmt: skip
def test_a_range_that_cannot_be_meant_is_refused(one: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        settings(ranges=[one])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"ranges": [RATE, RATE]}, "ranges: something is there twice"),
        ({"variants": [{"name": "plain"}]}, "ranges and variants"),
        ({"seeds": [0, 1]}, "seeds = .0, 1.: trials are trained from one seed"),
        ({"systems": ["hred", "vhred"], "trials": 101}, "202 runs; at most 200"),
    ],
)
def test_a_sweep_that_cannot_be_meant_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        settings(**values)


def test_a_trial_has_its_dials_and_all_else_of_the_comparison() -> None:
    asked = settings(seeds=[3], evaluation={"importance_samples": 7}, run_on="gpu")
    values = {"training.learning_rate": 0.002, "model.z_utt_size": 9, "training.loss_reduction": "sum"}
    one = asked.trial("hred", values)
    assert (one.system, one.seed, one.evaluation.importance_samples) == ("hred", 3, 7)
    assert (one.training.learning_rate, one.training.loss_reduction) == (0.002, "sum")
    assert one.training.device == "cuda"
    assert one.model.z_utt_size == 9


def test_ranges_are_read_from_the_command_line() -> None:
    assert read_range("training.learning_rate=0.0001:0.01:log") | {"low": 1e-4, "high": 1e-2} == RATE
    assert read_range("training.loss_reduction=mean,sum") == LOSS
    assert read_range("system_dials.kl_cycles=1,4")["choices"] == [1, 4]
    for text in ("training.learning_rate", "a=", "=1:2", "a=1:2:linear"):
        with pytest.raises(ParameterError, match="--range"):
            read_range(text)


def test_the_form_lists_the_dials(place: Path) -> None:
    from flows.compare import compare

    schema = compare.parameters.model_dump()["definitions"]["Range"]
    assert schema["properties"]["dial"]["enum"] == list(DIALS)
    assert schema["properties"]["low"]["type"] == "number", "not a choice between a number and null"
    assert "training.learning_rate" in DIALS


def test_more_trials_are_the_same_sweep_and_other_ranges_are_another(place: Path) -> None:
    def folder(**values: Any) -> Path:
        asked = settings(**values)
        return rooms.shared(asked, [rooms.of(one, place) for one in asked.members().values()]).folder

    assert folder(trials=9, parallel_runs=7) == folder()
    others = [folder(sweep_seed=1), folder(ranges=[RATE]), folder(ranges=[]), folder(prune_after=0)]
    assert len({folder(), *others}) == 5


def test_without_optuna_the_extra_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ParameterError, match=r"vhcr\[scale\]"):
        opened(place)


# Trials


def test_dials_lie_within_their_ranges_and_follow_from_the_seed(place: Path) -> None:
    def tried(folder: str, **values: Any) -> list[dict[str, Any]]:
        sweep = Sweep(place / folder, settings(trials=8, **values), "hred")
        return [sweep.values(number) for number in sweep.numbers()]

    first = tried("a")
    for values in first:
        assert 1e-4 <= values["training.learning_rate"] <= 1e-2
        assert 8 <= values["model.z_utt_size"] <= 64
        assert isinstance(values["model.z_utt_size"], int)
        assert values["training.loss_reduction"] in ("mean", "sum")
    assert len({json.dumps(values) for values in first}) == 8
    assert tried("b") == first
    assert tried("c", sweep_seed=1) != first


def test_killed_between_any_two_trials_the_same_ones_are_tried(place: Path) -> None:
    """Of a sampler that is seeded once, a flow that goes on had its first values a second time."""
    asked = {"trials": 14, "prune_after": 0}  # from the eleventh on, the sampler looks at the others
    whole = Sweep(place / "whole", settings(**asked), "hred")
    undisturbed = [end(whole, place / "a", number, 2.0 + number % 3) for number in _begun(place / "a", whole)]
    again = []
    for number in range(14):
        sweep = Sweep(place / "cut", settings(**asked), "hred")  # a new process each time
        assert sweep.numbers() == list(range(number, 14))
        again.append(end(sweep, _project(place / "b"), number, 2.0 + number % 3))
    assert again == undisturbed
    assert Sweep(place / "cut", settings(**asked), "hred").numbers() == []
    assert len(Sweep(place / "cut", settings(**{**asked, "trials": 16}), "hred").numbers()) == 2


def _project(place: Path) -> Path:
    place.mkdir(exist_ok=True)
    (place / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return place


def _begun(place: Path, sweep: Sweep) -> list[int]:
    _project(place)
    return sweep.numbers()


def test_a_trial_that_was_running_is_taken_up_with_the_same_dials(place: Path) -> None:
    first = opened(place)
    end(first, place, 0, 3.0)
    left = {number: first.values(number) for number in (1, 2)}
    said(at := room(place, left[1]), 3.5, 2.5)
    first.hear(1, at)
    del first  # as by SIGKILL: nothing is told

    second = opened(place)
    assert second.numbers() == [1, 2, 3]
    assert {number: second.values(number) for number in (2, 1)} == {2: left[2], 1: left[1]}
    assert second.values(3) not in left.values()
    said(at, 3.5, 2.5, 2.0)  # the training says again what came after its checkpoint
    second.hear(1, at)
    trained(at, 3.5, 2.5, 2.0)
    second.tell(1, at, pruned=False)
    assert [row["state"] for row in second.table()] == ["complete", "complete", "running", "running"]
    assert second.best() is not None
    assert second.best()["trial"] == 1  # type: ignore[index]


def test_a_journal_whose_last_line_was_cut_goes_on(place: Path) -> None:
    """Optuna once wrote the next line on in it, and no sweep in that folder could be read again."""
    first = opened(place)
    kept = first.values(0)
    journal = place / "sweep" / JOURNAL
    whole = journal.read_bytes()
    first.values(1)
    line = journal.read_bytes()[len(whole) :].split(b"\n")[0]
    journal.write_bytes(whole + line[: len(line) // 2])
    second = opened(place)
    assert second.values(0) == kept
    second.values(1)
    third = opened(place)
    assert third.numbers() == [0, 1, 2, 3]
    assert third.values(0) == kept


def test_a_lock_that_a_killed_flow_left_is_not_waited_for(place: Path) -> None:
    """Optuna's own is a file; whoever came after a kill waited for 30 s at each of its first writes."""
    opened(place)
    journal = place / "sweep" / JOURNAL
    journal.with_name(journal.name + ".lock").symlink_to(journal)
    asked = threading.Thread(target=lambda: opened(place).values(0), daemon=True)
    asked.start()
    asked.join(20)
    assert not asked.is_alive()


# Pruning


def test_a_trial_above_the_median_is_stopped_at_that_validation(place: Path) -> None:
    sweep = opened(place)
    end(sweep, place, 0, 3.0, 2.0, 1.0)
    at = room(place, sweep.values(1))
    said(at, 2.9)
    sweep.hear(1, at)
    said(at, 2.9, 2.1)
    with pytest.raises(Pruned, match=r"stopped at step 20: a bound of 2\.1000"):
        sweep.hear(1, at)
    sweep.tell(1, at, pruned=True)
    row = sweep.table()[1]
    assert (row["state"], row["nll_per_word"], row["last_step"]) == ("pruned", 2.1, 20)
    assert sweep.numbers() == [2, 3], "it counts as a trial"
    assert list(sweep.complete()) == [0]


def test_killed_before_a_pruned_trial_was_told_it_is_stopped_at_once(place: Path) -> None:
    first = opened(place)
    end(first, place, 0, 3.0, 2.0)
    at = room(place, first.values(1))
    said(at, 3.5)
    with pytest.raises(Pruned):
        first.hear(1, at)
    at.heard.unlink()
    second = opened(place)
    second.values(1)
    with pytest.raises(Pruned, match="step 10"):
        second.hear(1, at)


def test_no_trial_is_pruned_before_so_many_are_complete_nor_where_none_is_to_be(place: Path) -> None:
    for after in (2, 0):
        sweep = Sweep(place / f"after-{after}", settings(prune_after=after), "hred")
        own = _project(place / str(after))
        end(sweep, own, 0, 1.0)
        at = room(own, sweep.values(1))
        said(at, 9.0)
        sweep.hear(1, at)


def test_a_line_that_is_still_being_written_is_read_later(place: Path) -> None:
    sweep = opened(place)
    at = room(place, sweep.values(0))
    at.heard.write_text('{"mlflow_run_id": "abc"}\n{"step": 10, "nll_p')
    sweep.hear(0, at)
    row = sweep.table()[0]
    assert (row["mlflow_run_id"], row["nll_per_word"]) == ("abc", None)


# Importance


def test_importance_is_that_of_the_dial_that_matters(place: Path) -> None:
    sweep = opened(place, trials=12, prune_after=0)
    assert sweep.importance() == {}
    for number in sweep.numbers():
        values = sweep.values(number)
        at = room(place, values)
        trained(at, 1.0 + values["model.z_utt_size"])
        sweep.tell(number, at, pruned=False)
    shares = sweep.importance()
    assert next(iter(shares)) == "model.z_utt_size"
    assert shares["model.z_utt_size"] > 0.8
    assert sum(shares.values()) == pytest.approx(1.0)


# Whole sweeps


def sweep_folder(house: House) -> Path:
    """The newest one."""
    return max((house.folder / "runs" / "toy").glob("sweep-*"), key=lambda folder: folder.stat().st_mtime)


def trials_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "hred-trials.csv").open() as file:
        return list(csv.DictReader(file))


def in_mlflow(house: House, folder: Path) -> tuple[Any, dict[int, Any]]:
    """The one parent of the sweep, and its children by their trial."""
    connected = recording.client(house.environment["MLFLOW_TRACKING_URI"])
    experiment = connected.get_experiment_by_name("vhcr-toy")
    assert experiment is not None
    runs = connected.search_runs([experiment.experiment_id])
    ids = {row["mlflow_run_id"] for row in trials_of(folder)}
    children = [run for run in runs if run.info.run_id in ids]
    (parent_id,) = {run.data.tags["mlflow.parentRunId"] for run in children}
    below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent_id]
    assert len(below) == len(children) == len(ids)
    return connected.get_run(parent_id), {int(run.data.tags["trial"]): run for run in children}


@slow
def test_in_a_pool_one_trial_is_complete_and_one_is_stopped(house: House) -> None:
    """The second trial has a learning rate that learns nothing."""
    rates = {"dial": "training.learning_rate", "choices": [0.003, 1e-7]}
    asked = {
        "systems": ["hred"],
        "ranges": [rates],
        "trials": 2,
        "prune_after": 1,
        "sweep_seed": SEED,
        "run_on": "cpu",
        "parallel_runs": 1,
    }
    with house.worker():
        run = house.start("compare/compare", settings=asked)
        house.reach(run, "Completed", seconds=1200)
    folder = sweep_folder(house)
    rows = trials_of(folder)
    assert [(row["training.learning_rate"], row["state"]) for row in rows] == [
        ("0.003", "complete"),
        ("1e-07", "pruned"),
    ]
    assert int(rows[1]["last_step"]) < int(rows[0]["last_step"])
    parent, children = in_mlflow(house, folder)
    assert parent.data.tags["kind"] == "sweep"
    assert parent.info.status == "FINISHED"
    metrics = parent.data.metrics
    assert (metrics["trials/complete"], metrics["trials/pruned"]) == (1, 1)
    assert metrics["best_validation/nll_per_word"] == pytest.approx(float(rows[0]["nll_per_word"]))
    assert {number: child.info.status for number, child in children.items()} == {0: "FINISHED", 1: "KILLED"}
    assert {child.data.tags["trial_state"] for child in children.values()} == {"complete", "pruned"}
    (stopped,) = house.http.post(
        "/flow_runs/filter", json={"flow_runs": {"name": {"any_": ["hred.trial-001-0"]}}}
    ).json()
    assert stopped["state"]["name"] == "Cancelled"
    shown = json.loads(house.artifacts(run)["trials"]["data"])
    assert [row["state"] for row in shown] == ["complete", "pruned"]
    report = json.loads((folder / "reports" / "toy" / "table.json").read_text())
    assert [row["system"] for row in report] == ["hred.trial-000"]


@slow
def test_killed_in_its_second_trial_it_goes_on_and_none_is_lost_or_doubled(house: House) -> None:
    command = [sys.executable, "-m", "flows.compare", "--corpus", "toy", "--systems", "hred", "--trials", "2"]
    command += ["--prune-after", "0", "--parallel-runs", "1"]
    command += ["--range", "training.learning_rate=0.001:0.01:log", "--range", "model.context_size=16:48"]
    options: dict[str, Any] = {"cwd": house.folder, "env": house.environment}

    with running(command, house.folder / "first.log", **options) as flow:

        def validating() -> bool:
            log = (house.folder / "first.log").read_text()
            assert flow.poll() is None, log
            return "'hred.trial-001' - step 12: validation bound" in log

        wait_for(validating, 900, "for the second trial")
        flow.kill()
        flow.wait()
        wait_for(lambda: not house.trainings(), 30, "for its training to end")
        house.end_all()  # nobody tells Prefect that this flow has ended
    folder = sweep_folder(house)
    begun = Sweep(folder, settings(ranges=[{**RATE, "low": 1e-3}, CONTEXT]), "hred").table()
    assert [row["state"] for row in begun] == ["complete", "running"]

    with running(command, house.folder / "second.log", **options) as flow:
        assert flow.wait(900) == 0, (house.folder / "second.log").read_text()
    log = (house.folder / "second.log").read_text()
    assert "'hred.trial-000'" not in log, "it had ended"
    assert "'hred.trial-001' - resuming at step" in log
    rows = trials_of(folder)
    assert [row["state"] for row in rows] == ["complete"] * 2
    for before, after in zip(begun, rows, strict=True):
        for dial in ("training.learning_rate", "model.context_size"):
            assert float(after[dial]) == before[dial]
    parent, children = in_mlflow(house, folder)
    assert sorted(children) == [0, 1]
    assert parent.info.status == "FINISHED"
    metrics = parent.data.metrics
    assert metrics["trials/complete"] == 2
    shares = [metrics[f"importance/{dial}"] for dial in ("training.learning_rate", "model.context_size")]
    assert sum(shares) == pytest.approx(1.0)
    assert children[1].info.run_id == begun[1]["mlflow_run_id"], "the same run in MLflow"
