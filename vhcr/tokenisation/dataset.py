"""Conversations -> the Parquet tables that all later stages read.

The corpus passes three times, in shards that know nothing of each other: it is read and spooled; it is
tokenised, cut and counted, once its splits are known; and it becomes ids, once its vocabulary is known.
Between the passes their results are reduced, bucket by bucket where they are many. At the end the shards'
tables are joined. Equal conversations and parameters give equal contents, whatever the shards and whoever
works on them.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from vhcr.conversation import SPLITS, Conversation, Split
from vhcr.corpora.skipped import TWICE, Skipped
from vhcr.engines import Engine, here
from vhcr.errors import DataError
from vhcr.files import digest
from vhcr.params import TokenisationParams
from vhcr.tokenisation import digests
from vhcr.tokenisation.cut import CUT, LEFT_OUT, Counts, cut, repeated
from vhcr.tokenisation.encode import encode
from vhcr.tokenisation.leakage import KINDS, copies, leakage, shared
from vhcr.tokenisation.manifest import table_digests
from vhcr.tokenisation.rules import Rules
from vhcr.tokenisation.segmenter import choose, language_of, unspaced_share
from vhcr.tokenisation.specials import SPECIALS, UNK
from vhcr.tokenisation.splits import RULES, Rule, assign, refuse_empty, rule_of, wanted
from vhcr.tokenisation.spool import Shard, spool, texts
from vhcr.tokenisation.tables import ALL, join
from vhcr.tokenisation.vocabulary import Vocabulary

FORMAT = 1
SHARD_UTTERANCES = 100_000  # some 100 MB while it is worked on
SHARDS_A_PIECE = 10**6  # numbers of the shards of one piece

T = TypeVar("T")
Piece = Callable[[Skipped], Iterable[tuple[str, Iterable[Conversation]]]]


@dataclass(frozen=True)
class Dataset:
    """What was written: the manifest, and the numbers for the stage's metrics."""

    manifest: dict[str, Any]
    metrics: dict[str, Any]


def build(
    conversations: Iterable[Conversation],
    params: TokenisationParams,
    folder: Path,
    *,
    corpus: str,
    shard_utterances: int = SHARD_UTTERANCES,
) -> Dataset:
    """As ``build_from``, of conversations that come one after the other, in this process."""

    def piece(_: Skipped) -> Iterable[tuple[str, Iterable[Conversation]]]:
        return ((conversation.id, [conversation]) for conversation in conversations)

    return build_from([piece], params, folder, corpus=corpus, shard_utterances=shard_utterances)


def build_from(
    pieces: Sequence[Piece],
    params: TokenisationParams,
    folder: Path,
    *,
    corpus: str,
    engine: Engine = here,
    shard_utterances: int = SHARD_UTTERANCES,
) -> Dataset:
    """Write conversations, utterances, labels, vocabulary and token_ids/<split> as Parquet into ``folder``.

    Each piece gives records by their names, with the conversations in each; of records of one name the first
    counts. Lines of one speaker are merged when asked for; a conversation longer than
    ``max_turns`` becomes windows when asked for, as few and as equal as can be, called "<id>#1", "<id>#2",
    ..., all in one split; utterances without a word are dropped; then conversations in no published list, or
    shorter than ``min_turns``, are left out; then turns and words beyond the limits are cut. Splits are drawn
    over all conversations read, so they do not depend on any other parameter; by hash, memory does not grow
    with them. The vocabulary counts the training split before anything is cut. With ``deduplicate``,
    conversations of the training split whose token ids stand in another split, too, are left out, and all is
    counted again without them.

    Raises:
        DataError: there is no conversation, or none is left in a split.
        ParameterError: the corpus cannot be split as asked.
    """
    scratch = folder.resolve() / "shards"
    scratch.mkdir(parents=True)
    try:
        return _build(pieces, params, folder.resolve(), scratch, corpus, engine, shard_utterances)
    finally:
        shutil.rmtree(scratch)


def _build(
    pieces: Sequence[Piece],
    params: TokenisationParams,
    folder: Path,
    scratch: Path,
    corpus: str,
    engine: Engine,
    shard_utterances: int,
) -> Dataset:
    tasks = [(piece, scratch, n * SHARDS_A_PIECE, params, shard_utterances) for n, piece in enumerate(pieces)]
    skipped = Skipped()
    shards: list[Shard] = []
    for found, own_skipped in engine(_spool, tasks):
        shards += found
        skipped.add_all(own_skipped)
    if not shards:
        raise DataError(f"{corpus}: not one conversation{skipped.reasons()}")
    if len(shards) == 1:
        engine = here  # sooner done than said to others
    _find_repeats(shards, scratch, engine)
    looked_at = texts(scratch)
    rules = Rules(
        strip_html=params.strip_html,
        symbols=params.symbols,
        segmenter=choose(looked_at) if params.segmenter == "auto" else params.segmenter,
    )
    rule, splits = _splits(shards, params)
    cuts = [(shard, own, params, rules) for shard, own in zip(shards, splits, strict=True)]
    num_copies = 0
    while True:
        counts = Counts()
        for own_counts in engine(cut, cuts):
            counts.add(own_counts)
        _refuse_empty(corpus, counts, rule, params, deduplicated=bool(num_copies))
        vocabulary, words = _vocabulary(shards, params, counts, engine)
        unknown: Counter[Split] = Counter()
        for own_unknown in engine(encode, [(shard, vocabulary) for shard in shards]):
            unknown += own_unknown
        # Without some words of training others become unknown, and so more may be equal.
        more = _find_copies(shards, scratch, engine) if params.deduplicate else 0
        if not more:
            break
        num_copies += more
    folders = [shard.folder for shard in shards]
    hashes = dict(zip(ALL, engine(join, [(name, folders, folder) for name in ALL]), strict=True))
    vocabulary.save(folder / "vocabulary.parquet")
    ids = (hashes[f"token_ids/{split}"] for split in SPLITS)
    manifest = {
        "format": FORMAT,
        "corpus": corpus,
        "data_hash": digest(vocabulary.hash, *ids, hashes["labels"]),
        "vocabulary_hash": vocabulary.hash,
        "rules": rules.as_dict(),
        "tokenisation": params.model_dump(mode="json"),
        "splits": {split: _sizes(counts, split) for split in SPLITS},
        "files": table_digests(folder, [*ALL, "vocabulary"]),
    }
    if counts.left_out[TWICE]:
        skipped.add_many(TWICE, counts.left_out[TWICE], counts.examples.pop(TWICE), "conversation")
    read = counts.read
    metrics = {
        "read": {
            "conversations": read["conversations"],
            "utterances": read["utterances"],
            "groups": sum(_of_buckets(digests.distinct, "groups", shards, engine)),
            "skipped": skipped.as_dict(),
        },
        "merged": {"utterances": read["merged"]},
        "windows": {"conversations": read["divided"], "windows": read["windows"]},
        "html": {"utterances": counts.num_html},
        "split_rule": RULES[rule],
        "language": {
            "unspaced_fraction": unspaced_share(looked_at),
            "segmenter_for_it": language_of(looked_at),
        },
        "left_out": {reason: counts.left_out[reason] for reason in LEFT_OUT},
        "left_out_examples": counts.examples,
        "cut": {what: counts.cut[what] for what in CUT},
        "splits": {
            split: {
                "assigned_conversations": counts.assigned[split],
                **_sizes(counts, split),
                "unknown_words": unknown[split],
                "unknown_fraction": _fraction(
                    unknown[split], counts.sizes[split]["words"] - counts.sizes[split]["utterances"]
                ),
            }
            for split in SPLITS
        },
        "vocabulary": {
            "size": len(vocabulary),
            "distinct_words": words.distinct,
            "counted_words": words.counted,
            "covered_fraction": _fraction(words.counted - words.unknown, words.counted),
        },
        "leakage": {
            kind: leakage(sum(_of_buckets(shared, kind, shards, engine), Counter())) for kind in KINDS
        },
    }
    return Dataset(manifest, metrics)


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _sizes(counts: Counts, split: Split) -> dict[str, int]:
    return {name: counts.sizes[split][name] for name in ("conversations", "utterances", "words")}


def _spool(
    piece: Piece, folder: Path, first_shard: int, params: TokenisationParams, shard_utterances: int
) -> tuple[list[Shard], Skipped]:
    skipped = Skipped()
    return spool(piece(skipped), folder, first_shard, params, shard_utterances), skipped


def _of_buckets(
    function: Callable[..., T], kind: str, shards: Sequence[Shard], engine: Engine, *more: Any
) -> list[T]:
    """``function`` of each bucket of a kind of digests."""
    buckets = digests.buckets([shard.folder / f"{kind}.parquet" for shard in shards])
    return engine(function, [(*bucket, *more) for bucket in buckets])


def _find_repeats(shards: Sequence[Shard], scratch: Path, engine: Engine) -> None:
    _of_buckets(digests.save_repeats, "names", shards, engine, scratch)


def _find_copies(shards: Sequence[Shard], scratch: Path, engine: Engine) -> int:
    return sum(_of_buckets(copies, "token_ids", shards, engine, scratch))


def _splits(
    shards: Sequence[Shard], params: TokenisationParams
) -> tuple[Rule, Sequence[Sequence[Split | None] | None]]:
    """By what rule the corpus is split, and the splits of each shard; None: it decides by itself, by hash.

    All rules but that by hash look at every conversation at once.
    """
    if params.split_by == "hash":
        return "hash", [None] * len(shards)
    columns = ("conversation_id", "unit", "group", "published", "whole")
    parts = [
        own.filter(~pl.col("whole").is_in(repeated(shard).implode()))
        for shard, own in ((shard, shard.conversations(*columns)) for shard in shards)
    ]
    everything = pl.concat(parts)
    published, units = everything["published"].to_list(), everything["unit"].to_list()
    splits = assign(
        everything["conversation_id"].to_list(),
        everything["group"].to_list(),
        published,
        split_by=params.split_by,
        validation_fraction=params.validation_fraction,
        test_fraction=params.test_fraction,
        seed=params.split_seed,
        units=units,
    )
    ends = list(itertools.accumulate((part.height for part in parts), initial=0))
    return rule_of(params.split_by, published, units), [
        splits[first:last] for first, last in itertools.pairwise(ends)
    ]


def _refuse_empty(
    corpus: str, counts: Counts, rule: Rule, params: TokenisationParams, *, deduplicated: bool
) -> None:
    """Nothing, where every split of some conversations has kept some.

    Raises:
        DataError: one has not, or none was drawn for it by hash.
    """
    if rule == "hash":
        number = counts.assigned.total()
        wish = wanted(params.validation_fraction, params.test_fraction)
        refuse_empty(counts.assigned, wish, f"a split by hash of {number} conversations")
    for split in SPLITS:
        if counts.assigned[split] and not counts.sizes[split]["conversations"]:
            raise DataError(
                f"{corpus}: no conversation of split {split} is left: of {counts.assigned[split]}, none "
                f"has tokenisation.min_turns = {params.min_turns} or more utterances with words"
                + (" and is no copy of one in another split" if deduplicated else "")
            )


@dataclass(frozen=True)
class _Words:
    """Words of the training split, before anything is cut."""

    counted: int
    distinct: int
    unknown: int  # occurrences of those that are not in the vocabulary


def _vocabulary(
    shards: Sequence[Shard], params: TokenisationParams, counts: Counts, engine: Engine
) -> tuple[Vocabulary, _Words]:
    """The most frequent words, from the counts of all shards."""
    paths = [shard.folder / "counts.parquet" for shard in shards]
    rows = pl.scan_parquet(paths).select(pl.len()).collect().item()
    number = rows // digests.BUCKET_ROWS + 1
    parts = engine(_frequent, [(paths, own, number, params) for own in range(number)])
    counted = sum(part.counted for _, part in parts)
    vocabulary = Vocabulary.from_counts(
        {word: count for words, _ in parts for word, count in words.items()},
        size=params.vocabulary_size,
        num_words=counted,
        num_utterances=counts.sizes["train"]["utterances"],
    )
    assert vocabulary.counts is not None  # it was made from counts, a statement ago
    return vocabulary, _Words(counted, sum(part.distinct for _, part in parts), vocabulary.counts[UNK])


def _frequent(
    paths: list[Path], own: int, number: int, params: TokenisationParams
) -> tuple[dict[str, int], _Words]:
    """Of every so many-th word, by its hash: those that a vocabulary may take, and all of them counted."""
    words = (
        pl.scan_parquet(paths)
        .filter(pl.col("words").hash() % number == own)
        .group_by("words")
        .agg(pl.col("count").cast(pl.Int64).sum())
        .collect()
    )
    kept = (
        words.filter(pl.col("count") >= params.min_count)
        .sort("count", "words", descending=[True, False])
        .head(params.vocabulary_size - len(SPECIALS))
    )
    return dict(kept.iter_rows()), _Words(int(words["count"].sum()), words.height, 0)
