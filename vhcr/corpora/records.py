"""What readers of different formats have in common: files, plain values, and gathered rows."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import yaml

from vhcr.conversation import Split
from vhcr.corpora.skipped import Skipped, Unit
from vhcr.corpora.text_files import Part, lines, opened
from vhcr.errors import CorpusError

YAML_SUFFIXES = (".yml", ".yaml")
SOURCE_FILE = "source.json"  # the note of the download stage, beside the files
# One table in several files, as Hugging Face and Spark write them.
SHARD = re.compile(r"(?:[-_.]\d+-of-\d+|(?:^|(?<=/))part-\d+[^/]*)$")

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


@dataclass(frozen=True)
class SourceFile:
    """One file of a raw corpus, and what its name says: ids are its own, and so may be a split.

    ``prefix`` keeps the ids of several files apart: two that count from 0 do not mean the same conversation.
    """

    path: Path
    name: str  # below the raw folder
    prefix: str
    split: Split | None
    part: Part | None = None  # where that is all that is to be read

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.name).with_suffix("").as_posix()


def is_address(path: Any) -> bool:
    """Whether a path is one of ``vhcr.corpora.remote``, which only looks like one of this machine."""
    return not isinstance(path, Path)


def source_files(folder: Path, suffixes: Collection[str]) -> list[SourceFile]:
    """The files of a raw corpus with one of these suffixes, by name; none of them hidden or source.json."""
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in suffixes and path.is_file() and path != folder / SOURCE_FILE
    ]
    names = [PurePosixPath(path.relative_to(folder).as_posix()) for path in paths]
    tables = {SHARD.sub("", name.with_suffix("").as_posix()) for name in names}
    found = []
    for path, relative in zip(paths, names, strict=True):
        table = SHARD.sub("", relative.with_suffix("").as_posix())
        prefix = f"{table}/" if len(tables) > 1 else ""
        found.append(SourceFile(path, relative.as_posix(), prefix, split_of_name(relative)))
    return found


def split_of_name(path: PurePath) -> Split | None:
    """The split that a file's name, else a folder's, says: "dialogues_test.txt", "valid/chats.csv".

    None where it names none, or several.
    """
    for part in (path.stem, *reversed(path.parent.parts)):
        named = {SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", part.lower()) if word in SPLIT_NAMES}
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def json_objects(
    path: Path, folder: Path, skipped: Skipped, unit: Unit = "utterance", encoding: str | None = None
) -> Iterator[tuple[dict[str, Any], str]]:
    """The JSON objects of a file that holds one a line; lines that hold none are counted."""
    for value, where in json_values(path, folder, skipped, unit, encoding):
        if isinstance(value, dict):
            yield value, where
        else:
            skipped.add("not a JSON object", where, unit)


def json_values(
    path: Path,
    folder: Path,
    skipped: Skipped,
    unit: Unit = "utterance",
    encoding: str | None = None,
    part: Part | None = None,
) -> Iterator[tuple[Any, str]]:
    """The JSON values of a file that holds one a line; lines that hold none are counted."""
    for line, where in lines(path, folder, skipped, unit, encoding, part):
        try:
            yield json.loads(line), where
        except (ValueError, RecursionError):
            skipped.add("not valid JSON", where, unit)


def read_json(path: Path, encoding: str | None = None) -> Any:
    """A JSON document as a whole; of YAML (.yml, .yaml) all scalars are text.

    Raises:
        CorpusError: it cannot be read, or is not JSON.
    """
    try:
        with opened(path, encoding) as file:
            if path.suffix.lower() in YAML_SUFFIXES:
                return yaml.load(file, Loader=yaml.CBaseLoader)  # builds nothing but text, lists and mappings
            return json.load(file)
    except yaml.YAMLError as error:
        raise CorpusError(f"{path}: not valid YAML: {error}") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path}: not valid JSON: {error}") from None


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
