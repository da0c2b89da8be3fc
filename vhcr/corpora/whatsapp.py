"""A chat that WhatsApp exports as text ("Export chat"), in the forms of its two apps and of all locales.

Android writes ``31/12/2021, 23:59 - Ann: Hi``, iOS ``[31.12.21, 23:59:59] Ann: Hi``; the order of day, month
and year, the clock of 12 or 24 hours and the marks between follow the phone's language. A message may go on
over several lines. Lines without a name are the app's own notices. On iOS a name stands before them, too, and
a mark of the direction of writing (U+200E) between, in all languages; so it does where media were.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vhcr.conversation import Conversation, Utterance
from vhcr.corpora.records import SourceFile, source_files
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.text_files import lines
from vhcr.corpora.times import WRITTEN, of_match, order_of
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

SUFFIXES = (".txt",)
START = re.compile(
    rf"\[(?:{WRITTEN.pattern})\] ?|(?:{WRITTEN.pattern.replace('(?P<', '(?P<d')}) ?[-\u2013] ", re.I
)
NAMED = re.compile(r"(?P<name>[^:]{1,80}): ?(?P<text>.*)", re.DOTALL)
MARKS = dict.fromkeys(map(ord, "\u200e\u200f\u202a\u202b\u202c\ufeff"))  # of the direction of writing
BLANKS = dict.fromkeys(map(ord, "\u202f\u00a0"), " ")
# "<Media omitted>" in the phone's language; "image omitted"; a name of a file and a note in brackets.
MEDIA = re.compile(
    r"<[^<>\n]*>|(?:image|video|audio|sticker|gif|document|contact card) omitted"
    r"|\S+\.(?:jpg|jpeg|png|webp|mp4|opus|ogg|pdf|vcf|docx?|xlsx?) \([^()\n]*\)",
    re.IGNORECASE,
)
BY_APP = re.compile(r"\] [^:]{1,80}: \u200e")
EDITED = re.compile(r"\s*<[^<>\n]*edited[^<>\n]*>$", re.IGNORECASE)
DELETED = re.compile(r"(?:this message was deleted|you deleted this message)\.?", re.IGNORECASE)


def read_whatsapp(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """Each file as one conversation with times, called by its name; ``session_gap_minutes`` breaks it.

    Media, deleted messages and the app's notices are noted; lines before the first message are counted.

    Raises:
        CorpusError: no .txt file is such a chat, or its dates fit no order of day and month.
    """
    files = source_files(folder, SUFFIXES)
    chats = [file for file in files if is_whatsapp(file, folder, source.encoding)]
    if not chats:
        raise CorpusError(f"{folder}: no chat that WhatsApp exported (.txt)")
    for file in chats:
        utterances = tuple(_utterances(file, folder, source, skipped))
        if utterances:
            yield Conversation(id=file.stem, utterances=utterances)
        else:
            skipped.add("chat without messages", file.name, "conversation")


def is_whatsapp(file: SourceFile, folder: Path, encoding: str | None = None) -> bool:
    """Whether one of the first lines begins with date and time as an export writes them."""
    for number, (line, _) in enumerate(lines(file.path, folder, Skipped(), "utterance", encoding)):
        if START.match(_plain(line)):
            return True
        if number >= 4:
            return False
    return False


def _plain(line: str) -> str:
    return line.translate(MARKS).translate(BLANKS)


def _date(start: re.Match[str]) -> re.Match[str]:
    """The date alone, as ``times`` reads it."""
    found = WRITTEN.search(start[0])
    assert found is not None  # START holds the same pattern
    return found


def _utterances(
    file: SourceFile, folder: Path, source: SourceParams, skipped: Skipped
) -> Iterator[Utterance]:
    order = order_of(
        (
            _date(start)
            for line, _ in lines(file.path, folder, Skipped(), "utterance", source.encoding)
            if (start := START.match(_plain(line)))
        ),
        source.date_order,
        file.name,
    )
    text, where, time = "", "", None
    begun = False
    for raw, place in lines(file.path, folder, skipped, "utterance", source.encoding):
        line = _plain(raw)
        start = START.match(line)
        if BY_APP.search(raw):
            line = line[: line.index(": ") + 2]  # as if nothing had been said
        if start is None:
            if begun:
                text += f"\n{line}"
            else:
                skipped.add("line before the first message", place)
            continue
        if begun:
            yield from _said(text, time, where, skipped)
        begun, text, where, time = True, line[start.end() :], place, of_match(_date(start), order)
    if begun:
        yield from _said(text, time, where, skipped)


def _said(text: str, time: float | None, where: str, skipped: Skipped) -> Iterator[Utterance]:
    named = NAMED.fullmatch(text)
    if named is None:
        skipped.note("notice of the app, no turn", where)
        return
    said = EDITED.sub("", named["text"]).strip()
    if not said or MEDIA.fullmatch(said):
        skipped.note("media or words of the app, no text", where)
    elif DELETED.fullmatch(said):
        skipped.note("deleted message", where)
    else:
        yield Utterance(said, named["name"].strip(), time=time)
