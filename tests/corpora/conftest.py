from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpora.server import Server, serving
from vhcr.corpora import Skipped, read
from vhcr.params import SourceParams


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project root of its own, no proxy, and no local sources unless a test names them."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("VHCR_SOURCES", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source_of(reader: str, **changes: object) -> SourceParams:
    """A source section as params.yaml would give it."""
    columns = {"conversation": "conversation", "turn": "turn", "text": "text", "time": None}
    columns |= {"speaker": None, "split": None, "group": None, "labels": (), "utterance_labels": ()}
    columns |= dict(changes.pop("columns", {}))
    values = {
        "reader": reader, "path": None, "urls": (), "sha256": None, "extra_urls": (), "columns": columns,
        "encoding": None, "delimiter": None, "quotechar": '"', "date_order": None,
        "session_gap_minutes": None,
        "toy": {"num_conversations": 5, "seed": 0},
    }  # fmt: skip
    return SourceParams.model_validate(values | changes)


def read_all(folder: Path, source: SourceParams):
    skipped = Skipped()
    return list(read(folder, source, skipped)), skipped
