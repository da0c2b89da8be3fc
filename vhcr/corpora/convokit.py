"""A ConvoKit corpus folder (Chang et al., 2020): utterances.jsonl, conversations.json."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vhcr.conversation import Conversation, Split, Utterance
from vhcr.corpora.jsonl import first
from vhcr.corpora.records import (
    BrokenRecordError,
    Gathering,
    json_objects,
    name_of,
    read_json,
    split_of,
    text_of,
)
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.times import time_of
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
    is read in order of time; where some utterance has none, each is followed by its replies, in order of the
    file. An utterance whose id was there before is counted and left out. ``source.columns.group``,
    ``.split`` and ``.labels`` name entries of a conversation's metadata, ``.utterance_labels`` those of an
    utterance's, if set.

    Raises:
        CorpusError: a file is missing or damaged, or no conversation has a named entry.
    """
    path = _find(folder)
    columns = source.columns
    wanted = {"group": columns.group, "split": columns.split}
    wanted |= {f"labels[{number}]": name for number, name in enumerate(columns.labels)}
    metadata = {}
    if any(wanted.values()):
        metadata = _metadata(path.with_name(CONVERSATIONS), source.encoding)
        _refuse_absent(path.with_name(CONVERSATIONS), metadata, wanted)
    with Gathering() as gathering:
        for number, (value, where) in enumerate(
            json_objects(path, folder, skipped, encoding=source.encoding)
        ):
            try:
                _add(gathering, number, value, where, columns.utterance_labels)
            except BrokenRecordError as reason:
                skipped.add(str(reason), where)
        for conversation_id, rows in gathering.groups():
            meta = metadata.get(conversation_id, {})
            try:
                split: Split | None = split_of(meta.get(columns.split)) if columns.split else None
                group = name_of(meta.get(columns.group), "group") if columns.group else None
                labels = {name: name_of(meta.get(name), "label") for name in columns.labels}
            except BrokenRecordError as reason:
                skipped.add(str(reason), f"{CONVERSATIONS}: {conversation_id}", "conversation")
                continue
            utterances = tuple(
                Utterance(text=text, speaker=speaker, labels=own, time=time)
                for _, _, time, text, speaker, own, _ in _in_order(_once([row for _, row in rows], skipped))
            )
            yield Conversation(
                id=conversation_id,
                utterances=utterances,
                group=group,
                split=split,
                labels={name: value for name, value in labels.items() if value is not None},
            )


def _add(
    gathering: Gathering, number: int, value: dict[str, Any], where: str, label_names: tuple[str, ...]
) -> None:
    conversation_id = name_of(first(value, CONVERSATION_KEYS), "conversation id")
    if conversation_id is None:
        raise BrokenRecordError("no conversation id")
    speaker = first(value, SPEAKER_KEYS)
    if isinstance(speaker, dict):  # some releases spell the speaker out
        speaker = speaker.get("id", speaker.get("name"))
    meta = value.get("meta")
    labels = {name: name_of(meta.get(name), "label") for name in label_names if isinstance(meta, dict)}
    row = [
        name_of(value.get("id"), "id"),
        name_of(first(value, REPLY_KEYS), "reply-to"),
        time_of(value.get("timestamp")),
        text_of(value.get("text"), "text"),
        name_of(speaker, "speaker"),
        {name: label for name, label in labels.items() if label is not None},
        where,
    ]
    gathering.add(conversation_id, number, row)


def _once(rows: list[list[Any]], skipped: Skipped) -> list[list[Any]]:
    """The rows without those whose id an earlier one has."""
    seen: set[str] = set()
    kept = []
    for row in rows:
        if row[0] is not None and row[0] in seen:
            skipped.add("utterance id used twice", row[-1])
            continue
        seen.add(row[0])
        kept.append(row)
    return kept


def _refuse_absent(path: Path, metadata: dict[str, dict[str, Any]], wanted: dict[str, str | None]) -> None:
    known = sorted({key for meta in metadata.values() for key in meta})
    missing = [
        f"{name!r} (source.columns.{key})" for key, name in wanted.items() if name and name not in known
    ]
    if missing:
        raise CorpusError(
            f"{path}: no conversation has an entry {', '.join(missing)}; "
            f"they have {', '.join(map(repr, known))}"
        )


def _in_order(rows: list[list[Any]]) -> list[list[Any]]:
    """Rows (id, reply_to, time, ...) as they were said."""
    known = {row[0] for row in rows} - {None}
    starts = [row for row in rows if row[1] is None or row[1] not in known]
    replies: dict[str, list[list[Any]]] = {}
    for row in rows:
        if row[1] is not None:
            replies.setdefault(row[1], []).append(row)
    if len(starts) == 1:
        chain = [starts[0]]
        while len(replies.get(chain[-1][0], ())) == 1 and len(chain) < len(rows):
            chain.append(replies[chain[-1][0]][0])
        if len(chain) == len(rows):  # otherwise it is a tree, or some replies run in a circle
            return chain
    if all(row[2] is not None for row in rows):
        return sorted(rows, key=lambda row: float(row[2]))  # stable: file order where times are equal
    ordered: list[list[Any]] = []
    waiting = starts[::-1]
    while waiting:  # each utterance, then what replies to it; a first reply before a second
        row = waiting.pop()
        ordered.append(row)
        waiting += replies.get(row[0], [])[::-1] if row[0] is not None else []
    # Replies that run in a circle have no start; they stand last, as the file has them.
    placed = {id(row) for row in ordered}
    return ordered + [row for row in rows if id(row) not in placed]


def _metadata(path: Path, encoding: str | None) -> dict[str, dict[str, Any]]:
    """Conversation id -> its metadata, which earlier releases keep one level higher."""
    values = read_json(path, encoding)
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
