"""Chosen runs for one page: those that compare, under names that tell them apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vhcr import layout
from vhcr.errors import DataError
from vhcr.files import flatten, read_json, values_digest
from vhcr.provenance import read_run
from vhcr.report.results import Results, Run, conversations_shown, load_run
from vhcr.report.settings import protocol_partings, trained_with
from vhcr.report.systems import system_order


class Place(NamedTuple):
    """Where the files of one run lie."""

    reference: str  # as it was asked for
    trained: Path
    evaluated: Path


def load(
    places: Sequence[Place],
    *,
    num_samples: int = 20,
    readable: Callable[[str], str] = str,
) -> Results:
    """The runs at ``places``, together. Systems of one name with other settings get names of their own.

    Raises:
        DataError: a run was not evaluated, a file is damaged, a run was chosen twice, or the runs do not
            compare: other corpora, other data, or another protocol of evaluation.
    """
    if not places:
        raise DataError("no run was chosen")
    _refuse_repetitions(places)
    infos = [read_run(place.trained) for place in places]
    for place, info in zip(places, infos, strict=True):
        for key in ("corpus", "system", "seed", "data_hash", "params"):
            if key not in info:
                raise DataError(f"{place.trained / 'run.json'}: {key} is missing")
        if not (place.evaluated / "metrics.json").is_file():
            raise DataError(
                f"{place.reference}: trained, but not evaluated (no {place.evaluated}/metrics.json)"
            )
    _refuse_other_data(places, infos)
    shown = conversations_shown([place.evaluated for place in places], num_samples)
    runs = [
        load_run(
            info["corpus"], info["system"], int(info["seed"]), place.trained, place.evaluated, shown, readable
        )
        for place, info in zip(places, infos, strict=True)
    ]
    parted = protocol_partings(dict(zip([place.reference for place in places], runs, strict=True)))
    if parted:
        raise DataError(
            "these runs were not evaluated by one protocol, so their numbers do not compare; evaluate them "
            "again, or choose others:\n  " + "\n  ".join(parted)
        )
    corpus, data_hash = str(infos[0]["corpus"]), str(infos[0]["data_hash"])
    named = _named(runs)
    return Results(
        title=f"{corpus}: {len(runs)} chosen run{'s' if len(runs) > 1 else ''}",
        corpus=corpus,
        runs=tuple(sorted(named, key=lambda run: (system_order(run.system), run.seed))),
        **_data(corpus, data_hash),
    )


def _refuse_repetitions(places: Sequence[Place]) -> None:
    seen: dict[Path, str] = {}
    for place in places:
        folder = place.trained.resolve()
        if folder in seen:
            raise DataError(f"{place.reference}: chosen twice (also as {seen[folder]})")
        seen[folder] = place.reference


def _refuse_other_data(places: Sequence[Place], infos: Sequence[dict[str, Any]]) -> None:
    groups: dict[tuple[str, str], list[str]] = {}
    for place, info in zip(places, infos, strict=True):
        groups.setdefault((str(info["corpus"]), str(info["data_hash"])), []).append(place.reference)
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
    result = []
    for run in runs:
        namesakes = [other for other in runs if other.system == run.system]
        result.append(replace(run, system=_name(run, namesakes)))
    taken: dict[tuple[str, int], Run] = {}
    for place, run in enumerate(result):
        name = run.system, run.seed
        if name in taken:
            commits = [str(each.training.get("code_version"))[:7] for each in (taken[name], run)]
            if commits[0] == commits[1]:
                raise DataError(
                    f"{run.name} is there twice, with the same settings and code: choose one of them"
                )
            result[place] = replace(run, system=f"{run.system}, commit {commits[1]}")
        taken[result[place].system, run.seed] = result[place]
    return result


def _name(run: Run, namesakes: Sequence[Run]) -> str:
    params = {id(other): _settings(other) for other in namesakes}
    if len({values_digest(values) for values in params.values()}) == 1:
        return run.system
    own = params[id(run)]
    keys = dict.fromkeys(key for values in params.values() for key in values)
    apart = [key for key in keys if len({str(values.get(key, 0)) for values in params.values()}) > 1]
    return run.system + "".join(f", {key.rpartition('.')[2]} {own.get(key, 0)}" for key in apart)


def _settings(run: Run) -> dict[str, Any]:
    return flatten(trained_with(run.training.get("params") or {}))


def _data(corpus: str, data_hash: str) -> dict[str, Any]:
    """What the project says of the data, if it is still the data that the runs saw."""
    bare: dict[str, Any] = {"manifest": {"corpus": corpus, "data_hash": data_hash}}
    tokenised = layout.tokenised(corpus)
    files = {
        "manifest": tokenised / "manifest.json",
        "tokenisation": tokenised / "metrics.json",
        "validation": layout.validated(corpus) / "validation.json",
        "embeddings": layout.embeddings(corpus) / "metrics.json",
    }
    if not files["manifest"].exists():
        return bare
    manifest = read_json(files["manifest"])
    if manifest.get("data_hash") != data_hash:
        return bare
    return {name: read_json(path) for name, path in files.items() if path.exists()}
