"""A ConvoKit corpus folder (Chang et al., 2020): utterances.jsonl, conversations.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vhcr.conversation import Conversation, Split, Utterance
from vhcr.corpora.records import BrokenRecordError, Gathering, json_objects, name_of, split_of, text_of
from vhcr.corpora.skipped import Skipped
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

UTTERANCES = "utterances.jsonl"
CONVERSATIONS = "conversations.json"
# The present name first, then those of earlier releases of the format.
CONVERSATION_KEYS = ("conversation_id", "root")
SPEAKER_KEYS = ("speaker", "user")
REPLY_KEYS = ("reply-to", "reply_to")


def read_convokit(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """Conversations in order of first appearance, utterances in order of reply.

    Where each utterance has at most one reply, replies are followed from the first. A tree of replies
    is read in order of time, then of the file. ``source.columns.group`` and ``.split`` name entries of a
    conversation's metadata, if set.

    Raises:
        CorpusError: a file is missing or damaged.
    """
    path = _find(folder)
    columns = source.columns
    metadata = _metadata(path.with_name(CONVERSATIONS)) if columns.group or columns.split else {}
    with Gathering() as gathering:
        for number, (value, where) in enumerate(json_objects(path, folder, skipped)):
            try:
                _add(gathering, number, value)
            except BrokenRecordError as reason:
                skipped.add(str(reason), where)
        for conversation_id, rows in gathering.groups():
            meta = metadata.get(conversation_id, {})
            try:
                split: Split | None = split_of(meta.get(columns.split)) if columns.split else None
                group = name_of(meta.get(columns.group), "group") if columns.group else None
            except BrokenRecordError as reason:
                skipped.add(str(reason), f"{CONVERSATIONS}: {conversation_id}")
                continue
            utterances = tuple(
                Utterance(text=text, speaker=speaker)
                for _, _, _, text, speaker in _in_order([row for _, row in rows])
            )
            yield Conversation(id=conversation_id, utterances=utterances, group=group, split=split)


def _add(gathering: Gathering, number: int, value: dict[str, Any]) -> None:
    conversation_id = name_of(_first(value, CONVERSATION_KEYS), "conversation id")
    if conversation_id is None:
        raise BrokenRecordError("no conversation id")
    speaker = _first(value, SPEAKER_KEYS)
    if isinstance(speaker, dict):  # some releases spell the speaker out
        speaker = speaker.get("id", speaker.get("name"))
    row = [
        name_of(value.get("id"), "id"),
        name_of(_first(value, REPLY_KEYS), "reply-to"),
        _time(value.get("timestamp")),
        text_of(value.get("text"), "text"),
        name_of(speaker, "speaker"),
    ]
    gathering.add(conversation_id, number, row)


def _first(value: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((value[key] for key in keys if value.get(key) is not None), None)


def _time(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _in_order(rows: list[list[Any]]) -> list[list[Any]]:
    """Rows (id, reply_to, time, text, speaker) as they were said."""
    known = {row[0] for row in rows}
    starts = [row for row in rows if row[1] is None or row[1] not in known]
    replies: dict[str, list[list[Any]]] = {}
    for row in rows:
        if row[1] is not None:
            replies.setdefault(row[1], []).append(row)
    if len(starts) == 1 and len(known) == len(rows):
        chain = [starts[0]]
        while chain[-1][0] in replies:
            chain.append(replies[chain[-1][0]][0])
        if len(chain) == len(rows):  # otherwise it is a tree, or some replies run in a circle
            return chain
    if all(row[2] is not None for row in rows):
        return sorted(rows, key=lambda row: float(row[2]))  # stable: file order where times are equal
    return rows


def _metadata(path: Path) -> dict[str, dict[str, Any]]:
    """Conversation id -> its metadata, which earlier releases keep one level higher."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CorpusError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(value, dict) for value in values.values()):
        raise CorpusError(f"{path}: expected an object of objects")
    return {
        key: value["meta"] if isinstance(value.get("meta"), dict) else value for key, value in values.items()
    }


def _find(folder: Path) -> Path:
    for path in (folder / UTTERANCES, *sorted(folder.glob(f"*/{UTTERANCES}"))):
        if path.is_file():
            return path
    raise CorpusError(f"{folder}: {UTTERANCES} is missing; is this a ConvoKit corpus?")
