"""The list of plausible mistakes keeps up with the code: one that can't be made any more proves nothing."""

from __future__ import annotations

from pathlib import Path

from tests import mutations


def test_every_mistake_can_still_be_made_and_names_tests_that_exist() -> None:
    assert [found for found in map(mutations.problem, mutations.MUTATIONS) if found] == []
    names = [mutation.name for mutation in mutations.MUTATIONS]
    assert len(set(names)) == len(names)
    assert {t for mutation in mutations.MUTATIONS for t in mutation.tests if not Path(t).exists()} == set()
