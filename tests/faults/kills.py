"""SIGKILL at a random moment of a stage; then the stage again: the same files, nothing left behind."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from tests.faults import forked
from tests.faults.outcome import Case, judge
from tests.faults.small import STAGES, Small, copy, differing, draw_stage

MAX_KILLS = 3  # of one stage, one after the other


def case(small: Small, root: Path, draw: random.Random) -> Case:
    """One stage, killed once or several times, then left alone."""
    name = draw_stage(small, draw, list(STAGES))
    one = STAGES[name]
    folder = copy(small, root / "case")
    shutil.rmtree(folder / one.writes)
    moments = [draw.uniform(0, 1.1) * small.seconds[name] for _ in range(draw.randint(1, MAX_KILLS))]
    for moment in moments:
        if draw.random() < 0.5:  # as DVC, which removes what a stage writes before it runs
            shutil.rmtree(folder / one.writes, ignore_errors=True)
        forked.run(folder, forked.stage(*one.command.split()), kill_after=moment)
    ended = forked.run(folder, forked.stage(*one.command.split()))
    told = ", ".join(f"{moment:.2f} s" for moment in moments)
    return judge(f"{name} killed after {told}", ended, differing(small, folder))
