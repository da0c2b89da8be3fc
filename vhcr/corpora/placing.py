"""A file, folder or archive that somebody names -> the files in it that a reader looks at, unpacked."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

from vhcr.corpora import discord, eou, jsonl, parlai, slack, table_files, telegram, ubuntu, whatsapp
from vhcr.corpora.archives import compression_of, decompress, is_archive, unpack
from vhcr.corpora.records import SOURCE_FILE
from vhcr.errors import CorpusError
from vhcr.files import digest, empty, file_digest, read_object, tree_digest

# What a reader looks at; nothing else is copied out of a folder that somebody names.
SUFFIXES: dict[str, tuple[str, ...]] = {
    "toy": (".jsonl",),
    "cornell": (".txt",),
    "ubuntu": (".tsv", ".csv", ".tgz"),
    "jsonl": jsonl.SUFFIXES,
    "table": table_files.SUFFIXES,
    "convokit": (".jsonl", ".json"),
    "eou": eou.SUFFIXES,
    "parlai": parlai.SUFFIXES,
    "whatsapp": whatsapp.SUFFIXES,
    "telegram": telegram.SUFFIXES,
    "slack": slack.SUFFIXES,
    "discord": discord.SUFFIXES,
}
SUFFIXES["auto"] = tuple(dict.fromkeys((*jsonl.SUFFIXES, *table_files.SUFFIXES, *eou.SUFFIXES)))
COMPRESSED = (".gz", ".zst")


def place_file(path: Path, name: str, folder: Path, reader: str) -> None:
    """Unpack an archive or a compressed file into ``folder``, or copy a plain one there as ``name``.

    Raises:
        CorpusError: it is no file that ``reader`` reads, or a damaged or hostile archive.
    """
    empty(folder)  # what an earlier mirror's damaged archive left
    if reader in {"cornell", "ubuntu"} and not is_archive(path):
        raise CorpusError(f"{path}: neither a zip nor a tar.gz archive, as reader {reader} needs")
    if reader == "ubuntu":
        _place_ubuntu(path, folder)
    elif is_archive(path) and not _is_workbook(name):
        if not unpack(path, folder):
            raise CorpusError(f"{path}: an archive without files")
        _decompress_all(folder, reader)
    else:
        plain = _plain_name(name)
        if Path(plain).suffix.lower() not in SUFFIXES[reader]:
            wanted = ", ".join(SUFFIXES[reader])
            raise CorpusError(f"{path}: reader {reader} reads {wanted} files, or an archive of them")
        _copy(path, folder / plain)


def place_folder(origin: Path, folder: Path, reader: str) -> tuple[str, int, int]:
    """Copy the files a reader may want out of somebody's folder; hidden ones stay.

    Returns their digest (of what sha256sum lists), their bytes and their number.

    Raises:
        CorpusError: there is none.
    """
    suffixes = SUFFIXES[reader]
    paths = [
        path
        for path in sorted(origin.rglob("*"))
        if Path(_plain_name(path.name)).suffix.lower() in suffixes
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(origin).parts)
        and path != origin / SOURCE_FILE
    ]
    if not paths:
        raise CorpusError(f"{origin}: reader {reader} finds no {' or '.join(suffixes)} file in it")
    for path in paths:
        target = folder / path.relative_to(origin)
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, target.with_name(_plain_name(target.name)))
    listed = (f"{file_digest(path)}  {path.relative_to(origin).as_posix()}\n" for path in paths)
    return digest(*listed), sum(path.stat().st_size for path in paths), len(paths)


def _plain_name(name: str) -> str:
    path = PurePosixPath(name)
    return path.with_suffix("").name if path.suffix.lower() in COMPRESSED else path.name


def _is_workbook(name: str) -> bool:
    """An Excel file is a zip archive, too."""
    return Path(name).suffix.lower() in table_files.WORKBOOKS


def _copy(path: Path, target: Path) -> None:
    if target.exists():
        raise CorpusError(f"{path}: {target.name} is there both as it is and compressed")
    if compression_of(path) is None:
        shutil.copyfile(path, target)
    else:
        decompress(path, target)


def _decompress_all(folder: Path, reader: str) -> None:
    """Compressed files of an archive, unpacked in their place."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() in COMPRESSED and compression_of(path) is not None:
            plain = path.with_suffix("")
            if plain.suffix.lower() in SUFFIXES[reader]:
                _copy(path, plain)
                path.unlink()


def _place_ubuntu(path: Path, folder: Path) -> None:
    """Keep the dialogs packed, nearly a million small files otherwise; unpack the lists beside them."""
    num_dialogs = 0

    def place(member: str) -> str | None:
        nonlocal num_dialogs
        num_dialogs += ubuntu.dialog_id(member) is not None
        parts = PurePosixPath(member).parts
        is_list = parts[-1] in ubuntu.LISTS and (len(parts) == 1 or parts[-2] == ubuntu.LIST_FOLDER)
        return f"{ubuntu.LIST_FOLDER}/{parts[-1]}" if is_list else None

    unpack(path, folder, place=place)
    if not num_dialogs:
        raise CorpusError(f"{path}: holds no {ubuntu.DIALOGS}/<number>/<id>.tsv")
    shutil.copyfile(path, folder / ubuntu.ARCHIVE)


def placed_digest(folder: Path) -> str:
    """SHA-256 of all that the download stage has placed in a folder, with its names."""
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / SOURCE_FILE)
    return tree_digest(sorted(files), folder)


def require_placed(folder: Path) -> None:
    """Nothing, where a raw corpus is as the download stage left it, or came here in another way.

    Raises:
        CorpusError: a file of it is another one, is missing, or was added.
    """
    if not (folder / SOURCE_FILE).exists():
        return
    expected = read_object(folder / SOURCE_FILE).get("placed")
    if expected is not None and expected != placed_digest(folder):
        raise CorpusError(
            f"{folder}: is not what {SOURCE_FILE} in it names: a file is damaged, changed, missing or was "
            "added. Remove the folder, and its copy in DVC's cache, then dvc repro"
        )
