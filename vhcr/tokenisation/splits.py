"""Which conversation belongs to which split, from a seed, identically everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from vhcr.conversation import SPLITS, Split
from vhcr.errors import DataError, ParameterError


def assign(
    ids: Sequence[str],
    groups: Sequence[str | None],
    published: Sequence[Split | None],
    *,
    split_by: Literal["conversation", "group", "published"],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> list[Split | None]:
    """The split of every conversation; None for one that the published lists leave out.

    By conversation: the seeded shuffle is cut at floor(n (1 - v - t)) and floor(n (1 - t)), as the authors'
    is (83,097 conversations at 80/10/10 give 66,477 / 8,310 / 8,310). By group: whole groups in seeded
    order, each to the split in which its first conversation falls; a conversation without a group is its own.

    Raises:
        ParameterError: the fractions leave nothing to train on, or the corpus has no groups or no
            published split to go by.
        DataError: a split that should hold something stays empty.
    """
    if split_by == "published":
        if not any(published):
            raise ParameterError(
                "tokenisation.split_by = published, but this corpus publishes no split; "
                "take conversation" + (" or group" if any(groups) else "")
            )
        _refuse_empty(published, SPLITS, "the published split")
        return list(published)
    # Fraction(str(x)): 0.1 means a tenth, so that no rounding of 1 - 0.1 - 0.1 moves a boundary.
    validation, test = Fraction(str(validation_fraction)), Fraction(str(test_fraction))
    if validation + test >= 1:
        raise ParameterError(
            f"tokenisation: validation_fraction {validation_fraction} and test_fraction {test_fraction} "
            "leave nothing to train on"
        )
    if split_by == "group":
        if not any(group is not None for group in groups):
            raise ParameterError(
                "tokenisation.split_by = group, but no conversation of this corpus has a group"
            )
        # A group and a conversation of the same name stay apart.
        units = [
            f"conversation {id}" if group is None else f"group {group}"
            for id, group in zip(ids, groups, strict=True)
        ]
    else:
        units = list(ids)
    splits = _cut(units, len(ids) * (1 - validation - test) // 1, len(ids) * (1 - test) // 1, seed)
    wanted: list[Split] = ["train"]
    wanted += ["validation"] if validation else []
    wanted += ["test"] if test else []
    _refuse_empty(splits, wanted, f"a split by {split_by} of {len(ids)} conversations")
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


def _refuse_empty(splits: Sequence[Split | None], wanted: Sequence[Split], what: str) -> None:
    for split in wanted:
        if split not in splits:
            raise DataError(f"{what} leaves {split} empty")
