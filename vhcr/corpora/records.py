"""What readers of different formats have in common: lines of text, plain values, and gathered rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

from vhcr.conversation import Split
from vhcr.corpora.skipped import Skipped
from vhcr.errors import CorpusError

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


class BrokenRecordError(Exception):
    """One record cannot be used; the reader counts it and goes on. The message is the reason."""


def lines(path: Path, folder: Path, skipped: Skipped) -> Iterator[tuple[str, str]]:
    """The lines of a UTF-8 file and where each stands; blank ones pass, undecodable ones are counted.

    Only a line feed ends a line: texts hold other characters that Python calls line breaks.
    """
    name = path.relative_to(folder).as_posix()
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            where = f"{name}:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                skipped.add("not UTF-8", where)
                continue
            if line.strip():
                yield line, where


def json_objects(path: Path, folder: Path, skipped: Skipped) -> Iterator[tuple[dict[str, Any], str]]:
    """The JSON objects of a file that holds one a line; lines that hold none are counted."""
    for line, where in lines(path, folder, skipped):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            skipped.add("not valid JSON", where)
            continue
        if isinstance(value, dict):
            yield value, where
        else:
            skipped.add("not a JSON object", where)


def text_of(value: Any, name: str) -> str:
    """``value`` as text that UTF-8 can hold; raises BrokenRecordError when it is not a string."""
    if not isinstance(value, str):
        raise BrokenRecordError(f"{name} is not a string")
    # JSON can spell half a surrogate pair, which no file of a later stage could hold.
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def name_of(value: Any, name: str) -> str | None:
    """An id, speaker, group or label: a string or number as a string; None when null or empty.

    Raises:
        BrokenRecordError: it is neither.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():  # tables turn whole columns to floats for one gap
        value = int(value)
    if isinstance(value, int | float):
        return str(value)
    return text_of(value, name).strip() or None


def split_of(value: Any) -> Split | None:
    """A split by one of its usual names; None when null or empty.

    Raises:
        BrokenRecordError: it is no known name.
    """
    name = name_of(value, "split")
    if name is None:
        return None
    try:
        return SPLIT_NAMES[name.lower()]
    except KeyError:
        raise BrokenRecordError("unknown split name") from None


class Gathering:
    """Rows that belong together but may lie anywhere in a corpus, gathered on disk.

    Memory does not grow with the number of rows: they wait in a private temporary database.
    Use as a context manager; ``add`` all rows, then iterate ``groups``.

    Raises:
        CorpusError: the temporary database cannot grow (a full disk).
    """

    ROWS_PER_INSERT = 10_000

    def __enter__(self) -> Gathering:
        self._database = sqlite3.connect("")  # an empty name: on disk, private, gone when closed
        self._database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, key TEXT, position, row TEXT)")
        self._pending: list[tuple[str, int, str]] = []
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, key: str, position: int, row: Any) -> None:
        """Keep ``row`` (of plain JSON values) under ``key``, ordered by ``position`` (64 bits)."""
        if not -(2**63) <= position < 2**63:
            raise BrokenRecordError("turn out of range")
        self._pending.append((key, position, json.dumps(row)))
        if len(self._pending) >= self.ROWS_PER_INSERT:
            self._flush()

    def groups(self) -> Iterator[tuple[str, list[tuple[int, Any]]]]:
        """Each key in order of first appearance, with its (position, row) pairs in order of position."""
        self._flush()
        query = """
            SELECT rows.key, rows.position, rows.row FROM rows JOIN keys ON keys.key = rows.key
            ORDER BY keys.first, rows.position, rows.number
        """
        try:
            # An indexed table: joined to a subquery instead, each row would search all keys.
            self._database.execute("CREATE TABLE keys (key TEXT PRIMARY KEY, first INTEGER) WITHOUT ROWID")
            self._database.execute("INSERT INTO keys SELECT key, min(number) FROM rows GROUP BY key")
            with closing(self._database.execute(query)) as found:
                for key, members in groupby(found, key=lambda member: str(member[0])):
                    yield key, [(position, json.loads(row)) for _, position, row in members]
        except sqlite3.OperationalError as error:
            raise CorpusError(f"gathering rows into conversations: {error}") from error

    def _flush(self) -> None:
        try:
            self._database.executemany(
                "INSERT INTO rows (key, position, row) VALUES (?, ?, ?)", self._pending
            )
        except sqlite3.OperationalError as error:
            raise CorpusError(f"gathering rows into conversations: {error}") from error
        self._pending.clear()
