from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import pytest

from vhcr.conversation import Split
from vhcr.errors import DataError, ParameterError
from vhcr.tokenisation.splits import assign, rule_of


def by(ids: list[str], split_by: Any = "conversation", **overrides: Any) -> list[Split | None]:
    groups = overrides.pop("groups", [None] * len(ids))
    published = overrides.pop("published", [None] * len(ids))
    settings = {"validation_fraction": 0.1, "test_fraction": 0.1, "seed": 0} | overrides
    return assign(ids, groups, published, split_by=split_by, **settings)


def test_sizes_are_those_of_the_authors_on_cornell() -> None:
    splits = Counter(by([f"L{number}" for number in range(83_097)]))
    assert splits == {"train": 66_477, "validation": 8_310, "test": 8_310}


@pytest.mark.parametrize(
    ("count", "sizes"), [(10, (8, 1, 1)), (11, (8, 1, 2)), (29, (23, 3, 3)), (70, (56, 7, 7))]
)
def test_tenths_are_exact(count: int, sizes: tuple[int, int, int]) -> None:
    """1 - 0.1 - 0.1 is 0.8 and 0.7 + 0.2 is 0.9, whatever binary fractions say."""
    splits = Counter(by([str(number) for number in range(count)]))
    assert (splits["train"], splits["validation"], splits["test"]) == sizes
    uneven = Counter(by([str(number) for number in range(100)], validation_fraction=0.2, test_fraction=0.1))
    assert (uneven["train"], uneven["validation"], uneven["test"]) == (70, 20, 10)


def test_the_same_on_every_machine() -> None:
    """A fixed answer: if it changes, every published split changes with it."""
    splits = by([f"c{number}" for number in range(1000)])
    digest = hashlib.sha256(" ".join(str(split) for split in splits).encode()).hexdigest()
    assert digest[:16] == "6c16e3f46f2d18bc"


def test_seed_moves_conversations_and_order_of_reading_does_not() -> None:
    ids = [f"c{number}" for number in range(1000)]
    zero, one = by(ids), by(ids, seed=1)
    # Two independent splits agree with probability 0.8² + 0.1² + 0.1² = 0.66; 5 standard errors are 0.075.
    assert sum(a == b for a, b in zip(zero, one, strict=True)) / 1000 == pytest.approx(0.66, abs=0.075)
    turned = by(ids[::-1])
    assert turned[::-1] == zero


def test_shuffled_rather_than_cut_in_order() -> None:
    splits = by([f"c{number:04d}" for number in range(1000)])
    # 100 of 1,000 in the test split: the first half holds 50 ± 4.7 of them.
    assert 25 < splits[:500].count("test") < 75


def test_groups_stay_together_and_shares_are_of_conversations() -> None:
    ids = [f"c{number}" for number in range(2000)]
    groups = [f"m{number % 100 if number < 1000 else number % 17}" for number in range(2000)]
    splits = by(ids, "group", groups=groups)
    of_group: dict[str, set[Split | None]] = {}
    for group, split in zip(groups, splits, strict=True):
        of_group.setdefault(group, set()).add(split)
    assert all(len(found) == 1 for found in of_group.values())
    assert 0.7 < splits.count("train") / 2000 < 0.9
    assert splits.count("validation") > 50
    assert splits.count("test") > 50


def test_a_conversation_without_group_is_its_own() -> None:
    ids = [f"c{number}" for number in range(200)]
    splits = by(ids, "group", groups=["m"] * 20 + [None] * 180)
    assert len(set(splits[:20])) == 1
    assert set(splits[20:]) == {"train", "validation", "test"}


def test_published_split_is_taken_as_it_is() -> None:
    published: list[Split | None] = ["test", None, "train", "validation"]
    assert by(list("abcd"), "published", published=published) == published


def test_what_cannot_be_split_is_refused() -> None:
    ids = list("abcd")
    with pytest.raises(ParameterError, match="publishes no split; take conversation or group"):
        by(ids, "published", groups=["m"] * 4)
    with pytest.raises(DataError, match="published split leaves test empty"):
        by(ids, "published", published=["train", "validation", None, None])
    with pytest.raises(ParameterError, match="no conversation of this corpus has a group"):
        by(ids, "group")
    with pytest.raises(DataError, match="of 4 conversations leaves validation empty"):
        by(ids)
    with pytest.raises(ParameterError, match=r"0\.5 and test_fraction 0\.5 leave nothing to train on"):
        by(ids, validation_fraction=0.5, test_fraction=0.5)


def test_a_split_of_no_share_may_stay_empty() -> None:
    assert set(by(list("abcdefghij"), validation_fraction=0.0)) == {"train", "test"}


def test_given_splits_are_used_unless_asked_otherwise() -> None:
    """With the default of old, 14 of 17 conversations that said "test" were trained on."""
    published: list[Split | None] = ["test", None, "train", "validation"]
    assert by(list("abcd"), "auto", published=published) == published
    ids = [str(number) for number in range(20)]
    assert rule_of("auto", [None] * 20, ids) == "conversation"
    assert by(ids, "auto") == by(ids)


@pytest.mark.parametrize("lacking", ["validation", "test"])
def test_the_part_that_a_corpus_lacks_comes_from_its_train(lacking: str) -> None:
    given: Split = "test" if lacking == "validation" else "validation"
    published: list[Split | None] = ["train"] * 50 + [given] * 7 + [None]
    splits = by([f"c{number}" for number in range(58)], "auto", published=published)
    assert splits[50:] == [given] * 7 + [None]
    assert Counter(splits[:50]) == {"train": 45, lacking: 5}
    with pytest.raises(DataError, match="none for train"):
        by(list("ab"), "auto", published=["test", "validation"])


def test_windows_of_one_conversation_lie_in_one_split() -> None:
    units = [f"c{number // 7}" for number in range(700)]
    splits = by([f"w{number}" for number in range(700)], "auto", units=units)
    of_unit: dict[str, set[Split | None]] = {}
    for unit, split in zip(units, splits, strict=True):
        of_unit.setdefault(unit, set()).add(split)
    assert all(len(found) == 1 for found in of_unit.values())
    assert set(splits) == {"train", "validation", "test"}


def test_an_endless_chat_trains_on_its_beginning() -> None:
    """A single conversation, drawn whole, would leave nothing to validate and test on."""
    units = ["chat"] * 100 + ["other"] * 10
    splits = by([f"w{number}" for number in range(110)], "auto", units=units)
    assert splits[:100] == ["train"] * 80 + ["validation"] * 10 + ["test"] * 10
    assert Counter(splits[100:]) == {"train": 8, "validation": 1, "test": 1}


def test_by_hash_a_corpus_that_grows_moves_no_conversation() -> None:
    ids = [f"c{number}" for number in range(3000)]
    few, many = by(ids[:1000], "hash"), by(ids, "hash")
    assert many[:1000] == few
    assert by(ids[::-1], "hash")[::-1] == many
    # Of 3,000 a tenth is 300 ± 16: five standard errors.
    assert all(abs(many.count(split) - 300) < 82 for split in ("validation", "test"))
    other = by(ids, "hash", seed=1)
    assert sum(a == b for a, b in zip(many, other, strict=True)) / 3000 == pytest.approx(0.66, abs=0.043)
    digest = hashlib.sha256(" ".join(map(str, many)).encode()).hexdigest()
    assert digest[:16] == "e1a1387d06f5c187", "a fixed answer, on every machine"


def test_by_hash_windows_of_one_conversation_stay_together() -> None:
    units = [f"c{number // 4}" for number in range(2000)]
    splits = by([f"{unit}#{n}" for n, unit in enumerate(units)], "hash", units=units)
    assert all(len(set(splits[first : first + 4])) == 1 for first in range(0, 2000, 4))
    assert set(splits) == {"train", "validation", "test"}
