"""What DiscordChatExporter writes as JSON: a file for each channel, ``{"guild", "channel", "messages"}``.

A message has ``type``, ``timestamp``, ``content`` and ``author``. Its CSV (AuthorID, Author, Date, Content,
Attachments, Reactions) is a table: ``vhcr inspect`` names its columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vhcr.conversation import Conversation, Utterance
from vhcr.corpora.records import BrokenRecordError, name_of, read_json, source_files, text_of
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.times import time_of
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

SUFFIXES = (".json",)
SAID = frozenset({"Default", "Reply", "0", "19"})


def read_discord(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """Each channel as one conversation with times, called by its file; ``session_gap_minutes`` breaks it.

    Notices and attachments without a text are noted.

    Raises:
        CorpusError: no .json file is such an export.
    """
    found = False
    for file in source_files(folder, SUFFIXES):
        document = read_json(file.path, source.encoding)
        if not is_discord(document):
            continue
        found = True
        utterances: list[Utterance] = []
        for number, message in enumerate(document["messages"], start=1):
            where = f"{file.name}: message {number}"
            try:
                utterances += _said(message, where, skipped)
            except BrokenRecordError as reason:
                skipped.add(str(reason), where)
        if utterances:
            yield Conversation(id=file.stem, utterances=tuple(utterances))
        else:
            skipped.note("channel without messages", file.name)
    if not found:
        raise CorpusError(f"{folder}: no .json file that DiscordChatExporter wrote")


def is_discord(document: Any) -> bool:
    """Whether a JSON document is such an export."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("messages"), list)
        and isinstance(document.get("channel"), dict)
    )


def _said(message: Any, where: str, skipped: Skipped) -> Iterator[Utterance]:
    if not isinstance(message, dict):
        raise BrokenRecordError("message is no object")
    if str(message.get("type", "Default")) not in SAID:
        skipped.note("notice of the app, no turn", where)
        return
    text = text_of(message.get("content"), "content").strip()
    if not text:
        skipped.note("attachment, no text", where)
        return
    author = message.get("author")
    if isinstance(author, dict):
        author = author.get("nickname") or author.get("name") or author.get("id")
    yield Utterance(text, name_of(author, "author"), time=time_of(message.get("timestamp")))
