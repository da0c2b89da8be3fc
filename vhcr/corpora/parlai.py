"""ParlAI's two text formats, as its ParlAIDialogTeacher and FbDeprecatedDialogTeacher describe them.

The newer has an exchange a line, its fields separated by tabs: ``text:Hi!<tab>labels:Hello.|Hey.`` and,
where a conversation ends, ``<tab>episode_done:True``. The older numbers the lines of a conversation:
``1 Hi!<tab>Hello.``; a 1 begins the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vhcr.conversation import Conversation, Utterance
from vhcr.corpora.records import SourceFile, source_files
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.text_files import lines, opened
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

SUFFIXES = (".txt",)
NUMBERED = re.compile(r"(\d+) (.*)")
FIELD = re.compile(r"(text|labels|eval_labels|episode_done):")
TEXT, REPLY = "1", "2"  # who says the text, and who its label


def read_parlai(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """Conversations in file order, called "<file>:<number>". Of several labels the first is the reply.

    Raises:
        CorpusError: no .txt file is in one of the two formats.
    """
    files = [file for file in source_files(folder, SUFFIXES) if is_parlai(file.path, source.encoding)]
    if not files:
        raise CorpusError(f"{folder}: no .txt file in ParlAI's format")
    for file in files:
        yield from _read_file(file, folder, skipped, source.encoding)


def is_parlai(path: Path, encoding: str | None = None) -> bool:
    """Whether the first line is of one of the two formats."""
    with opened(path, encoding) as file:
        first = next((line.rstrip("\r\n") for line in file if line.strip()), "")
    if FIELD.match(first):
        return True
    return first.startswith("1 ") and "\t" in first


def _read_file(
    file: SourceFile, folder: Path, skipped: Skipped, encoding: str | None
) -> Iterator[Conversation]:
    number = 0
    utterances: list[Utterance] = []

    def conversation() -> Conversation:
        return Conversation(f"{file.stem}:{number}", tuple(utterances), split=file.split)

    for line, where in lines(file.path, folder, skipped, "utterance", encoding):
        numbered = NUMBERED.fullmatch(line)
        begins = ends = False
        if FIELD.match(line):
            fields = dict(field.partition(":")[::2] for field in line.split("\t") if FIELD.match(field))
            text = fields.get("text")
            labels = fields.get("labels", fields.get("eval_labels"))
            ends = fields.get("episode_done", "").strip().lower() == "true"
        elif numbered is not None:
            begins = numbered[1] == "1"
            fields_in_order = numbered[2].split("\t")
            text = fields_in_order[0]
            labels = fields_in_order[1] if len(fields_in_order) > 1 else None
        else:
            skipped.add("line in neither of ParlAI's formats", where)
            continue
        if begins and utterances:
            number += 1
            yield conversation()
            utterances = []
        if text and (written := _written(text)):
            utterances.append(Utterance(written, TEXT))
        if labels and (written := _written(labels.split("|")[0])):
            utterances.append(Utterance(written, REPLY))
        if ends and utterances:
            number += 1
            yield conversation()
            utterances = []
    if utterances:
        number += 1
        yield conversation()


def _written(text: str) -> str:
    return text.replace("\\n", "\n").replace("__PIPE__", "|").strip()
