"""Seeds under one parent: the right numbers in whatever order they come, and each point once."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from tests.recording.test_run import write_run
from vhcr import recording
from vhcr.recording import MlflowRun, group_of, import_run, settle
from vhcr.recording.seeds import PARENT, summary


def trained(corpus: str, seed: int, nll: float | None, group: str = "g1", **test: float) -> MlflowRun:
    """A run of one seed; still running where it has no ``nll``."""
    tags = {"group": group, "seed": str(seed), "system": "vhcr-ud", "corpus": corpus}
    params = {"seed": seed, "model.z_utt_size": 16}
    run = MlflowRun.start(recording.experiment_name(corpus), f"vhcr-ud-{seed}", params, tags)
    if nll is not None:
        run.log_dataset(corpus, "d1", "data", {})
        run.log_metrics({"training/nll": nll, **{f"test/{name}": value for name, value in test.items()}}, 30)
        run.finish()
    return run


def settled(run: MlflowRun, group: str = "g1") -> str | None:
    return settle(recording.client(), run.experiment_id, group)


def stored(run_id: str | None) -> Any:
    assert run_id is not None
    return recording.client().get_run(run_id)


def parent_of(run: MlflowRun) -> str | None:
    found: str | None = stored(run.run_id).data.tags.get(PARENT)
    return found


def test_one_seed_has_no_parent(corpus: str) -> None:
    run = trained(corpus, 0, 3.0)
    trained(corpus, 0, 3.5)  # the same seed again
    trained(corpus, 1, 4.0, group="other settings")
    assert settled(run) is None
    assert parent_of(run) is None


def test_the_parent_holds_mean_and_deviation(corpus: str) -> None:
    runs = [trained(corpus, seed, nll, bleu=nll / 2) for seed, nll in enumerate((3.0, 4.0))]
    parent = settled(runs[0])
    found = stored(parent)
    assert found.data.metrics == pytest.approx(
        {
            "training/num_seeds": 2,
            "training/nll": 3.5,
            "training/nll_deviation": stdev([3.0, 4.0]),
            "test/num_seeds": 2,
            "test/bleu": 1.75,
            "test/bleu_deviation": stdev([1.5, 2.0]),
        }
    )
    assert found.data.params == {"model.z_utt_size": "16"}, "what the seeds share"
    assert found.data.tags["seeds"] == "0, 1"
    assert [item.dataset.digest for item in found.inputs.dataset_inputs] == ["d1"]
    assert found.info.status == "FINISHED"
    assert [parent_of(run) for run in runs] == [parent, parent]

    third = trained(corpus, 2, 8.0, bleu=4.0)
    for _ in range(2):  # the second time there is nothing new to say
        assert settled(third) == parent
    history = recording.client().get_metric_history(str(parent), "training/nll")
    assert [(point.step, point.value) for point in history] == [(0, 3.5), (1, 5.0)]
    assert stored(parent).data.metrics["training/nll_deviation"] == pytest.approx(stdev([3.0, 4.0, 8.0]))


def test_seeds_that_end_at_the_same_time_have_one_parent(corpus: str) -> None:
    runs = [trained(corpus, seed, float(seed)) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        parents = set(pool.map(settled, runs))
    assert len(parents) == 1
    assert stored(parents.pop()).data.metrics["training/nll"] == 1.5


def test_of_two_parents_the_older_stays(corpus: str) -> None:
    """Two machines have no common lock; what they both made is put right by whoever comes next."""
    runs = [trained(corpus, seed, float(seed)) for seed in range(2)]
    parent = settled(runs[0])
    connected = recording.client()
    surplus = connected.create_run(runs[0].experiment_id, tags={"group": "g1", "kind": "seeds"}).info.run_id
    connected.set_tag(runs[1].run_id, PARENT, surplus)
    assert settled(runs[0]) == parent
    assert parent_of(runs[1]) == parent
    assert stored(surplus).info.lifecycle_stage == "deleted"


def test_a_seed_counts_once_by_its_latest_finished_run(corpus: str) -> None:
    runs = [
        trained(corpus, 0, 1.0),
        trained(corpus, 1, 3.0),
        trained(corpus, 1, 5.0),
        trained(corpus, 2, None),
    ]
    assert stored(settled(runs[0])).data.metrics["training/nll"] == 3.0
    assert all(parent_of(run) for run in runs), "also the one that has not ended"


def test_an_evaluation_made_anew_changes_the_mean(corpus: str) -> None:
    runs = [trained(corpus, seed, 1.0, bleu=0.5) for seed in range(2)]
    parent = settled(runs[0])
    again = MlflowRun(recording.client(), runs[0].run_id, runs[0].experiment_id, resumed=True)
    again.log_metrics({"test/bleu": 1.5}, 30)
    assert settled(runs[0]) == parent
    assert stored(parent).data.metrics["test/bleu"] == 1.0


def test_a_number_that_only_some_seeds_have_is_no_mean(corpus: str) -> None:
    runs = [trained(corpus, seed, 1.0, bleu=0.5) for seed in range(2)]
    parent = settled(runs[0])
    third = trained(corpus, 2, 1.0, other=1.0)
    settled(third)
    found, revision = stored(parent).data.metrics, stored(parent).data.tags["revision"]
    assert found["test/num_seeds"] == 3
    assert math.isnan(found["test/bleu"])
    assert "test/other" not in found
    settled(third)
    assert len(recording.client().get_metric_history(str(parent), "test/bleu")) == 2, "said once"
    assert stored(parent).data.tags["revision"] == revision, "nothing is new"


def test_seeds_not_yet_evaluated_do_not_count_in_test() -> None:
    found = summary([{"training/a": 1.0, "test/b": 2.0}, {"training/a": 3.0, "system/cpu": 9.0}])
    assert found["training/a"] == 2.0
    assert (found["test/b"], found["test/num_seeds"]) == (2.0, 1)
    assert "test/b_deviation" not in found
    assert "system/cpu" not in found


def test_imported_seeds_have_a_parent_too(corpus: str, tmp_path: Path) -> None:
    ids = []
    for seed in range(2):
        write_run(corpus, tmp_path / str(seed), seed=seed)
        ids.append(import_run(tmp_path / str(seed)))
    parents = {stored(run_id).data.tags[PARENT] for run_id in ids}
    assert len(parents) == 1
    assert stored(parents.pop()).data.metrics["training/num_seeds"] == 2


def test_a_group_is_all_but_the_seed() -> None:
    info = {"corpus": "toy", "system": "vhcr", "data_hash": "d", "params": {"a": {"b": 1}}, "code": "c"}
    assert group_of({**info, "seed": 1, "mlflow_run_id": "x"}) == group_of(info)
    for changed in ({"data_hash": "e"}, {"params": {"a": {"b": 2}}}, {"code": "d"}, {"system": "hred"}):
        assert group_of({**info, **changed}) != group_of(info)
