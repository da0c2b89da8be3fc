"""Fetching a published corpus: mirrors in order, resumed transfers, checked digests.

A transfer lives in ``.work/downloads`` under a name made from its address: ``<digest>-<file>.part`` while
it runs, without ``.part`` once complete, and a small JSON beside it that says which version of the remote
file it is a part of. So an interrupted download goes on next time, and two corpora with one address share
one file.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from vhcr import layout
from vhcr.corpora.archives import is_packed
from vhcr.errors import CorpusError
from vhcr.files import digest, file_digest, locked, write_json

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

SOURCES_VARIABLE = "VHCR_SOURCES"
ARCHIVE_SUFFIXES = (".zip", ".tgz", ".tar.gz")
RETRIED_STATUS = frozenset({408, 425, 429})  # and all from 500 on
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
MAX_BACKOFF_SECONDS = 30.0


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, and how often to ask again while nothing new arrives."""

    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    attempts: int = 4
    backoff_seconds: float = 1.0  # doubled after each attempt


@dataclass(frozen=True)
class Fetched:
    """A file that is here now, and where it came from ("local", or its address without secrets)."""

    path: Path
    origin: str
    sha256: str
    num_bytes: int
    checked: bool  # whether the digest was compared with a known one


@dataclass(frozen=True)
class _Version:
    """Which version of a remote file a part belongs to; null where the server did not say."""

    etag: str | None = None
    last_modified: str | None = None
    num_bytes: int | None = None
    sha256: str | None = None  # set when complete

    @property
    def if_range(self) -> str | None:
        """What makes the server send the whole file should it have changed; weak tags cannot (RFC 9110)."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    def same_file(self, other: _Version) -> bool:
        """Whether nothing that both know differs."""
        pairs = (
            (self.etag, other.etag),
            (self.last_modified, other.last_modified),
            (self.num_bytes, other.num_bytes),
        )
        return all(mine is None or theirs is None or mine == theirs for mine, theirs in pairs)


class _MirrorError(Exception):
    """This mirror will not give the file; the message says what it answered."""


class _RetryError(Exception):
    """This attempt failed in a way that the next may not."""


def fetch(
    urls: Sequence[str],
    folder: Path | None = None,
    *,
    sha256: str | None = None,
    accept: Callable[[Fetched], None] | None = None,
    patience: Patience | None = None,
) -> Fetched:
    """Fetch a file from the first of ``urls`` that gives it, into ``folder`` (.work/downloads).

    A complete file of an earlier call is used again, after its digest was compared with the one noted
    then. An incomplete one is resumed if the server still has the same version, by ETag, Last-Modified
    and size; else the transfer starts over. ``accept`` makes use of the file, and raises CorpusError to
    refuse it (a damaged archive); it is then thrown away, and the next mirror asked.

    Raises:
        CorpusError: no mirror gave the file (each is listed with its answer), or the disk is full.
    """
    import httpx

    folder = folder or layout.WORK / "downloads"
    patience = patience or Patience()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for url in urls:
            found = _complete(_place(folder, url), url, sha256)
            if found is not None:
                logger.info("%s was fetched before", base_name(url))
                try:
                    return _accepted(found, accept)
                except _MirrorError as error:
                    logger.warning("%s: %s; fetching it anew", base_name(url), error)
        answers = []
        timeout = httpx.Timeout(patience.read_seconds, connect=patience.connect_seconds)
        with httpx.Client(timeout=timeout, follow_redirects=True) as client:
            for url in urls:
                try:
                    return _accepted(_from_mirror(client, url, folder, sha256, patience), accept)
                except _MirrorError as error:
                    logger.warning("%s: %s", public(url), error)
                    answers.append(f"  {public(url)}: {error}")
    except OSError as error:
        raise CorpusError(
            f"{error.filename or folder}: {error.strerror or error}; what has arrived is kept, and the next"
            " run goes on from there"
        ) from error
    name = base_name(urls[0]) if urls else "nothing"
    raise CorpusError(
        f"cannot fetch {name}; every mirror was asked:\n" + "\n".join(answers) + "\n"
        f"A copy of {name} in a folder named by {SOURCES_VARIABLE}, or named by source.path, is used instead."
    )


def _accepted(found: Fetched, accept: Callable[[Fetched], None] | None) -> Fetched:
    if accept is not None:
        try:
            accept(found)
        except CorpusError as error:
            found.path.unlink()
            raise _MirrorError(str(error)) from error
    return found


def find_local(*names: str) -> Path | None:
    """The first of ``names`` that lies in the folder named by VHCR_SOURCES; None if none does.

    Raises:
        CorpusError: the variable is set but names no folder.
    """
    value = os.environ.get(SOURCES_VARIABLE)
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise CorpusError(f"{SOURCES_VARIABLE}={value}: no such folder")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def use_local(path: Path, sha256: str | None = None) -> Fetched:
    """A local file as though fetched.

    Raises:
        CorpusError: it cannot be read, or its digest is not ``sha256``.
    """
    try:
        digest = file_digest(path)
        size = path.stat().st_size
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from None
    if sha256 is not None and digest != sha256.lower():
        raise CorpusError(f"{path}: wrong bytes: sha256 {digest}, expected {sha256.lower()}")
    return Fetched(path, "local", digest, size, checked=sha256 is not None)


def base_name(url: str) -> str:
    """The file name at the end of an address."""
    return PurePosixPath(unquote(urlsplit(url).path)).name or "download"


def public(url: str) -> str:
    """An address as it may be written down: without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
    except ValueError:
        return url.partition("?")[0]


def _place(folder: Path, url: str) -> Path:
    return folder / f"{digest(url)[:16]}-{base_name(url)}"


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _complete(path: Path, url: str, sha256: str | None) -> Fetched | None:
    """The file of an earlier call, if it is whole and is the one wanted; thrown away if it is damaged."""
    if not path.is_file():
        return None
    digest = file_digest(path)
    if digest != _read_version(path).sha256:
        path.unlink()
        return None
    if sha256 is not None and digest != sha256.lower():
        return None
    return Fetched(path, public(url), digest, path.stat().st_size, checked=sha256 is not None)


def _from_mirror(
    client: httpx.Client, url: str, folder: Path, sha256: str | None, patience: Patience
) -> Fetched:
    """The file from one mirror, asking again while attempts fail without anything new arriving."""
    path = _place(folder, url)
    part = _beside(path, ".part")

    def waiting(holder: str) -> None:
        logger.info("%s: %s is fetching it; waiting", base_name(url), holder)

    with locked(_beside(path, ".lock"), "a download", on_wait=waiting):
        found = _complete(path, url, sha256)  # another process may have fetched it while we waited
        if found is not None:
            return found
        failures, furthest = 0, _size(part)
        while True:
            try:
                resumed = _transfer(client, url, path, part)
                break
            except _RetryError as error:
                if _size(part) > furthest:  # it moves on: a long file over a bad line may be cut often
                    failures, furthest = 0, _size(part)
                failures += 1
                if failures >= patience.attempts:
                    raise _MirrorError(f"{error} ({failures} attempts)") from error
                wait = min(patience.backoff_seconds * 2 ** (failures - 1), MAX_BACKOFF_SECONDS)
                logger.info("%s: %s; asking again in %.3g s", public(url), error, wait)
                time.sleep(wait)
        complaint, digest = _complaint(part, base_name(url), sha256)
        if complaint and resumed:
            # Two versions may have been glued together by a server that names none; a fresh one decides.
            logger.info("%s: %s; fetching it anew", public(url), complaint)
            _discard(path)
            try:
                _transfer(client, url, path, part)
            except _RetryError as error:
                raise _MirrorError(str(error)) from error
            complaint, digest = _complaint(part, base_name(url), sha256)
        if complaint:
            _discard(path)
            raise _MirrorError(complaint)
        _write_version(path, replace(_read_version(path), sha256=digest))
        part.replace(path)
        logger.info("fetched %s: %d bytes, sha256 %s", base_name(url), path.stat().st_size, digest)
        return Fetched(path, public(url), digest, path.stat().st_size, checked=sha256 is not None)


def _transfer(client: httpx.Client, url: str, path: Path, part: Path) -> bool:
    """One request; on return the part is complete. True when it added to what an earlier one left.

    Raises:
        _RetryError: the transfer was cut, or the server is busy.
        _MirrorError: the server refuses.
    """
    import httpx

    have, version = _size(part), _read_version(path)
    if have and have == version.num_bytes:
        return True
    headers = {"Accept-Encoding": "identity"}  # a range of compressed bytes would be of another file
    if have:
        headers["Range"] = f"bytes={have}-"
        if version.if_range is not None:
            headers["If-Range"] = version.if_range
    try:
        with client.stream("GET", url, headers=headers) as response:
            return _receive(response, have, version, path, part)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise _MirrorError(str(error)) from error
    except httpx.TimeoutException as error:
        raise _RetryError(f"no answer in time ({type(error).__name__})") from error
    except httpx.HTTPError as error:
        raise _RetryError(f"connection failed: {str(error) or type(error).__name__}") from error


def _receive(response: httpx.Response, have: int, version: _Version, path: Path, part: Path) -> bool:
    status = response.status_code
    if status == 206 and have:
        match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        total = int(match[2]) if match and match[2] != "*" else None
        remote = _version_of(response, total)
        if match is None or int(match[1]) != have or not version.same_file(remote):
            _discard(path)
            raise _RetryError("the file has changed since the transfer began")
        logger.info("%s: resuming at byte %d", base_name(str(response.url)), have)
        _append(response, part, "ab", have, total)
        return True
    if status == 416 and have:
        _discard(path)
        raise _RetryError("the file is shorter than what had arrived")
    if status == 200:
        length = response.headers.get("Content-Length")
        total = int(length) if length is not None and length.isdecimal() else None
        _discard(path)
        _write_version(path, _version_of(response, total))
        _append(response, part, "wb", 0, total)
        return False
    answer = f"answered {status} {response.reason_phrase}".rstrip()
    if status >= 500 or status in RETRIED_STATUS:
        raise _RetryError(answer)
    raise _MirrorError(answer)


def _append(response: httpx.Response, part: Path, mode: str, have: int, total: int | None) -> None:
    with part.open(mode) as file, _progress(base_name(str(response.url)), have, total) as advance:
        for chunk in response.iter_raw():  # without a size: pieces kept back to fill one are lost in a cut
            file.write(chunk)
            advance(len(chunk))
    if total is not None and _size(part) != total:
        if _size(part) > total:
            part.unlink()
        raise _RetryError(f"the transfer ended at byte {_size(part)} of {total}")


def _version_of(response: httpx.Response, num_bytes: int | None) -> _Version:
    headers = response.headers
    return _Version(headers.get("ETag"), headers.get("Last-Modified"), num_bytes)


def _complaint(part: Path, name: str, sha256: str | None) -> tuple[str | None, str]:
    """What is wrong with a complete transfer (None: nothing), and its digest."""
    digest = file_digest(part)
    if sha256 is not None and digest != sha256.lower():
        return f"wrong bytes: sha256 {digest}, expected {sha256.lower()}", digest
    with part.open("rb") as file:
        start = file.read(64).lstrip()
    if not start:
        return "the file is empty", digest
    if name.lower().endswith(ARCHIVE_SUFFIXES) and not is_packed(part):
        return f"not an archive: it begins with {start[:16]!r}", digest
    if start[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page rather than the file", digest
    return None, digest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _discard(path: Path) -> None:
    _beside(path, ".part").unlink(missing_ok=True)
    _beside(path, ".json").unlink(missing_ok=True)


def _read_version(path: Path) -> _Version:
    """The version noted beside a transfer; one that knows nothing if there is no (readable) note."""
    try:
        values: dict[str, Any] = json.loads(_beside(path, ".json").read_text(encoding="utf-8"))
        return _Version(**values)
    except (FileNotFoundError, ValueError, TypeError):
        return _Version()


def _write_version(path: Path, version: _Version) -> None:
    write_json(_beside(path, ".json"), asdict(version))


@contextmanager
def _progress(name: str, have: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, a line in the log elsewhere."""
    if not sys.stderr.isatty():
        logger.info("fetching %s%s", name, f" ({total} bytes)" if total else "")
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        SpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=total, completed=have)
        yield lambda num_bytes: progress.advance(task, num_bytes)
