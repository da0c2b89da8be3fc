"""download: a raw corpus, generated, fetched or taken from a local file -> data/raw/<corpus>."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from vhcr import layout
from vhcr.corpora import toy, ubuntu
from vhcr.corpora.download import Fetched, base_name, fetch, find_local, use_local
from vhcr.corpora.placing import place_file, place_folder, placed_digest
from vhcr.corpora.records import SOURCE_FILE
from vhcr.corpora.remote import is_remote, note
from vhcr.errors import CorpusError
from vhcr.files import atomic_folder, write_json
from vhcr.params import Params, SourceParams
from vhcr.stages.common import stage_main

logger = logging.getLogger(__name__)

UBUNTU_SAMPLE = "ubuntu_dialogs_sample.tgz"


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
            if is_remote(source.path):
                note(source, corpus, folder)
                return
            if source.reader == "toy" and source.path is None:
                names = toy.write(folder, source.toy.num_conversations, source.toy.seed)
                files = [_noted(use_local(folder / name), name, origin="generated") for name in names]
            elif source.path is not None and Path(source.path).expanduser().is_dir():
                files = [_copy_folder(Path(source.path).expanduser(), folder, source, layout.raw(corpus))]
            else:
                file = _main_file(source, corpus, folder)
                files = [_noted(file, _name(file)), *_extra_files(source, folder)]
            noted = {"corpus": corpus, "reader": source.reader, "files": files}
            write_json(folder / SOURCE_FILE, {"format": 1, **noted, "placed": placed_digest(folder)})
    except OSError as error:
        raise CorpusError(f"{error.filename or corpus}: {error.strerror or error}") from error
    logger.info("%s: %s", corpus, layout.raw(corpus))


def _main_file(source: SourceParams, corpus: str, folder: Path) -> Fetched:
    """Place the corpus's archive or file: by source.path, from the folder of VHCR_SOURCES, or a mirror."""
    local = _local_file(source, corpus)
    if local is not None:
        place_file(local.path, _name(local), folder, source.reader)
        return local
    if not source.urls:
        raise CorpusError(
            f"corpora.{corpus}.source: neither path nor urls is set; name a file, folder or archive of"
            f" conversations, for example -S corpora.{corpus}.source.path=conversations.jsonl"
        )
    return fetch(
        source.urls,
        sha256=source.sha256,
        accept=lambda file: place_file(file.path, _name(file), folder, source.reader),
    )


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
    """Copy the files a reader may want out of somebody's folder."""
    if target.absolute().is_relative_to(origin.absolute()):
        raise CorpusError(f"{source.path}: holds {target} itself; name the folder of the conversations alone")
    digest, num_bytes, num_files = place_folder(origin, folder, source.reader)
    note = Fetched(origin, "local", digest, num_bytes, checked=False)
    return {**_noted(note, origin.name), "num_files": num_files}


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
