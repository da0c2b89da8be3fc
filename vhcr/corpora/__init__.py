"""Raw files -> Conversations. One reader per format, chosen by ``source.reader``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from vhcr.conversation import Conversation
from vhcr.corpora.convokit import read_convokit
from vhcr.corpora.cornell import read_cornell
from vhcr.corpora.jsonl import read_jsonl, read_toy
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.table import read_table
from vhcr.corpora.ubuntu import read_ubuntu
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

__all__ = ["READERS", "Skipped", "read"]

Reader = Callable[[Path, SourceParams, Skipped], Iterator[Conversation]]

READERS: dict[Literal["toy", "cornell", "ubuntu", "jsonl", "table", "convokit"], Reader] = {
    "toy": read_toy,
    "cornell": read_cornell,
    "ubuntu": read_ubuntu,
    "jsonl": read_jsonl,
    "table": read_table,
    "convokit": read_convokit,
}


def read(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """The conversations of a raw corpus, in its own order, streamed; each id occurs once.

    Malformed records are counted in ``skipped``, which is complete when the iterator ends. An utterance
    may be empty text: whether to keep it is for tokenisation to say.

    Raises:
        CorpusError: the folder is missing, lacks a file, or holds no conversation at all.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; run the download stage")
    return _unique(folder, READERS[source.reader](folder, source, skipped), skipped)


def _unique(folder: Path, conversations: Iterator[Conversation], skipped: Skipped) -> Iterator[Conversation]:
    seen: set[str] = set()  # ids alone: about 100 bytes each
    for conversation in conversations:
        if conversation.id in seen:
            skipped.add("conversation id used twice", conversation.id)
            continue
        seen.add(conversation.id)
        yield conversation
    if not seen:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in skipped.counts.most_common(3))
        raise CorpusError(f"{folder}: not one conversation" + (f" (skipped: {reasons})" if reasons else ""))
