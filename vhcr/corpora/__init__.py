"""Raw files -> Conversations. One reader per format, chosen by ``source.reader``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from vhcr.conversation import Conversation
from vhcr.corpora.convokit import read_convokit
from vhcr.corpora.cornell import read_cornell
from vhcr.corpora.discord import read_discord
from vhcr.corpora.eou import read_eou
from vhcr.corpora.jsonl import read_jsonl, read_toy
from vhcr.corpora.parlai import read_parlai
from vhcr.corpora.recognise import recognise
from vhcr.corpora.sessions import sessions
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.slack import read_slack
from vhcr.corpora.table import read_table
from vhcr.corpora.telegram import read_telegram
from vhcr.corpora.ubuntu import read_ubuntu
from vhcr.corpora.whatsapp import read_whatsapp
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

__all__ = ["READERS", "Skipped", "read"]

logger = logging.getLogger(__name__)

Reader = Callable[[Path, SourceParams, Skipped], Iterator[Conversation]]

READERS: dict[str, Reader] = {
    "toy": read_toy,
    "cornell": read_cornell,
    "ubuntu": read_ubuntu,
    "jsonl": read_jsonl,
    "table": read_table,
    "convokit": read_convokit,
    "eou": read_eou,
    "parlai": read_parlai,
    "whatsapp": read_whatsapp,
    "telegram": read_telegram,
    "slack": read_slack,
    "discord": read_discord,
}


def read(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """The conversations of a raw corpus, in its own order, streamed; each id occurs once.

    Where the utterances have times, a silence of more than ``source.session_gap_minutes`` begins another
    conversation. Malformed records are counted in ``skipped``, which is complete when the iterator ends. An
    utterance may be empty text: whether to keep it is for tokenisation to say.

    Raises:
        CorpusError: the folder is missing, lacks a file, is in no known format (reader auto), or holds no
            conversation at all.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; run the download stage")
    if source.reader == "auto":
        found = recognise(folder, source)
        logger.info("%s: %s", folder.name, found.description)
        source = found.source
    return _unique(folder, READERS[source.reader](folder, source, skipped), source, skipped)


def _unique(
    folder: Path, conversations: Iterator[Conversation], source: SourceParams, skipped: Skipped
) -> Iterator[Conversation]:
    seen: set[str] = set()  # ids alone: about 100 bytes each
    for whole in conversations:
        if whole.id in seen:
            skipped.add("conversation id used twice", whole.id, "conversation")
            continue
        seen.add(whole.id)
        yield from sessions(whole, source.session_gap_minutes)
    if not seen:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in skipped.counts.most_common(3))
        raise CorpusError(f"{folder}: not one conversation" + (f" (skipped: {reasons})" if reasons else ""))
