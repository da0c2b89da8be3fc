"""params.yaml with one value that is wrong: refused with the key's name, or taken because it is legal."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.faults import forked
from tests.faults.outcome import Case
from tests.faults.small import Small
from vhcr.errors import VhcrError

WRONG = (
    None, True, False, "", "abc", "false", "../x", "\x00", -1, 0, 1.5, 10**7, 10**30, -(10**30),
    math.inf, -math.inf, math.nan, [], {}, [None], [[1]], {"a": {"b": 1}},
)  # fmt: skip
AT_ONCE = 50  # in one process: each takes a fiftieth of a second
SECTIONS = ("active", "defaults", "corpora", "systems")


def case(small: Small, root: Path, draw: random.Random) -> list[Case]:
    """Some fifty values, one after the other."""
    text = (small.folder / "params.yaml").read_text(encoding="utf-8")
    folder = root / "settings"
    folder.mkdir(exist_ok=True)
    found = folder / "found.yaml"
    seed = draw.random()

    def work() -> None:
        drawn = random.Random(seed)
        found.write_text(yaml.safe_dump([list(_one(text, folder, drawn)) for _ in range(AT_ONCE)]))

    ended = forked.run(folder, work)
    if ended.status != 0:
        return [Case("reading params.yaml", "failed", ended.output[-800:])]
    return [Case(*one) for one in yaml.safe_load(found.read_text())]


def _one(text: str, folder: Path, draw: random.Random) -> Case:
    from vhcr.params import Params

    values = yaml.safe_load(text)
    parent, key, full = draw.choice([place for part in SECTIONS for place in _places(values[part], part)])
    wrong = draw.choice(WRONG)
    same = parent[key] == wrong and type(parent[key]) is type(wrong)
    parent[key] = wrong
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    what = f"{full} = {wrong!r}"
    try:
        params = Params.load(path)
        for corpus in params.corpora:
            params.corpus(corpus)
            for system in params.systems:
                params.system(system, corpus)
    except VhcrError as error:
        if str(key) in str(error) or full.split(".")[-2] in str(error):
            return Case(what, "refused")
        return Case(what, "failed", f"refused without its name: {error}")
    except Exception as error:  # what this looks for
        return Case(what, "failed", f"{type(error).__name__}: {error}")
    return Case(f"{what}{' (as before)' if same else ' is legal'}", "same")


def _places(value: Any, above: str) -> Iterator[tuple[Any, Any, str]]:
    if isinstance(value, dict):
        for key in value:
            yield value, key, f"{above}.{key}"
            yield from _places(value[key], f"{above}.{key}")
