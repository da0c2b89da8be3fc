"""What became of a case: the same as ever, refused by name, or failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from tests.faults.forked import HANG_SECONDS, Ended

Outcome = Literal["same", "refused", "failed"]


class Case(NamedTuple):
    """What was tried, what became of it, and for a failure why."""

    what: str
    outcome: Outcome
    why: str = ""


def judge(what: str, ended: Ended, wrong: Sequence[str], *, named: str = "", changed: bool = True) -> Case:
    """A stage that ended well has left what it should; one that refused says so in plain words.

    ``named`` is what a refusal has to name. ``wrong`` lists files that are not as they should be.
    """
    if "Traceback (most recent call last)" in ended.output:
        return Case(what, "failed", f"traceback: {ended.output[-1500:]}")
    if ended.status < 0 and ended.seconds >= HANG_SECONDS:
        return Case(what, "failed", f"hangs for {HANG_SECONDS:g} s: {ended.output[-500:]}")
    if ended.status == 2:
        if named and named not in ended.output:
            return Case(what, "failed", f"refused without the name {named}: {ended.output[-500:]}")
        if wrong:
            return Case(what, "failed", f"refused, but {', '.join(wrong[:5])}: {ended.output[-300:]}")
        return Case(what, "refused")
    if ended.status != 0:
        return Case(what, "failed", f"status {ended.status}: {ended.output[-800:]}")
    if wrong:
        why = "silently other" if changed else "other than before"
        return Case(what, "failed", f"{why}: {', '.join(wrong[:5])}")
    return Case(what, "same")
