from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import free_port, serving
from vhcr import corpora, engines
from vhcr.corpora.remote import is_remote, located
from vhcr.errors import CorpusError
from vhcr.params import Params
from vhcr.stages import download, tokenise
from vhcr.tokenisation.dataset import build_from

ROOT = Path(__file__).parents[2]
RAW = Path("data/raw/own")


def params(path: str, reader: str = "jsonl") -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["corpora"]["own"]["source"] = {"reader": reader, "path": path}
    values["corpora"]["own"]["tokenisation"] = {"min_count": 1, "split_by": "hash"}
    return Params(values)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A file system with a bucket ``chats``: moto's server, which keeps it in memory."""
    s3fs = pytest.importorskip("s3fs")
    url = f"http://127.0.0.1:{free_port()}"
    for name, value in {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
    with serving(command, f"{url}/moto-api/", tmp_path / "moto.log"):
        s3fs.S3FileSystem.clear_instance_cache()
        files = s3fs.S3FileSystem()
        files.mkdir("chats")
        yield files
    s3fs.S3FileSystem.clear_instance_cache()


def lines(first: int, count: int = 60) -> bytes:
    records = (
        {"id": f"c{n}", "utterances": [f"Hello number {n % 7}!", "Isn't it?"]}
        for n in range(first, first + count)
    )
    return "".join(f"{json.dumps(record)}\n" for record in records).encode()


@pytest.mark.slow
def test_a_bucket_is_read_in_its_place(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tables as from a copy, by ranges and by stages; an object that changes is refused."""
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in {"part-0.jsonl": lines(0), "part-1.jsonl": b"{broken\n" + lines(60)}.items():
        bucket.pipe(f"chats/june/{name}", content)
        (copy / name).write_bytes(content)
    own = params("s3://chats/june")
    download.run(own, corpus="own")
    assert [path.name for path in RAW.rglob("*")] == ["source.json"], "nothing is copied"
    tokenise.run(own, corpus="own")
    there = json.loads(Path("data/tokenised/own/manifest.json").read_text())
    metrics = json.loads(Path("data/tokenised/own/metrics.json").read_text())
    assert metrics["read"]["skipped"]["examples"] == {"not valid JSON": ["part-1.jsonl:1"]}

    source, dials = own.corpus("own").source, own.corpus("own").tokenisation
    pieces = corpora.pieces(located(RAW), source, engines.here, piece_bytes=1000)
    assert len(pieces) > 5
    with engines.started("processes", workers=2) as engine:
        by_ranges = build_from(pieces, dials, tmp_path / "ranges", corpus="own", engine=engine)
    here = build_from(corpora.pieces(copy, source, engines.here), dials, tmp_path / "here", corpus="own")
    assert there["data_hash"] == by_ranges.manifest["data_hash"] == here.manifest["data_hash"]
    assert metrics == by_ranges.metrics == here.metrics

    bucket.pipe("chats/june/part-1.jsonl", lines(61))
    with pytest.raises(CorpusError, match=r"s3://chats/june: is not what .* names: an object changed"):
        tokenise.run(own, corpus="own")


@pytest.mark.slow
def test_what_cannot_be_listed_is_told(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match=r"s3://chats/july.*: no \.jsonl file"):
        download.run(params("s3://chats/july"), corpus="own")
    assert not RAW.exists()


def test_other_formats_are_to_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_remote("s3://chats/june")
    assert not is_remote("C:/chats")
    assert not is_remote(None)
    with pytest.raises(CorpusError, match="read where it is, as JSON Lines: set reader: jsonl"):
        download.run(params("s3://chats/june", reader="table"), corpus="own")
