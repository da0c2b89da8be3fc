"""Conversations as JSON Lines: one a line, in a file or a folder of files. The toy corpus is one too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vhcr.conversation import NO_LABELS, Conversation, Utterance
from vhcr.corpora.records import BrokenRecordError, json_objects, name_of, split_of, text_of
from vhcr.corpora.skipped import Skipped
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

TOY_FILE = "conversations.jsonl"


def read_jsonl(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:  # noqa: ARG001
    """Conversations of all .jsonl files, by file name, then in file order.

    One without an id is called "<file stem>:<line number>". A line that does not hold a conversation is
    counted and left out as a whole.

    Raises:
        CorpusError: there is no such file.
    """
    paths = sorted(folder.rglob("*.jsonl"))
    if not paths:
        raise CorpusError(f"{folder}: no .jsonl file")
    for path in paths:
        yield from _read_file(path, folder, skipped)


def read_toy(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:  # noqa: ARG001
    """The embedded corpus, as ``toy.write`` left it. Errors as those of ``read_jsonl``."""
    path = folder / TOY_FILE
    if not path.is_file():
        raise CorpusError(f"{folder}: {TOY_FILE} is missing; run the download stage")
    return _read_file(path, folder, skipped)


def _read_file(path: Path, folder: Path, skipped: Skipped) -> Iterator[Conversation]:
    stem = path.relative_to(folder).with_suffix("").as_posix()
    for value, where in json_objects(path, folder, skipped):
        try:
            yield _conversation(value, default_id=f"{stem}:{where.rpartition(':')[2]}")
        except BrokenRecordError as reason:
            skipped.add(str(reason), where)


def _conversation(value: Mapping[str, Any], default_id: str) -> Conversation:
    turns = value.get("utterances")
    if not isinstance(turns, list):
        raise BrokenRecordError("no list of utterances")
    if not turns:
        raise BrokenRecordError("conversation without utterances")
    return Conversation(
        id=name_of(value.get("id"), "id") or default_id,
        utterances=tuple(_utterance(turn) for turn in turns),
        group=name_of(value.get("group"), "group"),
        split=split_of(value.get("split")),
        labels=_labels(value.get("labels")),
    )


def _utterance(value: Any) -> Utterance:
    if isinstance(value, str):
        return Utterance(text=text_of(value, "utterance"))
    if not isinstance(value, dict):
        raise BrokenRecordError("utterance is neither text nor an object")
    return Utterance(
        text=text_of(value.get("text"), "text"),
        speaker=name_of(value.get("speaker"), "speaker"),
        labels=_labels(value.get("labels")),
    )


def _labels(value: Any) -> Mapping[str, str]:
    if value is None:
        return NO_LABELS
    if not isinstance(value, dict):
        raise BrokenRecordError("labels are not an object")
    named = {text_of(key, "label"): name_of(item, "label") for key, item in value.items()}
    return {key: item for key, item in named.items() if item is not None}
