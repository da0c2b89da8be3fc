"""One run of the pipeline, from raw corpus to report: the stages of dvc.yaml as Prefect tasks.

    python -m flows.pipeline                     on Prefect's embedded server
    PREFECT_API_URL=... python -m flows.pipeline on one that runs (make prefect)

Each stage runs as `dvc repro --single-item`, so that afterwards `dvc repro` finds nothing to do.
"""

import argparse
import queue
import re
import sys
from collections.abc import Callable, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows import graph, running, terminal
from flows.settings import PipelineSettings
from flows.shown import only_shown
from flows.tether import follow_worker
from vhcr import layout
from vhcr.errors import VhcrError
from vhcr.files import read_json

DEFAULT_SETTINGS = PipelineSettings()
T = TypeVar("T")


class PipelineError(VhcrError):
    """Some stages failed; the message names them and those that could not run because of them."""


@task(name="stage", cache_policy=NO_CACHE, persist_result=False)
def run_stage(stage: str, settings: PipelineSettings) -> bool:
    """Bring one stage up to date with DVC; returns whether anything had to run."""
    logger = get_run_logger()
    environment = {"VHCR_FLOW_RUN_ID": str(flow_run.id)}
    if settings.parallel_stages > 1:
        environment |= running.SHARED_CORES
    return running.reproduce(
        stage,
        logger.info,
        timeout_seconds=settings.stage_timeout_minutes * 60,
        wait_seconds=settings.wait_minutes * 60,
        environment=environment,
    )


@flow(
    name="pipeline",
    description="Bring the stages of dvc.yaml up to date, from raw corpus to report.",
    task_runner=ThreadPoolTaskRunner(max_workers=64),  # type: ignore[arg-type]
    validate_parameters=True,
)
def pipeline(settings: PipelineSettings = DEFAULT_SETTINGS) -> dict[str, bool]:
    """Run the graph of dvc.yaml up to the chosen targets; returns, per stage, whether it had to run."""
    follow_worker()
    logger = get_run_logger()
    who = f"flow run {flow_run.name}"
    with running.hold_project(who, logger.warning, wait_seconds=settings.wait_minutes * 60):
        needs = graph.load()
        stages = graph.select(needs, settings.targets)
        logger.info("%d stages: %s", len(stages), ", ".join(stages))
        try:
            ran = run_graph(needs, stages, settings)
        finally:
            # Reached by an error and by cancelling alike; what goes on below would keep a core busy.
            running.stop_all()
        link_results(stages, logger.warning)
    logger.info("%d of %d stages had to run", sum(ran.values()), len(ran))
    return ran


def run_graph(needs: graph.Graph, stages: list[str], settings: PipelineSettings) -> dict[str, bool]:
    """Run ``stages``, each when what it needs is there, at most ``parallel_stages`` at once.

    A failure stops what depends on it, and nothing else.

    Raises:
        PipelineError: some stage failed.
    """
    inner = {stage: needs[stage] & set(stages) for stage in stages}
    ran, failed = run_in_order(
        inner, lambda stage: _named(stage, settings).submit(stage, settings), settings.parallel_stages
    )
    if failed:
        text = "\n".join(f"{stage}: {error}" for stage, error in failed.items())
        if waiting := [stage for stage in stages if stage not in ran and stage not in failed]:
            text += f"\nnot run because of that: {', '.join(waiting)}"
        raise PipelineError(text)
    return ran


def run_in_order(
    needs: Mapping[str, Set[str]], submit: Callable[[str], PrefectFuture[T]], at_once: int
) -> tuple[dict[str, T], dict[str, VhcrError]]:
    """Submit each name once all it needs has come out well; returns what came out, and what failed."""
    finished: queue.SimpleQueue[tuple[str, PrefectFuture[T]]] = queue.SimpleQueue()
    waiting, active = list(needs), set[str]()
    done: dict[str, T] = {}
    failed: dict[str, VhcrError] = {}
    while True:
        for name in [name for name in waiting if needs[name] <= done.keys()]:
            if len(active) == at_once:
                break
            waiting.remove(name)
            active.add(name)
            submit(name).add_done_callback(partial(_put, finished, name))
        if not active:
            return done, failed
        try:
            name, future = finished.get(timeout=1.0)  # with a limit, so that signals come through
        except queue.Empty:
            continue
        active.remove(name)
        try:
            done[name] = future.result()
        except VhcrError as error:
            failed[name] = error


def _put(
    finished: queue.SimpleQueue[tuple[str, PrefectFuture[T]]], name: str, future: PrefectFuture[T]
) -> None:
    finished.put((name, future))


def _named(stage: str, settings: PipelineSettings) -> Any:
    """The task of one stage, under its own name; only downloads are tried again."""
    kind = graph.kind(stage)
    retries = settings.download_retries if kind == "download" else 0
    delays = [float(settings.retry_delay_seconds * 2**attempt) for attempt in range(retries)]
    return run_stage.with_options(
        name=kind, task_run_name=stage, tags=[kind], retries=retries, retry_delay_seconds=delays or 0
    )


def link_results(stages: list[str], log: Callable[[str], None]) -> None:
    """What one wants to click afterwards, on each corpus; what cannot be shown is said in the log."""
    for stage in stages:
        kind, _, corpus = stage.partition("@")
        if kind == "report":
            with only_shown(log):
                link_report(corpus)


def link_report(corpus: str) -> None:
    """The table, the report, the runs in MLflow: last, since that may be elsewhere and not answer."""
    key = re.sub(r"[^a-z0-9]+", "-", corpus)
    page = layout.report(corpus).resolve() / "index.html"
    rows = read_json(layout.report(corpus) / "table.json")
    create_table_artifact(
        table=rows, key=f"table-{key}", description=f"All systems on **{corpus}**; nats per word."
    )
    create_link_artifact(
        link=page.as_uri(), link_text=str(page), key=f"report-{key}", description=f"Report on {corpus}"
    )
    if (link := mlflow_link(corpus)) is not None:
        create_link_artifact(
            link=link, link_text=link, key=f"mlflow-{key}", description="Its runs (make mlflow)"
        )


def mlflow_link(corpus: str) -> str | None:
    """Where MLflow shows the runs on a corpus, or None where it has none.

    Raises:
        RecordingError: MLflow does not answer.
    """
    from vhcr import recording

    if not recording.available() or not recording.store_exists():
        return None
    client = recording.client()
    with recording.plainly():
        found = client.get_experiment_by_name(recording.experiment_name(corpus))
    return None if found is None else recording.experiment_url(found.experiment_id)


def main() -> None:
    """Run the flow from a terminal."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=pipeline.description)
    parser.add_argument("targets", nargs="*", help="stages, or kinds of stages; all by default")
    parser.add_argument("--parallel-stages", type=int, default=DEFAULT_SETTINGS.parallel_stages)
    arguments = parser.parse_args()
    if not Path("dvc.yaml").is_file():
        sys.exit("error: dvc.yaml is not here; run this from the root of the project")
    with terminal.plain_errors():
        pipeline(PipelineSettings(**vars(arguments)))


if __name__ == "__main__":
    main()
