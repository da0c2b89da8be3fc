"""Which format the files of a raw corpus are in, and the settings to read them with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from vhcr.corpora import cornell, eou, parlai, slack, ubuntu, whatsapp
from vhcr.corpora.convokit import UTTERANCES
from vhcr.corpora.discord import is_discord
from vhcr.corpora.jsonl import SUFFIXES as JSON_SUFFIXES
from vhcr.corpora.jsonl import TEXTS, objects, turns_of
from vhcr.corpora.records import BrokenRecordError, SourceFile, read_json, source_files, split_of
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.table import list_of, values_of
from vhcr.corpora.table_files import INTEGER, header_of, rows_of, tables
from vhcr.corpora.telegram import chats_of
from vhcr.corpora.times import WRITTEN, time_of
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

SESSION_GAP_MINUTES = 60.0  # of chats that have no other end
NUM_ROWS = 2000
MAX_LABEL_VALUES = 50

# Names of columns, as people and published corpora write them; the likelier first.
NAMES: dict[str, tuple[str, ...]] = {
    "text": (
        "text", "utterance", "message", "content", "body", "dialog", "dialogue", "utterances", "msg",
        "sentence", "line", "words", "said", "what", "turn_text", "comment", "messages",
    ),
    "conversation": (
        "conversation", "conversation_id", "conversationid", "dialogue_id", "dialog_id", "dialogueid",
        "conv_id", "chat", "chat_id", "thread", "thread_id", "session", "session_id", "ticket", "ticket_id",
        "channel", "dialogue", "dialog", "conv", "id",
    ),
    "turn": (
        "turn", "turn_id", "turn_idx", "turn_number", "utterance_idx", "utterance_id", "message_number",
        "position", "order", "index", "idx", "n",
    ),
    "time": ("time", "timestamp", "date", "datetime", "created_at", "sent_at", "created", "ts", "when"),
    "speaker": (
        "speaker", "speaker_id", "author", "sender", "from", "user", "who", "role", "name", "username",
        "speaker_name", "authorid",
    ),
    "split": ("split", "partition", "fold", "set"),
    "group": ("group", "movie", "movie_id", "domain"),
}  # fmt: skip


@dataclass(frozen=True)
class Recognised:
    """The source section to read a corpus with, and what was recognised, in a sentence."""

    source: SourceParams
    description: str
    is_chat: bool = False  # an export of a messenger: one speaker may send several messages in a row


def recognise(folder: Path, source: SourceParams) -> Recognised:
    """The format of the files in ``folder``; what ``source`` says besides the reader stays.

    Raises:
        CorpusError: they are in no known format, or a table lacks a column of texts.
    """
    for look in (_convokit, _published, _slack, _json, _table, _text):
        found = look(folder, source)
        if found is not None:
            return found
    names = [path.name for path in sorted(folder.rglob("*")) if path.is_file()]
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise CorpusError(
        f"{folder}: no known format: {shown}; known are JSON and JSON Lines, tables (CSV, TSV, Excel, "
        "Parquet), ConvoKit, __eou__ and ParlAI text, and exports of WhatsApp, Telegram, Slack and Discord "
        "(docs/corpora.md)"
    )


def _as(
    source: SourceParams, reader: str, description: str, *, is_chat: bool = False, **changes: Any
) -> Recognised:
    if is_chat and source.session_gap_minutes is None:
        changes["session_gap_minutes"] = SESSION_GAP_MINUTES
    return Recognised(
        source.model_copy(update={"reader": reader, **changes}), f"recognised as {description}", is_chat
    )


def _convokit(folder: Path, source: SourceParams) -> Recognised | None:
    path = next(iter(sorted(folder.rglob(UTTERANCES))), None)
    if path is None:
        return None
    for value, _ in islice(objects(_alone(path), path.parent, Skipped(), source.encoding), 1):
        if "conversation_id" in value or "root" in value:
            return _as(source, "convokit", "a ConvoKit corpus")
    return None


def _alone(path: Path) -> SourceFile:
    return SourceFile(path, path.name, "", None)


def _published(folder: Path, source: SourceParams) -> Recognised | None:
    if any(folder.rglob(cornell.CONVERSATIONS)) and any(folder.rglob(cornell.LINES)):
        return _as(source, "cornell", "the Cornell Movie-Dialogs Corpus")
    if any(ubuntu.dialog_id(path.relative_to(folder).as_posix()) for path in folder.rglob("*.tsv")):
        named = "recognised as the Ubuntu Dialogue Corpus, version 1"
        return Recognised(source.model_copy(update={"reader": "ubuntu"}), named, is_chat=True)
    return None


def _slack(folder: Path, source: SourceParams) -> Recognised | None:
    days = [file for file in source_files(folder, slack.SUFFIXES) if slack.DAY.fullmatch(file.path.stem)]
    if days and all(file.path.parent != folder for file in days):
        return _as(source, "slack", "an export of Slack", is_chat=True)
    return None


def _json(folder: Path, source: SourceParams) -> Recognised | None:
    is_rows = False  # an utterance an object: a table
    for file in source_files(folder, JSON_SUFFIXES):
        if file.path.suffix.lower() == ".json" and _begins_with_object(file, source):
            try:
                document = read_json(file.path, source.encoding)
            except CorpusError:  # an object a line
                document = None
            if is_discord(document):
                return _as(source, "discord", "a channel that DiscordChatExporter wrote", is_chat=True)
            if chats_of(document):
                return _as(source, "telegram", "chats that Telegram exported", is_chat=True)
        for value, _ in islice(objects(file, folder, Skipped(), source.encoding), 100):
            turns = turns_of(value)
            if not turns:
                is_rows |= any(
                    isinstance(value.get(key), str) for key in value if key.lower() in NAMES["text"]
                )
                continue
            key = next(key for key, found in value.items() if found is turns)
            of = _turn_keys(turns)
            return _as(source, "jsonl", f"conversations in JSON: {key!r} holds the turns{of}")
    if not is_rows and source_files(folder, JSON_SUFFIXES[:2]):
        return _as(source, "jsonl", "JSON Lines")  # whose reader says what is wrong with them
    return None


def _begins_with_object(file: SourceFile, source: SourceParams) -> bool:
    with file.path.open("rb") as raw:
        return (
            raw.read(64).lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").startswith(b"{")
            or source.encoding is not None
        )


def _turn_keys(turns: list[Any]) -> str:
    turn = turns[0]
    if not isinstance(turn, dict):
        return ""
    text = next((key for key in TEXTS if turn.get(key) is not None), None)
    return f", {text!r} what was said" if text else ""


def _text(folder: Path, source: SourceParams) -> Recognised | None:
    files = source_files(folder, eou.SUFFIXES)
    for file in files:
        if whatsapp.is_whatsapp(file, folder, source.encoding):
            return _as(source, "whatsapp", "a chat that WhatsApp exported", is_chat=True)
        if eou.is_eou(file.path, source.encoding):
            return _as(source, "eou", "text with __eou__ after each utterance")
        if parlai.is_parlai(file.path, source.encoding):
            return _as(source, "parlai", "ParlAI's text format")
    return None


# Tables


def _table(folder: Path, source: SourceParams) -> Recognised | None:
    files = tables(folder)
    if not files:
        return None
    given, (source, header) = source, _quoting(files, source)
    present = {name.strip().lower(): name for name in reversed(header)}
    columns = _columns(source, header, present)
    sample = _sample(files[0], source, header)
    if "text" not in columns and (longest := _longest(sample, columns)) is not None:
        columns["text"] = longest
    if "text" not in columns:
        raise CorpusError(
            f"{files[0].name}: no column is called like a text ({', '.join(NAMES['text'][:6])}, ...); it has "
            f"{', '.join(map(repr, header))}: name it by source.columns.text"
        )
    columns, order = _ordered(columns, sample)
    is_chat = "conversation" not in columns and order != "turns in a list"
    columns |= _labels(columns, header, sample)
    whole = {**dict.fromkeys(source.columns.model_dump()), "labels": (), "utterance_labels": (), **columns}
    if any(header.count(name) > 1 for name in columns.values() if isinstance(name, str)):
        order += " (several columns have one name)"
    if source.quotechar != given.quotechar:
        order += ", quotation marks as text, since some never close"
    kind = files[0].path.suffix.lower().removeprefix(".")
    return _as(
        source,
        "table",
        f"a table ({kind}), {order}",
        is_chat=is_chat and "time" in columns,
        columns=source.columns.model_copy(update=whole),
    )


def _quoting(files: list[SourceFile], source: SourceParams) -> tuple[SourceParams, list[str]]:
    """The source as it is, or without quotation marks where they are text; and the header."""
    header = header_of(files[0].path, source)
    if files[0].path.suffix.lower() in {".csv", ".tsv"} and source.quotechar is not None:
        only = source.columns.model_copy(
            update={
                **dict.fromkeys(source.columns.model_dump()), "text": header[-1] if header else "",
                "labels": (), "utterance_labels": (),
            }
        )  # fmt: skip
        skipped, plain = Skipped(), source.model_copy(update={"quotechar": None})
        if header_of(files[0].path, plain) == header and header.count(header[-1] if header else "") == 1:
            counted = _count(files[0], source.model_copy(update={"columns": only}), skipped)
            without = _count(files[0], plain.model_copy(update={"columns": only}), Skipped())
            if counted is None or (skipped.total and without is not None and without > counted):
                return plain, header
    return source, header


def _count(file: SourceFile, source: SourceParams, skipped: Skipped) -> int | None:
    """Rows that can be read; None where a quotation mark swallows some."""
    try:
        return sum(1 for _ in rows_of(file, source, skipped))
    except CorpusError:
        return None


def _columns(source: SourceParams, header: list[str], present: Mapping[str, str]) -> dict[str, Any]:
    """Key -> column, as ``source.columns`` says where the table has those, else by their usual names."""
    own = {
        key: name
        for key, name in source.columns.model_dump().items()
        if isinstance(name, str) and name in header
    }
    taken = set(own.values())
    columns: dict[str, Any] = dict(own)
    for key, names in NAMES.items():
        if key in columns:
            continue
        for name in names:
            if name in present and present[name] not in taken:
                columns[key] = present[name]
                taken.add(present[name])
                break
    return columns


def _sample(file: SourceFile, source: SourceParams, header: list[str]) -> dict[str, list[Any]]:
    """The first values of every column whose name is its own."""
    names = [name for name in dict.fromkeys(header) if header.count(name) == 1]
    only = source.columns.model_copy(
        update={
            **dict.fromkeys(source.columns.model_dump()), "text": names[0], "labels": tuple(names[1:]),
            "utterance_labels": (),
        }
    )  # fmt: skip
    rows = [
        row
        for row, _ in islice(rows_of(file, source.model_copy(update={"columns": only}), Skipped()), NUM_ROWS)
    ]
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _longest(sample: dict[str, list[Any]], columns: Mapping[str, Any]) -> str | None:
    """The column whose values read like texts: mostly with blanks in them, and the longest; None if none."""
    lengths = {}
    for name, values in sample.items():
        texts = [value for value in values if isinstance(value, str) and value]
        if name not in columns.values() and sum(" " in text.strip() for text in texts) * 2 > len(values):
            lengths[name] = sum(map(len, texts)) / len(texts)
    return max(lengths, key=lengths.__getitem__) if lengths else None


def _ordered(columns: dict[str, Any], sample: dict[str, list[Any]]) -> tuple[dict[str, Any], str]:
    """Columns without those whose values do not fit their part, and how rows are ordered."""
    columns = dict(columns)
    texts = [text for text in sample.get(columns["text"], []) if text not in (None, "")]
    if texts and _as_list(texts[0]) is not None:
        for key in ("turn", "time"):
            columns.pop(key, None)
        return columns, "turns in a list"
    named = columns.get("conversation", "")
    if named.lower() == "id" and not _repeats(sample.get(named, [])):
        del columns["conversation"]  # it names utterances
    if "turn" in columns and not _mostly(sample.get(columns["turn"], []), _is_integer):
        del columns["turn"]
    if "turn" not in columns and (counting := _counting(columns, sample)) is not None:
        columns["turn"] = counting
    if "time" in columns and not _mostly(sample.get(columns["time"], []), _is_time):
        del columns["time"]
    if "split" in columns and not _mostly(sample.get(columns["split"], []), _is_split):
        del columns["split"]
    if "turn" in columns:
        turns = sample[columns["turn"]]
        ids = sample.get(columns.get("conversation", ""), [None] * len(turns))
        if len(set(zip(map(str, ids), map(str, turns), strict=True))) == len(turns):
            return columns, f"rows in order of {columns['turn']!r}"
        del columns["turn"]
    if "time" in columns:
        return columns, f"rows in order of {columns['time']!r}"
    return columns, "rows as they stand"


def _repeats(values: list[Any]) -> bool:
    return 0 < len(set(map(str, values))) * 2 <= len(values)


def _counting(columns: Mapping[str, Any], sample: dict[str, list[Any]]) -> str | None:
    """The column that counts the rows of each conversation from 0 or 1, whatever it is called."""
    ids = sample.get(columns.get("conversation", ""), [])
    if not _repeats(ids):
        return None
    for name, values in sample.items():
        if name not in columns.values() and all(map(_is_integer, values)):
            turns: dict[str, list[int]] = {}
            for id, value in zip(ids, values, strict=True):
                turns.setdefault(str(id), []).append(int(value))
            first = min(map(min, turns.values()))
            if first in (0, 1) and all(sorted(t) == [*range(first, first + len(t))] for t in turns.values()):
                return name
    return None


def _as_list(text: Any) -> list[Any] | None:
    return text if isinstance(text, list) else list_of(text) if isinstance(text, str) else None


def _is_list(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.strip().startswith("["))


def _mostly(values: list[Any], fits: Any) -> bool:
    return bool(values) and sum(map(fits, values)) * 10 >= 9 * len(values)


def _is_integer(value: Any) -> bool:
    if isinstance(value, str):
        return INTEGER.fullmatch(value.strip()) is not None
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1


def _is_time(value: Any) -> bool:
    if isinstance(value, str) and WRITTEN.fullmatch(value.strip()):
        return True
    return time_of(value) is not None


def _is_split(value: Any) -> bool:
    try:
        split_of(value)
    except BrokenRecordError:
        return False
    return True


def _labels(
    columns: dict[str, Any], header: list[str], sample: dict[str, list[Any]]
) -> dict[str, tuple[str, ...]]:
    """Columns of few values that repeat: labels of the conversation where they never change within one."""
    taken = {name for name in columns.values() if isinstance(name, str)}
    of_conversation, of_utterance = [], []
    turns = [_as_list(text) for text in sample.get(columns["text"], [])]
    in_lists = bool(turns) and turns[0] is not None
    ids = sample.get(columns.get("conversation", ""), [])
    for name, values in sample.items():
        if name in taken or header.count(name) > 1:
            continue
        if in_lists and values and _is_list(values[0]):
            if all(len(values_of(v)) == len(t or ()) for v, t in zip(values, turns, strict=True)):
                of_utterance.append(name)
            continue
        known = [value for value in values if isinstance(value, str | int | bool) and value != ""]
        distinct = set(map(str, known))
        if not 1 < len(distinct) <= MAX_LABEL_VALUES or len(distinct) * 4 > len(known):
            continue
        if in_lists:
            of_conversation.append(name)
        elif ids:
            pairs = set(zip(map(str, ids), map(str, values), strict=True))
            (of_conversation if len(pairs) == len(set(map(str, ids))) else of_utterance).append(name)
        else:
            of_utterance.append(name)
    return {"labels": tuple(of_conversation), "utterance_labels": tuple(of_utterance)}
