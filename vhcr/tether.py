"""A process that ends with the one that started it, even when that is killed."""

from __future__ import annotations

import os
import select
import signal
import threading
from pathlib import Path

SHELLS = ("sh", "bash", "dash", "zsh", "fish", "ksh")


def end_with_parent(known_as: str = "") -> None:
    """Send ourselves SIGTERM as soon as the process that started us has ended, even by SIGKILL.

    Shells in between do not count: DVC, for one, starts a stage through one. ``known_as`` is part of the
    command that started us: where our parent is process 1, and not that, it has ended already. Where the
    system cannot tell (this asks Linux), nothing is done.
    """
    if not hasattr(os, "pidfd_open"):
        return
    try:
        watched = [os.pidfd_open(pid) for pid in _parents(known_as)]
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)
        return
    except OSError:  # an old kernel
        return

    def wait() -> None:
        select.select(watched, [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


def _parents(known_as: str) -> list[int]:
    """Our parent process, and further up as long as there are only shells: the last is who started us.

    Raises:
        ProcessLookupError: it has ended already, and we were handed to init.
    """
    found = [os.getppid()]
    try:
        while found[-1] != 1 and Path(f"/proc/{found[-1]}/comm").read_text().strip() in SHELLS:
            # "pid (name) state parent ..."
            found.append(int(Path(f"/proc/{found[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
        # In a container, who started us may itself be process 1.
        if found[-1] == 1 and known_as.encode() not in Path("/proc/1/cmdline").read_bytes():
            raise ProcessLookupError
    except FileNotFoundError:
        raise ProcessLookupError from None
    return found
