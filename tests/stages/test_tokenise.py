from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml

from vhcr.corpora.placing import placed_digest
from vhcr.errors import CorpusError, StorageError, VhcrError
from vhcr.files import read_json, write_json
from vhcr.params import Params
from vhcr.stages import tokenise

ROOT = Path(__file__).parents[2]
TOKENISED = Path("data/tokenised/own")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose corpus ``own`` is JSON Lines: twenty conversations and one broken line."""
    monkeypatch.chdir(tmp_path)
    lines = [
        json.dumps({"id": f"c{number}", "utterances": [f"Hello number {number % 3}!", "Isn't it?"]})
        for number in range(20)
    ]
    lines.insert(7, "{broken")
    raw = tmp_path / "data/raw/own"
    raw.mkdir(parents=True)
    (raw / "conversations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def params(**tokenisation: Any) -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["corpora"]["own"]["tokenisation"] = {"min_count": 1, **tokenisation}
    return Params(values)


def contents() -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in sorted(TOKENISED.rglob("*")) if path.is_file()}


def test_writes_all_files_and_the_same_bytes_again(project: Path) -> None:
    tokenise.run(params(), corpus="own")
    first = contents()
    assert [name.removeprefix("data/tokenised/own/") for name in first] == [
        "conversations.parquet",
        "labels.parquet",
        "manifest.json",
        "metrics.json",
        "token_ids/test.parquet",
        "token_ids/train.parquet",
        "token_ids/validation.parquet",
        "utterances.parquet",
        "vocabulary.parquet",
    ]
    tokenise.run(params(), corpus="own")
    assert contents() == first
    assert not any((project / ".work").rglob("*.parquet"))
    splits = pl.read_parquet(TOKENISED / "conversations.parquet")["split"].to_list()
    assert (splits.count("train"), splits.count("validation"), splits.count("test")) == (16, 2, 2)


def test_malformed_records_reach_the_metrics(project: Path) -> None:
    tokenise.run(params(), corpus="own")
    skipped = read_json(TOKENISED / "metrics.json")["read"]["skipped"]
    assert skipped["records"] == 1
    assert list(skipped["by_reason"].values()) == [1]
    assert str(project) not in (TOKENISED / "metrics.json").read_text(encoding="utf-8")
    assert "conversations.jsonl:8" in json.dumps(skipped["examples"])


def test_failure_leaves_the_last_result_alone(project: Path) -> None:
    tokenise.run(params(), corpus="own")
    before = contents()
    with pytest.raises(VhcrError, match="publishes no split"):
        tokenise.run(params(split_by="published"), corpus="own")
    assert contents() == before
    assert not any((project / ".work").rglob("*.parquet"))


def test_a_full_disk_is_told_and_leaves_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(StorageError, match="No space left on device"):
        tokenise.run(params(), corpus="own")
    assert not TOKENISED.exists()
    assert not any(path.is_file() for path in (project / ".work").rglob("*"))


def test_an_empty_corpus_is_refused(project: Path) -> None:
    (project / "data/raw/own/conversations.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(VhcrError, match="not one conversation"):
        tokenise.run(params(), corpus="own")


def test_command_line_ends_with_one_plain_line(project: Path) -> None:
    command = [sys.executable, "-m", "vhcr.stages.tokenise", "--corpus", "owm"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=project)
    assert result.returncode == 2
    assert result.stderr.startswith("error: params.yaml: corpora: 'owm' is not defined (did you mean own?)")
    assert "Traceback" not in result.stderr


def test_a_raw_file_that_changed_since_it_was_fetched_is_refused(project: Path) -> None:
    """A byte that flipped in conversations.jsonl made other token ids, and nobody was told."""
    raw = Path("data/raw/own")
    write_json(raw / "source.json", {"format": 1, "placed": placed_digest(raw)})
    tokenise.run(params(), corpus="own")
    data = bytearray((raw / "conversations.jsonl").read_bytes())
    data[40] ^= 1
    (raw / "conversations.jsonl").write_bytes(data)
    with pytest.raises(CorpusError, match=r"data/raw/own: is not what source\.json in it names"):
        tokenise.run(params(), corpus="own")
