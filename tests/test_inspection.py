"""`vhcr inspect` and `vhcr add`: from a file to a corpus of params.yaml, with no line written by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from vhcr import cli
from vhcr.files import read_json
from vhcr.params import Params
from vhcr.stages import download, tokenise

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    rows = [f"c{n};{t};{'ann' if t % 2 else 'ben'};line {t} of many 😀;{'tea' if n % 2 else 'rain'}"
            for n in range(40) for t in range(12)]  # fmt: skip
    text = "\n".join(["chat;n;who;words;topic", *rows, "c0;x;ann;lost;rain"])
    (tmp_path / "chats.csv").write_text(text, encoding="utf-8")
    return tmp_path


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments])
    return int(ended.value.code or 0)


def test_inspect_shows_and_changes_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / "params.yaml").read_bytes()
    assert command("inspect", "chats.csv") == 0
    said = capsys.readouterr().out
    assert "recognised as a table (csv), rows in order of 'n'" in said
    assert "c0 (12 turns)\n  ben: line 0 of many 😀\n  ann: line 1 of many 😀" in said
    assert "! skipped 1: turn is not an integer (such as chats.csv:482)" in said
    assert "40 conversations longer than max_turns = 10 became 80 windows" in said
    assert "labels: [topic]" in said
    assert sorted(path.name for path in project.iterdir()) == ["chats.csv", "params.yaml"]
    assert (project / "params.yaml").read_bytes() == before


def test_add_writes_a_corpus_that_runs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / "params.yaml").read_text(encoding="utf-8")
    assert command("add", "chats", "chats.csv") == 0
    text = (project / "params.yaml").read_text(encoding="utf-8")
    assert "# Every dial of the pipeline" in text
    assert text.count("#") == before.count("#")  # all comments are there
    params = Params.load()
    assert params.active.corpora == ("chats",)
    own = params.corpus("chats")
    assert (own.source.reader, own.source.columns.turn, own.source.columns.labels) == (
        "table",
        "n",
        ("topic",),
    )
    assert own.model.encoder_size < params.defaults.model.encoder_size
    assert own.generation.unknown_words == "never"
    assert set(yaml.safe_load(before)["corpora"]) | {"chats"} == set(yaml.safe_load(text)["corpora"])
    download.run(params, corpus="chats")
    tokenise.run(params, corpus="chats")
    metrics = read_json(Path("data/tokenised/chats/metrics.json"))
    assert metrics["read"]["utterances"] == 480
    assert metrics["cut"]["turns"] == 0
    assert command("add", "chats", "chats.csv") == 2
    assert "corpora.chats is there already" in capsys.readouterr().err


def test_a_name_is_refused_before_all_is_read(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seven minutes of reading went before "a name has lower-case letters"."""
    monkeypatch.setattr("vhcr.inspection.inspect", None)
    for name, said in (("My Chats", "lower-case letters"), ("toy", "corpora.toy is there already")):
        assert command("add", name, "chats.csv") == 2
        assert said in capsys.readouterr().err


def test_a_path_that_is_not_there_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("inspect", "nowhere.csv") == 2
    assert "error: nowhere.csv: no such file or folder" in capsys.readouterr().err


def test_a_handful_is_shown_and_then_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two conversations make no three splits; what was read is shown all the same, as a first look needs."""
    (project / "few.csv").write_text("chat;text\na;hello\na;hi\nb;good morning\n", encoding="utf-8")
    assert command("inspect", "few.csv") == 2
    said = capsys.readouterr()
    assert "a (2 turns)\n  - hello\n  - hi\nb (1 turns)" in said.out
    assert "error: few.csv: a split by conversation of 2 conversations leaves validation empty" in said.err
    assert said.err.count("cells are separated by") <= 1  # it had been said at each way of quoting
    assert command("add", "few", "few.csv") == 2
    assert "few" not in Params.load().corpora


def test_an_error_names_the_file_and_not_its_copy(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "none.jsonl").write_text('{"lines": 3}\n', encoding="utf-8")
    assert command("inspect", "none.jsonl") == 2
    assert capsys.readouterr().err.startswith("error: none.jsonl: not one conversation")
