"""Chosen runs for one page: those that compare, under names that tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vhcr import layout
from vhcr.errors import DataError
from vhcr.evaluation.records import Parameters
from vhcr.files import flatten
from vhcr.results.labels import protocol_partings, system_order, trained_with
from vhcr.results.records import Data, Manifest, TrainingRecord, read_training
from vhcr.results.runs import Readable, Results, Run, as_kept, load_runs, read_data


class Place(NamedTuple):
    """Where the files of one run lie."""

    reference: str  # as it was asked for
    trained: Path
    evaluated: Path


def load(
    places: Sequence[Place],
    *,
    num_samples: int = 20,
    readable: Readable = as_kept,
) -> Results:
    """The runs at ``places``, together. Systems of one name with other settings get names of their own.

    Raises:
        DataError: a run was not evaluated, a file is damaged, a run was chosen twice, or the runs do not
            compare: other corpora, other data, or another protocol of evaluation.
    """
    if not places:
        raise DataError("no run was chosen")
    _refuse_repetitions(places)
    records = [read_training(place.trained) for place in places]
    for place in places:
        if not (place.evaluated / "metrics.json").is_file():
            raise DataError(
                f"{place.reference}: trained, but not evaluated (no {place.evaluated}/metrics.json)"
            )
    _refuse_other_data(places, records)
    runs = load_runs([(place.trained, place.evaluated) for place in places], num_samples, readable)
    parted = protocol_partings(
        {place.reference: run.evaluated.protocol for place, run in zip(places, runs, strict=True)}
    )
    if parted:
        raise DataError(
            "these runs were not evaluated by one protocol, so their numbers do not compare; evaluate them "
            "again, or choose others:\n  " + "\n  ".join(parted)
        )
    corpus = records[0].corpus
    return Results(
        title=f"{corpus}: {len(runs)} chosen run{'s' if len(runs) > 1 else ''}",
        corpus=corpus,
        runs=tuple(sorted(_named(runs), key=lambda run: (system_order(run.system), run.seed))),
        data=_data(corpus, records[0].data_hash),
    )


def _refuse_repetitions(places: Sequence[Place]) -> None:
    seen: dict[Path, str] = {}
    for place in places:
        folder = place.trained.resolve()
        if folder in seen:
            raise DataError(f"{place.reference}: chosen twice (also as {seen[folder]})")
        seen[folder] = place.reference


def _refuse_other_data(places: Sequence[Place], records: Sequence[TrainingRecord]) -> None:
    groups: dict[tuple[str, str], list[str]] = {}
    for place, record in zip(places, records, strict=True):
        groups.setdefault((record.corpus, record.data_hash), []).append(place.reference)
    if len(groups) > 1:
        told = [f"{name}, data {hashed[:12]}: {' '.join(which)}" for (name, hashed), which in groups.items()]
        raise DataError(
            "these runs saw different data, so their numbers do not compare; make a page of each group:\n  "
            + "\n  ".join(told)
        )


def _named(runs: Sequence[Run]) -> list[Run]:
    """Runs whose system's name says what sets it apart from others of that name.

    Raises:
        DataError: two runs are the same system with the same settings, seed and code.
    """
    settings = [flatten(dict(trained_with(run.training.params))) for run in runs]
    result: list[Run] = []
    taken: dict[tuple[str, int], Run] = {}
    for run, own in zip(runs, settings, strict=True):
        namesakes = [s for other, s in zip(runs, settings, strict=True) if other.system == run.system]
        named = replace(run, system=_name(run.system, own, namesakes))
        if other := taken.get((named.system, named.seed)):
            commits = [str(each.training.code_version)[:7] for each in (other, run)]
            if commits[0] == commits[1]:
                raise DataError(
                    f"{named.name} is there twice, with the same settings and code: choose one of them"
                )
            named = replace(named, system=f"{named.system}, commit {commits[1]}")
        taken[named.system, named.seed] = named
        result.append(named)
    return result


def _name(system: str, own: Parameters, namesakes: Sequence[Parameters]) -> str:
    keys = dict.fromkeys(key for values in namesakes for key in values)
    apart = [key for key in keys if len({str(values.get(key, 0)) for values in namesakes}) > 1]
    return system + "".join(f", {key.rpartition('.')[2]} {own.get(key, 0)}" for key in apart)


def _data(corpus: str, data_hash: str) -> Data:
    """What the project says of the data, if it is still the data that the runs saw."""
    if (layout.tokenised(corpus) / "manifest.json").exists():
        data = read_data(corpus)
        if data.manifest.data_hash == data_hash:
            return data
    return Data(manifest=Manifest(corpus=corpus, data_hash=data_hash))
