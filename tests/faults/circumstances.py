"""What surrounds a stage is not as it should be; then all is well again, and the stage runs once more."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults import forked
from tests.faults.outcome import Case, judge
from tests.faults.small import STAGES, Small, Stage, copy, differing, draw_stage

NOBODY = 65534  # root may write where nobody may


def full_disk(folder: Path, one: Stage, draw: random.Random) -> Callable[[], object]:
    """No file grows beyond some size: what a full disk does to a program (EFBIG in place of ENOSPC)."""
    size = int(2 ** draw.uniform(12, 17))  # below, what it prints would not fit either

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        forked.stage(*one.command.split())()

    return work


def read_only(folder: Path, one: Stage, draw: random.Random) -> Callable[[], object]:
    """Nothing can be written where the stage writes, nor in .work."""
    chosen = draw.choice([folder, (folder / one.writes).parent, folder / ".work"])
    chosen.mkdir(parents=True, exist_ok=True)
    chosen.chmod(0o555)

    def work() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        forked.stage(*one.command.split())()

    return work


def clock(folder: Path, one: Stage, draw: random.Random) -> Callable[[], object]:
    """The time of day jumps back and forth by up to a year at every look."""
    seed = draw.random()

    def work() -> None:
        drawn, now = random.Random(seed), time.time
        time.time = lambda: now() + drawn.uniform(-3e7, 3e7)
        forked.stage(*one.command.split())()

    return work


def two_at_once(folder: Path, one: Stage, draw: random.Random) -> Callable[[], object]:
    """The same stage in two processes, the second a moment after the first."""
    delay = draw.uniform(0, 2)

    def work() -> None:
        begun = time.monotonic()
        other = forked.start(folder, forked.stage(*one.command.split()))
        time.sleep(delay)
        try:
            forked.stage(*one.command.split())()
        finally:
            ended = forked.finish(folder, other, begun)
            print(ended.output)
            if ended.status not in (0, 2):
                raise AssertionError(f"the other one ended with status {ended.status}")

    return work


TABLE = (full_disk, full_disk, read_only, clock, two_at_once)


@contextlib.contextmanager
def open_to_all(folder: Path) -> Iterator[None]:
    """Another user may work in the folder while the block runs."""
    for path in (folder.parent, folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    try:
        yield
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


def case(small: Small, root: Path, draw: random.Random) -> Case:
    """One stage under one circumstance: done as ever, or refused in plain words; afterwards done as ever."""
    name, circumstance = draw_stage(small, draw, list(STAGES)), draw.choice(TABLE)
    one = STAGES[name]
    folder = copy(small, root / "case")
    shutil.rmtree(folder / one.writes)
    with open_to_all(folder):
        ended = forked.run(folder, circumstance(folder, one, draw))
    what = f"{name} with {circumstance.__name__}"
    during = judge(what, ended, differing(small, folder) if ended.status == 0 else [])
    if during.outcome == "failed":
        return during
    again = forked.run(folder, forked.stage(*one.command.split()))
    after = judge(f"{what}, then again", again, differing(small, folder), changed=False)
    return after if after.outcome != "same" else during
