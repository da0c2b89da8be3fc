"""The search itself: what counts as a fault, and that it can find one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.faults.forked import HANG_SECONDS, Ended
from tests.faults.mutations import mutate
from tests.faults.outcome import judge

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
