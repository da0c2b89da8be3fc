"""Conversations as a table: one utterance a row, in CSV, TSV or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vhcr.conversation import Conversation, Utterance
from vhcr.corpora.records import BrokenRecordError, Gathering, name_of, split_of, text_of
from vhcr.corpora.skipped import Skipped
from vhcr.errors import CorpusError
from vhcr.params import SourceParams, TableColumns

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".parquet")
MAX_FIELD_CHARACTERS = 2**24
ROWS_PER_BATCH = 4096


def read_table(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """Conversations in order of first appearance, their rows in order of the turn column.

    ``source.columns`` says which column holds what. Rows of a conversation may lie anywhere. A row that
    cannot be used is counted, and the conversation goes on without it; split and group are those of its
    first row, and a conversation whose rows disagree on the split is left out.

    Raises:
        CorpusError: there is no table, one lacks a named column, or a Parquet file is damaged.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise CorpusError(f"{folder}: no table ({', '.join(SUFFIXES)})")
    with Gathering() as gathering:
        for path in paths:
            read_rows = _parquet_rows if path.suffix.lower() == ".parquet" else _csv_rows
            for row, where in read_rows(path, folder, source.columns, skipped):
                try:
                    _add(gathering, row, where)
                except BrokenRecordError as reason:
                    skipped.add(str(reason), where)
        for conversation_id, rows in gathering.groups():
            conversation = _conversation(conversation_id, rows, skipped)
            if conversation is not None:
                yield conversation


def _add(gathering: Gathering, row: Sequence[Any], where: str) -> None:
    conversation_value, turn_value, text_value, speaker_value, split_value, group_value = row
    conversation_id = name_of(conversation_value, "conversation")
    if conversation_id is None:
        raise BrokenRecordError("no conversation id")
    kept = [
        text_of(text_value, "text"),
        name_of(speaker_value, "speaker"),
        split_of(split_value),
        name_of(group_value, "group"),
        where,
    ]
    gathering.add(conversation_id, _turn(turn_value), kept)


def _turn(value: Any) -> int:
    if isinstance(value, bool):
        raise BrokenRecordError("turn is not an integer")
    if isinstance(value, float) and not value.is_integer():
        raise BrokenRecordError("turn is not an integer")
    try:
        return int(value)
    except (TypeError, ValueError):
        raise BrokenRecordError("turn is not an integer") from None


def _conversation(conversation_id: str, rows: list[tuple[int, Any]], skipped: Skipped) -> Conversation | None:
    utterances: list[Utterance] = []
    last_turn: int | None = None
    _, (_, _, split, group, first_where) = rows[0]
    for turn, (text, speaker, own_split, _, where) in rows:
        if own_split != split:
            skipped.add("rows of one conversation disagree on the split", first_where)
            return None
        if turn == last_turn:
            skipped.add("turn given twice", where)
            continue
        last_turn = turn
        utterances.append(Utterance(text=text, speaker=speaker))
    return Conversation(id=conversation_id, utterances=tuple(utterances), split=split, group=group)


def _names(columns: TableColumns) -> tuple[str | None, ...]:
    return (
        columns.conversation, columns.turn, columns.text, columns.speaker, columns.split, columns.group,
    )  # fmt: skip


def _check(path: Path, present: Sequence[str], columns: TableColumns) -> None:
    missing = [
        f"{name!r} (source.columns.{key})"
        for key, name in zip(TableColumns.model_fields, _names(columns), strict=True)
        if name is not None and name not in present
    ]
    if missing:
        raise CorpusError(f"{path}: no column {', '.join(missing)}; it has {', '.join(map(repr, present))}")


def _csv_rows(
    path: Path, folder: Path, columns: TableColumns, skipped: Skipped
) -> Iterator[tuple[list[Any], str]]:
    name = path.relative_to(folder).as_posix()
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    # Undecodable bytes become lone surrogates, so that a bad row is found and the rest goes on.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=DELIMITERS[path.suffix.lower()])
        header = next(reader, [])
        _check(path, header, columns)
        positions = [header.index(key) if key is not None else None for key in _names(columns)]
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                skipped.add(f"not valid CSV: {error}", f"{name}:{reader.line_num}")
                continue
            if row is None:
                return
            where = f"{name}:{reader.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                skipped.add("row of another width than the header", where)
                continue
            try:
                "".join(row).encode()
            except UnicodeEncodeError:
                skipped.add("not UTF-8", where)
                continue
            yield [None if position is None else row[position] for position in positions], where


def _parquet_rows(
    path: Path, folder: Path, columns: TableColumns, skipped: Skipped
) -> Iterator[tuple[list[Any], str]]:
    del skipped  # a damaged Parquet file is damaged as a whole
    import pyarrow
    import pyarrow.parquet

    name = path.relative_to(folder).as_posix()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check(path, file.schema_arrow.names, columns)
            wanted = list(dict.fromkeys(key for key in _names(columns) if key is not None))
            number = 0
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=wanted):
                values = {key: batch.column(key).to_pylist() for key in wanted}
                for index in range(batch.num_rows):
                    number += 1
                    row = [None if key is None else values[key][index] for key in _names(columns)]
                    yield row, f"{name}: row {number}"
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: not a readable Parquet file: {error}") from error
