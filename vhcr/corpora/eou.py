"""Text with one conversation a line and ``__eou__`` after each utterance.

DailyDialog (Li et al., 2017) is published so: dialogues_text.txt or dialogues_<split>.txt, and beside it
files of the same lines that hold an act and an emotion for each utterance and a topic for each conversation.
The Ubuntu Dialogue Corpus, version 2, ends a speaker's turn with ``__eot__`` besides.
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
UTTERANCE_END = "__eou__"
TURN_END = "__eot__"
NAME = re.compile(r"dialogues_(?:(?P<kind>act|emotion|topic|text)(?:_|$))?(?P<split>[a-z]*)")
OF_UTTERANCES = ("act", "emotion")


def read_eou(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:
    """Conversations in file order, called "<file>:<line>"; DailyDialog's labels where their files are there.

    Raises:
        CorpusError: no .txt file holds ``__eou__``, or a file of labels has other lines than the texts.
    """
    files = [file for file in source_files(folder, SUFFIXES) if is_eou(file.path, source.encoding)]
    if not files:
        raise CorpusError(f"{folder}: no .txt file with {UTTERANCE_END} in it")
    for file in files:
        labels = _labels(file, source.encoding)
        for line, where in lines(file.path, folder, skipped, "conversation", source.encoding):
            number = where.rpartition(":")[2]
            utterances = _utterances(line)
            if not utterances:
                skipped.add("conversation without utterances", where, "conversation")
                continue
            of_line = {kind: values.get(int(number), []) for kind, values in labels.items()}
            yield Conversation(
                id=f"{file.stem}:{number}",
                utterances=_labelled(utterances, of_line, where, skipped),
                split=file.split,
                labels={"topic": of_line["topic"][0]} if of_line.get("topic") else {},
            )


def is_eou(path: Path, encoding: str | None = None) -> bool:
    """Whether the first line with something in it has an end of an utterance."""
    with opened(path, encoding) as file:
        return UTTERANCE_END in next((line for line in file if line.strip()), "")


def _utterances(line: str) -> list[Utterance]:
    turns = line.split(TURN_END)
    found = []
    for number, turn in enumerate(turns):
        speaker = str(number % 2) if len(turns) > 1 else None
        texts = (text.strip() for text in turn.split(UTTERANCE_END))
        found += [Utterance(text, speaker) for text in texts if text]
    return found


def _labelled(
    utterances: list[Utterance], of_line: dict[str, list[str]], where: str, skipped: Skipped
) -> tuple[Utterance, ...]:
    kinds = [kind for kind in OF_UTTERANCES if kind in of_line]
    for kind in tuple(kinds):
        if len(of_line[kind]) != len(utterances):
            skipped.note(f"another number of labels ({kind}) than of utterances: not used", where)
            kinds.remove(kind)
    return tuple(
        Utterance(utterance.text, utterance.speaker, {kind: of_line[kind][turn] for kind in kinds})
        for turn, utterance in enumerate(utterances)
    )


def _labels(file: SourceFile, encoding: str | None) -> dict[str, dict[int, list[str]]]:
    """Kind of label -> line number -> its values, from DailyDialog's files beside the texts."""
    named = NAME.fullmatch(file.path.stem)
    if named is None:
        return {}
    ending = f"_{named['split']}" if named["split"] else ""
    found = {}
    for kind in (*OF_UTTERANCES, "topic"):
        path = file.path.with_name(f"dialogues_{kind}{ending}.txt")
        if path.is_file():
            with opened(path, encoding) as text:
                found[kind] = {number: line.split() for number, line in enumerate(text, start=1)}
    return found
