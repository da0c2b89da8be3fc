"""The search itself: what counts as a fault, and that it can find one."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.forked import HANG_SECONDS, Ended
from tests.faults.mutations import mutate
from tests.faults.outcome import judge
from tests.stages.project import ROOT

REFUSED = "error: data/run.json: seed: missing key"


@pytest.mark.parametrize(
    ("ended", "wrong", "outcome"),
    [
        (Ended(0, "", 1.0), [], "same"),
        (Ended(0, "", 1.0), ["metrics.json"], "failed"),  # silently other
        (Ended(2, REFUSED, 1.0), [], "refused"),
        (Ended(2, "error: something is wrong", 1.0), [], "failed"),  # not by name
        (Ended(2, REFUSED, 1.0), [".a.tmp (left behind)"], "failed"),
        (Ended(1, "", 1.0), [], "failed"),
        (Ended(2, f"Traceback (most recent call last):\n{REFUSED}", 1.0), [], "failed"),
        (Ended(-9, "", HANG_SECONDS), [], "failed"),
    ],
)
def test_what_counts_as_a_fault(ended: Ended, wrong: list[str], outcome: str) -> None:
    assert judge("a case", ended, wrong, named="run.json").outcome == outcome


def test_a_mutation_changes_the_file_and_its_seed_tells_how(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    text = json.dumps({"one": 1, "two": [1.5, "text"]})
    seen = set()
    for seed in range(40):
        found = []
        for _ in range(2):
            path.write_text(text, encoding="utf-8")
            what = mutate(path, random.Random(seed))
            found.append((what, path.read_bytes() if path.exists() else None))
        assert found[0] == found[1]
        assert not found[0][0] or found[0][1] != text.encode()
        seen.add(found[0][0].split(":")[0])
    assert len(seen) > 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_minute_of_mutations_and_kills_finds_nothing(tmp_path: Path) -> None:
    """`make faults` is three minutes of everything."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.faults", "--minutes", "1", "--only", "mutations", "kills"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
