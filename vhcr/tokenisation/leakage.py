"""What validation and test share with training, so that nobody mistakes memory for modelling."""

from __future__ import annotations

from typing import Any

import polars as pl

KINDS = ("conversation_words", "token_ids", "first_utterance", "group")
PAIRS = (("validation", "train"), ("test", "train"), ("test", "validation"))


def leakage(contents: pl.DataFrame) -> dict[str, Any]:
    """Per kind of content, how many conversations of one split find theirs in another as well.

    ``contents`` holds ``split`` and, per conversation, a digest of all its words, of its token ids (so cut,
    and with its unknown words, a model sees it), of the words of its first utterance, and of its group (null
    where it has none). ``in_several_splits`` counts distinct contents.
    """
    report: dict[str, Any] = {}
    for kind in KINDS:
        known = contents.select("split", kind).drop_nulls()
        spread = known.group_by(kind).agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
        entry: dict[str, Any] = {"distinct": known[kind].n_unique(), "in_several_splits": spread.height}
        for split, other in PAIRS:
            own = known.filter(pl.col("split") == split)
            theirs = known.filter(pl.col("split") == other)[kind].unique()
            shared = own.filter(pl.col(kind).is_in(theirs.implode())).height
            entry[f"{split}_also_in_{other}"] = {
                "conversations": shared,
                "fraction": shared / own.height if own.height else 0.0,
            }
        report[kind] = entry
    return report


def copies(contents: pl.DataFrame) -> frozenset[str]:
    """Ids of the training conversations whose token ids validation or test hold, too."""
    is_train = pl.col("split") == "train"
    held_out = contents.filter(~is_train)["token_ids"].unique()
    return frozenset(
        contents.filter(is_train & pl.col("token_ids").is_in(held_out.implode()))["conversation_id"]
    )
