"""The Cornell Movie-Dialogs Corpus (Danescu-Niculescu-Mizil and Lee, 2011)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vhcr.conversation import Conversation, Utterance
from vhcr.corpora.skipped import Skipped
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

SEPARATOR = b"+++$+++"
LINES = "movie_lines.txt"
CONVERSATIONS = "movie_conversations.txt"
LINE_ID = re.compile(rb"'([^']*)'")


def read_cornell(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:  # noqa: ARG001
    """Conversations in the order of movie_conversations.txt; the movie is the group.

    The id is that of the first line, the speaker is the corpus's user id (null where it says "?").
    Empty texts stay. A line that is not there is counted, and the conversation goes on without it.

    Raises:
        CorpusError: one of the two files is missing.
    """
    lines_path, conversations_path = _find(folder, LINES), _find(folder, CONVERSATIONS)
    utterances = _utterances(lines_path, folder, skipped)
    name = conversations_path.relative_to(folder).as_posix()
    with conversations_path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            where = f"{name}:{number}"
            fields = [field.strip() for field in raw.split(SEPARATOR)]
            if not raw.strip():
                continue
            if len(fields) != 4 or not (fields[3].startswith(b"[") and fields[3].endswith(b"]")):
                skipped.add("malformed conversation", where, "conversation")
                continue
            ids = LINE_ID.findall(fields[3])
            turns = []
            for line_id in ids:
                if line_id in utterances:
                    turns.append(utterances[line_id])
                else:
                    skipped.add("missing line", f"{where}: {decode(line_id)}")
            if turns:
                yield Conversation(id=decode(ids[0]), utterances=tuple(turns), group=decode(fields[2]))
            else:
                skipped.add("conversation without lines", where, "conversation")


def decode(raw: bytes) -> str:
    """Text in cp1252, with its five undefined bytes read as latin-1 does, so that no byte is an error."""
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:
        return "".join(_character(byte) for byte in raw)


def _character(byte: int) -> str:
    return bytes((byte,)).decode("latin-1" if byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else "cp1252")


def _utterances(path: Path, folder: Path, skipped: Skipped) -> dict[bytes, Utterance]:
    """All lines by id. Line ids are kept as bytes; the 300 thousand texts fit in memory many times over."""
    name = path.relative_to(folder).as_posix()
    utterances: dict[bytes, Utterance] = {}
    speakers: dict[bytes, str | None] = {b"?": None, b"": None}
    with path.open("rb") as file:  # in bytes: cp1252 texts hold characters that Python calls line breaks
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            fields = [field.strip() for field in raw.split(SEPARATOR, 4)]
            if len(fields) != 5 or not fields[0]:
                skipped.add("malformed line", f"{name}:{number}")
                continue
            line_id, speaker, _movie, _character_name, text = fields
            if line_id in utterances:
                skipped.add("line id used twice", f"{name}:{number}")
                continue
            if speaker not in speakers:
                speakers[speaker] = decode(speaker)
            utterances[line_id] = Utterance(text=decode(text), speaker=speakers[speaker])
    return utterances


def _find(folder: Path, name: str) -> Path:
    """``name`` in the folder or in the archive's inner one."""
    for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
        if path.is_file():
            return path
    raise CorpusError(f"{folder}: {name} is missing; is this the Cornell Movie-Dialogs Corpus?")
