"""A corpus that stays where it is: JSON Lines in a bucket (``s3://``), read by ranges, never copied whole.

What the download stage leaves is a list of the objects with their ETags, so that one that changes later is
refused. Keys and endpoint are those of the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vhcr.corpora.jsonl import read_files
from vhcr.corpora.records import SOURCE_FILE
from vhcr.errors import CorpusError
from vhcr.files import read_object, write_json
from vhcr.params import SourceParams

BLOCK_BYTES = 2**22  # what is asked of a server at once


def is_remote(path: str | None) -> bool:
    """Whether ``source.path`` is an address rather than a file of this machine."""
    return path is not None and re.match(r"[a-z][a-z0-9]*://", path) is not None


def note(source: SourceParams, corpus: str, folder: Path) -> None:
    """Write into ``folder`` what lies below the address ``source.path``, and nothing of it.

    Raises:
        CorpusError: it cannot be listed, holds no JSON, or is to be read as something else.
    """
    if source.reader != "jsonl":
        raise CorpusError(
            f"corpora.{corpus}.source: {source.path} is read where it is, as JSON Lines: set reader: jsonl, "
            "or copy it here and name the copy"
        )
    noted = {"corpus": corpus, "reader": source.reader, "path": source.path, "objects": _listed(source.path)}
    write_json(folder / SOURCE_FILE, {"format": 1, **noted})


def located(raw: Path) -> Path:
    """Where a raw corpus lies: ``raw`` itself, or the address that ``note`` was told.

    Raises:
        CorpusError: what lies there is not what it was.
    """
    if not (raw / SOURCE_FILE).exists():
        return raw
    noted = read_object(raw / SOURCE_FILE)
    if "objects" not in noted:
        return raw
    if _listed(noted["path"]) != noted["objects"]:
        raise CorpusError(
            f"{noted['path']}: is not what {raw / SOURCE_FILE} names: an object changed, is missing or was "
            f"added; dvc repro -f download@{noted['corpus']} takes it as it is now"
        )
    address: Path = _at(noted["path"])
    return address


def _at(address: str | None) -> Any:
    """The address as a path: it can be listed, and what lies below it opened."""
    try:
        import s3fs  # noqa: F401
        from upath import UPath
    except ImportError:
        raise CorpusError(f"{address}: needs libraries for it: pip install 'vhcr[scale]'") from None
    try:
        return UPath(address, default_block_size=BLOCK_BYTES)
    except (ValueError, ImportError) as error:
        raise CorpusError(f"{address}: {error}") from None


def _listed(address: str | None) -> list[dict[str, Any]]:
    root: Any = _at(address)
    from botocore.exceptions import BotoCoreError

    try:
        root.fs.invalidate_cache()
        names = [file.name for file in read_files(root)]
        infos = [root.fs.info((root / name).path) for name in names]
    except (OSError, BotoCoreError) as error:
        raise CorpusError(f"{address}: cannot be listed: {error}") from None
    return [
        {"name": name, "bytes": info["size"], "etag": info.get("ETag")}
        for name, info in zip(names, infos, strict=True)
    ]
