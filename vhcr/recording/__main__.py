"""python -m vhcr.recording create-database, or import FOLDER."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vhcr.errors import VhcrError
from vhcr.recording.files import import_run
from vhcr.recording.store import client


def main(argv: Sequence[str] | None = None) -> None:
    """Create the database, or import runs that were recorded as files."""
    parser = argparse.ArgumentParser(prog="python -m vhcr.recording", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("create-database", help="create MLflow's database if it is missing")
    importing = commands.add_parser("import", help="send a run recorded as files to MLflow, exactly once")
    importing.add_argument("folder", type=Path, help="data/trained/<corpus>/<system>/<seed>")
    importing.add_argument("--evaluated", type=Path, help="data/evaluated/<corpus>/<system>/<seed>")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "import":
            print(import_run(arguments.folder, arguments.evaluated))
        else:
            client()
    except VhcrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
