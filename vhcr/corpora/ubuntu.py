"""The Ubuntu Dialogue Corpus, version 1 (Lowe et al., 2015): one small table per dialog.

The full corpus has nearly a million of them. So they stay in their archive (``dialogs.tgz``), which is
read as a stream; a folder ``dialogs/<number>/<id>.tsv`` is read just as well.
"""

from __future__ import annotations

import logging
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vhcr.conversation import Conversation, Split, Utterance
from vhcr.corpora.skipped import Skipped
from vhcr.corpora.text_files import lines
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

logger = logging.getLogger(__name__)

ARCHIVE = "dialogs.tgz"
DIALOGS = "dialogs"
LISTS: dict[str, Split] = {"trainfiles.csv": "train", "valfiles.csv": "validation", "testfiles.csv": "test"}
LIST_FOLDER = "meta"
MAX_DIALOG_BYTES = 64 * 2**20


def read_ubuntu(folder: Path, source: SourceParams, skipped: Skipped) -> Iterator[Conversation]:  # noqa: ARG001
    """Dialogs with their published split, in the archive's order (sorted by id in a folder).

    The id is "<number>/<file>"; consecutive lines of one speaker stay apart (tokenisation merges them).
    A dialog in no list has no split. A line of fewer than four fields is counted, and the dialog goes
    on without it.

    Raises:
        CorpusError: there is neither an archive nor a folder of dialogs, or the archive is damaged.
    """
    splits = _published_splits(folder, skipped)
    for conversation_id, raw in _files(folder, skipped):
        utterances = tuple(_utterances(raw, f"{DIALOGS}/{conversation_id}.tsv", skipped))
        if utterances:
            yield Conversation(
                id=conversation_id, utterances=utterances, split=splits.pop(conversation_id, None)
            )
        else:
            skipped.add("dialog without lines", f"{DIALOGS}/{conversation_id}.tsv", "conversation")
    if splits:
        logger.info("%d dialogs of the published lists are not in this part of the corpus", len(splits))


def dialog_id(member: str) -> str | None:
    """ "<number>/<id>" of an archive member or path ".../dialogs/<number>/<id>.tsv"; None for any other."""
    parts = PurePosixPath(member).parts
    if len(parts) >= 3 and parts[-3] == DIALOGS and parts[-1].endswith(".tsv") and parts[-1][0] != ".":
        return f"{parts[-2]}/{parts[-1].removesuffix('.tsv')}"
    return None


def _utterances(raw: bytes, name: str, skipped: Skipped) -> Iterator[Utterance]:
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        fields = line.rstrip(b"\r").split(b"\t", 3)  # texts may hold tabs
        if len(fields) != 4:
            skipped.add("malformed line", f"{name}:{number}")
            continue
        try:
            speaker, text = fields[1].decode("utf-8"), fields[3].decode("utf-8")
        except UnicodeDecodeError:
            skipped.add("not UTF-8", f"{name}:{number}")
            continue
        yield Utterance(text=text.strip(), speaker=speaker.strip() or None)


def _files(folder: Path, skipped: Skipped) -> Iterator[tuple[str, bytes]]:
    """Each dialog's id and bytes."""
    for dialogs in (folder / DIALOGS, *sorted(folder.glob(f"*/{DIALOGS}"))):
        if dialogs.is_dir():
            yield from _files_of_folder(dialogs)
            return
    archive = folder / ARCHIVE
    if not archive.is_file():
        raise CorpusError(f"{folder}: neither {ARCHIVE} nor a folder {DIALOGS}/; is this the Ubuntu corpus?")
    try:
        with tarfile.open(archive, mode="r|gz") as tar:
            while (member := tar.next()) is not None:
                vars(tar)["members"].clear()  # tarfile remembers all it saw; a million are too many
                conversation_id = dialog_id(member.name)
                if conversation_id is None or not member.isreg():
                    continue
                if member.size > MAX_DIALOG_BYTES:
                    skipped.add("dialog too large", member.name, "conversation")
                    continue
                file = tar.extractfile(member)
                if file is not None:
                    yield conversation_id, file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise CorpusError(f"{archive}: damaged archive: {error}") from error


def _files_of_folder(dialogs: Path) -> Iterator[tuple[str, bytes]]:
    numbers = sorted(
        (entry.name for entry in os.scandir(dialogs) if entry.is_dir()), key=lambda name: (len(name), name)
    )
    for number in numbers:
        names = sorted(entry.name for entry in os.scandir(dialogs / number) if entry.is_file())
        for name in names:
            conversation_id = dialog_id(f"{DIALOGS}/{number}/{name}")
            if conversation_id is not None:
                yield conversation_id, (dialogs / number / name).read_bytes()


def _published_splits(folder: Path, skipped: Skipped) -> dict[str, Split]:
    """Dialog id -> split, from the published lists of lines "<file>.tsv,<number>"."""
    splits: dict[str, Split] = {}
    for name, split in LISTS.items():
        for path in (folder / LIST_FOLDER / name, folder / name):
            if path.is_file():
                break
        else:
            continue
        for line, where in lines(path, folder, skipped, "conversation", "utf-8"):
            file, comma, number = line.strip().rpartition(",")
            if not comma or not file.endswith(".tsv") or not number:
                skipped.add("malformed line of a published list", where, "conversation")
                continue
            conversation_id = f"{number.strip()}/{file.strip().removesuffix('.tsv')}"
            if splits.setdefault(conversation_id, split) != split:
                skipped.add("dialog listed in two splits", where, "conversation")
    return splits
