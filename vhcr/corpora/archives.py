"""Unpacking from strangers: zip, tar.gz, and files in gz or zst; nothing leaves the folder, no bombs."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_IFDIR, S_IFMT, S_IFREG
from typing import IO, Any, NamedTuple

from vhcr.errors import CorpusError

CHUNK_BYTES = 2**20
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
TAR_MAGIC = slice(257, 262), b"ustar"
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
DRIVE = re.compile(r"^[A-Za-z]:")


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to. ``ratio`` is judged once more than ``ratio_free_bytes`` came out."""

    total_bytes: int = 64 * 2**30
    members: int = 4_000_000  # the full Ubuntu corpus has nearly a million
    ratio: float = 200.0  # conversations compress about five-fold
    ratio_free_bytes: int = 16 * 2**20


class _Member(NamedTuple):
    name: str
    is_folder: bool
    refusal: str | None
    content: Callable[[], IO[bytes]]


class _Budget:
    """Counts the bytes that come out of an archive; raises CorpusError when they are too many."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self.archive, self.limits, self.spent = archive, limits, 0
        self.packed = max(1, archive.stat().st_size)

    def spend(self, num_bytes: int) -> None:
        self.spent += num_bytes
        if self.spent > self.limits.total_bytes:
            raise CorpusError(f"{self.archive}: refused: unpacks to over {self.limits.total_bytes} bytes")
        if self.spent > max(self.limits.ratio_free_bytes, self.limits.ratio * self.packed):
            raise CorpusError(
                f"{self.archive}: refused: unpacks to over {self.limits.ratio:g} times its own size"
            )


class _Metered(io.RawIOBase):
    """A stream that counts what is read of it, headers included, before anyone keeps it in memory."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, budget: _Budget) -> None:
        self._stream, self._budget = stream, budget

    def close(self) -> None:
        self._stream.close()
        super().close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        data = self._stream.read(min(len(view), CHUNK_BYTES))
        self._budget.spend(len(data))
        view[: len(data)] = data
        return len(data)


def is_packed(path: Path) -> bool:
    """Whether the file begins as a zip or gzip file does, whatever its name says."""
    with path.open("rb") as file:
        start = file.read(4)
    return start.startswith(GZIP_MAGIC) or start in ZIP_MAGICS


def is_archive(path: Path) -> bool:
    """Whether the file begins as a zip or tar.gz does, whatever its name says.

    A gzip file that is damaged from its start counts as one, so that unpacking says what is wrong.
    """
    return is_packed(path) and compression_of(path) is None


def compression_of(path: Path) -> str | None:
    """ "gzip" or "zstd" where the file is compressed by itself, no archive; else None."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == ZSTD_MAGIC:
        return "zstd"
    return "gzip" if start.startswith(GZIP_MAGIC) and _is_single(path) else None


def _is_single(path: Path) -> bool:
    """Whether a gzip file holds something else than a tar archive."""
    if path.name.lower().endswith((".tgz", ".tar.gz")):
        return False
    try:
        with gzip.open(path) as stream:
            start = stream.read(512)
    except (OSError, EOFError, zlib.error):
        return path.suffix.lower() == ".gz"
    return start[TAR_MAGIC[0]] != TAR_MAGIC[1]


def decompress(path: Path, target: Path, *, limits: Limits | None = None) -> None:
    """Write what a gz or zst file holds to ``target``.

    Raises:
        CorpusError: it is damaged, or larger than the limits; ``target`` may then hold a part of it.
    """
    import pyarrow

    budget = _Budget(path, limits or Limits())
    try:
        with (
            pyarrow.input_stream(str(path), compression=compression_of(path)) as stream,
            target.open("xb") as output,
        ):
            while chunk := stream.read(CHUNK_BYTES):
                budget.spend(len(chunk))
                output.write(chunk)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CorpusError(f"{path}: damaged: {error}") from error


def unpack(
    archive: Path,
    folder: Path,
    *,
    limits: Limits | None = None,
    place: Callable[[str], str | None] | None = None,
) -> int:
    """Unpack a zip or tar.gz into ``folder``, an empty one; return how many files were written.

    ``place`` gives the name under which a member is kept, None to leave it packed; every member is
    checked either way. Folders that macOS adds (``__MACOSX``, ``.DS_Store``) are left out. When it
    raises, the folder holds part of the archive: the caller throws it away.

    Raises:
        CorpusError: the archive is damaged or encrypted; a name is absolute, climbs with ".." or occurs
            twice; a member is a link or device; or it is larger than the limits.
    """
    limits = limits or Limits()
    num_members = num_files = 0
    try:
        for member in _members(archive, _Budget(archive, limits)):
            num_members += 1
            if num_members > limits.members:
                raise CorpusError(f"{archive}: refused: more than {limits.members} members")
            parts = _safe_parts(archive, member)
            if not parts or "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._"):
                continue
            placed = "/".join(parts)
            if place is not None:
                kept = None if member.is_folder else place(placed)
                if kept is None:
                    continue
                placed = kept
            target = folder / placed
            try:
                if member.is_folder:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                output = target.open("xb")
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise CorpusError(f"{archive}: refused: {member.name!r} occurs twice") from None
            with output, member.content() as content:
                while chunk := content.read(CHUNK_BYTES):
                    output.write(chunk)
            num_files += 1
    except (
        zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError,
    ) as error:  # fmt: skip
        # RuntimeError is what zipfile raises for an encrypted member or an unknown compression.
        raise CorpusError(f"{archive}: damaged archive: {error}") from error
    return num_files


def _safe_parts(archive: Path, member: _Member) -> tuple[str, ...]:
    """The path below the folder; raises CorpusError for a member that is not plain or would lie elsewhere."""
    name = member.name
    refusal = member.refusal
    if not name:
        refusal = "a member without a name"
    elif name.startswith("/") or "\\" in name or DRIVE.match(name):
        refusal = "an absolute path"
    elif ".." in PurePosixPath(name).parts:
        refusal = "a path with .."
    elif "\0" in name:
        refusal = "a name with a null character"
    if refusal:
        raise CorpusError(f"{archive}: refused: {name!r} is {refusal}")
    return PurePosixPath(name).parts


def _members(archive: Path, budget: _Budget) -> Iterator[_Member]:
    with archive.open("rb") as file:
        start = file.read(4)
    if start.startswith(GZIP_MAGIC):
        return _tar_members(archive, budget)
    if start in ZIP_MAGICS:
        return _zip_members(archive, budget)
    raise CorpusError(f"{archive}: neither a zip nor a tar.gz archive")


def _zip_members(archive: Path, budget: _Budget) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = S_IFMT(info.external_attr >> 16)
            plain = kind in (0, S_IFREG, S_IFDIR)

            def content(info: zipfile.ZipInfo = info) -> IO[bytes]:
                return io.BufferedReader(_Metered(file.open(info), budget), CHUNK_BYTES)

            # orig_filename: filename has been cut at a null character and its backslashes turned.
            yield _Member(
                info.orig_filename,
                info.orig_filename.endswith(("/", "\\")),
                None if plain else "a link or special file",
                content,
            )


def _tar_members(archive: Path, budget: _Budget) -> Iterator[_Member]:
    with gzip.open(archive, "rb") as stream:
        metered = io.BufferedReader(_Metered(stream, budget), CHUNK_BYTES)
        with tarfile.open(fileobj=metered, mode="r|") as tar:
            while (info := tar.next()) is not None:
                vars(tar)["members"].clear()  # tarfile remembers all it saw; a million are too many
                plain = info.isreg() or info.isdir()

                def content(info: tarfile.TarInfo = info) -> IO[bytes]:
                    found = tar.extractfile(info)
                    return found if found is not None else io.BytesIO()

                yield _Member(info.name, info.isdir(), None if plain else "a link or special file", content)
        # What follows the last member is read to its end: only there does gzip compare its checksum.
        while metered.read(CHUNK_BYTES):
            pass
