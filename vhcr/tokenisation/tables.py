"""The Parquet tables of a tokenised corpus: their columns, and the shards' tables joined to whole ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from vhcr.conversation import SPLITS
from vhcr.files import PARQUET, digest

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
ALL = {**SCHEMAS, **{f"token_ids/{split}": TOKEN_IDS for split in SPLITS}}


def write(path: Path, table: pa.Table) -> None:
    """One shard's table, as one row group; none where there is no row."""
    path.parent.mkdir(exist_ok=True)
    with pq.ParquetWriter(path, table.schema, **PARQUET) as writer:
        if table.num_rows:
            writer.write_table(table, row_group_size=table.num_rows)


def arrow(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """The columns of ``schema``, of its types."""
    return frame.select(schema.names).to_arrow().cast(schema)


def join(name: str, shards: Sequence[Path], folder: Path) -> str:
    """Write table ``name`` from those of the shards, in their order; its content's digest.

    One row group is held at a time. The digest is the same whatever the shards were; it is empty for a
    table that data_hash does not look at.
    """
    target = folder / f"{name}.parquet"
    target.parent.mkdir(exist_ok=True)
    content = _LabelsHash() if name == "labels" else _IdsHash() if name in _IDS else None
    with pq.ParquetWriter(target, ALL[name], **PARQUET) as writer:
        for table in _row_groups(shard / f"{name}.parquet" for shard in shards):
            writer.write_table(table, row_group_size=table.num_rows)
            if content is not None:
                content.update(table)
    return "" if content is None else content.hexdigest()


_IDS = frozenset(f"token_ids/{split}" for split in SPLITS)


def _row_groups(paths: Iterator[Path]) -> Iterator[pa.Table]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number).combine_chunks()


class _LabelsHash:
    """SHA-256 over the rows of labels."""

    def __init__(self) -> None:
        self._stream = hashlib.sha256()

    def update(self, table: pa.Table) -> None:
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)  # of a table, polars never makes a Series
        rows = frame.select(pl.concat_str(pl.all().cast(pl.String).fill_null(""), separator="\x1f"))
        self._stream.update("".join(f"{row}\n" for row in rows.to_series()).encode())

    def hexdigest(self) -> str:
        return self._stream.hexdigest()


class _IdsHash:
    """SHA-256 over a split's conversations: their names, turns, lengths of utterances and token ids."""

    def __init__(self) -> None:
        self._streams = [hashlib.sha256() for _ in range(4)]

    def update(self, table: pa.Table) -> None:
        conversations = table["token_ids"].combine_chunks()
        utterances = conversations.flatten()
        arrays = (conversations.value_lengths(), utterances.value_lengths(), utterances.flatten())
        self._streams[0].update("".join(f"{id}\0" for id in table["conversation_id"].to_pylist()).encode())
        for stream, array in zip(self._streams[1:], arrays, strict=True):
            stream.update(np.ascontiguousarray(array.to_numpy(), dtype="<i4").tobytes())

    def hexdigest(self) -> str:
        return digest(*(stream.digest() for stream in self._streams))
