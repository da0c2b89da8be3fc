"""``vhcr inspect`` and ``vhcr add``: conversations of one's own become a corpus; ``vhcr estimate``."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vhcr.commands.options import Seed
from vhcr.errors import DataError

if TYPE_CHECKING:
    from vhcr.inspection import Inspection

MAX_TURNS_SHOWN, MAX_CHARACTERS_SHOWN = 6, 120

Where = Annotated[
    Path, typer.Argument(metavar="PATH", help="A file, a folder, or either packed: zip, tar.gz, gz, zst.")
]
Reader = Annotated[
    str | None, typer.Option(help="Its format, where a look is not enough (docs/corpora.md lists them).")
]
Gap = Annotated[
    float | None,
    typer.Option("--session-gap", help="Minutes of silence after which a chat is another conversation."),
]


def inspect(path: Where, reader: Reader = None, session_gap: Gap = None) -> None:
    """Look at conversations: their format, three of them, what would be lost, and the settings to use.

    vhcr inspect chats.csv
    """
    _looked_at(path, reader, session_gap)
    typer.echo(f"\nvhcr add NAME {shlex.quote(str(path))} writes these settings into params.yaml")


def add(
    name: Annotated[str, typer.Argument(help="What the corpus is to be called.")],
    path: Where,
    reader: Reader = None,
    session_gap: Gap = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write it anew where it is there.")] = False,
    activate: Annotated[
        bool, typer.Option(help="Make it what `dvc repro` runs, with systems that fit its size.")
    ] = True,
) -> None:
    """Make conversations a corpus of params.yaml, read and sized by a look at them.

    vhcr add chats chats.csv && dvc repro
    """
    from vhcr.inspection import add as write
    from vhcr.inspection import refuse_name
    from vhcr.layout import report as place
    from vhcr.preset import SYSTEMS

    refuse_name(Path("params.yaml"), name, replace=replace)
    found = _looked_at(path, reader, session_gap)
    write(Path("params.yaml"), name, found.section, replace=replace, activate=activate)
    typer.echo(f"\nwritten to params.yaml as corpora.{name}" + "; it is active" * activate)
    typer.echo(f"next: dvc repro; the report is {place(name) / 'index.html'}")
    typer.echo(f"how long that takes: dvc repro tokenise@{name} && vhcr estimate {name} {SYSTEMS[-1]}")


def _looked_at(path: Path, reader: str | None, session_gap: float | None) -> Inspection:
    """What a look at ``path`` tells, printed."""
    import yaml

    from vhcr.inspection import inspect as look
    from vhcr.params import Params

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    overrides = {"reader": reader, "session_gap_minutes": session_gap}
    found = look(path, Params.load(), {key: value for key, value in overrides.items() if value is not None})
    typer.echo(f"{path}: {found.description}\n")
    for conversation in found.examples:
        typer.echo(f"{conversation.id} ({len(conversation.utterances)} turns)")
        for utterance in conversation.utterances[:MAX_TURNS_SHOWN]:
            said = " ".join(utterance.text.split())
            who = f"{utterance.speaker}: " if utterance.speaker else "- "
            typer.echo(
                f"  {who}{said[:MAX_CHARACTERS_SHOWN]}{'...' if len(said) > MAX_CHARACTERS_SHOWN else ''}"
            )
        if (more := len(conversation.utterances) - MAX_TURNS_SHOWN) > 0:
            typer.echo(f"  ({more} more)")
    typer.echo("")
    if found.problem is not None:
        raise DataError(f"{path}: {found.problem}")
    for line in found.lines:
        typer.echo(f"{'! ' if line.level > logging.INFO else '  '}{line.text}")
    typer.echo(
        "\n" + yaml.safe_dump(found.section, sort_keys=False, allow_unicode=True, default_flow_style=None)
    )
    return found


def estimate(
    corpus: Annotated[str, typer.Argument(help="A corpus of params.yaml that is tokenised.")],
    system: Annotated[str, typer.Argument(help="A system of params.yaml.")],
    seed: Seed = 0,
    params: Annotated[Path, typer.Option(help="Parameter file.")] = Path("params.yaml"),
) -> None:
    """What a training would take on this machine: steps, time, memory; from a few timed batches."""
    from vhcr.params import Params
    from vhcr.stages.train import foresee

    typer.echo(f"{corpus} {system}: {foresee(Params.load(params), corpus, system, seed)}")
