"""Conversations as JSON, one object each: our own form, and those in which others publish theirs.

A file holds one object a line (JSON Lines, ndjson), an array of them, an object of them by id, or one alone.
An object is a conversation by the first of ``TURNS`` that holds a list. The keys are those of:

- our own JSON Lines (docs/corpora.md): ``utterances`` of ``text``, ``speaker``, ``labels``;
- chat messages (OpenAI's chat completions, Hugging Face's chat templates): ``messages`` of ``role`` and
  ``content``, which is text or a list of parts; prompts of the system and messages of tools are no turns;
- ShareGPT (as FastChat and Axolotl describe it): ``conversations`` of ``from`` and ``value``;
- Schema-Guided Dialogue: ``turns`` of ``speaker`` and ``utterance``; CrossWOZ: an object by id of
  ``messages``; DailyDialog: ``dialogue`` or ``dialog``; Persona-Chat and XPersona: ``dialogue`` of pairs of
  texts. The toy corpus is in our own form;
- a list of texts, or of turns, in the place of an object; ``conversations`` of such lists, as the ChatterBot
  corpus has them in YAML, which is read like JSON (https://yaml.org/spec/1.2.2/#json-schema).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any

from vhcr.conversation import NO_LABELS, Conversation, Utterance
from vhcr.corpora.records import (
    YAML_SUFFIXES,
    BrokenRecordError,
    SourceFile,
    json_values,
    name_of,
    read_json,
    source_files,
    split_of,
    text_of,
)
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.text_files import opened
from vhcr.corpora.times import time_of
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

TOY_FILE = "conversations.jsonl"
SUFFIXES = (".jsonl", ".ndjson", ".json", *YAML_SUFFIXES)

TURNS = ("utterances", "messages", "conversations", "conversation", "dialogue", "dialog", "turns", "log")
IDS = ("id", "conversation_id", "dialogue_id", "dialog_id", "conv_id")
TEXTS = ("text", "content", "value", "utterance", "message", "body")
SPEAKERS = ("speaker", "role", "from", "author", "sender", "user", "name")
TIMES = ("time", "timestamp", "created_at", "date")
# What is said to the model or by its tools is no turn of the conversation.
NO_SPEAKERS = frozenset({"system", "developer", "tool", "function", "function_call", "observation"})


def read_jsonl(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """Conversations of all files of JSON or YAML, by file name, then in file order.

    One without an id is called "<file stem>:<line number>". A line that does not hold a conversation is
    counted and left out as a whole. A file named like a split is that split.

    Raises:
        CorpusError: there is no such file, or a .json file is not JSON.
    """
    for file in read_files(folder):
        yield from read_file(file, folder, skipped, source.encoding)


def read_files(folder: Path) -> list[SourceFile]:
    """The files that ``read_jsonl`` reads, in its order.

    Raises:
        CorpusError: there is none.
    """
    files = source_files(folder, SUFFIXES)
    if not files:
        raise CorpusError(f"{folder}: no .jsonl file")
    return files


def read_toy(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """The embedded corpus, as ``toy.write`` left it. Errors as those of ``read_jsonl``."""
    path = folder / TOY_FILE
    if not path.is_file():
        raise CorpusError(f"{folder}: {TOY_FILE} is missing; run the download stage")
    return read_file(SourceFile(path, TOY_FILE, "", None), folder, skipped, source.encoding)


def objects(
    file: SourceFile, folder: Path, skipped: Skipped, encoding: str | None
) -> Iterator[tuple[dict[str, Any], str]]:
    """Each object of a file and where it stands, "<file>:<number>"; what is none is counted."""
    for value, where in _values(file, folder, skipped, encoding):
        if isinstance(value, dict):
            yield value, where
        elif _is_list_of(value, str | dict):
            yield {TURNS[0]: value}, where
        else:
            skipped.add("not a JSON object", where, "conversation")


def _is_list_of(value: Any, kind: type | UnionType) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


def _values(
    file: SourceFile, folder: Path, skipped: Skipped, encoding: str | None
) -> Iterator[tuple[Any, str]]:
    if file.part is not None or is_lines(file.path, encoding):
        yield from json_values(file.path, folder, skipped, "conversation", encoding, file.part)
        return
    document = read_json(file.path, encoding)
    held = document.get("conversations") if isinstance(document, dict) else None
    if isinstance(held, list) and any(isinstance(item, list) for item in held):
        document = held
    elif isinstance(document, dict) and turns_of(document) is None:
        # By id; an id within an object counts, where there is one.
        by_id = document
        if len(document) == 1 and isinstance(next(iter(document.values())), list):
            document = next(iter(document.values()))  # {"data": [...]}
        elif all(isinstance(value, dict) for value in document.values()):
            document = [{"id": key, **value} for key, value in by_id.items()]
    whole = not isinstance(document, list) or _is_list_of(document, str)
    for number, value in enumerate([document] if whole else document, start=1):
        yield value, f"{file.name}:{number}"


def is_lines(path: Path, encoding: str | None) -> bool:
    """Whether each line is a JSON value by itself. A broken first line of .jsonl is one among others."""
    if path.suffix.lower() in YAML_SUFFIXES:
        return False
    is_json = path.suffix.lower() == ".json"
    with opened(path, encoding) as file:
        start = next((line for line in file if line.strip()), "")
        several = not is_json or any(line.strip() for line in file)
    try:
        json.loads(start)
    except (ValueError, RecursionError):
        return not is_json and start.strip() != "{" and not start.startswith("[")
    return several


def turns_of(value: Mapping[str, Any]) -> list[Any] | None:
    """The list of turns of an object; None where it is no conversation.

    ``{"conversations": [...]}`` that holds whole conversations is none itself.
    """
    for key in TURNS:
        turns = value.get(key)
        if isinstance(turns, list):
            return (
                None
                if any(isinstance(turn, dict) and turns_of(turn) is not None for turn in turns)
                else turns
            )
    return None


def read_file(
    file: SourceFile, folder: Path, skipped: Skipped, encoding: str | None
) -> Iterator[Conversation]:
    """The conversations of one file, or of a part of it. Errors as those of ``read_jsonl``."""
    for value, where in objects(file, folder, skipped, encoding):
        try:
            yield _conversation(value, file, where, skipped)
        except BrokenRecordError as reason:
            skipped.add(str(reason), where, "conversation")


def _conversation(value: Mapping[str, Any], file: SourceFile, where: str, skipped: Skipped) -> Conversation:
    turns = turns_of(value)
    if turns is None:
        raise BrokenRecordError("no list of utterances")
    if not turns:
        raise BrokenRecordError("conversation without utterances")
    utterances: list[Utterance] = []
    for turn in turns:
        utterances += _utterances(turn, where, skipped)
    if not utterances:
        raise BrokenRecordError("conversation without utterances")
    own_id = name_of(first(value, IDS), "id")
    return Conversation(
        id=f"{file.stem}:{where.rpartition(':')[2]}" if own_id is None else f"{file.prefix}{own_id}",
        utterances=tuple(utterances),
        group=name_of(value.get("group"), "group"),
        split=split_of(value.get("split")) or file.split,
        labels=_labels(value.get("labels")),
    )


def first(value: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """The value of the first of ``keys`` that has one; None where none has."""
    return next((value[key] for key in keys if value.get(key) is not None), None)


def _utterances(value: Any, where: str, skipped: Skipped) -> list[Utterance]:
    """One turn, none where it is nothing that was said, or a pair of them."""
    if isinstance(value, str):
        return [Utterance(text=text_of(value, "utterance"))]
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return [Utterance(text_of(text, "utterance"), str(number)) for number, text in enumerate(value)]
    if not isinstance(value, dict):
        raise BrokenRecordError("utterance is neither text nor an object")
    speaker = first(value, SPEAKERS)
    if isinstance(speaker, dict):
        speaker = first(speaker, ("id", "role", "name"))
    text = first(value, TEXTS)
    speaker = name_of(speaker, "speaker")
    if speaker in NO_SPEAKERS and ("role" in value or "from" in value):
        skipped.note(f"message of the {speaker}, no turn", where)
        return []
    if text is None and value.get("tool_calls"):
        skipped.note("call of a tool, no turn", where)
        return []
    if isinstance(text, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in text]
        if len(parts) > (spoken := sum(isinstance(part, str) for part in parts)):
            skipped.note("part of a message that is no text", where)
        if not spoken:
            return []
        text = " ".join(part for part in parts if isinstance(part, str))
    return [
        Utterance(
            text=text_of(text, "text"),
            speaker=speaker,
            labels=_labels(value.get("labels")),
            time=time_of(first(value, TIMES)),
        )
    ]


def _labels(value: Any) -> Mapping[str, str]:
    if value is None:
        return NO_LABELS
    if not isinstance(value, dict):
        raise BrokenRecordError("labels are not an object")
    named = {text_of(key, "label"): name_of(item, "label") for key, item in value.items()}
    return {key: item for key, item in named.items() if item is not None}
