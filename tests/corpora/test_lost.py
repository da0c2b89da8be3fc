# tables as people write them
"""What was once lost or wrong without a word: each with the right value."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.corpora.conftest import read_all, source_of
from tests.corpora.test_formats import seen, texts, write
from tests.corpora.test_readers import convokit, jsonl
from vhcr.corpora.skipped import Skipped
from vhcr.errors import CorpusError

HEADER = "conversation,turn,text\n"


def table_of(num_conversations: int, num_turns: int = 6) -> list[str]:
    return [f"c{c},{t},can you help {t}\n" for c in range(num_conversations) for t in range(num_turns)]


def test_a_stray_quote_is_an_error_that_names_its_line(tmp_path: Path) -> None:
    """One cell of 360 began with a quotation mark: 63 of them were read, and nothing was said."""
    rows = table_of(60)
    rows[63] = 'c10,3,"my me help\n'
    raw = write(tmp_path / "raw/t.csv", HEADER + "".join(rows)).parent
    with pytest.raises(
        CorpusError, match=r"t\.csv: line 65: a quotation mark opens .* to line 361; .*quotechar"
    ):
        read_all(raw, source_of("table"))
    conversations, skipped = read_all(raw, source_of("table", quotechar=None))
    assert (len(conversations), sum(len(c.utterances) for c in conversations), skipped.total) == (60, 360, 0)
    assert conversations[10].utterances[3].text == '"my me help'


@pytest.mark.parametrize("closing", ['c20,3,said "no"\n', 'c10,4,what"\n'])
def test_a_stray_quote_that_a_later_one_closes(tmp_path: Path, closing: str) -> None:
    """The rows between the two were one cell, of the right width."""
    rows = table_of(60)
    rows[63] = 'c10,3,"my me help\n'
    rows[64 if "c10" in closing else 123] = closing
    raw = write(tmp_path / "raw/t.csv", HEADER + "".join(rows)).parent
    with pytest.raises(CorpusError, match=r"t\.csv: line 65: a quotation mark opens"):
        read_all(raw, source_of("table"))


def test_cells_of_several_lines_are_no_stray_quotes(tmp_path: Path) -> None:
    text = HEADER + 'c,0,"one, two,\nthree, four, five\n1,2,x y"\nc,1,b\n'
    ((conversation,), skipped) = read_all(
        write(tmp_path / "raw/t.csv", text.replace("1,2,", "1;2;")).parent, source_of("table")
    )
    assert len(conversation.utterances) == 2
    assert skipped.total == 0


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", "utf-8"])
def test_delimiter_and_encoding_are_found_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, delimiter: str, encoding: str
) -> None:
    caplog.set_level(logging.INFO)
    rows = ["conversation,turn,text", *(f"c,{n},café “naïve” {n}; or not" for n in range(4))]
    text = "\n".join(delimiter.join(row.split(",")) for row in rows)
    raw = write(tmp_path / "raw/t.csv", text.replace("; or", " or").encode(encoding)).parent
    ((conversation,), skipped) = read_all(raw, source_of("table"))
    assert [u.text for u in conversation.utterances] == [f"café “naïve” {n} or not" for n in range(4)]
    assert skipped.total == 0
    assert "cells are separated by" in caplog.text
    assert (f"read as {encoding.upper()}" in caplog.text) == (encoding != "utf-8")


def test_other_scripts_are_told_by_their_bytes(tmp_path: Path) -> None:
    said = "今天天气很好我们去公园散步吧你觉得怎么样"
    text = "".join(json.dumps({"utterances": [said * 3]}, ensure_ascii=False) + "\n" for _ in range(20))
    raw = write(tmp_path / "raw/a.jsonl", text.encode("gb18030")).parent
    conversations, skipped = read_all(raw, source_of("jsonl"))
    assert conversations[0].utterances[0].text == said * 3
    assert skipped.total == 0
    with pytest.raises(CorpusError, match=r"source\.encoding = 'klingon'"):
        read_all(raw, source_of("jsonl", encoding="klingon"))


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("dialogues_train", "dialogues_dev", "dialogues_test")]
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_files_named_like_splits_are_splits_and_keep_their_ids(
    tmp_path: Path, names: tuple[str, ...], suffix: str
) -> None:
    """Ids began at 0 in each file: those of the later ones were dropped, or spliced onto the first (CSV)."""
    for place, name in enumerate(names):
        if suffix == ".csv":
            text = HEADER + "".join(f"{c},{t},{name} {c} {t}\n" for c in range(3) for t in range(2))
        else:
            text = "".join(
                json.dumps({"id": c, "utterances": [f"{name} {c} {t}" for t in range(2)]}) + "\n"
                for c in range(3)
            )
        write(tmp_path / f"raw/{name}{suffix}", text)
        assert place < 3
    conversations, skipped = read_all(tmp_path / "raw", source_of("table" if suffix == ".csv" else "jsonl"))
    assert skipped.total == 0
    assert len(conversations) == 9
    of_split = {c.id: c.split for c in conversations}
    assert of_split == {
        f"{name}/{c}": split
        for name, split in zip(names, ("train", "validation", "test"), strict=True)
        for c in range(3)
    }
    assert all(u.text.startswith(c.id.partition("/")[0]) for c in conversations for u in c.utterances)


def test_shards_are_one_table(tmp_path: Path) -> None:
    """A conversation may begin in one shard and go on in the next."""
    write(tmp_path / "raw/train-00000-of-00002.csv", HEADER + "c,0,a\n")
    write(tmp_path / "raw/train-00001-of-00002.csv", HEADER + "c,1,b\n")
    ((conversation,), _) = read_all(tmp_path / "raw", source_of("table"))
    assert [u.text for u in conversation.utterances] == ["a", "b"]
    assert (conversation.id, conversation.split) == ("c", "train")


def test_skips_weigh_as_what_they_held(tmp_path: Path) -> None:
    """Half of 400 conversations of 20 turns were dropped, counted as 200 of 4,200 records: 4.8 %."""
    lines = [{"utterances": ["a"] * 19 + [None if n % 2 else "b"]} for n in range(400)]
    conversations, skipped = read_all(jsonl(tmp_path / "raw", *lines), source_of("jsonl"))
    assert len(conversations) == 200
    assert skipped.share(sum(len(c.utterances) for c in conversations), len(conversations)) == 0.5
    rows = Skipped()
    rows.add("bad row", "t.csv:3")
    assert rows.share(99, 1) == 0.01


def test_convokit_repeated_ids_and_iso_times(tmp_path: Path) -> None:
    """A repeated id doubled its turn; ISO times were no times, and a tree stood in the order of the file."""

    def said(id: str, reply: str | None, time: str | None) -> dict[str, object]:
        return {
            "id": id,
            "conversation_id": "a",
            "text": id,
            "speaker": "u",
            "reply-to": reply,
            "timestamp": time,
        }

    tree = [said("c", "a", "2021-01-01T10:02:00Z"), said("a", None, "2021-01-01T10:00:00Z"),
            said("b", "a", "2021-01-01T10:01:00Z"), said("b", "a", "2021-01-01T10:01:00Z")]  # fmt: skip
    ((conversation,), skipped) = read_all(convokit(tmp_path / "raw", tree), source_of("convokit"))
    assert [u.text for u in conversation.utterances] == ["a", "b", "c"]
    assert skipped.examples == {"utterance id used twice": ["movie-corpus/utterances.jsonl:4"]}
    without = [said("c2", "c", None), said("c", "a", None), said("a", None, None), said("b", "a", None)]
    ((conversation,), _) = read_all(convokit(tmp_path / "without", without), source_of("convokit"))
    assert [u.text for u in conversation.utterances] == ["a", "c", "c2", "b"]


def test_convokit_with_a_misspelt_entry(tmp_path: Path) -> None:
    utterance = {"id": "a", "conversation_id": "a", "text": "x", "speaker": "u", "reply-to": None}
    raw = convokit(tmp_path / "raw", [utterance], {"a": {"meta": {"movie": "m0"}}})
    with pytest.raises(
        CorpusError,
        match=r"no conversation has an entry 'film' \(source\.columns\.group\); they have 'movie'",
    ):
        read_all(raw, source_of("convokit", columns={"group": "film"}))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_of_one_name_are_refused(tmp_path: Path, suffix: str) -> None:
    """A traceback (Parquet), or the first of them (CSV)."""
    path = tmp_path / f"raw/t{suffix}"
    if suffix == ".csv":
        write(path, "conversation,turn,text,text\nc,0,a,b\n")
    else:
        path.parent.mkdir()
        columns = [pa.array(["c"]), pa.array([0]), pa.array(["a"]), pa.array(["b"])]
        pq.write_table(pa.Table.from_arrays(columns, names=["conversation", "turn", "text", "text"]), path)
    with pytest.raises(CorpusError, match=r"several columns are called 'text' \(source\.columns\.text\)"):
        read_all(path.parent, source_of("table"))


@pytest.mark.parametrize(
    ("turns", "kept"), [(("0.0", "1.0", "2"), 3), (("0.50", "1", "2"), 2), (("1e3", "1", "nan"), 1)]
)
def test_turns_as_pandas_writes_them(tmp_path: Path, turns: tuple[str, ...], kept: int) -> None:
    """0.50 was cut to 0; 0.0, which pandas writes for a column with one gap, was refused in CSV alone."""
    rows = "".join(f"c,{turn},t{turn}\n" for turn in turns)
    ((conversation,), skipped) = read_all(
        write(tmp_path / "raw/t.csv", HEADER + rows).parent, source_of("table")
    )
    assert len(conversation.utterances) == kept
    assert skipped.counts["turn is not an integer"] == len(turns) - kept
    decimals = pa.table(
        {
            "conversation": ["c"] * 2,
            "turn": pa.array([0.5, 1.0]).cast(pa.decimal128(4, 2)),
            "text": ["a", "b"],
        }
    )
    (tmp_path / "p").mkdir()
    pq.write_table(decimals, tmp_path / "p/t.parquet")
    ((conversation,), _) = read_all(tmp_path / "p", source_of("table"))
    assert [u.text for u in conversation.utterances] == ["b"]


def test_labels_of_tables(tmp_path: Path) -> None:
    text = "conversation,turn,text,topic,act\na,0,x,tea,ask\na,1,y,tea,tell\nb,0,z,rain,\n"
    columns = {"labels": ("topic",), "utterance_labels": ("act",)}
    conversations, _ = read_all(
        write(tmp_path / "raw/t.csv", text).parent, source_of("table", columns=columns)
    )
    assert [dict(c.labels) for c in conversations] == [{"topic": "tea"}, {"topic": "rain"}]
    assert [dict(u.labels) for c in conversations for u in c.utterances] == [
        {"act": "ask"},
        {"act": "tell"},
        {},
    ]


def test_an_endless_chat_breaks_at_silences(tmp_path: Path) -> None:
    lines = {
        "id": "chat",
        "messages": [{"role": "u", "content": str(n), "time": 60 * (n + 500 * (n >= 3))} for n in range(5)],
    }
    conversations, _ = read_all(jsonl(tmp_path / "raw", lines), source_of("jsonl", session_gap_minutes=30))
    assert [(c.id, c.group, len(c.utterances)) for c in conversations] == [
        ("chat#1", "chat", 3),
        ("chat#2", "chat", 2),
    ]
    (whole,), _ = read_all(tmp_path / "raw", source_of("jsonl"))
    assert (whole.id, len(whole.utterances)) == ("chat", 5)


def test_quotation_marks_that_are_text_are_recognised(tmp_path: Path) -> None:
    """`vhcr inspect` reads a table whose cells merely begin with quotation marks."""
    rows = table_of(12)
    rows[20] = 'c3,2,"never closed\n'
    conversations, skipped, found = seen(write(tmp_path / "t.csv", HEADER + "".join(rows)))
    assert found.source.quotechar is None
    assert "quotation marks as text, since some never close" in found.description
    assert len(texts(conversations)) == 12
    assert skipped.total == 0
