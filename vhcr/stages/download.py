"""download: a raw corpus, generated, fetched or taken from a local file -> data/raw/<corpus>."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from vhcr import layout
from vhcr.corpora import toy, ubuntu
from vhcr.corpora.archives import is_archive, unpack
from vhcr.corpora.download import (
    Fetched,
    base_name,
    fetch,
    find_local,
    use_local,
)
from vhcr.corpora.table import SUFFIXES
from vhcr.errors import CorpusError
from vhcr.files import atomic_folder, digest, empty, file_digest, write_json
from vhcr.params import Params, SourceParams
from vhcr.stages.common import stage_main

logger = logging.getLogger(__name__)

SOURCE_FILE = "source.json"
UBUNTU_SAMPLE = "ubuntu_dialogs_sample.tgz"
# What a reader looks at; nothing else is copied out of a folder that somebody names.
READ_SUFFIXES: dict[str, tuple[str, ...]] = {
    "toy": (".jsonl",),
    "cornell": (".txt",),
    "ubuntu": (".tsv", ".csv", ".tgz"),
    "jsonl": (".jsonl",),
    "table": SUFFIXES,
    "convokit": (".jsonl", ".json"),
}


def run(params: Params, *, corpus: str) -> None:
    """Fetch or generate a raw corpus into data/raw/<corpus>, whole or not at all.

    ``source.json`` beside it says where each file came from, its size and SHA-256.

    Raises:
        CorpusError: nothing names a source, no mirror gives the file, a digest or archive is wrong, or
            a file cannot be read.
        StorageError: the disk is full.
    """
    source = params.corpus(corpus).source
    try:
        with atomic_folder(layout.raw(corpus)) as folder:
            if source.reader == "toy" and source.path is None:
                names = toy.write(folder, source.toy.num_conversations, source.toy.seed)
                files = [_noted(use_local(folder / name), name, origin="generated") for name in names]
            elif source.path is not None and Path(source.path).expanduser().is_dir():
                files = [_copy_folder(Path(source.path).expanduser(), folder, source, layout.raw(corpus))]
            else:
                file = _main_file(source, corpus, folder)
                files = [_noted(file, _name(file)), *_extra_files(source, folder)]
            write_json(
                folder / SOURCE_FILE, {"format": 1, "corpus": corpus, "reader": source.reader, "files": files}
            )
    except OSError as error:
        raise CorpusError(f"{error.filename or corpus}: {error.strerror or error}") from error
    logger.info("%s: %s", corpus, layout.raw(corpus))


def _main_file(source: SourceParams, corpus: str, folder: Path) -> Fetched:
    """Place the corpus's archive or file: by source.path, from the folder of VHCR_SOURCES, or a mirror."""
    local = _local_file(source, corpus)
    if local is not None:
        _place(local, folder, source)
        return local
    if not source.urls:
        raise CorpusError(
            f"corpora.{corpus}.source: neither path nor urls is set; name a file, folder or archive of"
            f" conversations, for example -S corpora.{corpus}.source.path=conversations.jsonl"
        )
    return fetch(source.urls, sha256=source.sha256, accept=lambda file: _place(file, folder, source))


def _local_file(source: SourceParams, corpus: str) -> Fetched | None:
    if source.path is not None:
        path = Path(source.path).expanduser()
        if not path.is_file():
            raise CorpusError(f"corpora.{corpus}.source.path: {source.path}: no such file or folder")
        return use_local(path, source.sha256)
    local = find_local(*(base_name(url) for url in source.urls))
    if local is not None:
        return use_local(local, source.sha256)
    sample = find_local(UBUNTU_SAMPLE) if source.reader == "ubuntu" else None
    if sample is None:
        return None
    logger.info("using %s: a sample of the corpus, not all of it", sample.name)
    return use_local(sample)  # source.sha256 is that of the whole


def _name(file: Fetched) -> str:
    """The file's own name: a fetched one lies in the work folder under another."""
    return base_name(file.origin) if file.origin != "local" else file.path.name


def _place(file: Fetched, folder: Path, source: SourceParams) -> None:
    """Unpack an archive into the raw folder, or copy a plain file there."""
    empty(folder)  # what an earlier mirror's damaged archive left
    path = file.path
    if not is_archive(path):
        if source.reader in {"cornell", "ubuntu"}:
            raise CorpusError(f"{path}: neither a zip nor a tar.gz archive, as reader {source.reader} needs")
        if Path(_name(file)).suffix.lower() not in READ_SUFFIXES[source.reader]:
            wanted = ", ".join(READ_SUFFIXES[source.reader])
            raise CorpusError(f"{path}: reader {source.reader} reads {wanted} files, or an archive of them")
        shutil.copyfile(path, folder / _name(file))
    elif source.reader == "ubuntu":
        _place_ubuntu(path, folder)
    elif not unpack(path, folder):
        raise CorpusError(f"{path}: an archive without files")


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


def _extra_files(source: SourceParams, folder: Path) -> list[dict[str, Any]]:
    """Fetch what belongs beside the archive, unless the archive brought it."""
    home = folder / ubuntu.LIST_FOLDER if source.reader == "ubuntu" else folder
    noted = []
    for url in source.extra_urls:
        name = base_name(url)
        if (home / name).exists():
            continue
        local = find_local(name)
        file = use_local(local) if local is not None else fetch([url])
        home.mkdir(exist_ok=True)
        shutil.copyfile(file.path, home / name)
        noted.append(_noted(file, name))
    return noted


def _copy_folder(origin: Path, folder: Path, source: SourceParams, target: Path) -> dict[str, Any]:
    """Copy the files a reader may want out of somebody's folder; hidden ones stay."""
    if target.absolute().is_relative_to(origin.absolute()):
        raise CorpusError(f"{source.path}: holds {target} itself; name the folder of the conversations alone")
    suffixes = READ_SUFFIXES[source.reader]
    paths = [
        path
        for path in sorted(origin.rglob("*"))
        if path.suffix.lower() in suffixes
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(origin).parts)
        and path != origin / SOURCE_FILE
    ]
    if not paths:
        raise CorpusError(
            f"{source.path}: reader {source.reader} finds no {' or '.join(suffixes)} file in it"
        )
    for path in paths:
        name = path.relative_to(origin).as_posix()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    listed = (f"{file_digest(path)}  {path.relative_to(origin).as_posix()}\n" for path in paths)
    num_bytes = sum(path.stat().st_size for path in paths)
    note = Fetched(origin, "local", digest(*listed), num_bytes, checked=False)  # as sha256sum lists them
    return {**_noted(note, origin.name), "num_files": len(paths)}


def _noted(file: Fetched, name: str, origin: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "from": origin or file.origin,
        "sha256": file.sha256,
        "bytes": file.num_bytes,
        "checked": file.checked,
    }


def main() -> None:
    """The stage's command line."""
    stage_main(run)


if __name__ == "__main__":
    main()
