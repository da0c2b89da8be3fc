"""Evaluated runs as stage evaluate leaves them, with made-up text, and studies made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vhcr import layout
from vhcr.files import write_json
from vhcr.human_evaluation.pairs import Drawn, draw_pairs, read_run
from vhcr.human_evaluation.study import Settings, Study

DATA_HASH = "5f3a" * 16
PROTOCOL = {
    "split": "test",
    "context": "the first 2 turns",
    "evaluation": {"seed": 0, "context_turns": 2, "response_turns": [1, 3]},
    "generation": {"strategy": "greedy", "max_words": 30},
}


def context(number: int) -> list[str]:
    return [f"hello , number {number} .", "i do n't know you !"]


def write_run(
    root: Path,
    system: str,
    *,
    seed: int = 0,
    corpus: str = "toy",
    contexts: Sequence[int] = range(12),
    responses: Mapping[int, str] | None = None,
    **provenance: Any,
) -> Path:
    """A run that answers each context by ``responses``, else by a sentence of its own; its folder."""
    rows: dict[str, list[Any]] = {
        name: []
        for name in ("conversation_id", "num_response_turns", "turn", "context", "reference", "response")
    }
    for length in (1, 3):
        for number in contexts:
            for turn in range(length):
                said = (responses or {}).get(number, f"answer {number} of <{system}> & co , turn {turn} .")
                values = (f"talk{number:03}", length, turn, context(number), f"real {number} {turn}", said)
                for name, value in zip(rows, values, strict=True):
                    rows[name].append(value)
    folder = root / layout.evaluated(corpus, system, seed)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), folder / "responses.parquet")
    write_json(folder / "provenance.json", {"data_hash": DATA_HASH, "protocol": PROTOCOL, **provenance})
    return folder


def drawn(root: Path, num_items: int, seed: int = 0, num_turns: int = 1, **options: Any) -> Drawn:
    """Pairs of the runs vhcr-ud/0 and hred/0 under ``root``."""
    runs = [read_run(root / layout.evaluated("toy", name, 0), num_turns) for name in ("vhcr-ud", "hred")]
    return draw_pairs(*runs, num_items, seed, **options)


def make_study(
    root: Path,
    num_items: int = 6,
    *,
    votes: int = 2,
    num_turns: int = 1,
    name: str = "study",
    responses: Mapping[str, Mapping[int, str]] | None = None,
    **changes: Any,
) -> Study:
    """A study of vhcr-ud against hred over ``num_items`` of twelve contexts."""
    for system in ("vhcr-ud", "hred"):
        write_run(root, system, responses=(responses or {}).get(system))
    pairs = drawn(root, num_items, num_turns=num_turns)
    settings = {
        "corpus": "toy",
        "paper_corpus": None,
        "system": "vhcr-ud",
        "system_seed": 0,
        "opponent": "hred",
        "opponent_seed": 0,
        "paper_systems": {},
        "num_turns": num_turns,
        "votes_per_item": votes,
        "seed": 0,
        "num_contexts": pairs.num_contexts,
        "num_identical": pairs.num_identical,
        "num_repeated": pairs.num_repeated,
        "include_identical": False,
        "provenance": {},
    }
    return Study.create(root / f"{name}.sqlite", Settings(**{**settings, **changes}), pairs.pairs)


def rater(study: Study, name: str) -> str:
    """Somebody who may vote."""
    found = study.rater_of(study.invite(name))
    assert found is not None
    return found
