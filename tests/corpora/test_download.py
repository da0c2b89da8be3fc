from __future__ import annotations

import errno
import gzip
import hashlib
import json
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.corpora.server import Server
from vhcr.corpora import download
from vhcr.corpora.download import Fetched, Patience, fetch, find_local, public, use_local
from vhcr.errors import CorpusError
from vhcr.files import locked

BODY = bytes(range(256)) * 1200  # several chunks, and no two parts of it alike at a shifted offset
PATIENT = Patience(connect_seconds=2, read_seconds=2, attempts=3, backoff_seconds=0.001)


def get(*urls: str, **options: object) -> Fetched:
    return fetch(urls, patience=PATIENT, **options)


def part_files() -> list[Path]:
    return sorted(Path(".work/downloads").glob("*.part"))


def left_by_interruption(server: Server, url: str, num_bytes: int) -> None:
    """Fetch ``num_bytes``, then fail for good, as a closed laptop would."""
    page = server.pages[url.removeprefix(server.root)]
    page.cuts, page.statuses = [num_bytes], []
    with pytest.raises(CorpusError):
        fetch([url], patience=Patience(attempts=1))
    assert [file.stat().st_size for file in part_files()] == [num_bytes]
    server.requests.clear()


def test_whole_file_and_its_digest(server: Server) -> None:
    found = get(server.add("/a/corpus.bin", BODY))
    assert found.path.read_bytes() == BODY
    assert found.sha256 == hashlib.sha256(BODY).hexdigest()
    assert (found.num_bytes, found.checked) == (len(BODY), False)
    assert found.origin == f"{server.root}/a/corpus.bin"
    assert part_files() == []


def test_second_call_asks_no_server(server: Server) -> None:
    url = server.add("/corpus.bin", BODY)
    get(url)
    server.requests.clear()
    assert get(url).path.read_bytes() == BODY
    assert server.requests == []


def test_a_file_damaged_since_is_fetched_again(server: Server) -> None:
    url = server.add("/corpus.bin", BODY)
    get(url).path.write_bytes(BODY[:-1] + b"?")
    assert get(url).path.read_bytes() == BODY


def test_cut_transfer_goes_on_where_it_stopped(server: Server) -> None:
    url = server.add("/corpus.bin", BODY, cuts=[100_000, 70_000])
    assert get(url).path.read_bytes() == BODY
    assert server.headers("Range") == [None, "bytes=100000-", "bytes=170000-"]
    assert server.headers("If-Range") == [None, '"v1"', '"v1"']


def test_many_cuts_are_no_failure_while_bytes_arrive(server: Server) -> None:
    """Attempts count failures without progress; a long file over a bad line is cut more often than that."""
    url = server.add("/corpus.bin", BODY, cuts=[40_000] * 7)
    assert get(url).path.read_bytes() == BODY
    assert len(server.requests) == 8 > PATIENT.attempts


def test_interrupted_run_resumes_in_the_next(server: Server) -> None:
    url = server.add("/corpus.bin", BODY)
    left_by_interruption(server, url, 123_456)
    assert get(url).path.read_bytes() == BODY
    assert server.headers("Range") == ["bytes=123456-"]


def test_server_without_ranges_starts_over(server: Server) -> None:
    url = server.add("/corpus.bin", BODY, ranges=False)
    left_by_interruption(server, url, 123_456)
    assert get(url).path.read_bytes() == BODY


def test_server_without_ranges_that_always_cuts_is_given_up(server: Server) -> None:
    """Each attempt receives bytes, but never one that an earlier had not: that is no progress."""
    url = server.add("/corpus.bin", BODY, ranges=False, cuts=[1000] * 50)
    with pytest.raises(CorpusError, match=r"corpus\.bin: .*3 attempts|attempts"):
        get(url)
    assert len(server.requests) <= PATIENT.attempts + 1


@pytest.mark.parametrize(
    "settings",
    [
        {"etag": '"v1"'},
        {"etag": None, "last_modified": "Mon, 01 Jan 2018 00:00:00 GMT"},
        {"etag": 'W/"v1"'},
        {"etag": None},
    ],
    ids=["etag", "last-modified", "weak etag", "size alone"],
)
def test_changed_remote_file_is_not_glued_to_the_old_part(
    server: Server, settings: dict[str, str | None]
) -> None:
    url = server.add("/corpus.bin", BODY, **settings)
    left_by_interruption(server, url, 123_456)
    new = BODY[::-1] + b"longer"
    changed = {key: value.replace("1", "2") if value else None for key, value in settings.items()}
    server.add("/corpus.bin", new, **changed)
    assert get(url).path.read_bytes() == new


def test_weak_tag_is_no_condition_for_a_range(server: Server) -> None:
    """RFC 9110, 13.1.5: a weak tag in If-Range never matches; the date does, if there is one."""
    date = "Mon, 01 Jan 2018 00:00:00 GMT"
    for name, last_modified in (("/a.bin", None), ("/b.bin", date)):
        url = server.add(name, BODY, etag='W/"v1"', last_modified=last_modified, cuts=[5000])
        assert get(url).path.read_bytes() == BODY
    assert server.headers("If-Range") == [None, None, None, date]
    assert server.headers("Range") == [None, "bytes=5000-"] * 2


def test_part_longer_than_the_remote_file_is_thrown_away(server: Server) -> None:
    url = server.add("/corpus.bin", BODY, etag=None)
    left_by_interruption(server, url, 200_000)
    server.add("/corpus.bin", BODY[:1000], etag=None)
    assert get(url).path.read_bytes() == BODY[:1000]
    assert server.headers("Range") == ["bytes=200000-", None]  # the first was answered 416


def test_a_range_from_another_offset_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.add("/corpus.bin", BODY)
    left_by_interruption(server, url, 50_000)
    monkeypatch.setattr(download, "CONTENT_RANGE", download.re.compile(r"bytes (\d)\d*-\d+/(\d+|\*)"))
    assert get(url).path.read_bytes() == BODY
    assert server.headers("Range") == ["bytes=50000-", None]


def test_glued_file_with_a_wrong_digest_is_fetched_anew(server: Server) -> None:
    """A server that names no version may resume with another file of equal size; the digest finds out."""
    old, new = BODY, BODY[::-1]
    url = server.add("/corpus.bin", old, etag=None)
    left_by_interruption(server, url, 123_456)
    server.add("/corpus.bin", new, etag=None)
    assert get(url, sha256=hashlib.sha256(new).hexdigest()).path.read_bytes() == new
    assert server.headers("Range") == ["bytes=123456-", None]


def test_wrong_bytes_send_us_to_the_next_mirror(server: Server) -> None:
    bad, good = server.add("/1/corpus.bin", b"wrong"), server.add("/2/corpus.bin", BODY)
    found = get(bad, good, sha256=hashlib.sha256(BODY).hexdigest().upper())
    assert (found.origin, found.checked) == (good, True)
    assert part_files() == []


def test_missing_page_is_asked_once_and_busy_server_again(server: Server) -> None:
    busy = server.add("/2/corpus.bin", BODY, statuses=[500, 503])
    assert get(f"{server.root}/1/corpus.bin", busy).origin == busy
    assert [path for path, _ in server.requests] == ["/1/corpus.bin", *["/2/corpus.bin"] * 3]


def test_error_lists_every_mirror_and_its_answer(server: Server) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}/corpus.zip"
        urls = [
            f"{server.root}/none/corpus.zip",
            server.add("/broken/corpus.zip", statuses=[500] * 9),
            server.add("/page/corpus.zip", b"<html>moved</html>"),
            server.add("/empty/corpus.zip", b""),
            server.add("/round/corpus.zip", redirect=f"{server.root}/round/corpus.zip"),
            dead,
            "ftp://127.0.0.1/corpus.zip",
        ]
        with pytest.raises(CorpusError) as caught:
            get(*urls)
    lines = str(caught.value).splitlines()
    answers = ["answered 404", "answered 500", "not an archive: it begins with b'<html>", "is empty",
               "redirect", "connection failed", "protocol"]  # fmt: skip
    for url, answer, line in zip(urls, answers, lines[1:-1], strict=True):
        assert url in line
        assert answer in line
    assert "VHCR_SOURCES" in lines[-1]


def test_web_page_in_place_of_a_list_is_refused(server: Server) -> None:
    with pytest.raises(CorpusError, match="a web page"):
        get(server.add("/trainfiles.csv", b"\n<!DOCTYPE html><html></html>"))


def test_silent_server_times_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/corpus.bin"
        start = time.monotonic()
        with pytest.raises(CorpusError, match="no answer in time"):
            fetch([url], patience=Patience(read_seconds=0.05, attempts=2, backoff_seconds=0.001))
    assert time.monotonic() - start < 5


def test_redirect_is_followed(server: Server) -> None:
    target = server.add("/new/corpus.bin", BODY)
    assert get(server.add("/old/corpus.bin", redirect=target)).path.read_bytes() == BODY


def test_gzip_file_labelled_as_an_encoding_stays_packed(server: Server) -> None:
    """Servers label .tgz files "Content-Encoding: gzip"; unpacked on the way, the digest is another's."""
    packed = gzip.compress(BODY, mtime=0)
    found = get(server.add("/corpus.tgz", packed, encoding="gzip"))
    assert found.path.read_bytes() == packed
    assert server.headers("Accept-Encoding") == ["identity"]


def test_truncation_without_a_length_is_for_the_caller_to_refuse(server: Server) -> None:
    """Nothing in such an answer tells a cut from an end; a refused file leaves the cache for good."""
    cut = server.add("/1/corpus.bin", BODY, name_length=False, cuts=[1000])
    good = server.add("/2/corpus.bin", BODY)

    def accept(file: Fetched) -> None:
        if file.num_bytes < len(BODY):
            raise CorpusError("damaged archive")

    assert get(cut, good, accept=accept).origin == good
    with pytest.raises(CorpusError, match="damaged archive"):
        get(server.add("/1/corpus.bin", BODY, name_length=False, cuts=[1000]), accept=accept)
    assert get(cut, accept=accept).path.read_bytes() == BODY


def test_full_disk_keeps_what_arrived_and_the_next_run_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.add("/corpus.bin", BODY)
    room = 100_000

    class Full:
        def __init__(self, file) -> None:
            self.file, self.left = file, room

        def write(self, chunk: bytes) -> int:
            self.left -= len(chunk)
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(chunk)

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    original = Path.open

    def full_open(path: Path, mode: str = "r", *args, **kwargs):
        file = original(path, mode, *args, **kwargs)
        return Full(file) if path.suffix == ".part" and mode in ("wb", "ab") else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full_open)
        with pytest.raises(CorpusError, match="No space left on device"):
            get(url)
    (part,) = part_files()
    have = part.stat().st_size
    assert 0 < have <= room
    assert part.read_bytes() == BODY[:have]
    server.requests.clear()
    assert get(url).path.read_bytes() == BODY
    assert server.headers("Range") == [f"bytes={have}-"]


def test_two_processes_share_one_transfer(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    url = server.add("/corpus.bin", BODY)
    found: list[Fetched] = []
    with locked(download._beside(download._place(Path(".work/downloads"), url), ".lock"), "a download"):
        threads = [threading.Thread(target=lambda: found.append(get(url))) for _ in range(2)]
        for thread in threads:
            thread.start()
        give_up = time.monotonic() + 20
        while caplog.text.count("is fetching it; waiting") < 2 and time.monotonic() < give_up:
            time.sleep(0.01)
        time.sleep(0.2)  # long enough for one that does not wait to ask the server
        assert server.requests == []
    for thread in threads:
        thread.join()
    assert [file.path.read_bytes() == BODY for file in found] == [True, True]
    assert len(server.requests) == 1


def test_nothing_secret_is_written_down(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    assert public("https://me:pass@host/a.zip?token=pass#pass") == "https://host/a.zip"
    server.add("/corpus.bin?token=hush", BODY)
    found = get(f"{server.root}/corpus.bin?token=hush")
    assert found.origin == f"{server.root}/corpus.bin"
    written = "".join(path.read_text() for path in Path(".work").rglob("*.json")) + caplog.text + str(found)
    assert "hush" not in written


def test_note_beside_the_file_is_json_with_digest(server: Server) -> None:
    found = get(server.add("/corpus.bin", BODY))
    note = json.loads(found.path.with_name(found.path.name + ".json").read_text())
    assert note["sha256"] == found.sha256
    assert note["etag"] == '"v1"'


def test_local_sources_are_searched_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_local("a.zip") is None
    (tmp_path / "b.zip").write_bytes(b"b")
    monkeypatch.setenv("VHCR_SOURCES", str(tmp_path))
    assert find_local("a.zip", "b.zip") == tmp_path / "b.zip"
    monkeypatch.setenv("VHCR_SOURCES", str(tmp_path / "nowhere"))
    with pytest.raises(CorpusError, match=r"VHCR_SOURCES=.*nowhere: no such folder"):
        find_local("a.zip")


def test_local_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"a")
    assert use_local(tmp_path / "a.zip", hashlib.sha256(b"a").hexdigest()).checked
    with pytest.raises(CorpusError, match=r"a\.zip: wrong bytes: sha256"):
        use_local(tmp_path / "a.zip", "0" * 64)
    with pytest.raises(CorpusError, match=r"none\.zip: cannot be read"):
        use_local(tmp_path / "none.zip")
