"""Conversations -> the Parquet tables that all later stages read, in memory that does not grow with them.

The corpus passes three times, in chunks of whole conversations: it is read and spooled to a scratch file; it
is tokenised, cut and counted, once its splits are known; and it becomes ids, once its vocabulary is known.
Equal conversations and parameters give equal bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vhcr.conversation import SPLITS, Conversation, Split, Utterance
from vhcr.errors import DataError
from vhcr.files import PARQUET, digest
from vhcr.params import TokenisationParams
from vhcr.tokenisation.leakage import copies, leakage
from vhcr.tokenisation.manifest import table_digests
from vhcr.tokenisation.rules import Rules
from vhcr.tokenisation.segmenter import choose, language_of, unspaced_share
from vhcr.tokenisation.specials import EOS, UNK
from vhcr.tokenisation.splits import RULES, assign, rule_of
from vhcr.tokenisation.tokeniser import has_html, words
from vhcr.tokenisation.vocabulary import Vocabulary

FORMAT = 1
CHUNK_UTTERANCES = 100_000  # some 100 MB while it is worked on
LOOKED_AT = 5_000  # utterances, to tell how the language divides its words
NUM_EXAMPLES = 5

CONVERSATIONS = pa.schema(
    [
        ("conversation_id", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("num_turns", pa.int32()),
        ("num_words", pa.int32()),  # as cut, EOS included
    ]
)
UTTERANCES = pa.schema(
    [
        ("conversation_id", pa.string()),
        ("split", pa.string()),
        ("turn", pa.int32()),
        ("speaker", pa.string()),
        ("text", pa.string()),
        ("words", pa.list_(pa.string())),  # as cut, without EOS
        ("num_words", pa.int32()),  # as cut, EOS included
    ]
)
LABELS = pa.schema(
    [
        ("conversation_id", pa.string()),
        ("split", pa.string()),
        ("turn", pa.int32()),  # null: of the whole conversation
        ("name", pa.string()),
        ("value", pa.string()),
    ]
)
TOKEN_IDS = pa.schema(
    [("conversation_id", pa.string()), ("token_ids", pa.list_(pa.list_(pa.int32())))]
)  # every utterance ends with EOS
SCHEMAS = {"conversations": CONVERSATIONS, "utterances": UTTERANCES, "labels": LABELS}

_PAIRS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.string())]))
_SPOOLED_CONVERSATIONS = pa.schema([("conversation_id", pa.string()), ("labels", _PAIRS)])
_SPOOLED_UTTERANCES = pa.schema(
    [
        ("conversation", pa.int32()),  # its row in the chunk
        ("speaker", pa.string()),
        ("text", pa.string()),
        ("labels", _PAIRS),
    ]
)


@dataclass
class _Index:
    """What is known of every conversation after the first pass, in the order of the corpus."""

    ids: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)  # the whole that each is a window of
    groups: list[str | None] = field(default_factory=list)
    published: list[Split | None] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # the first few, to look at
    num_conversations: int = 0  # as read
    num_utterances: int = 0
    num_merged: int = 0
    num_divided: int = 0  # conversations that became windows


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
    chunk_utterances: int = CHUNK_UTTERANCES,
) -> Dataset:
    """Write conversations, utterances, labels, vocabulary and token_ids/<split> as Parquet into ``folder``.

    Lines of one speaker are merged when asked for; a conversation longer than ``max_turns`` becomes windows
    when asked for, as few and as equal as can be, called "<id>#1", "<id>#2", ..., all in one split;
    utterances without a word are dropped; then conversations in no published list, or shorter than
    ``min_turns``, are left out; then turns and words beyond the limits are cut. Splits are drawn over all
    conversations read, so they do not depend on any other parameter. The vocabulary counts the training
    split before anything is cut. With ``deduplicate``, conversations of the training split whose token ids
    stand in another split, too, are left out, and all is counted again without them.

    Raises:
        DataError: there is no conversation, or none is left in a split.
        ParameterError: the corpus cannot be split as asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spool = folder / "spool"
    spool.mkdir()
    try:
        index = _spool(conversations, spool, params, chunk_utterances)
        if not index.ids:
            raise DataError(f"{corpus}: the corpus holds no conversation")
        rules = Rules(
            strip_html=params.strip_html,
            symbols=params.symbols,
            segmenter=choose(index.texts) if params.segmenter == "auto" else params.segmenter,
        )
        rule = rule_of(params.split_by, index.published, index.units)
        splits = assign(
            index.ids,
            index.groups,
            index.published,
            split_by=params.split_by,
            validation_fraction=params.validation_fraction,
            test_fraction=params.test_fraction,
            seed=params.split_seed,
            units=index.units,
        )
        without: frozenset[str] = frozenset()
        while True:
            tables = _tokenise(spool, folder, index, splits, params, rules, without)
            for split in SPLITS:
                if split in splits and not tables.sizes[split]["conversations"]:
                    raise DataError(
                        f"{corpus}: no conversation of split {split} is left: of {splits.count(split)}, none "
                        f"has tokenisation.min_turns = {params.min_turns} or more utterances with words"
                        + (" and is no copy of one in another split" if without else "")
                    )
            vocabulary = Vocabulary.from_counts(
                tables.counts,
                size=params.vocabulary_size,
                min_count=params.min_count,
                num_utterances=tables.sizes["train"]["utterances"],
            )
            ids = _encode(folder, vocabulary)
            contents = tables.contents.join(ids.digests, on="conversation_id", how="left")
            # Without some words of training others become unknown, and so more may be equal.
            found = copies(contents) if params.deduplicate else frozenset()
            if not found:
                break
            without |= found
    finally:
        shutil.rmtree(spool)
    vocabulary.save(folder / "vocabulary.parquet")
    manifest = {
        "format": FORMAT,
        "corpus": corpus,
        "data_hash": digest(vocabulary.hash, *(ids.hashes[split] for split in SPLITS), tables.labels_hash),
        "vocabulary_hash": vocabulary.hash,
        "rules": rules.as_dict(),
        "tokenisation": params.model_dump(mode="json"),
        "splits": {split: tables.sizes[split] for split in SPLITS},
        "files": table_digests(folder),
    }
    counted = sum(tables.counts.values())
    assert vocabulary.counts is not None  # it was made from counts, two statements ago
    metrics = {
        "read": {
            "conversations": index.num_conversations,
            "utterances": index.num_utterances,
            "groups": len({group for group in index.groups if group is not None}),
        },
        "merged": {"utterances": index.num_merged},
        "windows": {
            "conversations": index.num_divided,
            "windows": len(index.ids) - index.num_conversations + index.num_divided,
        },
        "html": {"utterances": tables.num_html},
        "split_rule": RULES[rule],
        "language": {
            "unspaced_fraction": unspaced_share(index.texts),
            "segmenter_for_it": language_of(index.texts),
        },
        "left_out": tables.left_out,
        "left_out_examples": tables.examples,
        "cut": tables.cut,
        "splits": {
            split: {
                "assigned_conversations": splits.count(split),
                **tables.sizes[split],
                "unknown_words": ids.unknown[split],
                "unknown_fraction": _fraction(
                    ids.unknown[split], tables.sizes[split]["words"] - tables.sizes[split]["utterances"]
                ),
            }
            for split in SPLITS
        },
        "vocabulary": {
            "size": len(vocabulary),
            "distinct_words": len(tables.counts),
            "counted_words": counted,
            "covered_fraction": _fraction(counted - vocabulary.counts[UNK], counted),
        },
        "leakage": leakage(contents),
    }
    return Dataset(manifest, metrics)


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


# First pass: read, merge, spool


def merge_speaker_turns(utterances: Iterable[Utterance]) -> list[Utterance]:
    """Consecutive lines of one speaker as one utterance; lines without a speaker stay as they are."""
    merged = []
    for speaker, run in itertools.groupby(utterances, key=lambda utterance: utterance.speaker):
        lines = list(run)
        if speaker is None or len(lines) == 1:
            merged += lines
        else:
            labels = {name: value for line in reversed(lines) for name, value in line.labels.items()}
            merged.append(Utterance(" ".join(line.text for line in lines), speaker, labels))
    return merged


def _pairs(labels: Mapping[str, str]) -> list[dict[str, str]] | None:
    if not labels:
        return None
    return [{"name": name, "value": value} for name, value in sorted(labels.items())]


def windows(utterances: Sequence[Utterance], max_turns: int) -> list[Sequence[Utterance]]:
    """Parts of at most ``max_turns`` utterances, as few and as equal as can be; the longer ones first."""
    count = -(-len(utterances) // max_turns)
    if count <= 1:
        return [utterances]
    size, longer = divmod(len(utterances), count)
    edges = [0]
    for number in range(count):
        edges.append(edges[-1] + size + (number < longer))
    return [utterances[start:end] for start, end in itertools.pairwise(edges)]


def _spool(
    conversations: Iterable[Conversation], folder: Path, params: TokenisationParams, chunk_utterances: int
) -> _Index:
    """Write the corpus as Arrow batches of whole conversations, some ``chunk_utterances`` utterances each."""
    index = _Index()
    with ExitStack() as stack:
        of_conversations = stack.enter_context(
            pa.ipc.new_file(str(folder / "conversations.arrow"), _SPOOLED_CONVERSATIONS)
        )
        of_utterances = stack.enter_context(
            pa.ipc.new_file(str(folder / "utterances.arrow"), _SPOOLED_UTTERANCES)
        )
        ids: list[str] = []
        labels: list[list[dict[str, str]] | None] = []
        rows: list[int] = []
        speakers: list[str | None] = []
        texts: list[str] = []
        utterance_labels: list[list[dict[str, str]] | None] = []

        def flush() -> None:
            columns = [ids, labels]
            of_conversations.write_batch(_batch(columns, _SPOOLED_CONVERSATIONS))
            of_utterances.write_batch(_batch([rows, speakers, texts, utterance_labels], _SPOOLED_UTTERANCES))
            for column in (ids, labels, rows, speakers, texts, utterance_labels):
                column.clear()

        for conversation in conversations:
            whole: Sequence[Utterance] = conversation.utterances
            index.num_conversations += 1
            index.num_utterances += len(whole)
            if len(index.texts) < LOOKED_AT:
                index.texts += [utterance.text for utterance in whole[: LOOKED_AT - len(index.texts)]]
            if params.merge_speaker_turns:
                merged = merge_speaker_turns(whole)
                index.num_merged += len(whole) - len(merged)
                whole = merged
            divided = params.long_conversations == "windows" and len(whole) > params.max_turns
            index.num_divided += divided
            parts = windows(whole, params.max_turns) if divided else [whole]
            for number, utterances in enumerate(parts, start=1):
                id = f"{conversation.id}#{number}" if divided else conversation.id
                index.ids.append(id)
                index.units.append(conversation.id)
                index.groups.append(conversation.group)
                index.published.append(conversation.split)
                row = len(ids)
                ids.append(id)
                labels.append(_pairs(conversation.labels))
                for utterance in utterances:
                    rows.append(row)
                    speakers.append(utterance.speaker)
                    texts.append(utterance.text)
                    utterance_labels.append(_pairs(utterance.labels))
                # Conversations without utterances must not gather without end either.
                if len(rows) >= chunk_utterances or len(ids) >= chunk_utterances:
                    flush()
        if ids:
            flush()
    return index


def _batch(columns: list[Any], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _batches(path: Path) -> Iterator[pl.DataFrame]:
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield _frame(reader.get_batch(number))


def _frame(table: pa.RecordBatch | pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # of a table, polars never makes a Series
    return frame


# Second pass: words, cuts, counts


@dataclass
class _Tables:
    """What the second pass counts and hashes on its way."""

    counts: Counter[str]
    sizes: dict[Split, dict[str, int]]
    left_out: dict[str, int]
    examples: dict[str, list[str]]  # ids of conversations, for each reason of left_out
    cut: dict[str, int]
    num_html: int
    contents: pl.DataFrame
    labels_hash: str


LEFT_OUT = (
    "empty_utterances",
    "empty_conversations",
    "short_conversations",
    "conversations_in_no_list",
    "copies",
)


def _tokenise(
    spool: Path,
    folder: Path,
    index: _Index,
    splits: list[Split | None],
    params: TokenisationParams,
    rules: Rules,
    without: Collection[str] = (),
) -> _Tables:
    """Write conversations, utterances and labels; count the words of the training split before cutting.

    Conversations ``without`` are left out as copies.
    """
    counts: Counter[str] = Counter()
    sizes = {split: {"conversations": 0, "utterances": 0, "words": 0} for split in SPLITS}
    left_out = dict.fromkeys(LEFT_OUT, 0)
    examples: dict[str, list[str]] = {}
    num_html = 0

    def leave_out(reason: str, count: int, ids: pl.Series) -> None:
        left_out[reason] += count
        if count:
            known = examples.setdefault(reason, [])
            known += ids.head(NUM_EXAMPLES - len(known)).to_list() if len(known) < NUM_EXAMPLES else []

    cut = dict.fromkeys(("conversations", "turns", "utterances", "words"), 0)
    labels_hash = hashlib.sha256()
    contents = []
    first = 0
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(pq.ParquetWriter(folder / f"{name}.parquet", schema, **PARQUET))
            for name, schema in SCHEMAS.items()
        }
        for names, lines in zip(
            _batches(spool / "conversations.arrow"), _batches(spool / "utterances.arrow"), strict=True
        ):
            last = first + names.height
            conversations = names.with_columns(
                pl.int_range(pl.len(), dtype=pl.Int32).alias("conversation"),
                pl.Series("split", splits[first:last], dtype=pl.String),
                pl.Series("group", index.groups[first:last], dtype=pl.String),
            )
            first = last
            if rules.strip_html:
                num_html += int(lines.select(has_html(pl.col("text")).sum()).item())
            worded = lines.with_columns(words(pl.col("text"), rules).alias("words"))
            with_words = worded.filter(pl.col("words").list.len() > 0)
            wordless = worded.filter(pl.col("words").list.len() == 0)["conversation"].unique(
                maintain_order=True
            )
            leave_out(
                "empty_utterances",
                lines.height - with_words.height,
                names["conversation_id"].gather(wordless),
            )
            turns = with_words.group_by("conversation", maintain_order=True).agg(
                pl.len().cast(pl.Int32).alias("turns")
            )
            listed = (
                conversations.join(turns, on="conversation", how="left", maintain_order="left")
                .with_columns(pl.col("turns").fill_null(0))
                .filter(pl.col("split").is_not_null())
            )
            unlisted = conversations.filter(pl.col("split").is_null())["conversation_id"]
            leave_out("conversations_in_no_list", len(unlisted), unlisted)
            empty = listed.filter(pl.col("turns") == 0)["conversation_id"]
            leave_out("empty_conversations", len(empty), empty)
            is_short = pl.col("turns").is_between(1, params.min_turns - 1)
            short = listed.filter(is_short)["conversation_id"]
            leave_out("short_conversations", len(short), short)
            kept = listed.filter(pl.col("turns") >= params.min_turns)
            if without:
                is_copy = pl.col("conversation_id").is_in(list(without))
                leave_out("copies", kept.filter(is_copy).height, kept.filter(is_copy)["conversation_id"])
                kept = kept.filter(~is_copy)
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
            )
            counts.update(dict(zip(counted["words"], counted["count"], strict=True)))
            contents.append(_contents(kept, whole))

            within = whole.filter(pl.col("turn") < params.max_turns)
            cut["conversations"] += kept.filter(pl.col("turns") > params.max_turns).height
            cut["turns"] += whole.height - within.height
            excess = within.select((pl.col("length") - (params.max_words - 1)).clip(0))["length"]
            cut["utterances"] += int((excess > 0).sum())
            cut["words"] += int(excess.sum())
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
                sizes[split]["conversations"] += part.height
                sizes[split]["utterances"] += int(part["num_turns"].sum())
                sizes[split]["words"] += int(part["num_words"].sum())
            labels = _labels(kept, within)
            rows = labels.select(pl.concat_str(pl.all().cast(pl.String).fill_null(""), separator="\x1f"))
            labels_hash.update("".join(f"{row}\n" for row in rows.to_series()).encode())
            for name, table in (("conversations", kept), ("utterances", within), ("labels", labels)):
                _write(writers[name], table)
    return _Tables(
        counts, sizes, left_out, examples, cut, num_html, pl.concat(contents), labels_hash.hexdigest()
    )


def _write(writer: pq.ParquetWriter, frame: pl.DataFrame) -> None:
    """The columns of the writer's schema, as one row group."""
    if frame.height:
        table = frame.select(writer.schema.names).to_arrow().cast(writer.schema)
        writer.write_table(table, row_group_size=table.num_rows)


def _contents(kept: pl.DataFrame, whole: pl.DataFrame) -> pl.DataFrame:
    """What two conversations must share to be told a leak, per kept conversation: digests of all words."""
    lines = whole.select("conversation", pl.col("words").list.join(" "))
    texts = lines.group_by("conversation", maintain_order=True).agg(
        pl.col("words").str.join("\n").alias("conversation_words"),
        pl.col("words").first().alias("first_utterance"),
    )
    joined = kept.join(texts, on="conversation", how="inner", maintain_order="left")
    return joined.select(
        "conversation_id",
        pl.col("split").cast(pl.Enum(SPLITS)),
        pl.col("conversation_words").hash(),
        pl.col("first_utterance").hash(),
        pl.when(pl.col("group").is_not_null()).then(pl.col("group").hash()).alias("group"),
    )


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
        .select(LABELS.names)
    )


# Third pass: ids


@dataclass
class _Ids:
    unknown: dict[Split, int]
    hashes: dict[Split, str]
    digests: pl.DataFrame  # of the token ids of each conversation


class _SplitHash:
    """SHA-256 over a split's conversations, the same however they came in chunks."""

    def __init__(self) -> None:
        self._streams = [hashlib.sha256() for _ in range(4)]

    def update(self, ids: pa.Array, turns: np.ndarray, lengths: np.ndarray, tokens: np.ndarray) -> None:
        self._streams[0].update("".join(f"{id}\0" for id in ids.to_pylist()).encode())
        for stream, array in zip(self._streams[1:], (turns, lengths, tokens), strict=True):
            stream.update(np.ascontiguousarray(array, dtype="<i4").tobytes())

    def hexdigest(self) -> str:
        return digest(*(stream.digest() for stream in self._streams))


def _encode(folder: Path, vocabulary: Vocabulary) -> _Ids:
    """Write token_ids/<split>.parquet from the words of utterances.parquet."""
    known = pa.array(vocabulary.words)
    unknown = dict.fromkeys(SPLITS, 0)
    hashes = {split: _SplitHash() for split in SPLITS}
    names_of_all: list[str] = []
    digests: list[int] = []
    (folder / "token_ids").mkdir(exist_ok=True)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                pq.ParquetWriter(folder / "token_ids" / f"{split}.parquet", TOKEN_IDS, **PARQUET)
            )
            for split in SPLITS
        }
        file = stack.enter_context(pq.ParquetFile(folder / "utterances.parquet"))
        for number in range(file.num_row_groups):
            chunk = file.read_row_group(number, ["conversation_id", "split", "turn", "words"])
            for split in SPLITS:
                part = chunk.filter(pc.equal(chunk["split"], split)).combine_chunks()
                if not part.num_rows:
                    continue
                texts = part["words"].combine_chunks()
                ids = pc.index_in(texts.flatten(), value_set=known).fill_null(UNK).to_numpy()
                unknown[split] += int((ids == UNK).sum())
                lengths = texts.value_lengths().to_numpy() + 1
                ends = np.cumsum(lengths)
                tokens = np.full(ends[-1], EOS, dtype=np.int32)
                is_word = np.ones(len(tokens), dtype=bool)
                is_word[ends - 1] = False
                tokens[is_word] = ids
                starts = np.flatnonzero(part["turn"].to_numpy() == 0)
                turns = np.diff(np.append(starts, part.num_rows))
                of_utterances = pa.ListArray.from_arrays(_offsets(lengths), pa.array(tokens))
                of_conversations = pa.ListArray.from_arrays(_offsets(turns), of_utterances)
                names = part["conversation_id"].combine_chunks().take(pa.array(starts))
                writers[split].write_table(
                    pa.Table.from_arrays([names, of_conversations], schema=TOKEN_IDS),
                    row_group_size=len(starts),
                )
                hashes[split].update(names, turns, lengths, tokens)
                names_of_all += names.to_pylist()
                edges = np.append(0, ends)[np.append(starts, part.num_rows)].tolist()
                digests += [_digest(tokens[start:end]) for start, end in itertools.pairwise(edges)]
    return _Ids(
        unknown,
        {split: stream.hexdigest() for split, stream in hashes.items()},
        pl.DataFrame(
            {"conversation_id": names_of_all, "token_ids": digests},
            schema={"conversation_id": pl.String, "token_ids": pl.UInt64},
        ),
    )


def _digest(tokens: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(tokens.tobytes(), digest_size=8).digest())


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
