"""The first pass: conversations as they are read -> shards on disk, merged and cut into windows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from vhcr.conversation import Conversation, Utterance
from vhcr.files import read_json, write_json
from vhcr.params import TokenisationParams
from vhcr.tokenisation import digests

LOOKED_AT = 5_000  # utterances, to tell how the language divides its words

_PAIRS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.string())]))
CONVERSATIONS = pa.schema(
    [
        ("conversation_id", pa.string()),
        ("unit", pa.string()),  # the conversation that it is a window of
        ("window", pa.int32()),  # its number, from 1; 0: not divided
        ("whole", pa.int32()),  # the number, in the shard, of the record that it was read from
        ("group", pa.string()),
        ("published", pa.string()),
        ("num_read", pa.int32()),  # utterances, before any were merged; 0 of later windows
        ("num_merged", pa.int32()),
        ("labels", _PAIRS),
    ]
)
UTTERANCES = pa.schema(
    [
        ("conversation", pa.int32()),  # its row in the shard
        ("speaker", pa.string()),
        ("text", pa.string()),
        ("labels", _PAIRS),
    ]
)


@dataclass(frozen=True)
class Shard:
    """A folder with some conversations, and what each pass makes of them."""

    number: int  # in the order of the corpus
    folder: Path

    def conversations(self, *columns: str) -> pl.DataFrame:
        """One row per conversation, in the order of the corpus."""
        return pl.read_ipc(self.folder / "spooled-conversations.arrow", columns=list(columns) or None)

    def utterances(self) -> pl.DataFrame:
        """One row per utterance."""
        return pl.read_ipc(self.folder / "spooled-utterances.arrow")


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


def spool(
    records: Iterable[tuple[str, Iterable[Conversation]]],
    folder: Path,
    first_shard: int,
    params: TokenisationParams,
    shard_utterances: int,
) -> list[Shard]:
    """Write shards of some ``shard_utterances`` utterances each; the conversations of a record share one.

    ``records`` gives the name of each, by which those that were given twice are found later, and the
    conversations that it holds. The first LOOKED_AT texts are kept for ``texts``.
    """
    shards: list[Shard] = []
    texts: list[str] = []
    looked_at: set[str] = set()
    rows = _Rows()
    for name, conversations in records:
        whole = list(conversations)
        if len(texts) < LOOKED_AT and name not in looked_at:
            looked_at.add(name)
            for conversation in whole:
                texts += [line.text for line in conversation.utterances[: LOOKED_AT - len(texts)]]
        rows.add(name, whole, params)
        # Conversations without utterances must not gather without end either.
        if rows.is_full(shard_utterances):
            shards.append(rows.write(folder, first_shard + len(shards)))
            rows = _Rows()
    if rows.names:
        shards.append(rows.write(folder, first_shard + len(shards)))
    write_json(folder / f"texts-{first_shard:09d}.json", texts)
    return shards


def texts(folder: Path) -> list[str]:
    """The first LOOKED_AT texts of the corpus."""
    found: list[str] = []
    for path in sorted(folder.glob("texts-*.json")):
        found += read_json(path)[: LOOKED_AT - len(found)]
        if len(found) == LOOKED_AT:
            break
    return found


class _Rows:
    """The rows of one shard, as they come in."""

    def __init__(self) -> None:
        self.names: list[str] = []  # of the records
        self._conversations: list[tuple[Any, ...]] = []
        self._utterances: list[tuple[Any, ...]] = []

    def is_full(self, shard_utterances: int) -> bool:
        return max(len(self._utterances), len(self._conversations)) >= shard_utterances

    def add(self, name: str, whole: Iterable[Conversation], params: TokenisationParams) -> None:
        for conversation in whole:
            lines: Sequence[Utterance] = conversation.utterances
            if params.merge_speaker_turns:
                lines = merge_speaker_turns(lines)
            counts = (len(conversation.utterances), len(conversation.utterances) - len(lines))
            divided = params.long_conversations == "windows" and len(lines) > params.max_turns
            parts = windows(lines, params.max_turns) if divided else [lines]
            for number, utterances in enumerate(parts, start=1):
                row = len(self._conversations)
                self._conversations.append(
                    (
                        f"{conversation.id}#{number}" if divided else conversation.id,
                        conversation.id,
                        number if divided else 0,
                        len(self.names),
                        conversation.group,
                        conversation.split,
                        *(counts if number == 1 else (0, 0)),
                        _pairs(conversation.labels),
                    )
                )
                self._utterances += [
                    (row, utterance.speaker, utterance.text, _pairs(utterance.labels))
                    for utterance in utterances
                ]
        self.names.append(name)

    def write(self, folder: Path, number: int) -> Shard:
        shard = Shard(number, folder / f"{number:09d}")
        shard.folder.mkdir(exist_ok=True)
        for name, rows, schema in (
            ("conversations", self._conversations, CONVERSATIONS),
            ("utterances", self._utterances, UTTERANCES),
        ):
            path = shard.folder / f"spooled-{name}.arrow"
            with pa.ipc.new_file(str(path), schema) as writer:
                writer.write_batch(_batch(rows, schema))
        digests.write(
            shard.folder / "names.parquet",
            pl.Series([digests.of(name.encode()) for name in self.names], dtype=pl.UInt64),
            shard=number,
        )
        return shard


def _pairs(labels: Mapping[str, str]) -> list[dict[str, str]] | None:
    if not labels:
        return None
    return [{"name": name, "value": value} for name, value in sorted(labels.items())]


def _batch(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns: Iterator[Any] = zip(*rows, strict=True) if rows else iter([()] * len(schema))
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
