"""What every stage's command shares: arguments, parameters, logging, and errors as one plain line."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vhcr import layout
from vhcr.errors import ParameterError, VhcrError
from vhcr.files import NO_ROOM, read_text
from vhcr.params import Params
from vhcr.provenance import dvc_hash

FINISHED = "finished"  # beside a training's state in .work: where its run was published


def share_work() -> None:
    """In a copy that DVC made for an experiment, work in progress lies in the project all the same.

    DVC deletes the copy however the experiment ends; who starts it again still wants its checkpoints.
    """
    root = layout.project_root()
    if root != Path.cwd() and not layout.WORK.exists():
        (root / layout.WORK).mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another stage of the same experiment was faster
            layout.WORK.symlink_to(root / layout.WORK, target_is_directory=True)


def clear_finished() -> None:
    """Remove the work in progress of finished runs that dvc.lock names: nobody asks for it any more."""
    for note in sorted((layout.WORK / "train").glob(f"*/{FINISHED}")):
        folder = Path(read_text(note).strip())
        lock, run = folder.parents[4] / "dvc.lock", folder / "run.json"
        gone = not folder.parents[4].exists()  # an experiment's copy, which DVC has deleted
        if gone or (lock.exists() and run.exists() and dvc_hash(run) in read_text(lock)):
            shutil.rmtree(note.parent, ignore_errors=True)


def stage_main(run: Callable[..., None], argv: list[str] | None = None) -> None:
    """Call ``run(params, corpus=..., [system=...,] [seed=...])`` with what the command line says.

    The options offered are those that ``run`` takes. A VhcrError ends the process with status 2 and its
    message alone; anything else is a defect of ours and keeps its traceback.
    """
    parser = argparse.ArgumentParser(description=(inspect.getdoc(run) or "").split("\n")[0])
    parser.add_argument("--params", default="params.yaml", help="parameter file (default: params.yaml)")
    wanted = inspect.signature(run).parameters
    parser.add_argument("--corpus", required=True, help="a name under `corpora` in the parameter file")
    if "system" in wanted:
        parser.add_argument("--system", required=True, help="a name under `systems` in the parameter file")
    if "seed" in wanted:
        parser.add_argument("--seed", required=True, type=int, help="seed of this run")
    arguments: dict[str, Any] = vars(parser.parse_args(argv))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    share_work()
    try:
        params = Params.load(arguments.pop("params"))
        if "seed" in arguments and not 0 <= arguments["seed"] < 2**63:
            raise ParameterError(f"--seed {arguments['seed']}: a seed is a whole number from 0 to 2**63 - 1")
        run(params, **arguments)
    except VhcrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except PermissionError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        # A library's own file, which no writer of ours watches over.
        print(f"error: {error.filename or 'a file'}: cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(2)
