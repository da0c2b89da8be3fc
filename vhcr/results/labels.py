"""Systems by what they are, and what runs must share for their numbers to stand side by side.

The paper's name for a run goes by its recorded parameters, not by its folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

from vhcr.evaluation.records import Parameters, Protocol
from vhcr.files import flatten
from vhcr.params import AT_REST

Settings = Mapping[str, JsonValue]

SYSTEM_LABELS = {
    "hred": "HRED",
    "vhred": "VHRED",
    "vhred-wd": "VHRED + w.d",
    "vhred-wd50": "VHRED + w.d 0.5",
    "vhred-wd75": "VHRED + w.d 0.75",
    "vhred-ud": "VHRED + u.d",
    "vhred-bow": "VHRED + bow",
    "vhred-zonly": "VHRED, z only",
    "vhcr": "VHCR",
    "vhcr-ud": "VHCR + u.d",
}

# Systems of params.yaml that the paper does not have.
OTHER_LABELS = {
    "transformer": "Transformer",
    "kneser-ney": "Kneser-Ney, 5-gram",
    "vhcr-ud-release": "VHCR + u.d, release",
    "vhcr-ud-bow": "VHCR + u.d + bow",
    "vhcr-ud-every": "VHCR + u.d, every word",
    "vhcr-ud-fb3": "VHCR + u.d + free bits of 3",
    "vhcr-ud-fbw": "VHCR + u.d + free bits a word",
    "vhcr-ud-bn90": "VHCR + u.d + batch norm 0.9",
    "vhcr-ud-bnfb": "VHCR + u.d + bn + free bits",
    **{
        f"{system}-start": f"{SYSTEM_LABELS[system]}, from the start"
        for system in ("hred", "vhred", "vhred-wd", "vhred-bow", "vhcr-ud")
    },
    **{
        f"{system}-{remedy}": f"{name}{text}"
        for system, name in (("vhred", "VHRED"), ("vhcr-ud", "VHCR + u.d"))
        for remedy, text in (
            ("fb", " + free bits"),
            ("cyc", " + KL cycles"),
            ("b50", ", low KL weight"),
            ("bn", " + batch norm"),
            ("agg", " + inference first"),
        )
    },
}

# What tells the paper's systems apart. A rate of True stands for any above zero.
_CORE: dict[str, JsonValue] = {
    "architecture": None,
    "word_drop": 0.0,
    "utterance_drop": 0.0,
    "bag_of_words_weight": 0.0,
    "decoder_sees_context": True,
}
_ROLES: dict[str, dict[str, JsonValue]] = {
    "hred": {"architecture": "hred"},
    "vhred": {"architecture": "vhred"},
    "vhred-wd": {"architecture": "vhred", "word_drop": 0.25},
    "vhred-wd50": {"architecture": "vhred", "word_drop": 0.5},
    "vhred-wd75": {"architecture": "vhred", "word_drop": 0.75},
    "vhred-ud": {"architecture": "vhred", "utterance_drop": True},
    "vhred-bow": {"architecture": "vhred", "bag_of_words_weight": True},
    "vhred-zonly": {"architecture": "vhred", "decoder_sees_context": False},
    "vhcr": {"architecture": "vhcr"},
    "vhcr-ud": {"architecture": "vhcr", "utterance_drop": True},
}
_NOT_ROLE = frozenset({*_CORE, "reading", "decoder_conditioning"})


def label(system: str) -> str:
    """What people call a system: the paper's name, or ours; of one that nobody knows, the name itself."""
    return SYSTEM_LABELS.get(system) or OTHER_LABELS.get(system, system)


def system_order(system: str) -> tuple[int, str]:
    """Sorts systems as the paper lists them, variants of one after it, others by name."""
    known = list(SYSTEM_LABELS)
    if system in known:
        return known.index(system), ""
    kin = [name for name in known if system.startswith((f"{name}-", f"{name},"))]
    return (known.index(max(kin, key=len)) if kin else len(known), system)


def core_role(settings: Settings) -> str | None:
    """The paper's system with these parameters, whatever settings it does not know; None if it has none."""
    for role, wanted in _ROLES.items():
        if all(_fits(settings.get(key, rest), wanted.get(key, rest)) for key, rest in _CORE.items()):
            return role
    return None


def _fits(value: JsonValue, wanted: JsonValue) -> bool:
    if wanted is True and not isinstance(value, bool):
        return bool(value)
    return bool(value == wanted)


def kinds(systems: Mapping[str, Settings]) -> dict[str, str]:
    """System name -> the paper's system that it is, in whichever reading, for those that are one.

    ``systems`` gives each name the ``system`` section that its runs recorded; where nothing was recorded the
    name speaks for itself. A setting that the paper does not know (a remedy against collapse) keeps a system
    from being the paper's unless it is at rest: zero, absent, or as in the systems of the paper's own names.
    """
    known = {name: core_role(settings) if settings else name for name, settings in systems.items()}
    trusted = [systems[name] for name, role in known.items() if role == name]
    return {
        name: role
        for name, role in known.items()
        if role in SYSTEM_LABELS and (role == name or _at_rest(systems[name], trusted))
    }


def roles(systems: Mapping[str, Settings]) -> dict[str, str]:
    """As ``kinds``, but each of the paper's systems once: the reading ``paper`` first, then by that name."""
    found: dict[str, list[str]] = {}
    for name, role in kinds(systems).items():
        found.setdefault(role, []).append(name)
    return {
        min(names, key=lambda name: (systems[name].get("reading") == "release", name != role, name)): role
        for role, names in found.items()
    }


def _at_rest(settings: Settings, trusted: Iterable[Settings]) -> bool:
    """Whether what the paper does not know does nothing, as far as one can tell."""
    usual = list(trusted)
    for key, value in settings.items():
        if key in _NOT_ROLE or not value:
            continue
        seen = [other[key] for other in usual if key in other]
        if value not in (seen or [1.0]):
            return False
    return True


# Settings of a training that change how it runs, not what comes out.
OPERATIONAL = frozenset({"num_threads", "checkpoint_seconds", "record_every_steps", "device"})
# Settings of an evaluation that change no number of it.
OPERATIONAL_IN_EVALUATION = frozenset({"batch_conversations", "num_samples_shown"})


def protocol_settings(protocol: Protocol) -> Parameters:
    """The part of a protocol that numbers depend on."""
    sections = {"evaluation": protocol.evaluation, "generation": protocol.generation}
    return protocol.as_json() | {
        section: {
            name: value
            for name, value in own.items()
            if name not in OPERATIONAL_IN_EVALUATION and value != AT_REST[section].get(name)
        }
        for section, own in sections.items()
        if own
    }


def trained_with(params: Mapping[str, Parameters]) -> dict[str, Parameters]:
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
    }


def partings(runs: Mapping[str, Mapping[str, Parameters]]) -> list[str]:
    """Settings beside the system's own that differ among runs, in words; name -> recorded parameters."""
    return _parted(
        {
            name: flatten(
                {section: own for section, own in trained_with(params).items() if section != "system"}
            )
            for name, params in runs.items()
        }
    )


def protocol_partings(protocols: Mapping[str, Protocol]) -> list[str]:
    """Parts of the evaluation's protocol that differ among runs, under the given names."""
    return _parted({name: flatten(protocol_settings(protocol)) for name, protocol in protocols.items()})


def _parted(found: Mapping[str, Parameters]) -> list[str]:
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
