from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
from pathlib import Path

import pytest

from tests.corpora.conftest import read_all, source_of
from tests.corpora.server import Server
from tests.corpora.test_archives import make_tar, make_zip
from tests.corpora.test_readers import LISTS, UBUNTU, cornell, jsonl
from vhcr import layout
from vhcr.corpora import archives, download
from vhcr.errors import CorpusError, StorageError
from vhcr.params import SourceParams
from vhcr.stages.download import run


class OneCorpus:
    """Params as far as the stage looks."""

    def __init__(self, source: SourceParams) -> None:
        self.source = source

    def corpus(self, name: str) -> OneCorpus:
        return self


def stage(reader: str, **settings: object) -> Path:
    run(OneCorpus(source_of(reader, **settings)), corpus="c")
    return layout.raw("c")


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def note(folder: Path) -> dict:
    value = json.loads((folder / "source.json").read_text())
    assert str(Path.cwd()) not in json.dumps(value)
    return value


def nothing_left() -> bool:
    raw = Path("data/raw")
    return not raw.exists() or list(raw.iterdir()) == []


def cornell_zip(path: Path) -> Path:
    folder = cornell(path.with_name("unzipped"))
    members = {name: (folder / name).read_bytes() for name in names(folder)}
    shutil.rmtree(folder)
    return make_zip(path, {**members, "__MACOSX/x": b""})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "Patience", lambda: Patience(backoff_seconds=0.001, attempts=2))


Patience = download.Patience


def test_toy_is_generated_the_same_each_time() -> None:
    toy = {"num_conversations": 6, "seed": 4}
    first = {path.name: path.read_bytes() for path in stage("toy", toy=toy).iterdir()}
    assert set(first) == {"conversations.jsonl", "latents.jsonl", "README.txt", "source.json"}
    second = {path.name: path.read_bytes() for path in stage("toy", toy=toy).iterdir()}
    assert first == second
    assert len(read_all(layout.raw("c"), source_of("toy"))[0]) == 6
    files = {file["name"]: file for file in note(layout.raw("c"))["files"]}
    digest = hashlib.sha256(first["conversations.jsonl"]).hexdigest()
    assert files["conversations.jsonl"]["sha256"] == digest
    assert files["conversations.jsonl"]["from"] == "generated"


def test_cornell_from_the_second_mirror(server: Server, tmp_path: Path) -> None:
    archive = cornell_zip(tmp_path / "corpus.zip").read_bytes()
    url = server.add("/b/corpus.zip", archive, cuts=[200])
    raw = stage("cornell", urls=[f"{server.root}/a/corpus.zip", url])
    (file,) = note(raw)["files"]
    assert file == {
        "name": "corpus.zip", "from": url, "sha256": hashlib.sha256(archive).hexdigest(),
        "bytes": len(archive), "checked": False,
    }  # fmt: skip
    assert len(read_all(raw, source_of("cornell"))[0]) == 2
    server.requests.clear()
    run(OneCorpus(source_of("cornell", urls=[url])), corpus="another-preset")
    assert server.requests == []


def test_known_digest_is_checked_and_said_so(server: Server, tmp_path: Path) -> None:
    archive = cornell_zip(tmp_path / "corpus.zip").read_bytes()
    url = server.add("/corpus.zip", archive)
    digest = hashlib.sha256(archive).hexdigest()
    assert note(stage("cornell", urls=[url], sha256=digest))["files"][0]["checked"] is True
    with pytest.raises(CorpusError, match="wrong bytes: sha256"):
        stage("cornell", urls=[url], sha256="0" * 64)


def test_damaged_archive_sends_us_to_the_next_mirror(server: Server, tmp_path: Path) -> None:
    """Without a length nothing tells a cut from an end: only unpacking does."""
    archive = cornell_zip(tmp_path / "corpus.zip").read_bytes()
    bad = server.add("/1/corpus.zip", archive[:-30], name_length=False)
    good = server.add("/2/corpus.zip", archive)
    assert note(stage("cornell", urls=[bad, good]))["files"][0]["from"] == good
    assert not [path for path in names(layout.raw("c")) if path.endswith(".tmp")]


def test_hostile_archive_leaves_nothing(server: Server, tmp_path: Path) -> None:
    url = server.add(
        "/corpus.zip", make_zip(tmp_path / "x.zip", {"a.txt": b"", "../../../evil": b"1"}).read_bytes()
    )
    with pytest.raises(CorpusError, match=r"corpus\.zip: .*a path with \.\."):
        stage("cornell", urls=[url])
    assert nothing_left()
    assert not list(tmp_path.rglob("evil"))
    assert [path for path in names(Path(".work")) if path.endswith(("zip", ".part"))] == []


def test_local_sources_come_before_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sources").mkdir()
    cornell_zip(tmp_path / "sources/corpus.zip")
    monkeypatch.setenv("VHCR_SOURCES", "sources")
    raw = stage("cornell", urls=["http://127.0.0.1:9/none.zip", "http://127.0.0.1:9/corpus.zip?x=1"])
    assert note(raw)["files"][0]["from"] == "local"


def ubuntu_members(*, lists: bool) -> dict[str, bytes]:
    return {
        **UBUNTU,
        **(LISTS if lists else {}),
        "meta_other/valfiles.csv": b"10.tsv,3\n",
        "extra/big.json": b"{}",
    }


@pytest.mark.parametrize("name", ["ubuntu_dialogs.tgz", "ubuntu_dialogs_sample.tgz"])
def test_ubuntu_stays_packed_with_its_own_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "sources").mkdir()
    make_tar(tmp_path / "sources" / name, ubuntu_members(lists=True))
    monkeypatch.setenv("VHCR_SOURCES", str(tmp_path / "sources"))
    root = "http://127.0.0.1:9"
    lists = [f"{root}/{Path(path).name}" for path in LISTS]
    raw = stage("ubuntu", urls=[f"{root}/ubuntu_dialogs.tgz"], extra_urls=lists, sha256=None)
    assert names(raw) == ["dialogs.tgz", *sorted(LISTS), "source.json"]
    assert [file["name"] for file in note(raw)["files"]] == [name]
    conversations, _ = read_all(raw, source_of("ubuntu"))
    assert {c.id: c.split for c in conversations} == {"3/10": "train", "3/2": "validation", "12/7": "train"}


def test_ubuntu_lists_are_fetched_where_the_archive_has_none(server: Server, tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "x.tgz", ubuntu_members(lists=False)).read_bytes()
    url = server.add("/ubuntu_dialogs.tgz", archive)
    lists = [server.add(f"/{Path(path).name}", body) for path, body in LISTS.items()]
    raw = stage("ubuntu", urls=[url], extra_urls=lists)
    assert names(raw) == ["dialogs.tgz", *sorted(LISTS), "source.json"]
    assert [file["from"] for file in note(raw)["files"]] == [url, *lists]
    server.pages.pop("/valfiles.csv")
    shutil.rmtree(".work")
    shutil.rmtree("data")
    with pytest.raises(CorpusError, match=r"valfiles\.csv: answered 404"):
        stage("ubuntu", urls=[url], extra_urls=lists)
    assert nothing_left()


def test_ubuntu_archive_of_something_else(tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tgz", {"letters/1.txt": b"dear"})
    with pytest.raises(CorpusError, match=r"x\.tgz: holds no dialogs/"):
        stage("ubuntu", path="x.tgz")


def test_own_file_folder_and_archive_read_alike(tmp_path: Path) -> None:
    lines = [{"utterances": ["a", "b"]}, {"utterances": ["c"]}]
    folder = jsonl(tmp_path / "mine", *lines)
    (folder / ".git").mkdir()
    (folder / ".git/x.jsonl").write_text("{}")
    (folder / "notes.md").write_text("private")
    (folder / "source.json").write_text("{}")
    text = (folder / "mine.jsonl").read_bytes()
    make_zip(tmp_path / "mine.zip", {"mine.jsonl": text})
    for path in ("mine/mine.jsonl", "mine", "mine.zip", str(folder)):
        raw = stage("jsonl", path=path)
        assert names(raw) == ["mine.jsonl", "source.json"]
        conversations, _ = read_all(raw, source_of("jsonl"))
        assert [c.id for c in conversations] == ["mine:1", "mine:2"]
        assert note(raw)["files"][0]["name"] == Path(path).name
        assert note(raw)["files"][0]["from"] == "local"


def test_own_file_by_address(server: Server) -> None:
    url = server.add("/mine.jsonl", b'{"utterances": ["a"]}\n')
    assert names(stage("jsonl", urls=[url])) == ["mine.jsonl", "source.json"]


@pytest.mark.parametrize(
    ("reader", "settings", "message"),
    [
        ("jsonl", {}, r"corpora\.c\.source: neither path nor urls is set"),
        ("jsonl", {"path": "nowhere"}, r"corpora\.c\.source\.path: nowhere: no such file or folder"),
        (
            "jsonl",
            {"path": "letters.docx"},
            r"letters\.docx: reader jsonl reads \.jsonl, \.ndjson, \.json, \.yml, \.yaml files",
        ),
        (
            "ubuntu",
            {"path": "folder"},
            r"folder: reader ubuntu finds no \.tsv or \.csv or \.tgz file in it",
        ),
        ("cornell", {"path": "letters.docx"}, r"letters\.docx: neither a zip nor a tar\.gz archive"),
        ("jsonl", {"path": "."}, r"\.: holds data/raw/c itself"),
        ("jsonl", {"path": "letters.docx", "sha256": "0" * 64}, r"letters\.docx: wrong bytes"),
    ],
)
def test_bad_sources_are_named(
    tmp_path: Path, reader: str, settings: dict[str, object], message: str
) -> None:
    (tmp_path / "letters.docx").write_bytes(b"dear")
    jsonl(tmp_path / "folder", {})
    with pytest.raises(CorpusError, match=message):
        stage(reader, **settings)
    assert nothing_left()


def test_failure_keeps_what_was_there_before(tmp_path: Path) -> None:
    jsonl(tmp_path / "mine", {"utterances": ["a"]})
    before = names(stage("jsonl", path="mine"))
    with pytest.raises(CorpusError):
        stage("jsonl", path="nowhere")
    assert names(layout.raw("c")) == before
    assert [path.name for path in Path("data/raw").iterdir()] == ["c"]


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    leftover = Path("data/raw/.c.tmp/half")
    leftover.parent.mkdir(parents=True)
    leftover.write_text("half")
    stage("toy")
    assert [path.name for path in Path("data/raw").iterdir()] == ["c"]
    assert not (layout.raw("c") / "half").exists()


class FullDisk(io.BytesIO):
    def write(self, data: object, /) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("reader", ["toy", "cornell", "ubuntu", "jsonl"])
def test_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    cornell_zip(tmp_path / "corpus.zip")
    make_tar(tmp_path / "dialogs.tgz", ubuntu_members(lists=True))
    jsonl(tmp_path / "mine", {"utterances": ["a"]})
    path = {"toy": None, "cornell": "corpus.zip", "ubuntu": "dialogs.tgz", "jsonl": "mine"}[reader]

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    original = Path.open

    def full_open(path: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        return FullDisk() if mode == "xb" else original(path, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        patch.setattr(Path, "write_text", full)
        patch.setattr(archives.Path, "open", full_open)
        with pytest.raises(StorageError, match="No space left on device"):
            stage(reader, path=path)
    assert nothing_left()
    stage(reader, path=path)
    assert (layout.raw("c") / "source.json").is_file()
