"""``python -m tests.faults``: draw cases of every kind until time is up; print figures, keep failures.

A failure is written to .work/faults/<kind>-<seed>-<number>.json, with the command that tries it again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from tests.faults import circumstances, forked, kills, mutations, requests, settings, wholes
from tests.faults.outcome import Case
from tests.faults.small import Small, build
from vhcr.files import write_json

# kind -> what draws one case of it, and its share of the time.
KINDS = {
    "kills": (kills.case, 3),
    "mutations": (mutations.case, 4),
    "settings": (settings.case, 1),
    "circumstances": (circumstances.case, 2),
    "requests": (requests.case, 2),
    "wholes": (wholes.case, 3),
}
LONG = {
    "wholes": 10
}  # kind -> minutes below which it is left out, unless it is named: it takes some to begin
FAILURES = Path(".work/faults")


def main() -> None:
    """Try cases; status 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=3.0, help="for all; each kind has a case at least")
    parser.add_argument("--only", nargs="*", choices=list(KINDS), help="kinds (default: all that fit in)")
    parser.add_argument("--case", type=int, help="try this number of each kind alone")
    parser.add_argument("--write", type=Path, help="also add the figures to this file (results/faults.json)")
    asked = parser.parse_args()
    kinds = asked.only or [kind for kind in KINDS if asked.minutes >= LONG.get(kind, 0)]
    began = time.monotonic()
    end = began + asked.minutes * 60
    forked.import_all()
    figures: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="vhcr-faults-") as temporary:
        root = Path(temporary)
        # Wholes have a project of their own.
        small = build(root) if kinds != ["wholes"] else Small(root, {}, {})
        print(f"a small project is ready after {time.monotonic() - began:.0f} s", flush=True)
        for place, kind in enumerate(kinds):
            draw_case, share = KINDS[kind]
            left = sum(KINDS[other][1] for other in kinds[place:])
            until = time.monotonic() + (end - time.monotonic()) * share / left
            figures[kind] = Counter()
            number = asked.case or 0
            while True:
                tried = draw_case(small, root, random.Random(f"{asked.seed} {kind} {number}"))
                for one in tried if isinstance(tried, list) else [tried]:
                    figures[kind].update(tried=1, **{one.outcome: 1})
                    if one.outcome == "failed":
                        keep(kind, asked.seed, number, one)
                number += 1
                if asked.case is not None or time.monotonic() >= until:
                    break
            print(kind, line(figures[kind]), flush=True)
            if asked.write:  # after each kind: who is stopped keeps what was found
                add(asked.write, kind, figures[kind], asked.seed)
    sys.exit(any(found["failed"] for found in figures.values()))


def line(found: Counter[str]) -> str:
    """tried, same, refused, failed."""
    return ", ".join(f"{name} {found[name]}" for name in ("tried", "same", "refused", "failed"))


def keep(kind: str, seed: int, number: int, one: Case) -> None:
    """Write a failure as a small case."""
    again = f"python -m tests.faults --seed {seed} --only {kind} --case {number}"
    FAILURES.mkdir(parents=True, exist_ok=True)
    values = {"again": again, "what": one.what, "why": one.why}
    path = FAILURES / f"{kind}-{seed}-{number}.json"
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    print(f"FAILED {one.what}\n  {one.why[-300:]}\n  {again}", flush=True)


def add(path: Path, kind: str, found: Counter[str], seed: int) -> None:
    """Put the figures of one kind into the file of all."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": []}
    counts = {name: found[name] for name in ("tried", "same", "refused", "failed")}
    kept["runs"].append({"date": datetime.now(UTC).date().isoformat(), "seed": seed, "kind": kind, **counts})
    write_json(path, kept, by_rows=True)


if __name__ == "__main__":
    main()
