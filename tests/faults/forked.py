"""A stage in a process of its own that has everything imported already: a case costs its work, not 5 s more.

The process that forks does no work itself, since the pools of threads of Arrow, Polars and torch would not
live on in its children.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HANG_SECONDS = 300.0  # a stage of the small project takes some 3 s, on a busy machine ten times as long
ENVIRONMENT = {"VHCR_MLFLOW": "off", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
IMPORTS = (
    "encodings.utf_8_sig", "torch", "torch._dynamo", "polars", "pandas", "pyarrow.parquet", "gensim.models",
    "great_expectations", "altair", "sklearn.linear_model", "mlflow", "fastapi", "uvicorn",
)  # fmt: skip


class Ended(NamedTuple):
    """How a process ended: its status (negative: the signal), what it printed, how long it took."""

    status: int
    output: str
    seconds: float


def import_all() -> None:
    """What stages import while they run."""
    for name in IMPORTS:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


def start(folder: Path, work: Callable[[], object]) -> int:
    """Begin ``work`` in ``folder``, in a process group of its own; what it prints goes beside the folder."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # the child does so too: whoever is first
            os.setpgid(pid, pid)
        return pid
    status = 1
    try:
        os.setpgid(0, 0)
        log = os.open(_log(folder, os.getpid()), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(ENVIRONMENT)
        os.chdir(folder)
        work()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # as the interpreter would
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(folder: Path, pid: int, begun: float, *, kill_after: float | None = None) -> Ended:
    """Wait for a process; after ``kill_after`` seconds it gets SIGKILL, and one that hangs at last, too."""
    last = begun + (HANG_SECONDS if kill_after is None else kill_after)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() >= last:
            os.killpg(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            break
        time.sleep(0.002)
    log = _log(folder, pid)
    output = log.read_text(errors="replace") if log.exists() else ""
    log.unlink(missing_ok=True)
    return Ended(os.waitstatus_to_exitcode(status), output, time.monotonic() - begun)


def run(folder: Path, work: Callable[[], object], *, kill_after: float | None = None) -> Ended:
    """``start`` and ``finish``."""
    begun = time.monotonic()
    return finish(folder, start(folder, work), begun, kill_after=kill_after)


def stage(module: str, *arguments: str) -> Callable[[], None]:
    """A stage as its command runs it."""

    def work() -> None:
        sys.argv = [module, *arguments]
        importlib.import_module(module).main()

    return work


def _log(folder: Path, pid: int) -> Path:
    return folder.parent / f"log.{pid}"
