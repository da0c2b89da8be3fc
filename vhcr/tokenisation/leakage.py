"""What validation and test share with training, so that nobody mistakes memory for modelling."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from vhcr.conversation import SPLITS, Split
from vhcr.tokenisation import digests

KINDS = ("conversation_words", "token_ids", "first_utterance", "group")
PAIRS: tuple[tuple[Split, Split], ...] = (("validation", "train"), ("test", "train"), ("test", "validation"))


def shared(paths: list[Path], low: int, high: int) -> Counter[str]:
    """Of one bucket of digests: how many differ, lie in several splits, and are found in another split."""
    known = digests.bucket(paths, low, high).select("digest", "split")
    spread = known.group_by("digest").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
    counts: Counter[str] = Counter(distinct=known["digest"].n_unique(), in_several_splits=spread.height)
    for split in SPLITS:
        counts[split] = known.filter(pl.col("split") == split).height
    for split, other in PAIRS:
        theirs = known.filter(pl.col("split") == other)["digest"].unique()
        own = known.filter(pl.col("split") == split)
        counts[f"{split}_also_in_{other}"] = own.filter(pl.col("digest").is_in(theirs.implode())).height
    return counts


def leakage(counts: Counter[str]) -> dict[str, Any]:
    """Of one kind of content, how many conversations of one split find theirs in another as well.

    The kinds: all words of a conversation; its token ids (so cut, and with its unknown words, a model sees
    it); the words of its first utterance; its group (where it has one). ``counts`` is the sum of ``shared``
    over all buckets; ``in_several_splits`` counts distinct contents.
    """
    entry: dict[str, Any] = {name: counts[name] for name in ("distinct", "in_several_splits")}
    for split, other in PAIRS:
        found = counts[f"{split}_also_in_{other}"]
        fraction = found / counts[split] if counts[split] else 0.0
        entry[f"{split}_also_in_{other}"] = {"conversations": found, "fraction": fraction}
    return entry


def copies(paths: list[Path], low: int, high: int, folder: Path) -> int:
    """Save which training conversations of one bucket validation or test hold, too; their number."""
    contents = digests.bucket(paths, low, high)
    is_train = pl.col("split") == "train"
    held_out = contents.filter(~is_train)["digest"].unique()
    found = contents.filter(is_train & pl.col("digest").is_in(held_out.implode()))
    rows = found.select("shard", pl.col("conversation").cast(pl.UInt32).alias("row"))
    return digests.save_rows(folder, "copies", rows)
