"""Files: read whole or refused by name, written whole or not at all; locks; digests; flat names.

Each idea is here once, for all rooms. What is half-written lies under ``.<name>.tmp`` beside its target,
held by a lock of the kernel. So the next writer knows whether another is at work, and begins anew where none
is: a writer that was killed leaves at most this one file, until the target is written again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vhcr.errors import DataError, HeldError, StorageError

POLL_SECONDS = 0.2
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO})
if TYPE_CHECKING:  # a command's --help loads no library
    from pydantic import BaseModel

Record = TypeVar("Record", bound="BaseModel")


# Reading


def read_text(path: Path) -> str:
    """A text file in UTF-8; raises DataError naming it when it is missing or damaged."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_json(path: Path) -> Any:
    """A JSON file; raises DataError naming it when it is missing, damaged, or holds what JSON cannot say."""
    text = read_text(path)
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
        if "\\ud" in text.lower():  # halves of characters, which no file could be written with
            json.dumps(value, ensure_ascii=False).encode()
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: not valid JSON: nested too deep") from None
    return value


def read_object(path: Path, *needed: str) -> dict[str, Any]:
    """A JSON object; raises DataError naming the file and the first of ``needed`` keys that is missing."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: {_kind(value)} where a JSON object was expected")
    for key in needed:
        if key not in value:
            raise DataError(f"{path}: {key}: missing key")
    return value


def read_record(kind: type[Record], *paths: Path) -> Record:
    """A record from a JSON object, or from several that hold a part each.

    Raises:
        DataError: a file is missing or damaged, or a value does not fit; names file, key and value.
    """
    values: dict[str, Any] = {}
    for path in paths:
        values |= read_object(path)
    return parse_record(kind, values, str(paths[0]))


def parse_record(kind: type[Record], values: Mapping[str, Any] | str, where: str) -> Record:
    """A record from JSON, or from what JSON holds.

    Raises:
        DataError: a value does not fit; names ``where``, key and value.
    """
    from pydantic import ValidationError

    try:
        if isinstance(values, str):
            return kind.model_validate_json(values)
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the object"
        told = (
            "missing key"
            if first["type"] == "missing"
            else f"{first['msg'].lower()}, not {first['input']!r:.60}"
        )
        raise DataError(f"{where}: {key}: {told}") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number of JSON")
    return number


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    return kinds.get(type(value), "a list")


# Writing


@contextlib.contextmanager
def atomic(path: Path, *, flush: bool = False, replace: bool = True, private: bool = False) -> Iterator[Path]:
    """A name to write under; what lies there becomes ``path`` when the block ends well, else it goes.

    Two writers of one path wait for each other. With ``flush`` it is on the disk before it takes the name;
    a ``private`` file is for its owner alone.

    Raises:
        FileExistsError: there is a file at ``path`` and it is not to be replaced.
        StorageError: the file cannot be written: a full disk, a folder that is read-only.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    mode = 0o600 if private else 0o666
    with _storing(path, temporary):
        _make_folder(path.parent)
        with _taken(lambda: os.open(temporary, os.O_RDWR | os.O_CREAT, mode), temporary):
            try:
                os.truncate(temporary, 0)  # what a writer that was killed had left
                yield temporary
                if flush:
                    with temporary.open("rb") as file:
                        os.fsync(file.fileno())
                if replace:
                    temporary.replace(path)
                else:
                    os.link(temporary, path)  # unlike a rename, fails where there is a file
            finally:
                temporary.unlink(missing_ok=True)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # a file stands there; not that the file to be written exists
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None


@contextlib.contextmanager
def atomic_folder(path: Path, *, keep: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """An empty folder to fill; it becomes ``path`` when the block ends well, else it goes.

    What lies at ``path`` then is replaced, unless ``keep`` says of it that it stays, since others may read
    it: then what was filled goes.

    Raises:
        StorageError: as ``atomic``.
    """
    temporary = path.with_name(f".{path.name}.tmp")

    def opened() -> int:
        temporary.mkdir(parents=True, exist_ok=True)
        return os.open(temporary, os.O_RDONLY)

    with _storing(path, temporary), _taken(opened, temporary):
        try:
            empty(temporary)
            yield temporary
            if keep is None or not keep(path):
                remove(path)
                try:
                    temporary.rename(path)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise  # else somebody who asks for no lock was quicker, and may be reading it by now
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there; a folder takes another name first, so nobody sees half."""
    aside = path.with_name(f".{path.name}.old.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):  # another process was quicker
        path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any, *, by_rows: bool = False) -> None:
    """Write JSON, whole or not at all; ``by_rows``: a list of objects as one line for each.

    Raises:
        StorageError: JSON has no word for a value (an infinite number), or it cannot be written.
    """
    try:
        text = _rows(value) if by_rows else json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        names = [name for name, one in flatten({"": value}).items() if not _is_json(one)]
        where = names[0].strip(".") if names else "a value"
        raise StorageError(f"{path}: cannot be written: {where} is no number of JSON") from None
    write_text(path, text + "\n")


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]], schema: Any = None) -> None:
    """Write columns, of the Arrow ``schema`` where one is given, whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    with atomic(path) as temporary:
        table = pyarrow.table(dict(columns), schema=schema)
        pyarrow.parquet.write_table(table, temporary, **PARQUET)


# How every Parquet file of the project is written: a byte that flips inside a page is found by its checksum.
PARQUET: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


def place(source: Path, target: Path) -> None:
    """Put a file at ``target`` too: as a link, or as a copy where the two lie on different file systems."""
    with atomic(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


@contextlib.contextmanager
def _storing(path: Path, temporary: Path) -> Iterator[None]:
    """What the file system refuses at ``path`` or ``temporary`` as a StorageError; other errors pass."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        if isinstance(error.filename, (str, bytes)):
            about = Path(os.fsdecode(error.filename))
            ours = about in (temporary, path, *path.parents) or temporary in about.parents
        else:  # a write that failed has no name
            ours = error.errno in NO_ROOM
        if not ours:
            raise
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error


def empty(folder: Path) -> None:
    """Remove all that lies in a folder."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _rows(value: Any) -> str:
    """JSON of an object by keys, of a list of objects by lines."""

    def line(one: Any) -> str:
        return json.dumps(one, ensure_ascii=False, allow_nan=False)

    def lines(one: Any) -> str:
        if isinstance(one, list) and one and all(isinstance(row, Mapping) for row in one):
            return "[\n" + ",\n".join(map(line, one)) + "\n]"
        return line(one)

    if isinstance(value, Mapping):
        return "{\n" + ",\n".join(f"{line(key)}: {lines(one)}" for key, one in value.items()) + "\n}"
    return lines(value)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


# Locks


@contextlib.contextmanager
def locked(
    path: Path,
    who: str = "",
    *,
    wait_seconds: float = math.inf,
    on_wait: Callable[[str], object] = str,
) -> Iterator[None]:
    """Hold ``path`` as a lock among processes; the kernel lets go of it when its holder ends, in any way.

    ``who`` is what others are told of the holder. ``on_wait`` hears who holds it, once for each holder.

    Raises:
        HeldError: another process has held it for ``wait_seconds``.
        StorageError: the file of the lock cannot be made.
    """
    give_up = time.monotonic() + wait_seconds
    said = None

    def wait() -> None:
        nonlocal said
        holder = _holder(path)
        if time.monotonic() >= give_up:
            raise holder
        if str(holder) != said:
            on_wait(said := str(holder))
        time.sleep(max(0.0, min(POLL_SECONDS, give_up - time.monotonic())))

    with contextlib.ExitStack() as held:
        with _storing(path, path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = held.enter_context(
                _taken(lambda: os.open(path, os.O_RDWR | os.O_CREAT, 0o666), path, wait)
            )
            os.truncate(descriptor, 0)
            os.write(descriptor, json.dumps({"who": who, "pid": os.getpid()}).encode())
        yield


@contextlib.contextmanager
def _taken(opened: Callable[[], int], path: Path, wait: Callable[[], None] | None = None) -> Iterator[int]:
    """A descriptor of what lies at ``path``, held by a lock of the kernel.

    Whoever held it before may have moved or removed what was opened: then what lies there now is opened.
    """
    while True:
        descriptor = opened()
        try:
            if not _locks(descriptor, block=wait is None):
                assert wait is not None
                wait()
            elif _lies_at(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _locks(descriptor: int, *, block: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _lies_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> HeldError:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return HeldError(str(held["who"]), int(held["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return HeldError("another process", None)  # it has taken the lock and not yet said who it is


# Digests


def digest(*parts: str | bytes) -> str:
    """SHA-256 of texts or bytes, one after the other, in hexadecimal."""
    return hashlib.sha256(
        b"".join(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in parts)
    ).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(files: Iterable[Path], root: Path) -> str:
    """SHA-256 of files in their order, with their names below ``root``, in hexadecimal."""
    return digest(*(f"{file.relative_to(root).as_posix()}\0{file_digest(file)}\n" for file in files))


def values_digest(*values: Any) -> str:
    """A short, stable digest of plain values: equal exactly when their JSON is, in any order of keys."""
    return digest(json.dumps(values, sort_keys=True, separators=(",", ":")))[:16]


# Flat names


def flatten(tree: Mapping[str, Any] | BaseModel, separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """``{"training.learning_rate": 1e-4, ...}`` of a nested mapping or a section of parameters."""
    result: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, Mapping) else tree:
        if isinstance(value, Mapping) or hasattr(value, "model_fields_set"):
            result.update(flatten(value, separator, f"{prefix}{key}{separator}"))
        else:
            result[f"{prefix}{key}"] = value
    return result
