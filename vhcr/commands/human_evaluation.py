"""``vhcr human-eval``: the commands of a human evaluation. Heavy libraries are imported where needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vhcr import layout
from vhcr.errors import ParameterError
from vhcr.files import write_text

if TYPE_CHECKING:
    from vhcr.human_evaluation.study import Study

app = typer.Typer(
    help="Human evaluation (Table 4): which of two systems' responses do people prefer?",
    no_args_is_help=True,
)

PORT = 8417

Run = Annotated[str, typer.Argument(help="An evaluated run: corpus/system/seed, or its folder.")]
File = Annotated[Path, typer.Argument(metavar="STUDY", help="The file that `build` wrote.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: any free one.")]
Platform = Annotated[Literal["mturk", "label-studio"], typer.Argument(help="Where people vote.")]


@app.command()
def build(
    system: Run,
    opponent: Run,
    items: Annotated[int, typer.Option(min=1, help="Test contexts, drawn at random.")] = 100,
    votes: Annotated[int, typer.Option(min=1, help="Votes wanted on each, by different people.")] = 5,
    turns: Annotated[int, typer.Option(min=1, help="Turns of each response.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of contexts; another for another batch.")] = 0,
    include_identical: Annotated[
        bool, typer.Option("--include-identical", help="Also pairs that agree word for word.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="The study's file; default: data/human_evaluation/<corpus>/...")
    ] = None,
) -> None:
    """Pair the responses of two evaluated runs, blinded and shuffled, in a study.

    vhcr human-eval build toy/vhcr-ud/0 toy/hred/0
    """
    from vhcr.human_evaluation.pairs import draw_pairs, find_run, read_run
    from vhcr.human_evaluation.study import Settings, Study
    from vhcr.results.labels import kinds

    mine, theirs = (read_run(find_run(name), turns) for name in (system, opponent))
    drawn = draw_pairs(mine, theirs, items, seed, include_identical=include_identical)
    name = f"{mine.system}-{mine.seed}-vs-{theirs.system}-{theirs.seed}-{turns}turn-{items}items-seed{seed}"
    path = output or layout.study(mine.corpus, name)
    settings = Settings(
        corpus=mine.corpus,
        paper_corpus=_paper_corpus(mine.corpus),
        system=mine.system,
        system_seed=mine.seed,
        opponent=theirs.system,
        opponent_seed=theirs.seed,
        paper_systems=kinds({run.system: run.settings for run in (mine, theirs)}),
        num_turns=turns,
        votes_per_item=votes,
        seed=seed,
        num_contexts=drawn.num_contexts,
        num_identical=drawn.num_identical,
        num_repeated=drawn.num_repeated,
        include_identical=include_identical,
        provenance={
            "data_hash": mine.provenance["data_hash"],
            "protocol": mine.provenance["protocol"],
            "runs": {
                side: {key: run.provenance.get(key) for key in ("mlflow_run_id", "code_version", "dirty")}
                for side, run in (("system", mine), ("opponent", theirs))
            },
        },
    )
    Study.create(path, settings, drawn.pairs)
    typer.echo(str(path))
    left_out = f"{drawn.num_identical} agree word for word{' and are in the draw' * include_identical}"
    typer.echo(f"{items} pairs of {drawn.num_contexts} test contexts ({left_out}).", err=True)
    typer.echo(f"Next: vhcr human-eval serve {path} NAME..., one name for each rater", err=True)


@app.command()
def serve(
    study: File,
    raters: Annotated[list[str] | None, typer.Argument(help="Names of raters to invite.")] = None,
    port: Port = PORT,
) -> None:
    """Serve the page on which raters vote, on this machine only, until Ctrl-C.

    Each rater has a link of their own, the same each time; those invited before keep theirs.
    """
    from vhcr.human_evaluation.server import address
    from vhcr.human_evaluation.server import serve as run
    from vhcr.loopback import open_socket

    opened = _open(study)
    for name in raters or []:
        opened.invite(name)
    links = opened.invited()
    if not links:
        raise ParameterError(f"{study}: nobody is invited yet: vhcr human-eval serve {study} NAME...")
    listener = open_socket(port)
    for name, token in links.items():
        typer.echo(f"{name}: {address(listener.getsockname()[1], token)}")
    typer.echo("Give each rater their own link only. Ctrl-C ends; every vote is stored at once.", err=True)
    run(opened, listener)


@app.command()
def invite(
    study: File,
    raters: Annotated[list[str], typer.Argument(help="Names, one for each person.")],
    port: Port = PORT,
) -> None:
    """Invite more raters, also while the page is served; prints their links."""
    from vhcr.human_evaluation.server import address

    opened = _open(study)
    for name in raters:
        typer.echo(f"{name}: {address(port, opened.invite(name))}")


@app.command()
def status(study: File) -> None:
    """How many votes there are, and whose; says nothing of how they went."""
    from collections import Counter

    from vhcr.human_evaluation.study import PAGE

    opened = _open(study)
    votes, items = opened.votes(), opened.items()
    wanted = opened.settings.votes_per_item
    on = Counter(vote.item for vote in votes)
    by = Counter(vote.rater for vote in votes)
    complete = sum(on[item.item] >= wanted for item in items)
    typer.echo(
        f"{len(votes)} of {wanted * len(items)} votes; {complete} of {len(items)} pairs have all {wanted}"
    )
    for count, number in sorted(Counter(on[item.item] for item in items).items()):
        typer.echo(f"  {number} pairs with {count} votes")
    for rater in [f"{PAGE}:{name}" for name in opened.invited() if f"{PAGE}:{name}" not in by] + list(by):
        typer.echo(f"  {rater.removeprefix(f'{PAGE}:')}: {by[rater]}")


@app.command()
def export(
    study: File,
    platform: Platform,
    output: Annotated[Path | None, typer.Option(help="Folder; default: beside the study.")] = None,
) -> None:
    """Write what a crowd platform takes: MTurk a layout and CSV, Label Studio a configuration and tasks."""
    from vhcr.human_evaluation import label_studio, mturk

    opened = _open(study)
    folder = output or study.with_name(f"{study.stem}-{platform}")
    for name, text in (mturk if platform == "mturk" else label_studio).export(opened).items():
        try:
            write_text(folder / name, text)
        except OSError as error:
            raise ParameterError(f"{folder / name}: cannot be written: {error.strerror}") from None
        typer.echo(str(folder / name))


@app.command("import")
def import_results(
    study: File,
    platform: Platform,
    files: Annotated[list[Path], typer.Argument(help="MTurk: batch results CSV; Label Studio: JSON export.")],
) -> None:
    """Take over a crowd platform's results; the same file may come again, or a longer one."""
    from vhcr.human_evaluation import label_studio, mturk

    opened = _open(study)
    module = mturk if platform == "mturk" else label_studio
    for path in files:
        done = opened.record(list(module.read(path, opened)), module.SOURCE)
        typer.echo(
            f"{path}: {done.stored} votes stored, {done.known} known before, {done.changed} changed, "
            f"{done.second} second votes of one person on a pair left out"
        )


@app.command()
def report(
    studies: Annotated[
        list[Path], typer.Argument(metavar="STUDY...", help="Same pairs of systems are pooled.")
    ],
    form: Annotated[
        Literal["text", "json", "latex"], typer.Option("--format", help="What to print.")
    ] = "text",
) -> None:
    """Wins, losses and ties with 90 % intervals, agreement between raters, and the paper's Table 4 beside."""
    from vhcr.human_evaluation import table

    paths = [path.resolve() for path in studies]
    twice = next((path for path in studies if paths.count(path.resolve()) > 1), None)
    if twice is not None:
        raise ParameterError(f"{twice}: given twice; its votes would count twice")
    rows = table.compare([_open(path) for path in studies])
    typer.echo({"text": table.as_text, "json": table.as_json, "latex": table.as_latex}[form](rows))


def _open(path: Path) -> Study:
    from vhcr.human_evaluation.study import Study

    return Study(path)


def _paper_corpus(corpus: str) -> str | None:
    """The paper's corpus that this one is read as, by params.yaml; None where that does not say."""
    from vhcr.params import Params
    from vhcr.results.paper import paper_corpus

    if not Path("params.yaml").is_file():
        return None
    params = Params.load()
    return paper_corpus(params.corpus(corpus).source.reader) if corpus in params.corpora else None
