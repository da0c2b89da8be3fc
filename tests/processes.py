"""Processes and servers for tests, on free ports of this machine, gone when a test ends however it ends."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

START_SECONDS = 300  # for a server, on a machine that is busy with other tests


def wait_for(condition: Callable[[], Any], seconds: float = 60.0, what: str = "") -> Any:
    """The first true value of ``condition``."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain {what}"
        time.sleep(0.1)
    return found


def free_port() -> int:
    """A port of this machine that nothing listens on, below those that outgoing connections are given.

    One of these might be taken by another test's connection before the server asked for it is up.
    """
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as asked, contextlib.suppress(OSError):
            asked.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port found")


def answers(url: str) -> bool:
    """Whether somebody answers there with 200."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def gone(process: psutil.Process | int) -> bool:
    """Whether a process (or the one with that number) has ended, waited for or not."""
    try:
        found = psutil.Process(process) if isinstance(process, int) else process
        return not found.is_running() or bool(found.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def running(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that goes on in the background, with its output in ``log``; ended with all below it."""
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, **options) as process,
    ):
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                process.terminate()
                for member in psutil.wait_procs(family, timeout=20)[1]:
                    member.kill()


@contextlib.contextmanager
def serving(command: list[str], health: str, log: Path, **options: Any) -> Iterator[None]:
    """Run a server until the block ends; it is up when ``health`` answers."""
    with running(command, log, **options) as process:

        def healthy() -> bool:
            assert process.poll() is None, f"it ended by itself:\n{log.read_text()}"
            return answers(health)

        wait_for(healthy, START_SECONDS, f"for {health}")
        yield
