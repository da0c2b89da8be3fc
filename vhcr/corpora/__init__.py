"""Raw files -> Conversations. One reader per format, chosen by ``source.reader``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vhcr.conversation import Conversation
from vhcr.corpora.pieces import READERS, Piece, pieces
from vhcr.corpora.skipped import TWICE, Skipped
from vhcr.engines import here
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

__all__ = ["READERS", "Piece", "Skipped", "pieces", "read"]


def read(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """The conversations of a raw corpus, in its own order, streamed; each id occurs once.

    Where the utterances have times, a silence of more than ``source.session_gap_minutes`` begins another
    conversation. Malformed records are counted in ``skipped``, which is complete when the iterator ends. An
    utterance may be empty text: whether to keep it is for tokenisation to say.

    Raises:
        CorpusError: the folder is missing, lacks a file, is in no known format (reader auto), or holds no
            conversation at all.
    """
    found = pieces(folder, source, here)
    return _unique(folder, found, skipped)


def _unique(folder: Path, found: list[Piece], skipped: Skipped) -> Iterator[Conversation]:
    seen: set[str] = set()  # ids alone: about 100 bytes each
    for piece in found:
        for id, conversations in piece(skipped):
            if id in seen:
                skipped.add(TWICE, id, "conversation")
                continue
            seen.add(id)
            yield from conversations
    if not seen:
        raise CorpusError(f"{folder}: not one conversation{skipped.reasons()}")
