"""Train, evaluate and report one system on one corpus, with settings of one's own.

    python -m flows.train --corpus toy --system vhcr-ud training.num_epochs=3

What happens lies in a folder of its own (see ``flows.rooms``); stopped at any moment, the next attempt with
the same settings goes on from the last checkpoint, in the same MLflow run.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from pydantic import BaseModel

from flows import rooms, running, terminal
from flows.rooms import Room
from flows.settings import DEVICE, Limits, TrainSettings
from flows.shown import only_shown
from flows.tether import follow_worker
from vhcr.errors import ParameterError
from vhcr.files import read_json

DEFAULT_SETTINGS = TrainSettings()
PROGRESS = "@progress "  # how vhcr.stages.train begins lines that are meant for us
VALIDATION = "@validation "
MLFLOW = re.compile(r"MLflow run ([0-9a-f]{32})")
SHOW_SECONDS = 2.0

SECTIONS = tuple(  # of the settings; the others (corpus, system, seed) are values themselves
    name
    for name, field in TrainSettings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
)
STEPS = {  # step -> the stages that belong to it; the last is run alone, unless it brings several
    "prepare": ("validate@{corpus}", "embeddings@{corpus}"),
    "train": ("train@{run}",),
    "evaluate": ("evaluate@{run}",),
    "report": ("report@{corpus}",),
}


def name_run() -> str:
    """What is trained; a run that compare has started keeps the name it has there."""
    if flow_run.parent_flow_run_id:
        return str(flow_run.name)
    settings = flow_run.parameters["settings"]
    return f"{settings.corpus} {settings.system} {settings.seed}"


@flow(
    name="train",
    description="Train, evaluate and report one system on one corpus, with settings of one's own.",
    flow_run_name=name_run,
    validate_parameters=True,
)
def train(settings: TrainSettings = DEFAULT_SETTINGS) -> dict[str, Any]:
    """One run in a folder of its own; returns where it lies and its numbers."""
    follow_worker()
    logger = get_run_logger()
    if device := os.environ.get(DEVICE):
        settings = settings.on(device)
    room = rooms.of(settings)
    logger.info("working in %s", room.folder)
    wait = settings.limits.wait_minutes * 60
    with room.held(f"flow run {flow_run.name}", logger.warning, wait):
        room.furnish()
        open_mlflow(room.corpus, logger.warning)
        try:
            for step in STEPS:
                run_step.with_options(name=step, task_run_name=step, tags=[step])(step, room, settings.limits)
        finally:
            running.stop_all()
        return results(room, logger.warning)


@task(name="step", cache_policy=NO_CACHE, persist_result=False)
def run_step(step: str, room: Room, limits: Limits) -> bool:
    """One step of a run, by DVC; returns whether anything had to run."""
    return bring(step, room, limits, get_run_logger().info)


def bring(
    step: str,
    room: Room,
    limits: Limits,
    log: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    on_heard: Callable[[], None] = lambda: None,
) -> bool:
    """Bring a step up to date in its room, and show how far a training is.

    ``on_heard`` is called when a training has said something that is kept (``room.heard``); by raising an
    error it stops the training, which leaves a checkpoint.
    """
    stages = [stage.format(corpus=room.corpus, run=room.run) for stage in STEPS[step]]
    minutes = limits.training_limit_minutes if step == "train" else limits.stage_limit_minutes
    ran = running.reproduce(
        stages[0] if len(stages) == 1 else stages,
        Listener(room, log, on_heard) if step == "train" else log,
        timeout_seconds=minutes * 60,
        wait_seconds=limits.wait_minutes * 60,
        environment={**room.environment(str(flow_run.id)), **(environment or {})},
        cwd=room.folder,
    )
    if step == "train" and not ran:
        log("these very settings were trained before: nothing to do")
    return ran


class Listener:
    """Hears a training: its progress goes to an artifact, its MLflow run to a link, the rest to the log.

    Its validations and the id of its MLflow run are kept in the room, where a sweep looks for them.
    """

    def __init__(
        self, room: Room, log: Callable[[str], None], on_heard: Callable[[], None] = lambda: None
    ) -> None:
        self._log = log
        self._on_heard = on_heard
        self._room = room
        self._artifact: UUID | None = None
        self._shown = 0.0

    def __call__(self, line: str) -> None:
        """One line of output."""
        if line.startswith(PROGRESS):
            with only_shown(self._log):
                self._show(json.loads(line.removeprefix(PROGRESS)))
            return
        if line.startswith(VALIDATION):
            self._keep(line.removeprefix(VALIDATION))
            return
        self._log(line)
        if found := MLFLOW.fullmatch(line.strip()):
            with only_shown(self._log):
                link_mlflow(self._room, found[1])
            self._keep(json.dumps({"mlflow_run_id": found[1]}))

    def _keep(self, said: str) -> None:
        with self._room.heard.open("a", encoding="utf-8") as file:
            file.write(said + "\n")
        self._on_heard()

    def _show(self, progress: dict[str, Any]) -> None:
        done = progress["step"] == progress["total_steps"]
        if not done and time.monotonic() - self._shown < SHOW_SECONDS:
            return
        self._shown = time.monotonic()
        percent = 100.0 * progress["step"] / max(progress["total_steps"], 1)
        if self._artifact is None:
            key = f"progress-{key_of(self._room)}"
            self._artifact = create_progress_artifact(percent, key, describe(progress))  # type: ignore[assignment]
        else:
            update_progress_artifact(self._artifact, percent, describe(progress))


def describe(progress: dict[str, Any]) -> str:
    """How far a training is, as a table; nats per word."""
    minutes, seconds = divmod(round(progress["seconds_left"]), 60)
    hours, minutes = divmod(minutes, 60)
    cells = {
        "epoch": progress["epoch"] + 1,
        "step": f"{progress['step']:,} of {progress['total_steps']:,}",
        "loss": f"{progress['loss']:.3f}",
        "bound": f"{progress['nll_per_word']:.3f}",
        "KL": f"{progress['kl_per_word']:.4f}",
        "words/s": f"{progress['words_per_second']:,.0f}",
        "time left": f"{hours}:{minutes:02}:{seconds:02}",
    }
    rows = (cells, ["---"] * len(cells), cells.values())
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def key_of(room: Room) -> str:
    """The room's name as Prefect's artifact keys want it."""
    return re.sub(r"[^a-z0-9]+", "-", f"{room.corpus}-{room.folder.name}".lower())


def open_mlflow(corpus: str, log: Callable[[str], None]) -> None:
    """Make the experiment of a corpus from here: where it is made decides where MLflow keeps its artifacts.

    Files come first: that MLflow does not answer is said, and ends nothing.
    """
    from vhcr.recording import RecordingError

    try:
        find_mlflow(corpus)
    except RecordingError as error:
        log(
            f"{error}\nThe flow goes on without MLflow, and its files will be complete; each stage sends "
            "its run if MLflow answers by then, and `vhcr import-run` sends one later"
        )


def find_mlflow(corpus: str) -> Any:
    """MLflow's client and the experiment of a corpus, or None where there is no MLflow.

    Raises:
        RecordingError: MLflow does not answer.
    """
    from vhcr import recording

    if not recording.available():
        return None
    client = recording.client()
    with recording.plainly():
        return client, recording.experiment_id(client, recording.experiment_name(corpus))


def link_mlflow(room: Room, run_id: str) -> str:
    """A link to the run in MLflow, put on the flow run's page."""
    from vhcr import recording

    with recording.plainly():
        experiment = recording.client().get_run(run_id).info.experiment_id
    link = recording.run_url(experiment, run_id)
    offer(link, f"mlflow-{key_of(room)}", "The run in MLflow", "(make mlflow)")
    return link


def offer(link: str, key: str, text: str, more: str = "") -> None:
    """An artifact that is a link, also in its description: Prefect's pages show that three clicks earlier."""
    create_link_artifact(link=link, link_text=link, key=key, description=f"[{text}]({link}) {more}".strip())


def results(room: Room, log: Callable[[str], None]) -> dict[str, Any]:
    """Where the run lies and its numbers; on the flow run's page, what one wants to click afterwards."""
    row = read_json(room.report.with_name("table.json"))[0]
    numbers = {name: value for name, value in row.items() if isinstance(value, float)}
    with only_shown(log):
        link_results(room, row, numbers)
    run_id = row["mlflow_run_id"]
    return {"folder": str(room.trained), "report": str(room.report), "mlflow_run_id": run_id, **numbers}


def link_results(room: Room, row: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
    """The numbers, the report, the run in MLflow."""
    from vhcr import recording

    run_id = row["mlflow_run_id"]
    links = {}
    if run_id and (found := find_mlflow(room.corpus)) is not None:
        with recording.plainly():
            found[0].log_artifact(run_id, str(room.report), "report")
        links["The run in MLflow"] = link_mlflow(room, run_id)
        links["The report"] = page = recording.run_url(found[1], run_id, f"report/{room.report.name}")
        offer(page, f"report-{key_of(room)}", "The report", "kept with the run")
    lines = [f"**{room.system}** on **{room.corpus}**, seed {room.seed}; nats per word", ""]
    lines += [*(f"[{text}]({link})  " for text, link in reversed(links.items())), ""]
    lines += ["| | |", "| --- | --- |", *(f"| {name} | {value:.3f} |" for name, value in numbers.items()), ""]
    lines += [f"On disk: `{room.folder}`  ", f"Talk to it: `vhcr chat {room.trained.relative_to(room.root)}`"]
    create_markdown_artifact("\n".join(lines), key=f"result-{key_of(room)}", description="Result")


def read_dials(arguments: Sequence[str]) -> dict[str, Any]:
    """``evaluation.diversity.num_contexts=5`` as settings, section within section.

    Values are JSON; what is not JSON is a word that nobody quoted. Of the same dial twice the last counts.

    Raises:
        ParameterError: an argument is not of that form, or names no section with dials.
    """
    settings: dict[str, Any] = {}
    for argument in arguments:
        name, separator, text = argument.partition("=")
        *sections, dial = name.split(".")
        if not (separator and sections and dial):
            raise ParameterError(f"{argument}: write SECTION.DIAL=VALUE")
        if sections[0] not in SECTIONS:
            raise ParameterError(f"{argument}: no section {sections[0]!r}; known: {', '.join(SECTIONS)}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        within = settings
        for section in sections:
            within = within.setdefault(section, {})
            if not isinstance(within, dict):
                raise ParameterError(f"{argument}: {section} has a value already")
        if isinstance(within.get(dial), dict):
            raise ParameterError(f"{argument}: some of {dial} is set already")
        within[dial] = value
    return settings


def main() -> None:
    """Run the flow from a terminal."""
    parser = argparse.ArgumentParser(prog="python -m flows.train", description=train.description)
    parser.add_argument("--corpus", default=DEFAULT_SETTINGS.corpus)
    parser.add_argument("--system", default=DEFAULT_SETTINGS.system)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "dials", nargs="*", metavar="DIAL=VALUE", help="training.num_epochs=3, generation.strategy=beam"
    )
    arguments = parser.parse_args()
    if not Path("dvc.yaml").is_file():
        sys.exit("error: dvc.yaml is not here; run this from the root of the project")
    values: dict[str, Any] = {name: getattr(arguments, name) for name in ("corpus", "system", "seed")}
    with terminal.plain_errors():
        train(TrainSettings.model_validate({**values, **read_dials(arguments.dials)}))


if __name__ == "__main__":
    main()
