"""The second pass: a shard's texts -> words, cut to their limits and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from vhcr.conversation import SPLITS, Split
from vhcr.corpora.skipped import NUM_EXAMPLES, TWICE
from vhcr.params import TokenisationParams
from vhcr.tokenisation import digests
from vhcr.tokenisation.rules import Rules
from vhcr.tokenisation.splits import by_hash
from vhcr.tokenisation.spool import Shard
from vhcr.tokenisation.tables import SCHEMAS, arrow, write
from vhcr.tokenisation.tokeniser import has_html, words

LEFT_OUT = (
    "empty_utterances",
    "empty_conversations",
    "short_conversations",
    "conversations_in_no_list",
    "copies",
)
CUT = ("conversations", "turns", "utterances", "words")


@dataclass
class Counts:
    """What was read, left out and cut, of a shard or of all."""

    read: Counter[str] = field(default_factory=Counter)  # conversations, utterances, merged, divided, windows
    assigned: Counter[str] = field(default_factory=Counter)  # conversations, by split
    sizes: dict[Split, Counter[str]] = field(default_factory=lambda: {split: Counter() for split in SPLITS})
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)  # ids, for each reason of left_out
    cut: Counter[str] = field(default_factory=Counter)
    num_html: int = 0

    def leave_out(self, reason: str, count: int, ids: Sequence[str] | pl.Series) -> None:
        """Count what is left out for ``reason``; ``ids`` are of its conversations."""
        self.left_out[reason] += count
        if count:
            known = self.examples.setdefault(reason, [])
            known += list(ids[: NUM_EXAMPLES - len(known)])

    def add(self, other: Counts) -> None:
        """The counts of the next shard."""
        self.read += other.read
        self.assigned += other.assigned
        self.cut += other.cut
        self.num_html += other.num_html
        for split, sizes in other.sizes.items():
            self.sizes[split] += sizes
        for reason, count in other.left_out.items():
            self.leave_out(reason, count, other.examples.get(reason, []))


def cut(
    shard: Shard,
    splits: Sequence[Split | None] | None,
    params: TokenisationParams,
    rules: Rules,
) -> Counts:
    """Write a shard's conversations, utterances, labels, counts of words and digests.

    ``splits`` are those of its conversations, without those of repeated records; None: each by its hash.
    Left out is what ``digests.saved_rows`` of the folder around it says: records that an earlier one has the
    name of ("names"), and copies. Words are counted in the training split, before they are cut.
    """
    counts = Counts()
    kept, lines = _read(shard, splits, params, counts)
    with_words = _worded(kept, lines, rules, counts)
    kept = _long_enough(shard, kept, with_words, params, counts)
    whole = with_words.join(
        kept.select("conversation", "conversation_id", "split"),
        on="conversation",
        how="inner",
        maintain_order="left",
    ).with_columns(
        pl.int_range(pl.len(), dtype=pl.Int32).over("conversation").alias("turn"),
        pl.col("words").list.len().cast(pl.Int32).alias("length"),
    )
    counted = (
        whole.filter(pl.col("split") == "train")
        .select(pl.col("words").explode())
        .get_column("words")
        .value_counts(name="count")
        .sort("words")
    )
    counted.write_parquet(shard.folder / "counts.parquet")
    _write_digests(shard, kept, whole)

    within = whole.filter(pl.col("turn") < params.max_turns)
    excess = within.select((pl.col("length") - (params.max_words - 1)).clip(0))["length"]
    counts.cut.update(
        conversations=kept.filter(pl.col("turns") > params.max_turns).height,
        turns=whole.height - within.height,
        utterances=int((excess > 0).sum()),
        words=int(excess.sum()),
    )
    within = within.with_columns(pl.col("words").list.head(params.max_words - 1)).with_columns(
        (pl.col("words").list.len() + 1).cast(pl.Int32).alias("num_words")
    )
    kept = kept.join(
        within.group_by("conversation", maintain_order=True).agg(
            pl.len().cast(pl.Int32).alias("num_turns"), pl.col("num_words").sum()
        ),
        on="conversation",
        how="inner",
        maintain_order="left",
    )
    for split in SPLITS:
        part = kept.filter(pl.col("split") == split)
        counts.sizes[split].update(
            conversations=part.height,
            utterances=int(part["num_turns"].sum()),
            words=int(part["num_words"].sum()),
        )
    tables: Mapping[str, pl.DataFrame] = {
        "conversations": kept,
        "utterances": within,
        "labels": _labels(kept, within),
    }
    for name, frame in tables.items():
        write(shard.folder / f"{name}.parquet", arrow(frame, SCHEMAS[name]))
    np.save(shard.folder / "rows.npy", kept["conversation"].to_numpy())  # for who finds copies among them
    return counts


def repeated(shard: Shard) -> pl.Series:
    """The records of a shard that an earlier one has the name of."""
    return digests.saved_rows(shard.folder.parent, "names", shard.number)


def _read(
    shard: Shard, splits: Sequence[Split | None] | None, params: TokenisationParams, counts: Counts
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The conversations of records that are not repeated, with their splits, and their lines."""
    spooled = shard.conversations().with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias("conversation"))
    lines = shard.utterances()
    twice = pl.col("whole").is_in(repeated(shard).cast(pl.Int32).implode())
    names = spooled.filter(twice).unique("whole", keep="first", maintain_order=True)
    if names.height:
        counts.leave_out(TWICE, names.height, names["unit"])
        spooled = spooled.filter(~twice)
        lines = lines.join(
            spooled.select("conversation"), on="conversation", how="semi", maintain_order="left"
        )
    if splits is None:
        splits = by_hash(
            spooled["unit"].to_list(), params.validation_fraction, params.test_fraction, params.split_seed
        )
    conversations = spooled.with_columns(pl.Series("split", splits, dtype=pl.String))
    window = spooled["window"]
    counts.read.update(
        conversations=int((window <= 1).sum()),
        utterances=int(spooled["num_read"].sum()),
        merged=int(spooled["num_merged"].sum()),
        divided=int((window == 1).sum()),
        windows=int((window > 0).sum()),
    )
    counts.assigned.update(conversations["split"].drop_nulls().to_list())
    digests.write(shard.folder / "groups.parquet", _hashed(spooled["group"]), shard.number)
    return conversations, lines


def _worded(conversations: pl.DataFrame, lines: pl.DataFrame, rules: Rules, counts: Counts) -> pl.DataFrame:
    """The lines that have words, with them."""
    if rules.strip_html:
        counts.num_html += int(lines.select(has_html(pl.col("text")).sum()).item())
    worded = lines.with_columns(words(pl.col("text"), rules).alias("words"))
    with_words = worded.filter(pl.col("words").list.len() > 0)
    if with_words.height < lines.height:
        wordless = worded.filter(pl.col("words").list.len() == 0).select("conversation")
        ids = conversations.join(wordless, on="conversation", how="semi", maintain_order="left")
        counts.leave_out("empty_utterances", lines.height - with_words.height, ids["conversation_id"])
    return with_words


def _long_enough(
    shard: Shard,
    conversations: pl.DataFrame,
    lines: pl.DataFrame,
    params: TokenisationParams,
    counts: Counts,
) -> pl.DataFrame:
    """The conversations of some split that have ``min_turns`` or more lines, and are no copies."""
    turns = lines.group_by("conversation").agg(pl.len().cast(pl.Int32).alias("turns"))
    all_of_them = conversations.join(
        turns, on="conversation", how="left", maintain_order="left"
    ).with_columns(pl.col("turns").fill_null(0))
    copies = digests.saved_rows(shard.folder.parent, "copies", shard.number).cast(pl.Int32)
    reasons = (  # the first that holds counts
        ("conversations_in_no_list", pl.col("split").is_null()),
        ("empty_conversations", pl.col("turns") == 0),
        ("short_conversations", pl.col("turns") < params.min_turns),
        ("copies", pl.col("conversation").is_in(copies.implode())),
    )
    kept = all_of_them
    for reason, holds in reasons:
        left = kept.filter(holds)
        counts.leave_out(reason, left.height, left["conversation_id"])
        kept = kept.filter(~holds)
    return kept


def _hashed(column: pl.Series) -> pl.Series:
    """Digests, null where there is none."""
    return pl.select(pl.when(column.is_not_null()).then(column.hash())).to_series().rename("digest")


def _write_digests(shard: Shard, kept: pl.DataFrame, whole: pl.DataFrame) -> None:
    """What two conversations must share to be told a leak: all words, the first line, the group."""
    texts = whole.group_by("conversation", maintain_order=True).agg(
        pl.col("words").list.join(" ").str.join("\n").alias("conversation_words"),
        pl.col("words").first().list.join(" ").alias("first_utterance"),
    )
    contents = kept.join(texts, on="conversation", how="inner", maintain_order="left")
    for kind in ("conversation_words", "first_utterance", "group"):
        path: Path = shard.folder / f"{kind}.parquet"
        digests.write(path, _hashed(contents[kind]), shard.number, split=contents["split"])


def _labels(kept: pl.DataFrame, within: pl.DataFrame) -> pl.DataFrame:
    """One row per label: those of each conversation, then those of its turns; names in order."""
    columns = ["conversation", "conversation_id", "split", "turn", "labels"]
    of_conversations = kept.with_columns(pl.lit(None, dtype=pl.Int32).alias("turn")).select(columns)
    return (
        pl.concat([of_conversations, within.select(columns)])
        .filter(pl.col("labels").is_not_null())
        .sort("conversation", "turn", nulls_last=False, maintain_order=True)
        .explode("labels")
        .unnest("labels")
    )
