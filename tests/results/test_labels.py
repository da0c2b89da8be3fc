"""Which of the paper's systems a run is goes by its parameters."""

from __future__ import annotations

from typing import Any

import pytest

from vhcr.params import Params
from vhcr.results.labels import SYSTEM_LABELS, core_role, kinds, label, roles, system_order

PLAIN: dict[str, Any] = {
    "architecture": "vhred", "reading": "paper", "word_drop": 0.0, "utterance_drop": 0.0,
    "bag_of_words_weight": 0.0, "decoder_sees_context": True,
}  # fmt: skip


def system(**changes: Any) -> dict[str, Any]:
    return {**PLAIN, **changes}


def test_the_systems_of_params_yaml_are_the_papers() -> None:
    params = Params.load()
    found = {name: params.system(name).model_dump() for name in params.systems}
    own = {name: name for name in found if name in SYSTEM_LABELS}
    assert roles(found) == own
    assert set(own) == set(SYSTEM_LABELS), "all that the paper has can be run"
    other = {"vhcr-ud-release": "vhcr-ud", "vhcr-ud-every": "vhcr-ud"}
    other |= {name: name.removesuffix("-start") for name in found if name.endswith("-start")}
    assert kinds(found) == own | other, "a remedy makes it none of the paper's"
    assert {label(name) for name in found} & set(found) == set(), "each has a name for people"
    assert len({label(name) for name in found}) == len(found)


@pytest.mark.parametrize(
    ("changes", "role"),
    [
        ({}, "vhred"),
        ({"word_drop": 0.25}, "vhred-wd"),
        ({"word_drop": 0.5}, "vhred-wd50"),
        ({"word_drop": 0.75}, "vhred-wd75"),
        ({"word_drop": 0.6}, None),
        ({"word_drop": 0.25, "utterance_drop": 0.25}, None),
        ({"architecture": "vhcr", "utterance_drop": 0.4}, "vhcr-ud"),
        ({"architecture": "vhcr", "bag_of_words_weight": 1.0}, None),
        ({"decoder_sees_context": False}, "vhred-zonly"),
    ],
)
def test_by_parameters(changes: dict[str, Any], role: str | None) -> None:
    assert core_role(system(**changes)) == role


def test_a_name_alone_proves_nothing() -> None:
    found = roles({"vhred-wd": system(word_drop=0.5), "mine": system(word_drop=0.25), "old": {}, "vhcr": {}})
    assert found == {"vhred-wd": "vhred-wd50", "mine": "vhred-wd", "vhcr": "vhcr"}, "old ones are believed"


def test_remedies_are_not_the_papers_systems() -> None:
    """Free bits of a VHRED are no claim of the paper's, whatever the default elsewhere is."""
    found = roles(
        {
            "vhred": system(free_nats=0.0, cycles=1, last_weight=1.0),
            "vhred-free": system(free_nats=0.5, cycles=1, last_weight=1.0),
            "vhred-half": system(free_nats=0.0, cycles=1, last_weight=0.5),
            "vhred-cycles": system(free_nats=0.0, cycles=4, last_weight=1.0),
        }
    )
    assert found == {"vhred": "vhred"}
    assert roles({"mine": system(free_nats=0.5)}) == {}
    assert roles({"mine": system(free_nats=0.0, last_weight=1.0)}) == {"mine": "vhred"}


def test_one_system_a_role_the_paper_s_reading_first() -> None:
    found = roles({"a": system(reading="release"), "b": system(), "c": system()})
    assert found == {"b": "vhred"}
    assert roles({"vhred": system(reading="release")}) == {"vhred": "vhred"}


def test_variants_stand_beside_what_they_vary() -> None:
    names = ["zzz", "vhcr-ud-free", "vhcr", "vhred-wd75", "vhcr-ud", "vhred-wd-x", "hred", "vhred-wd"]
    assert sorted(names, key=system_order) == [
        "hred", "vhred-wd", "vhred-wd-x", "vhred-wd75", "vhcr", "vhcr-ud", "vhcr-ud-free", "zzz",
    ]  # fmt: skip
