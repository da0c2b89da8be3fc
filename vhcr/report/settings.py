"""What runs must share for their numbers to stand side by side, and where chosen ones part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vhcr.files import flatten
from vhcr.params import AT_REST
from vhcr.report.results import Run

# Settings of a training that change how it runs, not what comes out.
OPERATIONAL = frozenset({"num_threads", "checkpoint_seconds", "record_every_steps", "device"})
# Settings of an evaluation that change no number of it.
UNHEARD = frozenset({"batch_conversations", "num_samples_shown"})


def heard(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a protocol that numbers depend on."""
    kept = dict(protocol)
    evaluation = kept.get("evaluation")
    if isinstance(evaluation, Mapping):
        kept["evaluation"] = {
            name: value
            for name, value in evaluation.items()
            if name not in UNHEARD and value != AT_REST["evaluation"].get(name)
        }
    return kept


def trained_with(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Recorded parameters by section, without what is only operational or off.

    Off (zero, false, ``AT_REST``) counts as absent: an older program did not have every setting of today's.
    """
    return {
        section: {
            name: value
            for name, value in values.items()
            if value and value != AT_REST.get(section, {}).get(name) and name not in OPERATIONAL
        }
        for section, values in params.items()
        if isinstance(values, Mapping)
    }


def partings(runs: Sequence[Run]) -> list[str]:
    """Settings beside the system's own that differ among runs, each in words; empty where none does."""
    return _parted({run.name: _shared(run) for run in runs})


def protocol_partings(runs: Mapping[str, Run]) -> list[str]:
    """Parts of the evaluation's protocol that differ among runs, under the given names."""
    return _parted({name: flatten(heard(run.provenance.get("protocol") or {})) for name, run in runs.items()})


def _shared(run: Run) -> dict[str, Any]:
    sections = trained_with(run.training.get("params") or {})
    return flatten({section: values for section, values in sections.items() if section != "system"})


def _parted(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    known = {name: values for name, values in found.items() if values}  # those that recorded any
    keys = list(dict.fromkeys(key for values in known.values() for key in values))
    told = []
    for key in keys:
        holders: dict[str, list[str]] = {}
        for name, values in known.items():
            holders.setdefault(str(values.get(key, "off")), []).append(name)
        if len(holders) > 1:
            parts = [f"{value} in {_some(names)}" for value, names in holders.items()]
            told.append(f"{key}: {', '.join(parts)}")
    return told


def _some(names: Sequence[str], most: int = 3) -> str:
    if len(names) <= most:
        return " and ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
