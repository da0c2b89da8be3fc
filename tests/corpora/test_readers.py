from __future__ import annotations

import json
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest

from tests.corpora.conftest import read_all, source_of
from vhcr.conversation import Utterance
from vhcr.corpora import READERS, Skipped, read
from vhcr.corpora.cornell import decode
from vhcr.corpora.records import Gathering
from vhcr.errors import CorpusError
from vhcr.params import SourceParams

CORNELL_LINES = [
    "L3 +++$+++ u1 +++$+++ m0 +++$+++ ADA +++$+++ Never.",
    "L2 +++$+++ u0 +++$+++ m0 +++$+++ BEN +++$+++ It\x92s caf\xe9 time\x85 no?",
    "L1 +++$+++ u1 +++$+++ m0 +++$+++ ADA +++$+++ Where? +++$+++ There.",
    "L4 +++$+++ u0 +++$+++ m0 +++$+++ BEN +++$+++ ",
    "L5 +++$+++ u0 +++$+++ m0 +++$+++",
    "L6 +++$+++ ? +++$+++ m1 +++$+++ ? +++$+++ Anyone?",
    "L7 u0 no separators",
    "L3 +++$+++ u1 +++$+++ m0 +++$+++ ADA +++$+++ a second L3",
]
CORNELL_CONVERSATIONS = [
    "u1 +++$+++ u0 +++$+++ m0 +++$+++ ['L1', 'L2', 'L3']",
    "u0 +++$+++ u1 +++$+++ m1 +++$+++ ['L4', 'L6', 'L99']",
    "u0 +++$+++ u1 +++$+++ m1 +++$+++ ['L98']",
    "u0 +++$+++ u1 +++$+++ L4, L6",
]


def cornell(folder: Path) -> Path:
    inner = folder / "cornell movie-dialogs corpus"
    inner.mkdir(parents=True)
    (inner / "movie_lines.txt").write_bytes("\n".join(CORNELL_LINES).encode("latin-1"))
    (inner / "movie_conversations.txt").write_bytes("\n".join(CORNELL_CONVERSATIONS).encode("latin-1"))
    return folder


def test_cornell(tmp_path: Path) -> None:
    conversations, skipped = read_all(cornell(tmp_path / "raw"), source_of("cornell"))
    first, second = conversations
    assert (first.id, first.group, first.split) == ("L1", "m0", None)
    assert first.utterances == (
        Utterance("Where? +++$+++ There.", "u1"),  # only four separators are separators
        Utterance("It’s café time… no?", "u0"),  # cp1252; in latin-1 the … would end the line
        Utterance("Never.", "u1"),
    )
    assert second.utterances == (Utterance("", "u0"), Utterance("Anyone?", None))
    assert skipped.counts == {
        "malformed line": 2, "line id used twice": 1, "missing line": 2,
        "conversation without lines": 1, "malformed conversation": 1,
    }  # fmt: skip
    inner = "cornell movie-dialogs corpus"
    assert skipped.examples["malformed line"] == [f"{inner}/movie_lines.txt:{n}" for n in (5, 7)]
    assert skipped.examples["missing line"][0] == f"{inner}/movie_conversations.txt:2: L99"


def test_cornell_bytes_that_cp1252_lacks() -> None:
    assert decode(b"\x93a\x94") == "“a”"
    assert decode(b"\x93\x81\x9d\xff") == "“\x81\x9dÿ"


UBUNTU = {
    "dialogs/3/10.tsv": b"2008-01-01T00:00:00.000Z\tann\t\thello\tall \r\n2008\tben\tann\t hi\n\n",
    "dialogs/3/2.tsv": "2008\tann\tben\tone\u2028line\n2008\tann\tben\n".encode() + b"2008\tben\t\t\xff",
    "dialogs/12/7.tsv": "2008\tann\t\tgrüße\n".encode(),
    "dialogs/12/8.tsv": b"broken\n",
}
LISTS = {
    "meta/trainfiles.csv": b"10.tsv,3\n7.tsv,12\n404.tsv,9\n",
    "meta/valfiles.csv": b"2.tsv,3\nnonsense\n",
    "meta/testfiles.csv": b"7.tsv,12\n",
}


def ubuntu_folder(folder: Path) -> Path:
    for name, content in {**UBUNTU, **LISTS}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def ubuntu_archive(folder: Path) -> Path:
    whole = ubuntu_folder(folder.with_name("whole"))
    folder.mkdir()
    with tarfile.open(folder / "dialogs.tgz", "w:gz") as tar:
        for name in ("dialogs/3/10.tsv", "dialogs/3/2.tsv", "dialogs/12/7.tsv", "dialogs/12/8.tsv"):
            tar.add(whole / name, f"./{name}")
    (whole / "meta").rename(folder / "meta")
    return folder


@pytest.mark.parametrize("make", [ubuntu_folder, ubuntu_archive])
def test_ubuntu(tmp_path: Path, make) -> None:
    conversations, skipped = read_all(make(tmp_path / "raw"), source_of("ubuntu"))
    assert [(c.id, c.split) for c in conversations] == [
        ("3/10", "train"),
        ("3/2", "validation"),
        ("12/7", "train"),
    ]
    assert conversations[0].utterances == (Utterance("hello\tall", "ann"), Utterance("hi", "ben"))
    assert [utterance.text for utterance in conversations[2].utterances] == ["grüße"]
    assert skipped.counts == {
        "malformed line": 2, "not UTF-8": 1, "dialog without lines": 1,
        "malformed line of a published list": 1, "dialog listed in two splits": 1,
    }  # fmt: skip


def test_ubuntu_lists_beside_the_dialogs_count_too(tmp_path: Path) -> None:
    raw = ubuntu_folder(tmp_path / "raw")
    for name in LISTS:
        (raw / name).rename(raw / Path(name).name)
    conversations, _ = read_all(raw, source_of("ubuntu"))
    assert [c.split for c in conversations] == ["train", "validation", "train"]


def test_ubuntu_turns_are_not_merged_and_unlisted_dialogs_have_no_split(tmp_path: Path) -> None:
    (tmp_path / "raw/dialogs/4").mkdir(parents=True)
    (tmp_path / "raw/dialogs/4/1.tsv").write_text("t\tann\t\ta\nt\tann\t\tb\n")
    ((conversation,), _) = read_all(tmp_path / "raw", source_of("ubuntu"))
    assert [u.text for u in conversation.utterances] == ["a", "b"]
    assert conversation.split is None


def test_ubuntu_damaged_archive(tmp_path: Path) -> None:
    raw = ubuntu_archive(tmp_path / "raw")
    archive = raw / "dialogs.tgz"
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(CorpusError, match=r"dialogs\.tgz: damaged archive"):
        read_all(raw, source_of("ubuntu"))


def jsonl(folder: Path, *lines: object, name: str = "mine.jsonl") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_jsonl(tmp_path: Path) -> None:
    raw = jsonl(
        tmp_path / "raw",
        {
            "id": 7, "group": "g", "split": "dev", "labels": {"topic": "tea", "level": 2, "none": None},
            "utterances": [{"text": "Hi\u2028there", "speaker": "A", "labels": {"act": "greet"}}, "Yes."],
        },
        "",
        {"utterances": ["half a pair: \ud83d", {"text": "", "speaker": ""}], "comment": "kept out"},
    )  # fmt: skip
    (first, second), skipped = read_all(raw, source_of("jsonl"))
    assert (first.id, first.group, first.split) == ("7", "g", "validation")
    assert dict(first.labels) == {"topic": "tea", "level": "2"}
    assert first.utterances == (Utterance("Hi\u2028there", "A", {"act": "greet"}), Utterance("Yes."))
    assert second.id == "mine:3"
    assert second.utterances == (Utterance("half a pair: ?"), Utterance("", None))
    assert skipped.total == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"utterances": ["a"', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('["a", 5]', "not a JSON object"),
        ('{"utterance": ["a"]}', "no list of utterances"),
        ('{"utterances": "a"}', "no list of utterances"),
        ('{"utterances": []}', "conversation without utterances"),
        ('{"utterances": [5]}', "utterance is neither text nor an object"),
        ('{"utterances": [{"speaker": "A"}]}', "text is not a string"),
        ('{"utterances": [{"text": null}]}', "text is not a string"),
        ('{"utterances": ["a"], "split": "holdout"}', "unknown split name"),
        ('{"utterances": ["a"], "labels": ["x"]}', "labels are not an object"),
        ('{"utterances": ["a"], "id": ["x"]}', "id is not a string"),
        ('{"utterances": ["a"], "id": "good"}', "conversation id used twice"),
    ],
)
def test_jsonl_broken_line_is_counted_with_its_place(tmp_path: Path, line: str, reason: str) -> None:
    raw = jsonl(tmp_path / "raw", {"id": "good", "utterances": ["a"]}, line)
    (good,), skipped = read_all(raw, source_of("jsonl"))
    assert good.id == "good"
    assert skipped.counts == {reason: 1}
    assert skipped.examples[reason] == ["good" if "twice" in reason else "mine.jsonl:2"]


def test_jsonl_not_utf8_and_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/mine.jsonl").write_bytes(
        b'\xef\xbb\xbf{"utterances": ["a"]}\r\n{"utterances": ["caf\xe9"]}\n{"utterances": ["b"]}'
    )
    conversations, skipped = read_all(tmp_path / "raw", source_of("jsonl"))
    assert [c.id for c in conversations] == ["mine:1", "mine:3"]
    assert skipped.examples == {"not UTF-8": ["mine.jsonl:2"]}


def test_jsonl_folder_is_read_by_name_and_ids_do_not_clash(tmp_path: Path) -> None:
    raw = jsonl(tmp_path / "raw", {"utterances": ["2"]}, name="b/x.jsonl")
    jsonl(raw, {"utterances": ["1"]}, name="a/x.jsonl")
    conversations, _ = read_all(raw, source_of("jsonl"))
    assert [(c.id, c.utterances[0].text) for c in conversations] == [("a/x:1", "1"), ("b/x:1", "2")]


COLUMNS = {"speaker": "who", "split": "part", "group": "film"}
TABLE = """conversation,turn,text,who,part,film
c2,1,"second, with
a line break",B,train,f
c1,0,hello,A,test,g
c2,0,first,A,train,f
c1,x,not a number,A,test,g
c1,1,good,B,holdout,g
c1,2,too,few
c1,1,fine,B,test,g
c1,1,again,B,test,g
c3,0,a,A,train,f
c3,1,b,A,test,f
,0,nobody's,A,train,f
"""


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_table(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "raw").mkdir()
    text = TABLE if suffix == ".csv" else TABLE.replace(", with", "; with").replace(",", "\t")
    (tmp_path / f"raw/t{suffix}").write_text(text)
    conversations, skipped = read_all(tmp_path / "raw", source_of("table", columns=COLUMNS))
    second, first = conversations
    assert (second.id, second.group, second.split) == ("c2", "f", "train")
    assert [u.text.replace(";", ",") for u in second.utterances] == ["first", "second, with\na line break"]
    assert (first.id, first.split, first.utterances) == (
        "c1", "test", (Utterance("hello", "A"), Utterance("fine", "B")),
    )  # fmt: skip
    assert skipped.examples == {
        "turn is not an integer": [f"t{suffix}:6"],
        "unknown split name": [f"t{suffix}:7"],
        "row of another width than the header": [f"t{suffix}:8"],
        "turn given twice": [f"t{suffix}:10"],
        "rows of one conversation disagree on the split": [f"t{suffix}:11"],
        "no conversation id": [f"t{suffix}:13"],
    }


def test_table_turns_sort_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    rows = "".join(f"c,{turn},t{turn}\n" for turn in (10, 9, -1, 2))
    (tmp_path / "raw/t.csv").write_text("conversation,turn,text\n" + rows)
    ((conversation,), _) = read_all(tmp_path / "raw", source_of("table"))
    assert [u.text for u in conversation.utterances] == ["t-1", "t2", "t9", "t10"]


def test_table_bytes_that_are_not_utf8_cost_one_row(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/t.csv").write_bytes(b"\xef\xbb\xbfconversation,turn,text\nc,0,a\nc,1,caf\xe9\nc,2,b\n")
    ((conversation,), skipped) = read_all(tmp_path / "raw", source_of("table"))
    assert [u.text for u in conversation.utterances] == ["a", "b"]
    assert skipped.examples == {"not UTF-8": ["t.csv:3"]}


@pytest.mark.parametrize("key", ["conversation", "turn", "text", "speaker", "split", "group"])
def test_table_without_a_named_column(tmp_path: Path, key: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/t.csv").write_text("conversation,turn,text\nc,0,a\n")
    with pytest.raises(
        CorpusError, match=rf"t\.csv: no column 'absent' \(source\.columns\.{key}\); it has 'con"
    ):
        read_all(tmp_path / "raw", source_of("table", columns={key: "absent"}))


def test_parquet_table_with_typed_columns(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "raw").mkdir()
    table = pa.table(
        {
            "text": ["b", "a", None, "c", "d"],
            "turn": [2.0, 1.0, 3.0, None, 4.5],  # as pandas leaves integers with a gap
            "conversation": [5, 5, 5, 5, 5],
            "unused": [b"\xff"] * 5,
        }
    )
    pq.write_table(table, tmp_path / "raw/t.parquet")
    ((conversation,), skipped) = read_all(tmp_path / "raw", source_of("table"))
    assert conversation.id == "5"
    assert [u.text for u in conversation.utterances] == ["a", "b"]
    assert skipped.examples == {
        "text is not a string": ["t.parquet: row 3"],
        "turn is not an integer": ["t.parquet: row 4", "t.parquet: row 5"],
    }


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/t.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(CorpusError, match=r"t\.parquet: not a readable Parquet file"):
        read_all(tmp_path / "raw", source_of("table"))


def convokit(folder: Path, utterances: list[dict[str, object] | str], conversations: object = None) -> Path:
    jsonl(folder, *utterances, name="movie-corpus/utterances.jsonl")
    if conversations is not None:
        (folder / "movie-corpus/conversations.json").write_text(json.dumps(conversations))
    return folder


NEW = [
    {"id": "L3", "conversation_id": "L1", "text": "c", "speaker": "u0", "reply-to": "L2", "timestamp": None},
    {"id": "M1", "conversation_id": "M1", "text": "x", "speaker": "u9", "reply-to": None, "timestamp": None},
    {"id": "L2", "conversation_id": "L1", "text": "b", "speaker": "u1", "reply-to": "L1", "timestamp": None},
    {"id": "L1", "conversation_id": "L1", "text": "a", "speaker": "u0", "reply-to": None, "timestamp": None},
]
OLD_NAMES = {"conversation_id": "root", "speaker": "user", "reply-to": "reply_to"}


@pytest.mark.parametrize("names", [{}, OLD_NAMES], ids=["present names", "earlier names"])
def test_convokit_follows_replies(tmp_path: Path, names: dict[str, str]) -> None:
    rows = [{names.get(key, key): value for key, value in row.items()} for row in NEW]
    conversations, skipped = read_all(convokit(tmp_path / "raw", rows), source_of("convokit"))
    assert [(c.id, [u.text for u in c.utterances]) for c in conversations] == [
        ("L1", ["a", "b", "c"]),
        ("M1", ["x"]),
    ]
    assert [u.speaker for u in conversations[0].utterances] == ["u0", "u1", "u0"]
    assert skipped.total == 0


def test_convokit_tree_is_read_in_order_of_time(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "conversation_id": "a", "text": "1", "speaker": "x", "reply-to": None, "timestamp": 5},
        {"id": "b", "conversation_id": "a", "text": "3", "speaker": "y", "reply-to": "a", "timestamp": "90"},
        {"id": "c", "conversation_id": "a", "text": "2", "speaker": "z", "reply-to": "a", "timestamp": 7.5},
    ]
    ((conversation,), _) = read_all(convokit(tmp_path / "raw", rows), source_of("convokit"))
    assert [u.text for u in conversation.utterances] == ["1", "2", "3"]


def test_convokit_circle_of_replies_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [
        {"id": one, "conversation_id": "a", "text": one, "speaker": "x", "reply-to": other}
        for one, other in (("a", None), ("b", "c"), ("c", "b"))
    ]
    ((conversation,), _) = read_all(convokit(tmp_path / "raw", rows), source_of("convokit"))
    assert [u.text for u in conversation.utterances] == ["a", "b", "c"]


@pytest.mark.parametrize("nested", [True, False])
def test_convokit_metadata_gives_group_and_split(tmp_path: Path, nested: bool) -> None:
    metas = {"L1": {"movie": "m0", "part": "val"}, "M1": {"movie": 3, "part": "elsewhere"}}
    raw = convokit(tmp_path / "raw", NEW, {k: {"meta": v} if nested else v for k, v in metas.items()})
    source = source_of("convokit", columns={"group": "movie", "split": "part"})
    ((conversation,), skipped) = read_all(raw, source)
    assert (conversation.group, conversation.split) == ("m0", "validation")
    assert skipped.examples == {"unknown split name": ["conversations.json: M1"]}


def test_convokit_broken_utterances_are_counted(tmp_path: Path) -> None:
    rows = [
        *NEW,
        "{",
        {"id": "N", "text": "lost", "speaker": "u"},
        {"id": "N", "conversation_id": "L1", "text": 5},
    ]
    conversations, skipped = read_all(convokit(tmp_path / "raw", rows), source_of("convokit"))
    assert len(conversations) == 2
    where = "movie-corpus/utterances.jsonl"
    assert skipped.examples == {
        "not valid JSON": [f"{where}:5"],
        "no conversation id": [f"{where}:6"],
        "text is not a string": [f"{where}:7"],
    }


def test_convokit_metadata_file_that_is_wanted_but_missing(tmp_path: Path) -> None:
    raw = convokit(tmp_path / "raw", NEW)
    with pytest.raises(CorpusError, match=r"conversations\.json: cannot be read"):
        read_all(raw, source_of("convokit", columns={"group": "movie"}))


@pytest.mark.parametrize("reader", READERS)
def test_empty_folder_is_an_error_that_names_it(tmp_path: Path, reader: str) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(CorpusError, match="raw"):
        read_all(tmp_path / "raw", source_of(reader))


@pytest.mark.parametrize(
    ("reader", "files"),
    [
        ("toy", {"conversations.jsonl": ""}),
        ("jsonl", {"a.jsonl": "{}\n{}\n"}),
        ("table", {"a.csv": "conversation,turn,text\n"}),
        ("convokit", {"utterances.jsonl": "\n"}),
        ("cornell", {"movie_lines.txt": "", "movie_conversations.txt": ""}),
        ("ubuntu", {"dialogs/3/1.tsv": "broken\n"}),
    ],
)
def test_corpus_without_conversations_is_an_error(tmp_path: Path, reader: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).write_text(text)
    reason = " .*2 x no list of utterances" if reader == "jsonl" else ""
    with pytest.raises(CorpusError, match=f"raw: not one conversation{reason}"):
        read_all(tmp_path / "raw", source_of(reader))


def test_missing_folder_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder; run the download stage"):
        read(tmp_path / "none", source_of("jsonl"), Skipped())


def test_every_reader_of_the_schema_exists() -> None:
    annotation = SourceParams.model_fields["reader"].annotation
    assert annotation is not None
    assert {*READERS, "auto"} == set(annotation.__args__)


def test_skipped_keeps_few_examples_and_all_counts() -> None:
    skipped = Skipped()
    for number in range(9):
        skipped.add("bad", f"f:{number}")
    skipped.add("worse", "f:9")
    assert (skipped.total, skipped.counts["bad"]) == (10, 9)
    assert skipped.examples == {"bad": [f"f:{n}" for n in range(5)], "worse": ["f:9"]}


def test_gathering_many_conversations_takes_no_quadratic_time() -> None:
    """Joined to a subquery without an index, 50 thousand rows took a minute."""
    start = time.monotonic()
    with Gathering() as gathering:
        for number in range(40_000):
            gathering.add(f"c{number % 20_000}", -number, number)
        groups = list(gathering.groups())
    assert time.monotonic() - start < 15
    assert groups[1] == ("c1", [(-20_001, 20_001), (-1, 1)])
    assert len(groups) == 20_000


@pytest.mark.parametrize("reader", ["jsonl", "table", "convokit"])
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, reader: str) -> None:
    """16 MB of text, and never more than a small part of it in memory at once."""
    text = "word " * 800
    (tmp_path / "raw").mkdir()
    with (tmp_path / "raw" / {"table": "t.csv"}.get(reader, "utterances.jsonl")).open("w") as file:
        if reader == "table":
            file.write("conversation,turn,text\n")
        for number in range(4000):
            key = number // 4 if reader != "table" else number % 1000
            if reader == "table":
                file.write(f"c{key},{number},{text}\n")
            elif reader == "convokit":
                file.write(json.dumps({"id": str(number), "conversation_id": f"c{key}", "text": text}) + "\n")
            else:
                file.write(json.dumps({"utterances": [text]}) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gathering, "ROWS_PER_INSERT", 100)
        tracemalloc.start()
        num_characters = sum(
            len(u.text) for c in read(tmp_path / "raw", source_of(reader), Skipped()) for u in c.utterances
        )
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert num_characters == 4000 * len(text)
    assert peak < 3e6
