"""Runs that differ in their seed alone, under a parent run that holds mean and deviation.

The parent appears with the second seed: of one seed there is nothing to average. It is made from what MLflow
holds of all of them, whenever one of them changes, so it comes out the same in whatever order seeds were
trained, resumed or imported. Two machines that make a parent at the same moment make two; whoever comes next
keeps the older one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vhcr.files import values_digest
from vhcr.recording.run import MlflowRun
from vhcr.recording.store import one_at_a_time, plainly

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"  # by this tag MLflow's pages show a run below another
SUMMED_UP = ("training/", "test/")
SHARED_TAGS = ("corpus", "system", "group", "reading", "data_hash", "git_commit", "dirty")


def group_of(info: Mapping[str, Any]) -> str:
    """What runs share that differ in their seed alone: corpus, data, system, parameters, training code."""
    shared = {name: info.get(name) for name in ("corpus", "system", "data_hash", "params", "code")}
    return values_digest(shared)


def settle(connected: MlflowClient, experiment_id: str, group: str) -> str | None:
    """Put the seeds of ``group`` under one parent and bring its numbers up to date; returns its id.

    None while there is one seed only. A seed that was trained twice counts once, by its latest finished run.

    Raises:
        RecordingError: MLflow cannot be reached.
    """
    with one_at_a_time("seeds"), plainly():
        runs = _runs(connected, experiment_id, group)
        parents = [run for run in runs if run.data.tags.get("kind") == "seeds"]
        children = [run for run in runs if run.data.tags.get("kind") != "seeds"]
        if len({run.data.tags.get("seed") for run in children}) < 2:
            return None
        if parents:
            parent_id = str(parents[0].info.run_id)
        else:
            parent_id = _new_parent(connected, experiment_id, children[0])
        for run in children:
            if run.data.tags.get(PARENT) != parent_id:
                connected.set_tag(run.info.run_id, PARENT, parent_id)
        for surplus in parents[1:]:
            connected.delete_run(surplus.info.run_id)
        _sum_up(connected, experiment_id, parent_id, children)
    return parent_id


def summary(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of the metrics of several seeds: the mean under the same name, the deviation beside it.

    Each of ``SUMMED_UP`` over the seeds that have got so far; a number that one of them lacks is left out.
    The deviation is the sample standard deviation (n - 1).
    """
    from vhcr.results.statistics import mean_and_deviation

    result: dict[str, float] = {}
    for part in SUMMED_UP:
        seeds = [
            {name: value for name, value in one.items() if name.startswith(part) and math.isfinite(value)}
            for one in values
        ]
        seeds = [one for one in seeds if one]
        if not seeds:
            continue
        result[f"{part}num_seeds"] = len(seeds)
        for name in set.intersection(*map(set, seeds)):
            found = mean_and_deviation([one[name] for one in seeds])
            assert found is not None
            result[name] = found.mean
            if found.deviation is not None:
                result[f"{name}_deviation"] = found.deviation
    return result


def _runs(connected: MlflowClient, experiment_id: str, group: str) -> list[Run]:
    """The runs of a group, oldest first."""
    found: list[Run] = []
    token = None
    while True:
        page = connected.search_runs(
            [experiment_id], filter_string=f"tags.`group` = '{group}'", page_token=token
        )
        found.extend(page)
        token = page.token
        if not token:
            return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


def _new_parent(connected: MlflowClient, experiment_id: str, child: Run) -> str:
    tags = {name: child.data.tags[name] for name in SHARED_TAGS if name in child.data.tags}
    created = connected.create_run(
        experiment_id,
        start_time=child.info.start_time,
        tags={**tags, "kind": "seeds"},
        run_name=child.data.tags.get("system"),
    )
    parent = MlflowRun(connected, created.info.run_id, experiment_id, resumed=False)
    parent.log_params({name: value for name, value in child.data.params.items() if name != "seed"})
    if child.inputs.dataset_inputs:
        connected.log_inputs(parent.run_id, child.inputs.dataset_inputs)
    return parent.run_id


def _sum_up(connected: MlflowClient, experiment_id: str, parent_id: str, children: Sequence[Run]) -> None:
    finished: dict[str, Run] = {}
    for run in children:  # oldest first, so the latest stays
        if run.info.status == "FINISHED":
            finished[run.data.tags.get("seed", "")] = run
    found: dict[str, float] = summary([run.data.metrics for run in finished.values()])
    stored = connected.get_run(parent_id).data
    # MLflow keeps every point for ever; what can no longer be said is said to be no number.
    said = {name for name, value in stored.metrics.items() if math.isnan(value)}
    found |= {name: math.nan for name in stored.metrics if name not in found and name not in said}
    parent = MlflowRun(connected, parent_id, experiment_id, resumed=True)
    if any(found[name] != stored.metrics.get(name) for name in found):
        revision = int(stored.tags.get("revision", "-1")) + 1
        parent.set_tags({"revision": str(revision)})
        parent.log_metrics(found, revision)
    parent.set_tags({"seeds": ", ".join(sorted(finished, key=lambda seed: (len(seed), seed)))})
    ended = max((run.info.end_time for run in finished.values()), default=None)
    connected.set_terminated(parent_id, "FINISHED", ended)
