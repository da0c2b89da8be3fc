"""``vhcr import-run``, ``register`` and ``reproduce``: runs in MLflow, and made again from their record."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from vhcr.commands.options import Run
from vhcr.errors import DataError


def create_database() -> None:
    """Make MLflow's database where there is none, so that a server need not."""
    from vhcr.recording import client

    client()


def import_run(
    folder: Annotated[Path, typer.Argument(help="A trained run: data/trained/<corpus>/<system>/<seed>.")],
    evaluated: Annotated[
        Path | None, typer.Option(help="Its evaluation: data/evaluated/<corpus>/<system>/<seed>.")
    ] = None,
) -> None:
    """Send a run that was recorded as files to MLflow, exactly once; prints its MLflow run id."""
    from vhcr.recording import import_run as send

    typer.echo(send(folder, evaluated))


def register(
    run: Run,
    evaluated: Annotated[
        Path | None, typer.Option(help="Its evaluation, where that does not lie beside it.")
    ] = None,
    champion: Annotated[
        bool, typer.Option("--champion", help="Make it the champion, whatever the comparison says.")
    ] = False,
) -> None:
    """Make an evaluated run a version of vhcr-<corpus> in MLflow's registry, once.

    It becomes the champion where its bound is significantly lower than that of the present one.
    """
    from vhcr.registry import register as enter
    from vhcr.stages.resolve import evaluation_of, fetched_run_id, resolve_run

    folder = resolve_run(run)
    place = evaluated or evaluation_of(folder)
    typer.echo(enter(folder, place, run_id=fetched_run_id(folder), make_champion=champion))


def reproduce(
    run: Run,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also where code, versions or machine are not as they were.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep what was made, even if it is the same.")] = False,
) -> None:
    """Make a recorded run again, from its commit, data, parameters and seed, and compare bit for bit.

    Status 0: it came out the same. 1: it came out different. 2: it cannot be made again here.
    """
    from vhcr.reproduction import Recorded
    from vhcr.reproduction import reproduce as again
    from vhcr.stages.resolve import evaluation_of, resolve_run

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    folder = resolve_run(run)
    try:
        evaluated = evaluation_of(folder)
    except DataError:
        evaluated = None  # trained alone: then the training alone is made again
    outcome = again(Recorded.load(folder, evaluated), anyway=anyway, keep=keep)
    typer.echo(outcome)
    if not outcome.is_same:
        raise typer.Exit(1)
