"""A raw corpus in pieces, each of which can be read by itself: JSON Lines by ranges, all else as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vhcr.conversation import Conversation
from vhcr.corpora.convokit import read_convokit
from vhcr.corpora.cornell import read_cornell
from vhcr.corpora.discord import read_discord
from vhcr.corpora.eou import read_eou
from vhcr.corpora.jsonl import is_lines, read_file, read_files, read_jsonl, read_toy
from vhcr.corpora.parlai import read_parlai
from vhcr.corpora.recognise import recognise
from vhcr.corpora.records import SourceFile, is_address
from vhcr.corpora.sessions import sessions
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.slack import read_slack
from vhcr.corpora.table import read_table
from vhcr.corpora.telegram import read_telegram
from vhcr.corpora.text_files import UTF8, Part, encoding_of, num_lines, parts
from vhcr.corpora.ubuntu import read_ubuntu
from vhcr.corpora.whatsapp import read_whatsapp
from vhcr.engines import Engine
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

logger = logging.getLogger(__name__)

Reader = Callable[[Path, SourceParams, Skipped], Iterator[Conversation]]
PIECE_BYTES = 2**25  # of a file of lines

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


@dataclass(frozen=True)
class Piece:
    """What one process reads: a part of a file, a file, or all of a corpus that cannot be cut."""

    folder: Path
    source: SourceParams
    file: SourceFile | None = None

    def __call__(self, skipped: Skipped) -> Iterator[tuple[str, Iterable[Conversation]]]:
        """The id of each record, and the conversations that it holds."""
        if self.file is None:
            wholes = READERS[self.source.reader](self.folder, self.source, skipped)
        else:
            wholes = read_file(self.file, self.folder, skipped, self.source.encoding)
        return ((whole.id, sessions(whole, self.source.session_gap_minutes)) for whole in wholes)


def pieces(folder: Path, source: SourceParams, engine: Engine, piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """A raw corpus, in its own order. Lines in UTF-8 are cut after some ``piece_bytes``.

    ``engine`` counts the lines of all pieces, so that a piece can say which line of its file is at fault.

    Raises:
        CorpusError: the folder is missing, lacks a file, or is in no known format (reader auto).
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; run the download stage")
    if source.reader == "auto":
        recognised = recognise(folder, source)
        logger.info("%s: %s", folder.name, recognised.description)
        source = recognised.source
    if source.reader != "jsonl":
        return [Piece(folder, source)]
    if is_address(folder):
        # A look at all of its bytes, for their encoding, would cost as much as to read them.
        source = source.model_copy(update={"encoding": source.encoding or "utf-8"})
    found: list[Piece] = []
    for file in read_files(folder):
        own: list[Part] = []
        if file.path.stat().st_size > piece_bytes and is_lines(file.path, source.encoding):
            own = parts(file.path, piece_bytes) if encoding_of(file.path, source.encoding) == UTF8 else []
        first_line = 1
        for part, number in zip(own, engine(num_lines, [(file.path, part) for part in own]), strict=True):
            found.append(Piece(folder, source, replace(file, part=replace(part, first_line=first_line))))
            first_line += number
        if not own:
            found.append(Piece(folder, source, file))
    return found
