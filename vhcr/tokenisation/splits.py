"""Which conversation belongs to which split: as its corpus says, or from a seed, identically everywhere."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from fractions import Fraction
from math import ceil
from typing import Literal

from vhcr.conversation import SPLITS, Split
from vhcr.errors import DataError, ParameterError

SplitBy = Literal["auto", "conversation", "group", "published", "hash"]
Rule = Literal["conversation", "group", "published", "completed", "position", "hash"]
RULES: dict[Rule, str] = {
    "conversation": "drawn by conversation",
    "group": "drawn by group",
    "published": "as the corpus says",
    "completed": "as the corpus says, and the part that it lacks drawn from train",
    "hash": "each by a digest of its id, whatever else there is",
    "position": "by position: a few long conversations, whose beginning trains and whose end tests",
}
# Fewer conversations than this, each cut into windows, are split within: drawn whole, hardly any would be
# left to validate and test on.
FEW = 10


def rule_of(split_by: SplitBy, published: Sequence[Split | None], units: Sequence[str]) -> Rule:
    """What ``split_by`` means for a corpus with these published splits; ``units`` as for ``assign``.

    Raises:
        DataError: it publishes validation and test alone.
    """
    if split_by != "auto":
        return split_by
    named = set(published) - {None}
    if named == set(SPLITS):
        return "published"
    if "train" in named and len(named) == 2:
        return "completed"
    if len(named) == 2:
        raise DataError(
            "the corpus names conversations for validation and test and none for train; give some, or take "
            "tokenisation.split_by = conversation"
        )
    if len(set(units)) < FEW <= len(units):
        return "position"
    return "conversation"


def assign(
    ids: Sequence[str],
    groups: Sequence[str | None],
    published: Sequence[Split | None],
    *,
    split_by: SplitBy,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    units: Sequence[str] | None = None,
) -> list[Split | None]:
    """The split of every conversation; None for one that the published lists leave out.

    ``units`` names what each conversation is a part of (the whole that it is a window of), which lies in one
    split; by default itself. ``split_by`` auto: see ``rule_of``. A part that the published lists lack is
    drawn from their train, as large a share of it as its fraction says.

    By conversation: the seeded shuffle is cut at floor(n (1 - v - t)) and floor(n (1 - t)), as the authors'
    is (83,097 conversations at 80/10/10 give 66,477 / 8,310 / 8,310). By group: whole groups in seeded
    order, each to the split in which its first conversation falls; a conversation without a group is its own.
    By hash: each by a digest of its unit's name and the seed alone, so that shares are those asked for on
    average, and a corpus that grows moves no conversation it had.

    Raises:
        ParameterError: the fractions leave nothing to train on, or the corpus has no groups or no
            published split to go by.
        DataError: a split that should hold something stays empty.
    """
    units = ids if units is None else units
    rule = rule_of(split_by, published, units)
    if rule == "published":
        if not any(published):
            raise ParameterError(
                "tokenisation.split_by = published, but this corpus publishes no split; "
                "take conversation" + (" or group" if any(groups) else "")
            )
        refuse_empty(published, SPLITS, "the published split")
        return list(published)
    validation, test = fractions(validation_fraction, test_fraction)
    if rule == "completed":
        return _completed(published, units, validation, test, seed)
    if rule == "position":
        splits = _by_position(units, validation, test)
        refuse_empty(splits, wanted(validation, test), f"a split by position of {len(ids)} windows")
        return splits
    if rule == "hash":
        splits = by_hash(units, validation_fraction, test_fraction, seed)
        refuse_empty(splits, wanted(validation, test), f"a split by hash of {len(ids)} conversations")
        return splits
    if rule == "group":
        if not any(group is not None for group in groups):
            raise ParameterError(
                "tokenisation.split_by = group, but no conversation of this corpus has a group"
            )
        # A group and a conversation of the same name stay apart.
        units = [
            f"conversation {unit}" if group is None else f"group {group}"
            for unit, group in zip(units, groups, strict=True)
        ]
    splits = _cut(units, len(ids) * (1 - validation - test) // 1, len(ids) * (1 - test) // 1, seed)
    refuse_empty(splits, wanted(validation, test), f"a split by {rule} of {len(ids)} conversations")
    return splits


def fractions(validation_fraction: float, test_fraction: float) -> tuple[Fraction, Fraction]:
    """The shares of validation and test, exactly: 0.1 means a tenth, and no rounding moves a boundary.

    Raises:
        ParameterError: they leave nothing to train on.
    """
    validation, test = Fraction(str(validation_fraction)), Fraction(str(test_fraction))
    if validation + test >= 1:
        raise ParameterError(
            f"tokenisation: validation_fraction {validation_fraction} and test_fraction {test_fraction} "
            "leave nothing to train on"
        )
    return validation, test


def wanted(validation: Fraction | float, test: Fraction | float) -> list[Split]:
    """The splits that should hold something."""
    return ["train", *(["validation"] if validation else []), *(["test"] if test else [])]  # type: ignore[list-item]


def _completed(
    published: Sequence[Split | None], units: Sequence[str], validation: Fraction, test: Fraction, seed: int
) -> list[Split | None]:
    """The published split, with the one that it lacks drawn from its train."""
    lacking: Split = "test" if "validation" in published else "validation"
    fraction = test if lacking == "test" else validation
    train = [index for index, split in enumerate(published) if split == "train"]
    kept = len(train) * (1 - fraction) // 1
    drawn = _cut([units[index] for index in train], kept, len(train), seed)
    splits = list(published)
    for index, split in zip(train, drawn, strict=True):
        splits[index] = "train" if split == "train" else lacking
    refuse_empty(splits, SPLITS, f"the published split, completed by {fraction} of its train,")
    return splits


def by_hash(
    units: Sequence[str], validation_fraction: float, test_fraction: float, seed: int
) -> list[Split | None]:
    """The split of each unit by itself: a digest of its name, uniform below 2⁶⁴, against two limits."""
    validation, test = fractions(validation_fraction, test_fraction)
    train_end, validation_end = (ceil(2**64 * (1 - held_out)) for held_out in (validation + test, test))
    key = seed.to_bytes(8, "big")
    splits: list[Split | None] = []
    for unit in units:
        place = int.from_bytes(hashlib.blake2b(unit.encode(), digest_size=8, key=key).digest(), "big")
        splits.append("train" if place < train_end else "validation" if place < validation_end else "test")
    return splits


def _by_position(units: Sequence[str], validation: Fraction, test: Fraction) -> list[Split | None]:
    """Of each unit the first windows to train, then some to validation, the last to test."""
    sizes, seen = Counter(units), Counter[str]()
    splits: list[Split | None] = []
    for unit in units:
        position = Fraction(seen[unit], sizes[unit])
        seen[unit] += 1
        splits.append(
            "train" if position < 1 - validation - test else "validation" if position < 1 - test else "test"
        )
    return splits


def _cut(units: Sequence[str], train_end: int, validation_end: int, seed: int) -> list[Split | None]:
    """Units in seeded order, each to the split in which the first of its members falls.

    The order is that of a keyed digest rather than of some library's generator, so it is the same on every
    platform, in every version, and whatever the order in which a corpus was read.
    """
    key = seed.to_bytes(8, "big")
    digests = {unit: hashlib.blake2b(unit.encode(), digest_size=16, key=key).digest() for unit in set(units)}
    order = sorted(range(len(units)), key=lambda index: (digests[units[index]], units[index], index))
    splits: list[Split | None] = [None] * len(units)
    previous = None
    current: Split = "train"
    for rank, index in enumerate(order):
        if units[index] != previous:
            previous = units[index]
            current = "train" if rank < train_end else "validation" if rank < validation_end else "test"
        splits[index] = current
    return splits


def refuse_empty(splits: Collection[str | None], wanted: Sequence[Split], what: str) -> None:
    """Nothing, where every wanted split holds something.

    Raises:
        DataError: one is empty; ``what`` says how they were made.
    """
    for split in wanted:
        if split not in splits:
            raise DataError(f"{what} leaves {split} empty")
