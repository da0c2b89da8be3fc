"""Conversations as a table: one utterance a row, or one conversation a row with its turns in a list.

Rows are ordered by a column of integers, else by one of times, else as they stand. Lists are what Parquet
and JSON call so, and what NumPy and Python print ("['Hi' 'Hello']"), as DailyDialog's tables hold them.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vhcr.conversation import Conversation, Utterance
from vhcr.corpora.records import (
    BrokenRecordError,
    Gathering,
    SourceFile,
    name_of,
    split_of,
    text_of,
)
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.table_files import INTEGER, SUFFIXES, named, rows_of, tables
from vhcr.corpora.times import WRITTEN, DateOrder, order_of, time_of
from vhcr.errors import CorpusError
from vhcr.params import SourceParams, TableColumns

LIST = re.compile(r"\s*\[\s*['\"].*['\"]\s*,?\s*\]\s*", re.DOTALL)
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)


def read_table(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """Conversations in order of first appearance, their rows in order of the turn, the time or the file.

    ``source.columns`` says which column holds what. Rows of a conversation may lie anywhere in its file. A
    row that cannot be used is counted, and the conversation goes on without it; split, group and labels are
    those of its first row, and a conversation whose rows disagree on the split is left out. A file named
    like a split is that split, and ids are a file's own.

    Raises:
        CorpusError: there is no table, or one of them is not as ``table_files.rows_of`` wants it.
    """
    files = tables(folder)
    if not files:
        raise CorpusError(f"{folder}: no table ({', '.join(SUFFIXES)})")
    with Gathering() as gathering:
        for file in files:
            order = _date_order(file, source)
            for number, (row, where) in enumerate(rows_of(file, source, skipped), start=1):
                cells = dict(zip(named(source.columns), row, strict=True))
                turns = _list(cells, source.columns)
                try:
                    if turns is not None:
                        _add_list(gathering, cells, turns, file, number, where)
                    else:
                        _add(gathering, cells, file, number, where, order)
                except BrokenRecordError as reason:
                    skipped.add(str(reason), where, "utterance" if turns is None else "conversation")
        for conversation_id, rows in gathering.groups():
            conversation = _conversation(conversation_id, rows, source.columns, skipped)
            if conversation is not None:
                yield conversation


def _date_order(file: SourceFile, source: SourceParams) -> DateOrder | None:
    """The order of day and month in the column of times, from all of them; None without question."""
    columns = source.columns
    if columns.time is None or source.date_order is not None:
        return source.date_order
    only = source.model_copy(
        update={
            "columns": columns.model_copy(
                update={
                    **dict.fromkeys(("conversation", "turn", "speaker", "split", "group")),
                    "labels": (), "utterance_labels": (), "text": columns.time, "time": None,
                }
            )
        }
    )  # fmt: skip
    texts = (row[0] for row, _ in rows_of(file, only, Skipped()) if isinstance(row[0], str))
    dates = (written for text in texts if (written := WRITTEN.fullmatch(text.strip())) is not None)
    return order_of((date for date in dates if len(date["a"]) < 4), None, file.name)


def _shared(cells: Mapping[str, Any], file: SourceFile) -> list[Any]:
    """What a row says of its conversation: split, group, labels."""
    labels = [name_of(value, "label") for key, value in cells.items() if key.startswith("labels[")]
    return [split_of(cells.get("split")) or file.split, name_of(cells.get("group"), "group"), labels]


def _id(cells: Mapping[str, Any], file: SourceFile, otherwise: str) -> str:
    if "conversation" not in cells:
        return otherwise
    own = name_of(cells["conversation"], "conversation")
    if own is None:
        raise BrokenRecordError("no conversation id")
    return f"{file.prefix}{own}"


def _add(
    gathering: Gathering,
    cells: Mapping[str, Any],
    file: SourceFile,
    number: int,
    where: str,
    order: DateOrder | None,
) -> None:
    time = None
    if "time" in cells and (time := time_of(cells["time"], order)) is None:
        raise BrokenRecordError("time is no date")
    position = number
    if "turn" in cells:
        position = _turn(cells["turn"])
    elif time is not None:
        position = round(time * 1e6)
    labels = [name_of(value, "label") for key, value in cells.items() if key.startswith("utterance_labels[")]
    text, speaker = text_of(cells["text"], "text"), name_of(cells.get("speaker"), "speaker")
    row = [text, speaker, time, labels, *_shared(cells, file), where]
    gathering.add(_id(cells, file, file.stem), position, row)


def _turn(value: Any) -> int:
    """An integer, also where a table has made it a float for the sake of one gap."""
    if isinstance(value, str) and INTEGER.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    if isinstance(value, bool | str) or value is None:
        raise BrokenRecordError("turn is not an integer")
    try:
        whole: int = int(value)
    except (TypeError, ValueError, OverflowError):
        raise BrokenRecordError("turn is not an integer") from None
    if whole != value:
        raise BrokenRecordError("turn is not an integer")
    return whole


def _list(cells: Mapping[str, Any], columns: TableColumns) -> list[Any] | None:
    """The turns of a row that holds a whole conversation; None where it holds one utterance."""
    text = cells["text"]
    if isinstance(text, list):
        return text
    if columns.turn is None and columns.time is None and isinstance(text, str):
        return list_of(text)
    return None


def list_of(text: str) -> list[Any] | None:
    """The texts in a list as JSON, Python or NumPy print it; None where it is none."""
    if LIST.fullmatch(text) is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        # NumPy prints no commas, and Python would join what stands side by side.
        try:
            value = [ast.literal_eval(_one_line(quoted)) for quoted in QUOTED.findall(text)]
        except (ValueError, SyntaxError):
            return None
    return value if isinstance(value, list) else None


def _one_line(quoted: str) -> str:
    return quoted.replace("\r", " ").replace("\n", " ")


def _add_list(
    gathering: Gathering,
    cells: Mapping[str, Any],
    turns: Sequence[Any],
    file: SourceFile,
    number: int,
    where: str,
) -> None:
    parallel = {
        key: values_of(value)
        for key, value in cells.items()
        if key == "speaker" or key.startswith("utterance_labels[")
    }
    for key, values in parallel.items():
        if len(values) != len(turns):
            raise BrokenRecordError(f"{key.partition('[')[0]} holds another number of turns than text")
    labels = [values for key, values in parallel.items() if key != "speaker"]
    texts = [text_of(turn, "text") for turn in turns]
    speakers = [name_of(value, "speaker") for value in parallel.get("speaker", ())] or [None] * len(texts)
    own = _shared(cells, file)
    key = _id(cells, file, f"{file.stem}:{number}")
    for turn, (text, speaker) in enumerate(zip(texts, speakers, strict=True)):
        of_turn = [name_of(values[turn], "label") for values in labels]
        gathering.add(key, turn, [text, speaker, None, of_turn, *own, where])


def values_of(cell: Any) -> list[Any]:
    """The values of a list beside the list of turns: Parquet's, or as text ("[1 2 2]", "['A', 'B']")."""
    if isinstance(cell, str):
        return list_of(cell) or cell.strip().strip("[]").replace(",", " ").split()
    return list(cell) if isinstance(cell, list) else []


def _conversation(
    conversation_id: str, rows: list[tuple[int, Any]], columns: TableColumns, skipped: Skipped
) -> Conversation | None:
    utterances: list[Utterance] = []
    last_turn: int | None = None
    _, (*_, split, group, labels, first_where) = rows[0]
    for turn, (text, speaker, time, own_labels, own_split, _, shared_labels, where) in rows:
        if own_split != split:
            skipped.add("rows of one conversation disagree on the split", first_where, "conversation")
            return None
        if shared_labels != labels:
            skipped.note("rows of one conversation disagree on a label; the first counts", where)
        if turn == last_turn and columns.turn is not None:
            skipped.add("turn given twice", where)
            continue
        last_turn = turn
        utterances.append(Utterance(text, speaker, _labels(columns.utterance_labels, own_labels), time))
    return Conversation(
        id=conversation_id,
        utterances=tuple(utterances),
        split=split,
        group=group,
        labels=_labels(columns.labels, labels),
    )


def _labels(names: Sequence[str], values: Sequence[str | None]) -> dict[str, str]:
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}
