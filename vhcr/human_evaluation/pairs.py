"""Two evaluated runs -> pairs of responses to the same test contexts, drawn at random."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vhcr import layout
from vhcr.errors import StudyError
from vhcr.files import flatten, read_object
from vhcr.tokenisation.tokeniser import readable

COLUMNS = ("conversation_id", "num_response_turns", "turn", "context", "reference", "response")


class Spoken(NamedTuple):
    """What a run said in one test context, as people write it; ``reference`` is what was really said."""

    context: tuple[str, ...]
    reference: tuple[str, ...]
    response: tuple[str, ...]


@dataclass(frozen=True)
class EvaluatedRun:
    """The responses of one run, as stage evaluate left them, with what they were made from."""

    corpus: str
    system: str
    seed: int
    folder: Path
    provenance: Mapping[str, Any]
    settings: Mapping[str, Any]  # `system` of the parameters it was trained with; empty where not recorded
    spoken: Mapping[str, Spoken]  # by conversation id

    @property
    def name(self) -> str:
        """corpus/system/seed."""
        return f"{self.corpus}/{self.system}/{self.seed}"


class Pair(NamedTuple):
    """One context with both responses to it; each is a tuple of turns."""

    conversation_id: str
    context: tuple[str, ...]
    system_response: tuple[str, ...]
    opponent_response: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether the responses agree word for word."""
        return self.system_response == self.opponent_response


class Drawn(NamedTuple):
    """Pairs drawn for a study, in random order, and what they were drawn from."""

    pairs: list[Pair]
    num_contexts: int  # test contexts that both runs responded to
    num_identical: int  # of those, where the responses agree word for word
    num_repeated: int  # of those, same context and same responses as another


def find_run(name: str) -> Path:
    """The folder of an evaluated run, given as that folder or as corpus/system/seed.

    Raises:
        StudyError: there is none; the message names those there are.
    """
    for folder in (Path(name), layout.DATA / "evaluated" / name):
        if (folder / "responses.parquet").is_file():
            return folder
    found = sorted(path.parent for path in (layout.DATA / "evaluated").glob("*/*/*/responses.parquet"))
    known = ", ".join("/".join(path.parts[-3:]) for path in found) or "none yet (dvc repro makes them)"
    raise StudyError(f"{name}: no such evaluated run; give its folder, or one of: {known}")


def read_run(folder: Path, num_turns: int) -> EvaluatedRun:
    """The continuations of ``num_turns`` turns that an evaluated run has, in every test context.

    Raises:
        StudyError: the folder is not named .../corpus/system/seed, or has no such continuations.
    """
    parts = folder.resolve().parts[-3:]
    if len(parts) < 3 or not parts[2].isdecimal():
        raise StudyError(f"{folder}: expected a folder .../<corpus>/<system>/<seed>")
    provenance = read_object(folder / "provenance.json")
    for key in ("data_hash", "protocol"):
        if not provenance.get(key):
            raise StudyError(f"{folder / 'provenance.json'}: {key} is missing: evaluate this run again")
    path = folder / "responses.parquet"
    try:
        table = pq.read_table(path, columns=list(COLUMNS), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise StudyError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    lengths = sorted(set(table["num_response_turns"].to_pylist()))
    if num_turns not in lengths:
        raise StudyError(
            f"{path}: no responses of {num_turns} turns, only of {', '.join(map(str, lengths)) or 'none'} "
            "(evaluation.response_turns in params.yaml)"
        )
    rows = [row for row in table.to_pylist() if row["num_response_turns"] == num_turns]
    rows.sort(key=lambda row: (row["conversation_id"], row["turn"]))
    run = folder.resolve().parents[3].joinpath("trained", *parts, "run.json")
    trained = read_object(run) if run.is_file() else {}
    rules = trained.get("rules")
    spoken: dict[str, Spoken] = {}
    for start in range(0, len(rows), num_turns):
        group = rows[start : start + num_turns]
        if [(r["conversation_id"], r["turn"]) for r in group] != [
            (group[0]["conversation_id"], turn) for turn in range(num_turns)
        ]:
            raise StudyError(
                f"{path}: conversation {group[0]['conversation_id']!r} lacks one of its {num_turns} turns"
            )
        spoken[group[0]["conversation_id"]] = Spoken(
            tuple(readable(text, rules) for text in group[0]["context"]),
            tuple(readable(row["reference"], rules) for row in group),
            tuple(readable(row["response"], rules) for row in group),
        )
    settings = trained.get("params", {}).get("system", {})
    return EvaluatedRun(parts[0], parts[1], int(parts[2]), folder, provenance, settings, spoken)


def check_comparable(system: EvaluatedRun, opponent: EvaluatedRun) -> None:
    """Refuse two runs whose responses cannot stand side by side.

    Raises:
        StudyError: same run; other corpus, data, protocol, contexts or references. The message says which.
    """
    both = f"{system.folder} and {opponent.folder}"
    if system.folder.resolve() == opponent.folder.resolve():
        raise StudyError(f"{system.folder}: a run cannot be compared with itself")
    if system.corpus != opponent.corpus:
        raise StudyError(f"{both}: different corpora, {system.corpus} and {opponent.corpus}")
    hashes = [str(run.provenance["data_hash"]) for run in (system, opponent)]
    if hashes[0] != hashes[1]:
        raise StudyError(f"{both}: made from different data, {hashes[0][:12]} and {hashes[1][:12]}")
    mine, theirs = (flatten(run.provenance["protocol"]) for run in (system, opponent))
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            raise StudyError(
                f"{both}: evaluated by different protocols: {key} is {mine.get(key)!r} in one and "
                f"{theirs.get(key)!r} in the other"
            )
    for name, said in system.spoken.items():
        other = opponent.spoken.get(name)
        if other is None:
            raise StudyError(
                f"{opponent.folder}: no response to conversation {name!r}, which {system.folder} has"
            )
        if (said.context, said.reference) != (other.context, other.reference):
            raise StudyError(f"{both}: conversation {name!r} is not the same text in both")
    for name in opponent.spoken:
        if name not in system.spoken:
            raise StudyError(
                f"{system.folder}: no response to conversation {name!r}, which {opponent.folder} has"
            )


def draw_pairs(
    system: EvaluatedRun,
    opponent: EvaluatedRun,
    num_items: int,
    seed: int,
    *,
    include_identical: bool = False,
) -> Drawn:
    """Pairs from ``num_items`` test contexts, drawn without replacement by ``seed``.

    Left out are pairs whose responses agree word for word, unless ``include_identical``, and all but the
    first of pairs that are the same in context and both responses: nobody should be asked twice.

    Raises:
        StudyError: the runs are not comparable, or have too few such pairs.
    """
    check_comparable(system, opponent)
    names = sorted(system.spoken)
    random.Random(seed).shuffle(names)
    seen: set[tuple[tuple[str, ...], ...]] = set()
    pairs: list[Pair] = []
    identical = repeated = 0
    for name in names:
        said = system.spoken[name]
        pair = Pair(name, said.context, said.response, opponent.spoken[name].response)
        identical += pair.identical
        if pair[1:] in seen:
            repeated += 1
        elif include_identical or not pair.identical:
            pairs.append(pair)
        seen.add(pair[1:])
    if len(pairs) < num_items:
        what = "distinct pairs" if include_identical else "pairs that differ"
        raise StudyError(
            f"{system.name} and {opponent.name} have {len(pairs)} {what} in {len(names)} test contexts, "
            f"fewer than the {num_items} asked for"
        )
    return Drawn(pairs[:num_items], len(names), identical, repeated)
