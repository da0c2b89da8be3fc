"""A workspace that Slack exports: a folder for each channel, a .json file for each day, users.json.

A message has ``user``, ``text`` and ``ts``; one in a thread has the ``thread_ts`` of its first. Texts are
Slack's mrkdwn: ``<@U1>`` is somebody, ``<#C1|general>`` a channel, ``<https://x|label>`` a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

from vhcr.conversation import Conversation, Utterance
from vhcr.corpora.records import BrokenRecordError, Gathering, name_of, read_json, source_files, text_of
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.times import time_of
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

SUFFIXES = (".json",)
DAY = re.compile(r"\d{4}-\d\d-\d\d")
USERS = "users.json"
SAID = frozenset({None, "thread_broadcast", "me_message", "file_share", "bot_message"})
ADDRESS = re.compile(r"<([@#!]?)([^<>|]*)(?:\|([^<>]*))?>")


def read_slack(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """Each channel as one conversation with times, and each thread as one of its own, in that order of first
    appearance; ``session_gap_minutes`` breaks them. Notices and files without a text are noted.

    Raises:
        CorpusError: there is no channel, or a file is not JSON.
    """
    files = [file for file in source_files(folder, SUFFIXES) if DAY.fullmatch(file.path.stem)]
    if not files:
        raise CorpusError(f"{folder}: no <channel>/<year-month-day>.json that Slack exported")
    names = _names(folder, source.encoding)
    with Gathering() as gathering:
        for file in files:
            channel = file.path.parent.relative_to(folder).as_posix()
            messages = read_json(file.path, source.encoding)
            for number, message in enumerate(messages if isinstance(messages, list) else [], start=1):
                where = f"{file.name}: message {number}"
                try:
                    _add(gathering, channel, message, names, where, skipped)
                except BrokenRecordError as reason:
                    skipped.add(str(reason), where)
        for conversation_id, rows in gathering.groups():
            utterances = tuple(Utterance(text, speaker, time=time) for _, (text, speaker, time) in rows)
            yield Conversation(
                id=conversation_id, utterances=utterances, group=conversation_id.rpartition(":")[0] or None
            )


def _add(
    gathering: Gathering, channel: str, message: Any, names: dict[str, str], where: str, skipped: Skipped
) -> None:
    if not isinstance(message, dict):
        raise BrokenRecordError("message is no object")
    if message.get("type", "message") != "message" or message.get("subtype") not in SAID:
        skipped.note("notice of the app, no turn", where)
        return
    text = _plain(text_of(message.get("text", ""), "text"), names).strip()
    if not text:
        skipped.note("file, no text", where)
        return
    time = time_of(message.get("ts"))
    if time is None:
        raise BrokenRecordError("ts is no time")
    user = name_of(message.get("user", message.get("bot_id", message.get("username"))), "user")
    thread = message.get("thread_ts")
    key = channel if thread is None else f"{channel}:{thread}"
    gathering.add(key, round(time * 1e6), [text, names.get(user, user) if user else None, time])


def _names(folder: Path, encoding: str | None) -> dict[str, str]:
    """User id -> name; empty where there is no users.json."""
    for path in sorted(folder.rglob(USERS)):
        users = read_json(path, encoding)
        return {
            str(user["id"]): str(user.get("real_name") or user.get("name") or user["id"])
            for user in users
            if isinstance(user, dict) and "id" in user
        }
    return {}


def _plain(text: str, names: dict[str, str]) -> str:
    def written(address: re.Match[str]) -> str:
        mark, target, label = address.groups()
        if mark == "@":
            return f"@{label or names.get(target, target)}"
        return f"{mark if mark == '#' else ''}{label or target}"

    return unescape(ADDRESS.sub(written, text))
