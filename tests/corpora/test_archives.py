from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from vhcr.corpora.archives import Limits, is_archive, unpack
from vhcr.errors import CorpusError

FILES = {"corpus/a.txt": b"one", "corpus/deep/b.txt": b"two" * 1000}


def make_zip(path: Path, members: dict[str, bytes], modes: dict[str, int] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.filename = info.orig_filename = name  # as a hostile program would write it
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (modes or {}).get(name, 0o100644) << 16
            file.writestr(info, content)
    return path


def make_tar(path: Path, members: dict[str, bytes], kinds: dict[str, bytes] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.type = (kinds or {}).get(name, tarfile.REGTYPE)
            info.size = len(content) if info.isreg() else 0
            info.linkname = "/etc/passwd"
            file.addfile(info, io.BytesIO(content))
    return path


MAKERS = {"corpus.zip": make_zip, "corpus.tgz": make_tar}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest, tmp_path: Path):
    return lambda members: MAKERS[request.param](tmp_path / request.param, members)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_plain_archive_unpacks_as_it_was(make, folder: Path) -> None:
    archive = make(FILES)
    assert is_archive(archive)
    assert unpack(archive, folder) == 2
    assert contents(folder) == FILES


def test_a_member_without_a_name_is_refused(tmp_path: Path, folder: Path) -> None:
    """It ended in an IndexError of zipfile's."""
    archive = make_zip(tmp_path / "corpus.zip", {"": b"one"})
    with pytest.raises(CorpusError, match=r"corpus\.zip: refused: '' is a member without a name"):
        unpack(archive, folder)


def test_kind_is_told_by_content_not_by_name(tmp_path: Path, folder: Path) -> None:
    make_zip(tmp_path / "corpus.tgz", FILES)
    unpack(tmp_path / "corpus.tgz", folder)
    assert contents(folder) == FILES
    (tmp_path / "page.zip").write_bytes(b"<html>")
    assert not is_archive(tmp_path / "page.zip")
    with pytest.raises(CorpusError, match=r"page\.zip: neither a zip nor a tar\.gz"):
        unpack(tmp_path / "page.zip", folder)


def test_what_macos_adds_is_left_out(make, folder: Path) -> None:
    unpack(
        make({**FILES, "__MACOSX/corpus/._a.txt": b"x", "corpus/.DS_Store": b"x", "corpus/._a.txt": b"x"}),
        folder,
    )
    assert contents(folder) == FILES


@pytest.mark.parametrize(
    "name",
    ["/etc/cron.d/x", "../escaped.txt", "corpus/../../escaped.txt", "__MACOSX/../../escaped.txt",
     "..\\escaped.txt", "\\\\host\\share", "C:/windows/x", ".."],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(make, folder: Path, name: str) -> None:
    with pytest.raises(CorpusError, match=r"refused: .* is (an absolute path|a path with)"):
        unpack(make({"fine.txt": b"1", name: b"gotcha"}), folder)
    everything = [path.name for path in folder.parent.rglob("*") if path.is_file()]
    assert sorted(everything) == sorted(["fine.txt", *(name for name in MAKERS if name in everything)])


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_tar_are_refused(tmp_path: Path, folder: Path, kind: bytes) -> None:
    archive = make_tar(tmp_path / "corpus.tgz", {"corpus": b"", "corpus/a.txt": b"gotcha"}, {"corpus": kind})
    with pytest.raises(CorpusError, match="'corpus' is a link or special file"):
        unpack(archive, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o010666])
def test_links_and_devices_in_zip_are_refused(tmp_path: Path, folder: Path, mode: int) -> None:
    archive = make_zip(tmp_path / "corpus.zip", {"corpus": b"/etc/passwd"}, {"corpus": mode})
    with pytest.raises(CorpusError, match="'corpus' is a link or special file"):
        unpack(archive, folder)
    assert list(folder.iterdir()) == []


def test_packed_members_are_checked_too(make, folder: Path) -> None:
    """``place`` leaves a member packed, but whoever streams it later trusts that it was looked at."""
    with pytest.raises(CorpusError, match="a path with"):
        unpack(make({"../escaped.txt": b"1"}), folder, place=lambda name: None)


def test_place_renames_and_leaves_out(make, folder: Path) -> None:
    place = {"corpus/a.txt": "lists/a.txt"}.get
    assert unpack(make(FILES), folder, place=place) == 1
    assert contents(folder) == {"lists/a.txt": b"one"}


def test_a_name_twice_is_refused(make, folder: Path) -> None:
    with pytest.raises(CorpusError, match="occurs twice"):
        unpack(make({"a/b.txt": b"1", "./a/b.txt": b"2"}), folder)
    assert contents(folder) == {"a/b.txt": b"1"}


def test_a_file_where_a_folder_was_is_refused(make, folder: Path) -> None:
    with pytest.raises(CorpusError, match="occurs twice"):
        unpack(make({"a": b"1", "a/b.txt": b"2"}), folder)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(members=1), "more than 1 members"),
        (Limits(total_bytes=2999), "over 2999 bytes"),
        (Limits(ratio=2, ratio_free_bytes=1000), "over 2 times its own size"),
    ],
)
def test_limits(make, folder: Path, limits: Limits, message: str) -> None:
    archive = make(FILES)
    with pytest.raises(CorpusError, match=f"refused: (unpacks to )?{message}"):
        unpack(archive, folder, limits=limits)


def test_limits_just_kept(tmp_path: Path, folder: Path) -> None:
    archive = make_zip(tmp_path / "corpus.zip", FILES)
    assert (
        unpack(archive, folder, limits=Limits(members=2, total_bytes=3003, ratio_free_bytes=3003, ratio=1))
        == 2
    )


def test_bomb_is_stopped_early(make, folder: Path) -> None:
    """40 MB of zeros pack a thousandfold: refused by the default limits before all of it is written."""
    archive = make({"zeros.bin": bytes(40 * 2**20)})
    assert archive.stat().st_size < 60_000
    with pytest.raises(CorpusError, match="over 200 times its own size"):
        unpack(archive, folder)
    assert (folder / "zeros.bin").stat().st_size <= 20 * 2**20


def test_bomb_in_a_tar_header_is_stopped_too(tmp_path: Path, folder: Path) -> None:
    """A long name is read into memory before any member appears; its bytes count as well."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 40 * 2**20
    with gzip.open(tmp_path / "corpus.tgz", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(header.size))
    with pytest.raises(CorpusError, match="over 200 times its own size"):
        unpack(tmp_path / "corpus.tgz", folder)


@pytest.mark.parametrize("keep", [0.5, 0.98])
def test_truncated_archive_is_damaged(make, folder: Path, keep: float) -> None:
    archive = make({"noise.bin": bytes((i * i * 7919 >> 3) & 255 for i in range(20_000))})
    raw = archive.read_bytes()
    archive.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(CorpusError, match="damaged archive"):
        unpack(archive, folder)


def test_flipped_bit_is_noticed(make, folder: Path) -> None:
    archive = make({"noise.bin": bytes((i * i * 7919 >> 3) & 255 for i in range(20_000))})
    raw = bytearray(archive.read_bytes())
    raw[len(raw) // 2] ^= 1
    archive.write_bytes(raw)
    with pytest.raises(CorpusError, match="damaged archive"):
        unpack(archive, folder)


def test_checksum_of_a_tar_gz_is_compared(tmp_path: Path, folder: Path) -> None:
    """It stands behind the last member, where a reader of members never looks."""
    archive = make_tar(tmp_path / "corpus.tgz", FILES)
    padded = gzip.decompress(archive.read_bytes()) + bytes(3 * 2**20)  # more than any buffer reads ahead
    raw = bytearray(gzip.compress(padded))
    raw[-8] ^= 1
    archive.write_bytes(raw)
    with pytest.raises(CorpusError, match="damaged archive: CRC"):
        unpack(archive, folder)


def test_encrypted_zip_is_refused(tmp_path: Path, folder: Path) -> None:
    archive = make_zip(tmp_path / "corpus.zip", {"a.txt": b"secret"})
    raw = bytearray(archive.read_bytes())
    raw[6] |= 1  # the flag in the local header,
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    archive.write_bytes(raw)
    with pytest.raises(CorpusError, match="encrypted"):
        unpack(archive, folder)
