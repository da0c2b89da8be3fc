"""Compare systems, seeds and settings on one corpus: all runs side by side, and one report on them.

    python -m flows.compare --corpus toy --systems vhred vhcr-ud --seeds 0 1
    python -m flows.compare --range training.learning_rate=0.0001:0.01:log --trials 20

Each run has a room of its own, as one of ``flows.train`` has; whatever was made before is not made again. The
report lies in a further room. With ranges, the runs are the trials of a sweep (``flows.sweep``).
"""

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.deployments import run_deployment
from prefect.runtime import flow_run
from prefect.states import Cancelling
from prefect.task_runners import ThreadPoolTaskRunner

from flows import rooms, running, terminal
from flows.pipeline import run_in_order
from flows.rooms import Room
from flows.settings import CompareSettings, Limits, TrainSettings
from flows.shown import only_shown
from flows.sweep import Pruned, Sweep, optuna
from flows.tether import follow_worker
from flows.train import bring, find_mlflow, key_of, offer, open_mlflow, run_step
from vhcr import layout
from vhcr.errors import ParameterError, VhcrError
from vhcr.files import read_json

DEFAULT_SETTINGS = CompareSettings()
POLL_SECONDS = 2.0
OWN_POOL = "cpu"  # where flows/prefect.yaml has this flow run


class CompareError(VhcrError):
    """Some runs failed; the message names them. The report is on the others."""


@flow(
    name="compare",
    description="Train and evaluate systems, seeds and settings side by side; one report on all of them.",
    flow_run_name="{settings.corpus} compared",
    task_runner=ThreadPoolTaskRunner(max_workers=64),  # type: ignore[arg-type]
    validate_parameters=True,
)
def compare(settings: CompareSettings = DEFAULT_SETTINGS) -> dict[str, Any]:
    """A grid of runs and their report; returns where that lies and which runs it is on."""
    follow_worker()
    logger = get_run_logger()
    wanted = {f"{name}-{seed}": member for (name, seed), member in settings.members().items()}
    places = {name: rooms.of(member) for name, member in wanted.items()}
    room = rooms.shared(settings, list(places.values()))
    if settings.ranges:
        optuna()
        logger.info("%d trials of %s; all in %s", settings.trials, ", ".join(settings.systems), room.folder)
    else:
        logger.info("%d runs: %s; the report in %s", len(wanted), ", ".join(wanted), room.folder)
    who, wait = f"flow run {flow_run.name}", settings.limits.wait_minutes * 60
    with room.held(who, logger.warning, wait):
        room.furnish()
        open_mlflow(settings.corpus, logger.warning)
        try:
            # Once, for all: the runs find it in the cache.
            run_step.with_options(name="prepare", task_run_name="prepare")("prepare", room, settings.limits)
            if settings.ranges:
                finished, failed = run_sweeps(settings, room)
            else:
                if settings.run_on == "here":
                    done, failed = run_here(wanted, places, settings.parallel_runs)
                else:
                    done, failed = run_elsewhere(wanted, settings.run_on)
                names = {key: f"{key[0]}-{key[1]}" for key in settings.members()}
                finished = {key: places[name] for key, name in names.items() if name in done}
            if finished:
                collect(room, finished)
                run_step.with_options(name="report", task_run_name="report")("report", room, settings.limits)
                with only_shown(logger.warning):
                    link_results(room)
        finally:
            running.stop_all()
    if failed:
        raise CompareError("\n".join(f"{name}: {reason}" for name, reason in failed.items()))
    runs = {f"{name}-{seed}": str(place.trained) for (name, seed), place in finished.items()}
    return {"report": str(room.report), "runs": runs}


def run_here(
    wanted: dict[str, TrainSettings], places: dict[str, Room], at_once: int
) -> tuple[set[str], dict[str, str]]:
    """The runs as tasks of this flow; returns those that came out well, and why the others did not."""

    def submit(name: str) -> Any:
        named = run_member.with_options(task_run_name=name)
        return named.submit(places[name], wanted[name].limits, shared=at_once > 1)

    done, failed = run_in_order({name: frozenset[str]() for name in wanted}, submit, at_once)
    return set(done), {name: str(error) for name, error in failed.items()}


@task(name="run", cache_policy=NO_CACHE, persist_result=False)
def run_member(room: Room, limits: Limits, shared: bool) -> bool:
    """Train and evaluate one run of the grid; returns whether anything had to run."""
    return bring_member(room, limits, shared)


def bring_member(
    room: Room, limits: Limits, shared: bool, on_heard: Callable[[], None] = lambda: None
) -> bool:
    """A run up to its evaluation; ``on_heard`` as for ``bring``."""
    logger = get_run_logger()
    environment = running.SHARED_CORES if shared else {}
    with room.held(f"flow run {flow_run.name}", logger.warning, limits.wait_minutes * 60):
        room.furnish()
        ran = [
            bring(step, room, limits, logger.info, environment, on_heard)
            for step in ("prepare", "train", "evaluate")
        ]
    return any(ran)


def run_elsewhere(wanted: dict[str, TrainSettings], pool: str) -> tuple[set[str], dict[str, str]]:
    """The runs as flow runs of ``train``, which any worker of the pool may take.

    Raises:
        ParameterError: they would wait for this very flow to leave the pool.
    """
    with get_client(sync_client=True) as client:
        has_room_for_others(client, pool)
        left: dict[UUID, str] = {}
        done, failed = set[str](), dict[str, str]()
        with _cancelled_with_us(left):
            for name, member in wanted.items():
                left[start_elsewhere(name, member, pool)] = name
            while left:
                time.sleep(POLL_SECONDS)
                for run_id in list(left):
                    state = client.read_flow_run(run_id).state
                    if state is None or not state.is_final():
                        continue
                    name = left.pop(run_id)
                    if state.is_completed():
                        done.add(name)
                    else:
                        failed[name] = f"{state.name}: {state.message}"
    return done, failed


def has_room_for_others(client: SyncPrefectClient, pool: str) -> None:
    """Raises ParameterError: runs in the pool would wait for this very flow to leave it."""
    if pool == OWN_POOL and client.read_work_pool(pool).concurrency_limit == 1:
        raise ParameterError(
            f"work pool {pool} takes one run at a time, and that is this one: "
            'raise its limit, or choose run_on "here"'
        )


def start_elsewhere(name: str, member: TrainSettings, pool: str) -> UUID:
    """A flow run of ``train`` in the pool."""
    deployment = "train/train" if pool == "cpu" else f"train/train-{pool}"
    values = {"settings": member.model_dump(mode="json", exclude_none=True)}
    started = run_deployment(deployment, parameters=values, flow_run_name=name, timeout=0)
    return started.id  # type: ignore[union-attr]


@contextmanager
def _cancelled_with_us(left: dict[UUID, str]) -> Iterator[None]:
    """Whatever ends this flow before its runs have ended cancels them."""
    try:
        yield
    finally:
        if left:
            with get_client(sync_client=True) as client:
                for run_id in list(left):
                    client.set_flow_run_state(run_id, Cancelling())


def run_sweeps(settings: CompareSettings, room: Room) -> tuple[dict[tuple[str, int], Room], dict[str, str]]:
    """A sweep for each system; returns the trials that are complete, and why others stay open.

    Raises:
        ParameterError: as ``run_elsewhere``.
    """
    if settings.run_on != "here":
        with get_client(sync_client=True) as client:
            has_room_for_others(client, settings.run_on)
    finished, failed = dict[tuple[str, int], Room](), dict[str, str]()
    for system in settings.systems:
        sweep = Sweep(room.folder, settings, system)
        failed |= Trials(sweep, settings).run()
        for number, values in sweep.complete().items():
            finished[sweep.name(number), settings.seeds[0]] = rooms.of(settings.trial(system, values))
        with only_shown(get_run_logger().warning):
            sweep.show(ended=True)
            key = f"trials-{key_of(room)}-{re.sub(r'[^a-z0-9]+', '-', system)}"
            create_table_artifact(table=sweep.table(), key=key, description=f"Trials of **{system}**")
    return finished, failed


class Trials:
    """The trials of a sweep as tasks of this flow, each of which trains here or waits for a flow run."""

    def __init__(self, sweep: Sweep, settings: CompareSettings) -> None:
        self._sweep, self._settings = sweep, settings
        self._elsewhere: dict[UUID, str] = {}

    def run(self) -> dict[str, str]:
        """All trials that have not ended; returns why some stay open."""
        numbers = {self._sweep.name(number): number for number in self._sweep.numbers()}

        def submit(name: str) -> Any:
            number = numbers[name]  # asked for no sooner: the sampler looks at those that have ended
            member = self._settings.trial(self._sweep.system, self._sweep.values(number))
            return run_trial.with_options(task_run_name=name).submit(self, number, member)

        with _cancelled_with_us(self._elsewhere):
            needs = {name: frozenset[str]() for name in numbers}
            _, failed = run_in_order(needs, submit, self._settings.parallel_runs)
        return {name: str(error) for name, error in failed.items()}

    def run_one(self, number: int, member: TrainSettings) -> None:
        """Train, and tell the sweep how that came out; a trial that failed stays open."""
        logger = get_run_logger()
        room = rooms.of(member)
        room.heard.unlink(missing_ok=True)  # what an earlier attempt has said

        def heard() -> None:
            self._sweep.hear(number, room)

        try:
            heard()
            if self._settings.run_on == "here":
                bring_member(room, member.limits, self._settings.parallel_runs > 1, heard)
            else:
                self._train_elsewhere(number, member, heard)
        except Pruned as pruned:
            logger.info("%s", pruned)
            self._sweep.tell(number, room, pruned=True)
        else:
            self._sweep.tell(number, room, pruned=False)
        with only_shown(logger.warning):
            self._sweep.show()

    def _train_elsewhere(self, number: int, member: TrainSettings, heard: Callable[[], None]) -> None:
        run_id = start_elsewhere(f"{self._sweep.name(number)}-{member.seed}", member, self._settings.run_on)
        self._elsewhere[run_id] = self._sweep.name(number)
        pruned = None
        with get_client(sync_client=True) as client:
            while not ((state := client.read_flow_run(run_id).state) and state.is_final()):
                time.sleep(POLL_SECONDS)
                try:
                    if pruned is None:
                        heard()
                except Pruned as error:
                    pruned = error
                    client.set_flow_run_state(run_id, Cancelling())
        self._elsewhere.pop(run_id)
        if state.is_completed():  # it was quicker than we were
            return
        raise pruned or CompareError(f"{state.name}: {state.message}")


def collect(room: Room, runs: dict[tuple[str, int], Room]) -> None:
    """The runs' files under the names that the report gives them; linked, so they take no room on disk.

    Nothing of an earlier attempt is left: a run that came out well then and failed now is not in the report.
    """
    places = (layout.trained, layout.evaluated)
    for place in places:
        shutil.rmtree(room.folder / place(room.corpus, "any", 0).parent.parent, ignore_errors=True)
    for (name, seed), member in runs.items():
        for place in places:
            source = member.folder / place(member.corpus, member.system, member.seed)
            target = room.folder / place(room.corpus, name, seed)
            shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
    return target


def link_results(room: Room) -> None:
    """What one wants to click afterwards: the table, the runs side by side in MLflow, the report."""
    from vhcr import recording

    rows: Sequence[dict[str, Any]] = read_json(room.report.with_name("table.json"))
    key = key_of(room)
    description = f"All runs on **{room.corpus}**; nats per word. The report: `{room.report}`"
    create_table_artifact(table=list(rows), key=f"table-{key}", description=description)
    ids = [row["mlflow_run_id"] for row in rows if row["mlflow_run_id"]]
    found = find_mlflow(room.corpus)
    if not ids or found is None:
        return
    client, experiment = found
    query = f"runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([experiment]))}"
    link = f"{recording.pages_url()}/#/compare-runs?{query}"
    offer(link, f"mlflow-{key}", "The runs side by side", "in MLflow (make mlflow)")
    # The report belongs to all of them; it is kept with the first.
    with recording.plainly():
        client.log_artifact(ids[0], str(room.report), "comparison")
    page = recording.run_url(experiment, ids[0], f"comparison/{room.report.name}")
    offer(page, f"report-{key}", "The report on all runs")


@task(name="trial", cache_policy=NO_CACHE, persist_result=False)
def run_trial(trials: Trials, number: int, member: TrainSettings) -> None:
    """One trial of a sweep."""
    trials.run_one(number, member)


def read_range(text: str) -> dict[str, Any]:
    """``training.learning_rate=0.0001:0.01:log`` or ``training.loss_reduction=mean,sum`` as settings.

    Raises:
        ParameterError: the argument is not of that form.
    """
    dial, separator, values = text.partition("=")
    if not (dial and separator and values):
        raise ParameterError(f"--range {text}: write DIAL=LOW:HIGH, DIAL=LOW:HIGH:log or DIAL=VALUE,VALUE")
    if ":" not in values:
        return {"dial": dial, "choices": [_value(value) for value in values.split(",")]}
    low, high, *scale = values.split(":")
    if scale not in ([], ["log"]):
        raise ParameterError(f"--range {text}: after LOW:HIGH comes :log or nothing")
    return {"dial": dial, "low": low, "high": high, "log": bool(scale)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    """Run the flow from a terminal."""
    parser = argparse.ArgumentParser(prog="python -m flows.compare", description=compare.description)
    parser.add_argument("--corpus", default=DEFAULT_SETTINGS.corpus)
    parser.add_argument("--systems", nargs="+", default=DEFAULT_SETTINGS.systems)
    parser.add_argument("--seeds", nargs="+", type=int, default=DEFAULT_SETTINGS.seeds)
    parser.add_argument(
        "--range",
        action="append",
        default=[],
        dest="ranges",
        metavar="DIAL=LOW:HIGH[:log]",
        help="search for the lowest validation bound; or DIAL=VALUE,VALUE,...; once for each dial",
    )
    parser.add_argument("--trials", type=int, default=DEFAULT_SETTINGS.trials, help="of each system")
    parser.add_argument("--sweep-seed", type=int, default=DEFAULT_SETTINGS.sweep_seed)
    parser.add_argument(
        "--prune-after", type=int, default=DEFAULT_SETTINGS.prune_after, help="complete trials; 0: never"
    )
    parser.add_argument("--parallel-runs", type=int, default=DEFAULT_SETTINGS.parallel_runs)
    arguments = parser.parse_args()
    if not Path("dvc.yaml").is_file():
        sys.exit("error: dvc.yaml is not here; run this from the root of the project")
    with terminal.plain_errors():
        ranges = [read_range(text) for text in arguments.ranges]
        compare(CompareSettings.model_validate({**vars(arguments), "ranges": ranges}))


if __name__ == "__main__":
    main()
