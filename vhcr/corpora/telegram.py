"""What Telegram Desktop exports as JSON ("Export chat history", result.json): one chat, or all of them.

A chat is ``{"name", "id", "messages": [...]}``; all of them lie in ``chats.list``. A message is of type
"message" or "service"; its text is a string, or a list of strings and of objects with ``text`` (links, bold).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vhcr.conversation import Conversation, Utterance
from vhcr.corpora.records import BrokenRecordError, SourceFile, name_of, read_json, source_files, text_of
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.times import time_of
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

SUFFIXES = (".json",)


def read_telegram(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """Each chat as one conversation with times; ``session_gap_minutes`` breaks it.

    Service messages and media without a text are noted.

    Raises:
        CorpusError: no .json file is such an export.
    """
    found = False
    for file in source_files(folder, SUFFIXES):
        chats = chats_of(read_json(file.path, source.encoding))
        found = found or bool(chats)
        for number, chat in enumerate(chats, start=1):
            name = name_of(chat.get("name"), "name") or name_of(chat.get("id"), "id") or str(number)
            utterances = tuple(_utterances(chat["messages"], file, skipped))
            # Two chats may have one name; a chat's id tells them apart.
            id = f"{file.prefix}{name}" + (f" ({chat['id']})" if len(chats) > 1 and "id" in chat else "")
            if utterances:
                yield Conversation(id=id, utterances=utterances)
            else:
                skipped.note("chat without messages", f"{file.name}: {name}")
    if not found:
        raise CorpusError(f"{folder}: no result.json that Telegram exported")


def chats_of(document: Any) -> list[dict[str, Any]]:
    """The chats of an export; none where the document is none."""
    if not isinstance(document, dict):
        return []
    listed = (
        document.get("chats", {}).get("list", []) if isinstance(document.get("chats"), dict) else [document]
    )
    return [chat for chat in listed if isinstance(chat, dict) and _is_chat(chat)]


def _is_chat(chat: dict[str, Any]) -> bool:
    messages = chat.get("messages")
    if not isinstance(messages, list) or not ("name" in chat or "type" in chat):
        return False
    head = messages[:5]
    return all(isinstance(m, dict) and "type" in m and ("date" in m or "date_unixtime" in m) for m in head)


def _utterances(messages: list[Any], file: SourceFile, skipped: Skipped) -> Iterator[Utterance]:
    for number, message in enumerate(messages, start=1):
        where = f"{file.name}: message {message.get('id', number) if isinstance(message, dict) else number}"
        try:
            if not isinstance(message, dict):
                raise BrokenRecordError("message is no object")
            if message.get("type") != "message":
                skipped.note("notice of the app, no turn", where)
                continue
            text = _text(message.get("text")).strip()
            if not text:
                skipped.note("media, no text", where)
                continue
            time = time_of(message.get("date_unixtime")) or time_of(message.get("date"))
            yield Utterance(text, name_of(message.get("from", message.get("from_id")), "from"), time=time)
        except BrokenRecordError as reason:
            skipped.add(str(reason), where)


def _text(value: Any) -> str:
    parts = value if isinstance(value, list) else [value]
    return "".join(text_of(part.get("text") if isinstance(part, dict) else part, "text") for part in parts)
