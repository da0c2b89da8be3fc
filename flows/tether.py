"""Run a command that ends when its parent ends, even by SIGKILL: python -m flows.tether PARENT COMMAND..."""

import ctypes
import os
import signal
import sys

from vhcr.tether import end_with_parent

PR_SET_PDEATHSIG = 1


def tether(parent: int) -> None:
    """Ask Linux to send this process SIGTERM when ``parent`` dies; elsewhere, do nothing."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(128 + signal.SIGTERM)


def follow_worker() -> None:
    """In a flow that a worker started: end when the worker does, as if it had asked for that."""
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        end_with_parent()


if __name__ == "__main__":
    tether(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
