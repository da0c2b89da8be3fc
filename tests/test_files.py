"""Files whole or not at all, locks, digests."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from vhcr import files
from vhcr.errors import DataError, HeldError, StorageError

HOLDER = """
import sys, time
from pathlib import Path
from vhcr import files
with {block} as held:
    {write}
    print("held", flush=True)
    time.sleep(60)
"""


class Manifest(BaseModel):
    """A record for these tests."""

    class Inner(BaseModel):
        """A part of it."""

        count: int

    name: str
    inner: Inner


def killed(block: str, folder: Path, write: str = "pass") -> int:
    """A process that is killed while it is in ``block``; its id."""
    code = HOLDER.format(block=block, write=write)
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    return holder.pid


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("null", "null where a JSON object was expected"),
        ("[1]", "a list where"),
        ("3", "a number where"),
        ("", "not valid JSON"),
        ('{"name": "a"', "not valid JSON"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ('{"name": NaN}', "NaN is no number"),
        ('{"name": 1e999}', "1e999 is no number"),
        (r'{"name": "\ud800", "inner": {"count": 1}}', "surrogates not allowed"),
        ('{"name": "a"}', "inner: missing key"),
        ('{"name": "a", "inner": {}}', r"inner\.count: missing key"),
        ('{"name": "a", "inner": {"count": "many"}}', r"inner\.count: .*not 'many'"),
        ('{"name": null, "inner": {"count": 1}}', "name: .*not None"),
    ],
)
def test_json_of_every_kind_is_a_record_or_refused_by_file_and_key(
    tmp_path: Path, text: str, told: str
) -> None:
    """31 of some 290 mutated JSON files ended in a traceback."""
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(DataError, match=told) as raised:
        files.read_record(Manifest, path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_needed_key_is_asked_for_by_name(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"one": 1})
    assert files.read_object(tmp_path / "a.json", "one") == {"one": 1}
    with pytest.raises(DataError, match=r"a\.json: two: missing key"):
        files.read_object(tmp_path / "a.json", "one", "two")


def test_what_json_cannot_say_is_refused_by_name_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"run\.json: cannot be written: params\.clip is no number"):
        files.write_json(tmp_path / "run.json", {"params": {"clip": float("inf"), "rate": 1.0}})
    assert list(tmp_path.iterdir()) == []


def test_rows_are_lines(tmp_path: Path) -> None:
    value = {"machine": {"cores": 2}, "figures": [{"what": "a", "value": 0.1}, {"what": "ü", "value": None}]}
    path = tmp_path / "figures.json"
    files.write_json(path, value, by_rows=True)
    assert files.read_json(path) == value
    assert '\n{"what": "ü", "value": null}\n' in path.read_text(encoding="utf-8")
    files.write_json(path, value["figures"], by_rows=True)
    assert files.read_json(path) == value["figures"]
    assert len(path.read_text(encoding="utf-8").splitlines()) == 4
    with pytest.raises(StorageError, match=r"rate is no number of JSON"):
        files.write_json(path, {"rate": float("nan")}, by_rows=True)


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(TypeError), files.atomic(path) as temporary:
        temporary.write_text("half" + 1)  # type: ignore[operator]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_in_a_line(tmp_path: Path) -> None:
    """17 of 26 cases of a full disk ended in tracebacks, some of them with files left behind."""
    path = tmp_path / "a.txt"
    with pytest.raises(StorageError, match=r"a\.txt: cannot be written: No space left"), files.atomic(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_something_else_is_not_taken_for_one_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), files.atomic_folder(tmp_path / "a"):
        raise ConnectionError("refused")
    with pytest.raises(FileNotFoundError), files.atomic(tmp_path / "a"):
        Path("/nowhere/at/all").read_text()


def test_a_killed_writer_leaves_nothing_once_the_file_is_written_again(tmp_path: Path) -> None:
    """Temporary names held the process id, so each killed writer left one for ever."""
    block = "files.atomic(Path(sys.argv[1]) / 'a.txt')"
    killed(block, tmp_path, "held.write_text('a very long half')")
    assert [path.name for path in tmp_path.iterdir()] == [".a.txt.tmp"]
    files.write_text(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_killed_writer_of_a_folder_leaves_nothing_of_it_in_the_next(tmp_path: Path) -> None:
    """``.work/tokenised/<name>.<pid>`` stayed after a kill."""
    killed("files.atomic_folder(Path(sys.argv[1]) / 'a')", tmp_path, "(held / 'old').write_text('x')")
    assert not (tmp_path / "a").exists()
    for text in ("one", "two"):
        with files.atomic_folder(tmp_path / "a") as folder:
            (folder / text).write_text(text)
        assert [path.name for path in (tmp_path / "a").iterdir()] == [text]
    with files.atomic_folder(tmp_path / "a", keep=Path.is_dir) as folder:
        (folder / "three").write_text("three")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_that_must_not_be_overwritten_is_not(tmp_path: Path) -> None:
    path = tmp_path / "votes"
    for text in ("first", "second"):
        try:
            with files.atomic(path, replace=False, private=True) as temporary:
                temporary.write_text(text)
        except FileExistsError:
            assert text == "second"
    assert path.read_text() == "first"
    assert path.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_holder_lets_go_and_until_then_others_hear_who_it_is(tmp_path: Path) -> None:
    """A kill -9 of `dvc repro` leaves its child running: the next attempt must say so."""
    code = HOLDER.format(block="files.locked(Path(sys.argv[1]) / 'lock', 'a training')", write="pass")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            heard: list[Any] = []
            with (
                pytest.raises(HeldError, match=rf"a training \(PID {holder.pid}\)") as raised,
                files.locked(tmp_path / "lock", wait_seconds=0.3, on_wait=heard.append),
            ):
                pass
            assert raised.value.pid == holder.pid
            assert heard == [f"a training (PID {holder.pid})"]
        finally:
            holder.kill()
    with files.locked(tmp_path / "lock", wait_seconds=0):
        pass


def test_a_lock_whose_file_its_holder_removed_is_taken_anew(tmp_path: Path) -> None:
    """Whoever waits for the lock of a folder that goes with its holder must not hold what is gone."""
    with files.locked(tmp_path / "lock"):
        (tmp_path / "lock").unlink()
        with files.locked(tmp_path / "lock", wait_seconds=0):  # another file, so another lock
            pass


def test_digests_are_equal_exactly_when_what_they_stand_for_is(tmp_path: Path) -> None:
    assert files.values_digest({"a": 1, "b": [2]}) == files.values_digest({"b": [2], "a": 1})
    assert files.values_digest({"a": 1}) != files.values_digest({"a": "1"})
    for name, text in (("a", "x"), ("b", "y")):
        (tmp_path / name).write_text(text)
    both = [tmp_path / "a", tmp_path / "b"]
    before = files.tree_digest(both, tmp_path)
    assert files.file_digest(tmp_path / "a") == files.digest("x") == files.digest(b"x")
    (tmp_path / "a").rename(tmp_path / "c")
    assert files.tree_digest([tmp_path / "c", tmp_path / "b"], tmp_path) != before


def test_names_are_flat_for_mappings_and_sections_alike() -> None:
    nested = {"name": "x", "inner": {"count": 2}}
    assert files.flatten(nested) == {"name": "x", "inner.count": 2}
    assert files.flatten(Manifest.model_validate(nested), "/") == {"name": "x", "inner/count": 2}
