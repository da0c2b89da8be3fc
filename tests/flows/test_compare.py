"""The compare deployment: its grid, its one report, and what it takes a failing run for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from flows import compare as flow
from flows import rooms
from flows.compare import collect, compare, run_elsewhere
from flows.settings import KEPT, CompareSettings
from tests.flows.conftest import ROOT, House, slow
from tests.processes import gone, wait_for
from vhcr import layout
from vhcr.errors import ParameterError


def settings(**values: Any) -> CompareSettings:
    return CompareSettings.model_validate(values)


SHORT = {"name": "short", "training": {"max_steps": 24}}
GPU = {"name": "gpu", "training": {"max_steps": 24, "device": "cuda"}}


def test_the_grid_is_every_system_with_every_seed_in_every_variant() -> None:
    wide = {"name": "wide", "model": {"z_utt_size": 32}, "system_dials": {"utterance_drop": 0.5}}
    asked = settings(
        systems=["vhred", "vhcr"],
        seeds=[0, 7],
        variants=[SHORT, wide],
        evaluation={"importance_samples": 3},
        limits={"training_limit_minutes": 5},
    )
    members = asked.members()
    assert list(members) == [
        (f"{system}.{variant}", seed)
        for variant in ("short", "wide")
        for system in ("vhred", "vhcr")
        for seed in (0, 7)
    ]
    one = members["vhcr.wide", 7]
    assert (one.system, one.seed) == ("vhcr", 7)
    assert one.model.z_utt_size == 32
    assert one.system_dials.utterance_drop == 0.5
    assert one.training.max_steps is None
    assert members["vhcr.short", 7].training.max_steps == 24
    assert {member.evaluation.importance_samples for member in members.values()} == {3}
    assert {member.limits.training_limit_minutes for member in members.values()} == {5}
    assert list(settings(systems=["hred"], seeds=[1]).members()) == [("hred", 1)], "without variants"


def test_on_gpus_a_worker_without_one_says_so_instead_of_taking_a_week() -> None:
    """A run's own settings replace those of the deployment, and with them its device."""
    plain = settings(systems=["hred"], seeds=[1], run_on="gpu").members()["hred", 1]
    assert plain.training.device == "cuda"
    asked = settings(systems=["hred"], run_on="gpu", variants=[{**SHORT, "training": {"device": "cpu"}}])
    assert {member.training.device for member in asked.members().values()} == {"cpu"}
    here = settings(systems=["hred"], seeds=[1]).members()["hred", 1]
    assert here.training.device == KEPT


def test_a_grid_that_cannot_be_meant_is_refused() -> None:
    for values, reason in (
        ({"systems": ["hred", "hred"]}, "systems: something is there twice"),
        ({"seeds": [1, 1]}, "seeds: something is there twice"),
        ({"variants": [SHORT, SHORT]}, "variants: something is there twice"),
        ({"systems": []}, "systems"),
        ({"systems": ["hered"]}, "not defined in params.yaml"),
        ({"seeds": range(201), "systems": ["hred"]}, "201 runs; at most 200"),
        ({"variants": [{"name": "../x"}]}, "variants"),
        ({"run_on": "tpu"}, "run_on"),
    ):
        with pytest.raises(ValidationError, match=reason):
            settings(**values)


def test_its_form_describes_every_field() -> None:
    schema = compare.parameters.model_dump()["definitions"]
    for form in ("CompareSettings", "Variant"):
        assert schema[form]["additionalProperties"] is False
        for name, field in schema[form]["properties"].items():
            assert "$ref" in field or field["description"], f"{form}.{name}"
    assert schema["CompareSettings"]["properties"]["run_on"]["enum"] == ["here", "cpu", "gpu"]


def members(asked: CompareSettings, root: Path) -> list[rooms.Room]:
    return [rooms.of(member, root) for member in asked.members().values()]


def test_another_grid_is_reported_in_another_room(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    grids = (
        settings(systems=["hred"], seeds=[0]),
        settings(systems=["hred"], seeds=[0, 1]),
        settings(systems=["hred"], seeds=[0], variants=[SHORT]),
        settings(systems=["hred"], seeds=[0], evaluation={"importance_samples": 3}),
    )
    found = [rooms.shared(asked, members(asked, tmp_path)).folder for asked in grids]
    assert len(set(found)) == len(grids)
    again = settings(systems=["hred"], seeds=[0], parallel_runs=1)
    assert rooms.shared(again, members(again, tmp_path)).folder == found[0], "how is not what"


def test_the_report_sees_the_runs_that_came_out_well_and_no_older_ones(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    asked = settings(systems=["hred"], seeds=[0, 1], variants=[SHORT, {"name": "plain"}])
    places = dict(zip(asked.members(), members(asked, tmp_path), strict=True))
    for place in places.values():
        for folder in (layout.trained, layout.evaluated):
            file = place.folder / folder("toy", "hred", place.seed) / "run.json"
            file.parent.mkdir(parents=True)
            file.write_text(place.folder.name)
    room = rooms.shared(asked, list(places.values()))

    def seen() -> dict[str, str]:
        files = room.folder.rglob("run.json")
        return {str(file.relative_to(room.folder).parent): file.read_text() for file in files}

    collect(room, places)
    assert len(seen()) == 8
    assert seen()["data/trained/toy/hred.short/1"] == places["hred.short", 1].folder.name
    collect(room, {("hred.plain", 0): places["hred.plain", 0]})
    assert set(seen()) == {"data/trained/toy/hred.plain/0", "data/evaluated/toy/hred.plain/0"}


def test_it_does_not_wait_for_runs_that_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pool for one run at a time, which it is itself, it once would have waited for ever."""

    @contextlib.contextmanager
    def narrow(**options: Any) -> Iterator[Any]:
        yield SimpleNamespace(read_work_pool=lambda name: SimpleNamespace(concurrency_limit=1))

    monkeypatch.setattr(flow, "get_client", narrow)
    wanted = {f"{name}-{seed}": member for (name, seed), member in settings().members().items()}
    with pytest.raises(ParameterError, match="cpu takes one run at a time"):
        run_elsewhere(wanted, "cpu")


def flow_runs(house: House, name: str) -> list[dict[str, Any]]:
    wanted = {"flow_runs": {"name": {"any_": [name]}}}
    return list(house.http.post("/flow_runs/filter", json=wanted).raise_for_status().json())


def table(house: House, run: str) -> list[tuple[str, int]]:
    """System and seed of each row of the report."""
    rows = json.loads(house.artifacts(run)["table"]["data"])
    return [(row["system"], row["seed"]) for row in rows]


@slow
def test_a_failing_run_is_named_the_report_is_on_the_others_and_nothing_is_trained_twice(
    house: House,
) -> None:
    asked = {"systems": ["hred"], "seeds": [0, 1], "variants": [SHORT]}
    with house.worker(CUDA_VISIBLE_DEVICES=""):
        first = house.start("compare/compare", settings={**asked, "seeds": [0], "variants": [SHORT, GPU]})
        house.reach(first, "Failed")
        message = house.http.get(f"/flow_runs/{first}").json()["state"]["message"]
        assert "hred.gpu-0: train@toy-hred-0 failed" in message
        assert "this machine has no usable GPU" in message
        assert "hred.short-0" not in message
        assert table(house, first) == [("hred.short", 0)]

        second = house.start("compare/compare", settings={**asked, "run_on": "cpu"})
        house.reach(second, "Completed")
    assert table(house, second) == [("hred.short", 0), ("hred.short", 1)]
    (known,), (new,) = (flow_runs(house, f"hred.short-{seed}") for seed in (0, 1))
    assert "these very settings were trained before" in house.log(known["id"])
    assert "Running stage 'evaluate" not in house.log(known["id"])
    assert "Running stage 'train" in house.log(new["id"])
    link = house.artifacts(second)["mlflow"]["data"]
    assert link.count("/#/compare-runs?runs=")
    assert house.artifacts(second)["report"]["data"].count("/artifacts/comparison/index.html")


@slow
def test_cancelled_it_takes_its_runs_in_the_pool_along(house: House) -> None:
    endless = {"name": "endless", "training": {"num_epochs": 10_000}}
    with house.worker():
        asked = {"systems": ["hred"], "variants": [endless], "run_on": "cpu"}
        run = house.start("compare/compare", settings=asked)
        (training,) = wait_for(house.trainings, 600, "for the training")
        house.cancel(run)
        house.reach(run, "Cancelled")
        (member,) = flow_runs(house, "hred.endless-0")
        house.reach(member["id"], "Cancelled")
        wait_for(lambda: gone(training), 20, "for the training to stop")
