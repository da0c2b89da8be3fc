"""``vhcr runs``, ``table``, ``publish``, ``render`` and ``report``: runs side by side."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vhcr.errors import DataError, ParameterError


def runs() -> None:
    """List the trained runs in this project, and where MLflow compares them."""
    from vhcr.provenance import read_run
    from vhcr.stages.resolve import trained_runs

    found = trained_runs()
    if not found:
        typer.echo("No trained run lies in data/trained/ yet: make run")
        return
    typer.echo(f"{'run':40} {'bound':>8} {'KL':>8}  {'made':10}  MLflow")
    known = _in_mlflow(found.values())
    for name, folder in found.items():
        try:
            run_id = read_run(folder).get("mlflow_run_id")
            said = f"{_numbers(folder)}  {known.get(run_id, run_id) if run_id else 'not in MLflow'}"
        except DataError as error:
            said = str(error)  # the others are listed all the same
        typer.echo(f"{name:40} {said}")
    for line in _links(sorted({name.split("/")[0] for name in found})):
        typer.echo(line)


def _numbers(folder: Path) -> str:
    """Of a trained run: its best validation bound and the KL there, nats a word, and when it was made."""
    from vhcr.files import read_object

    made = datetime.fromtimestamp((folder / "run.json").stat().st_mtime, UTC).date()
    if not (folder / "metrics.json").exists():
        return f"{'-':>8} {'-':>8}  {made}"
    best = read_object(folder / "metrics.json").get("best_validation") or {}
    cells = [best.get(key) for key in ("nll_per_word", "kl_per_word")]
    bound, kl = (f"{cell:.3f}" if isinstance(cell, float | int) else "-" for cell in cells)
    return f"{bound:>8} {kl:>8}  {made}"


def _in_mlflow(folders: Iterable[Path]) -> dict[str, str]:
    """What to say of the MLflow ids that runs were recorded under, of those that MLflow does not have.

    A colleague's copy has the ids, not the runs; an imported run is known by the digests of its files.
    """
    from vhcr import recording
    from vhcr.provenance import read_run
    from vhcr.recording.files import imported_as

    if not recording.available() or not recording.store_exists():
        return {}
    said: dict[str, str] = {}
    # Where it does not answer, that is said after the list.
    with contextlib.suppress(recording.RecordingError), recording.plainly():
        connected = recording.client()
        for folder in folders:
            with contextlib.suppress(DataError):
                run_id = read_run(folder).get("mlflow_run_id")
                if run_id and recording.stored_run(connected, run_id) is None:
                    again = imported_as(connected, folder)
                    said[run_id] = again or f"not here (vhcr import-run {folder})"
    return said


def _links(corpora: Sequence[str]) -> Iterator[str]:
    """Where MLflow shows the runs of each corpus side by side."""
    from vhcr import recording

    if not corpora or not recording.available() or not recording.store_exists():
        return
    with recording.plainly():
        connected = recording.client()
        for corpus in corpora:
            experiment = connected.get_experiment_by_name(recording.experiment_name(corpus))
            if experiment is not None:
                recording.save_views(connected, experiment.experiment_id)
                yield f"\n{corpus} in MLflow (make mlflow), side by side:"
                yield f"  {recording.view_url(experiment.experiment_id, recording.TABLE)}"
                yield f"  {recording.view_url(experiment.experiment_id, recording.CURVES)}"


def table() -> None:
    """Print the table of every report, and where the reports lie."""
    from vhcr.summary import summary

    typer.echo(summary(Path("reports")))


def publish(corpus: Annotated[str, typer.Argument(help="A corpus of params.yaml.")]) -> None:
    """Add a corpus's evaluated runs to results/<corpus>/, which git keeps; prints the files written."""
    from vhcr.params import Params
    from vhcr.stages.report import publish as write

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for path in write(corpus, Params.load()):
        typer.echo(path)


def render(folder: Annotated[Path, typer.Argument(help="Published results: results/<corpus>.")]) -> None:
    """Print the page (README.md) of published results, from their files alone."""
    from vhcr.report.markdown import markdown

    typer.echo(markdown(folder), nl=False)


def report(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="A corpus of params.yaml, or published results (results/<corpus>); with --runs, runs.",
        ),
    ],
    runs: Annotated[
        bool,
        typer.Option(
            "--runs",
            help="NAMEs are runs: MLflow run ids, corpus/system/seed, models:/<name>@<alias>, or folders "
            "(with all runs below).",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page.  [default: reports/<corpus>, or reports/chosen]")
    ] = None,
    studies: Annotated[
        list[Path] | None,
        typer.Option(
            "--study", help="With --runs: a human evaluation of these runs, for Table 4; may be repeated."
        ),
    ] = None,
) -> None:
    """Make a report: of a corpus, of published results, or over any chosen runs.

    vhcr report --runs toy/hred/0 toy/vhcr-ud/0 3f2a90c47d1e4b7f9a60c1d2e3f4a5b6
    """
    from vhcr.layout import report as place
    from vhcr.params import Params
    from vhcr.stages import report as stage

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    params = Params.load() if Path("params.yaml").is_file() else None
    if runs:
        votes = None
        if studies:
            from vhcr.human_evaluation.table import of_runs

            votes = partial(of_runs, studies)
        typer.echo(stage.compare(names, out or place("chosen"), params, votes))
        return
    if out is not None and len(names) > 1:
        raise ParameterError("--out: takes one page; make the others apart, or all runs on one with --runs")
    if studies:
        raise ParameterError("--study: goes with --runs, since votes are of certain runs")
    for name in names:
        if len(Path(name).parts) > 1:  # no corpus is called so
            folder = out or place(f"published-{Path(name).name}")
            for page in stage.from_published(Path(name), folder, params):
                typer.echo(page)
        elif out is not None:
            raise ParameterError(f"--out: a corpus's report goes to {place(name)}")
        else:
            stage.run(params or Params.load(), corpus=name)
            typer.echo(place(name) / "index.html")
