"""``vhcr``: one command with every verb. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import sys

import typer

from vhcr.commands.chat import chat
from vhcr.commands.corpora import add, estimate, inspect
from vhcr.commands.generate import generate, interpolate
from vhcr.commands.human_evaluation import app as human_evaluation
from vhcr.commands.latents import explore, export_hub, export_latents
from vhcr.commands.record import create_database, import_run, register, reproduce
from vhcr.commands.results import publish, render, report, runs, table
from vhcr.commands.serve import serve
from vhcr.errors import VhcrError

app = typer.Typer(
    name="vhcr",
    help="Conversations from trained models (HRED, VHRED, VHCR), and the numbers behind them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (
    generate, chat, serve, interpolate, inspect, add, explore, export_latents, export_hub, runs, table,
    publish, render, report, import_run, register, reproduce, estimate,
):  # fmt: skip
    app.command(verb.__name__.replace("_", "-"))(verb)
app.command("create-database", hidden=True)(create_database)
app.add_typer(human_evaluation, name="human-eval")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a VhcrError, or a library that is not there, becomes a message and exit status 2."""
    try:
        app(args=arguments, prog_name="vhcr")
    except VhcrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "vhcr").partition(".")[0] in {"vhcr", "flows", "benchmarks"}:
            raise
        print(
            f"error: this takes {error.name}, which is not installed: pip install 'vhcr[pipeline]'",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
