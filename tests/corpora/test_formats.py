"""Formats people have: a small file each, made by hand, with what it holds; and hostile variants."""

# ruff: noqa: E501  # exports as their apps write them

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.corpora.conftest import source_of
from tests.corpora.test_archives import make_zip
from vhcr.conversation import Conversation
from vhcr.corpora import Skipped, read
from vhcr.corpora.placing import place_file, place_folder
from vhcr.corpora.recognise import Recognised, recognise
from vhcr.errors import CorpusError

Found = tuple[list[Conversation], Skipped, Recognised]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def seen(path: Path, **changes: Any) -> Found:
    """What `vhcr inspect` sees of a path: placed, recognised, read."""
    raw = path.with_name("raw")
    raw.mkdir()
    if path.is_dir():
        place_folder(path, raw, "auto")
    else:
        place_file(path, path.name, raw, "auto")
    found = recognise(raw, source_of("auto", **changes))
    skipped = Skipped()
    return list(read(raw, found.source, skipped)), skipped, found


def texts(conversations: list[Conversation]) -> list[list[str]]:
    return [[utterance.text for utterance in each.utterances] for each in conversations]


def speakers(conversation: Conversation) -> list[str | None]:
    return [utterance.speaker for utterance in conversation.utterances]


SAID = [["Is the shop open?", "Until six."], ["Hi!", "Hello."]]
JSON_FORMS: dict[str, Any] = {
    "ours": [{"utterances": said} for said in SAID],
    "messages": [
        {"messages": [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=False)]}
        for said in SAID
    ],
    "sharegpt": [
        {"id": f"x{n}", "conversations": [{"from": who, "value": text} for who, text in zip(("human", "gpt"), said, strict=False)]}
        for n, said in enumerate(SAID)
    ],
    "schema": [
        {"dialogue_id": f"1_{n}", "turns": [{"speaker": who, "utterance": text} for who, text in zip(("USER", "SYSTEM"), said, strict=False)]}
        for n, said in enumerate(SAID)
    ],
    "pairs": [{"dialogue": [said], "persona": ["I like tea."]} for said in SAID],
    "texts": [{"dialog": said} for said in SAID],
}  # fmt: skip


@pytest.mark.parametrize("form", JSON_FORMS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json"])
def test_json_in_the_forms_of_others(tmp_path: Path, form: str, name: str) -> None:
    values = JSON_FORMS[form]
    lines = "\n".join(json.dumps(value) for value in values)
    text = json.dumps(values, indent=1) if name == "a.json" else lines
    conversations, skipped, found = seen(write(tmp_path / name, text))
    assert found.source.reader == "jsonl"
    assert texts(conversations) == SAID
    assert skipped.total == 0
    if form == "sharegpt":
        assert [c.id for c in conversations] == ["x0", "x1"]
        assert speakers(conversations[0]) == ["human", "gpt"]
    if form == "schema":
        assert speakers(conversations[0]) == ["USER", "SYSTEM"]


def test_json_by_id_and_one_object_a_line_in_json(tmp_path: Path) -> None:
    by_id = {
        "c7": {"messages": [{"role": "usr", "content": "你好"}]},
        "c8": {"messages": [{"role": "sys", "content": "好"}]},
    }
    conversations, _, _ = seen(write(tmp_path / "by/a.json", json.dumps(by_id)))
    assert [c.id for c in conversations] == ["c7", "c8"]
    lines = '{"utterances": ["a"]}\n{"utterances": ["b"]}\n'
    assert texts(seen(write(tmp_path / "lines/a.json", lines))[0]) == [["a"], ["b"]]
    wrapped = json.dumps({"data": [{"utterances": ["a"]}]})
    assert texts(seen(write(tmp_path / "wrapped/a.json", wrapped))[0]) == [["a"]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps(SAID)),
        ("a.jsonl", "\n".join(map(json.dumps, SAID))),
        ("a.json", json.dumps({"categories": ["shop"], "conversations": SAID})),
        (
            "a.yml",
            "categories:\n- shop\nconversations:\n- - Is the shop open?\n  - Until six.\n- - Hi!\n  - Hello.\n",
        ),
        ("a.yaml", "- [Is the shop open?, Until six.]\n- [{content: Hi!}, {content: Hello.}]\n"),
    ],
)
def test_lists_of_texts_are_conversations_in_json_and_yaml(tmp_path: Path, name: str, text: str) -> None:
    """One object that holds several conversations was read as one of pairs of texts."""
    conversations, skipped, _ = seen(write(tmp_path / name, text))
    assert texts(conversations) == SAID
    assert skipped.total == 0


def test_one_broken_conversation_of_a_file_costs_no_other(tmp_path: Path) -> None:
    """A trivia file of 261 conversations, one of them no list for want of a dash, was read as one of 520 turns."""
    said = "conversations:\n- - Is the shop open?\n  - Until six.\n- Who?\n- - Hi!\n  - Hello.\n"
    conversations, skipped, _ = seen(write(tmp_path / "trivia.yml", said))
    assert texts(conversations) == SAID
    assert dict(skipped.counts) == {"not a JSON object": 1}


def test_yaml_is_read_as_text_and_nothing_else(tmp_path: Path) -> None:
    said = "- [yes, 12:30, 007, ~]\n"
    assert texts(seen(write(tmp_path / "a.yml", said))[0]) == [["yes", "12:30", "007", "~"]]
    tagged = "- !!python/object/apply:os.system [ls]\n"  # PyYAML's full loader would run it
    assert texts(seen(write(tmp_path / "b/a.yml", tagged))[0]) == [["ls"]]
    with pytest.raises(CorpusError, match="not valid YAML"):
        seen(write(tmp_path / "c/a.yml", "- [a\n"))


def test_prompts_of_the_system_and_messages_of_tools_are_no_turns(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {}}]},
        {"role": "assistant", "content": None, "tool_calls": [{}]},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "It is 42."},
    ]  # fmt: skip
    (conversation,), skipped, _ = seen(write(tmp_path / "a.jsonl", json.dumps({"messages": messages})))
    assert [u.text for u in conversation.utterances] == ["Look:", "It is 42."]
    assert skipped.total == 0
    assert sum(skipped.noted.values()) == 4


TIMED = "when;who;what\n{0}\n"
ROWS = [("1/2/21 10:00", "ann", "Is the shop open?"), ("1/2/21 10:05", "ben", "Until six."),
        ("13/2/21 10:00", "ann", "Hi!"), ("13/2/21 10:01", "ben", "Hello.")]  # fmt: skip


def test_a_table_by_time_without_ids_breaks_at_silences(tmp_path: Path) -> None:
    """Rows shuffled; 1/2/21 is the first of February, since 13/2/21 cannot be another order."""
    rows = "\n".join(";".join(row) for row in (ROWS[3], ROWS[0], ROWS[2], ROWS[1]))
    conversations, skipped, found = seen(write(tmp_path / "chat.csv", TIMED.format(rows)))
    assert found.source.columns.time == "when"
    assert found.is_chat
    assert texts(conversations) == SAID
    assert [c.id for c in conversations] == ["chat#1", "chat#2"]
    assert conversations[0].group == "chat"
    assert skipped.total == 0


def test_a_column_that_counts_is_the_turn_whatever_it_is_called(tmp_path: Path) -> None:
    """It became a label, and an "id" that conversations share was none: 60 conversations were one of 360 turns."""
    rows = ["id;Zeile;Stimmung;wer sagt was"]
    rows += [f"{c};{t};{(c + t) % 2};they said {c}{t}" for t in (1, 0) for c in range(9)]
    conversations, _, found = seen(write(tmp_path / "t.csv", "\n".join(rows)))
    columns = found.source.columns
    assert (columns.conversation, columns.turn, columns.utterance_labels) == ("id", "Zeile", ("Stimmung",))
    assert texts(conversations) == [[f"they said {c}0", f"they said {c}1"] for c in range(9)]
    alone = write(tmp_path / "alone/t.csv", "id,text\n" + "\n".join(f"{n},they said {n}" for n in range(9)))
    assert seen(alone)[2].source.columns.conversation is None  # a number of each utterance


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_an_utterance_an_object_is_a_row(tmp_path: Path, name: str) -> None:
    """JSON Lines with a row a line had been refused: none of them holds a list of utterances."""
    rows: list[dict[str, Any]] = [
        {"id": 1, "conversation": 7, "turn": 1, "speaker": "ann", "text": "Until six."},
        {"id": 2, "conversation": 7, "turn": 0, "speaker": "ben", "text": "Open?"},
        {"id": 3, "conversation": 8, "turn": 0, "text": "Hi!"},
        {"id": 4, "conversation": 8, "turn": 1, "speaker": "ben"},
    ]
    text = json.dumps(rows) if name.endswith("n") else "\n".join(map(json.dumps, rows))
    conversations, skipped, found = seen(write(tmp_path / name, text))
    assert "a table (json" in found.description
    assert [each.id for each in conversations] == ["7", "8"]
    assert texts(conversations) == [["Open?", "Until six."], ["Hi!"]]
    assert speakers(conversations[0]) == ["ben", "ann"]
    assert speakers(conversations[1]) == [None]
    assert skipped.as_dict()["by_reason"] == {"text is not a string": 1}


def test_json_beside_a_table_is_no_table(tmp_path: Path) -> None:
    write(tmp_path / "all" / "chats.csv", "dialogue_id,utterance\n1,b\n")
    write(tmp_path / "all" / "info.json", '{"text": "what this is"}')
    conversations, _, found = seen(tmp_path / "all")
    assert found.description.startswith("recognised as a table (csv)")
    assert texts(conversations) == [["b"]]


def test_a_table_in_the_order_of_its_rows(tmp_path: Path) -> None:
    text = "dialogue_id,utterance\n1,b\n1,a\n2,c\n"
    conversations, _, found = seen(write(tmp_path / "t.csv", text))
    assert found.source.columns.turn is None
    assert texts(conversations) == [["b", "a"], ["c"]]


def test_excel_with_labels(tmp_path: Path) -> None:
    """Excel keeps integers as floats and times as dates, and a number as an answer is a number."""
    rows = [
        ["chat", "turn", "text", "topic"],
        ["a", 1, "How many?", "tea"],
        ["a", 0, "Cups?", "tea"],
        ["b", 0, 42, "rain"],
    ]
    path = workbook(tmp_path / "t.xlsx", [*rows, *(["c", n, "x y", "rain"] for n in range(6))])
    conversations, skipped, found = seen(path)
    assert texts(conversations)[:2] == [["Cups?", "How many?"], ["42"]]
    assert found.source.columns.labels == ("topic",)
    assert dict(conversations[0].labels) == {"topic": "tea"}
    assert skipped.total == 0


def workbook(path: Path, rows: list[list[Any]]) -> Path:
    """A minimal .xlsx: a zip of four XML files, texts inline."""

    def cell(value: Any) -> str:
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
        return f"<c><v>{value}</v></c>"

    sheet = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    return make_zip(
        path,
        {
            "[Content_Types].xml": f'<Types xmlns="{package}content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/><Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/></Types>'.encode(),
            "_rels/.rels": f'<Relationships xmlns="{package}relationships"><Relationship Id="r1" Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>'.encode(),
            "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name="s" sheetId="1" r:id="r1"/></sheets></workbook>'.encode(),
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}relationships"><Relationship Id="r1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>'.encode(),
            "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{sheet}</sheetData></worksheet>'.encode(),
        },
    )  # fmt: skip


def test_turns_in_lists_as_parquet_and_as_numpy_prints_them(tmp_path: Path) -> None:
    """DailyDialog's tables; NumPy prints no commas, and Python would join what stands side by side."""
    table = pa.table({"dialog": SAID, "act": [[2, 1], [3, 4]], "split": ["train", "test"]})
    (tmp_path / "p").mkdir()
    pq.write_table(table, tmp_path / "p/d.parquet")
    conversations, _, found = seen(tmp_path / "p/d.parquet")
    assert texts(conversations) == SAID
    assert [c.split for c in conversations] == ["train", "test"]
    assert found.source.columns.utterance_labels == ("act",)
    assert [dict(u.labels) for u in conversations[1].utterances] == [{"act": "3"}, {"act": "4"}]
    printed = 'dialog,act\n"[\'Is the shop open?\'\n ""Until six.""]",[2 1]\n"[\'Hi!\' \'Hello.\']",[3 4]\n'
    conversations, skipped, _ = seen(write(tmp_path / "n/d.csv", printed))
    assert texts(conversations) == SAID
    assert dict(conversations[0].utterances[1].labels) == {"act": "1"}
    assert skipped.total == 0


def test_eou_text_with_dailydialogs_labels(tmp_path: Path) -> None:
    write(
        tmp_path / "d/dialogues_train.txt", "Is the shop open ? __eou__ Until six . __eou__\nHi ! __eou__\n"
    )
    write(tmp_path / "d/dialogues_act_train.txt", "2 1\n3 3\n")
    conversations, skipped, _ = seen(tmp_path / "d")
    assert texts(conversations) == [["Is the shop open ?", "Until six ."], ["Hi !"]]
    assert conversations[0].split == "train"
    assert dict(conversations[0].utterances[0].labels) == {"act": "2"}
    assert dict(conversations[1].utterances[0].labels) == {}
    assert [*skipped.noted.values()] == [1]
    ubuntu = "hi __eou__ anyone ? __eou__ __eot__ yes __eou__ __eot__\n"
    (conversation,), _, _ = seen(write(tmp_path / "u/a.txt", ubuntu))
    assert speakers(conversation) == ["0", "0", "1"]


def test_parlai_in_both_forms(tmp_path: Path) -> None:
    new = "text:Is the shop open?\tlabels:Until six.|Yes.\ntext:Hi!\tlabels:Hello.\tepisode_done:True\nnonsense\n"
    conversations, skipped, _ = seen(write(tmp_path / "new/t.txt", new))
    assert texts(conversations) == [[*SAID[0], *SAID[1]]]
    assert skipped.examples == {"line in neither of ParlAI's formats": ["t.txt:3"]}
    old = "1 Is the shop open?\tUntil six.\t\t|a|b\n1 Hi!\tHello.\n"
    conversations, _, _ = seen(write(tmp_path / "old/t.txt", old))
    assert texts(conversations) == SAID
    assert speakers(conversations[0]) == ["1", "2"]


ANDROID = """12/31/20, 11:58 PM - Messages are end-to-end encrypted.
12/31/20, 11:59 PM - Ann: Is the shop
open?
1/1/21, 12:05 AM - Ben: Until six.
1/1/21, 12:06 AM - Ben: <Media omitted>
1/1/21, 3:00 PM - Ann: Hi!
1/1/21, 3:01 PM - Ben: Hello. <This message was edited>
"""
IOS = (
    "\u200e[31.12.20, 23:58:00] Us: \u200eMessages are end-to-end encrypted\r\n"
    "[31.12.20, 23:59:00] Ann: Is the shop\r\nopen?\r\n[01.01.21, 00:05:00] Ben: Until six.\r\n"
    "\u200e[01.01.21, 00:06:00] Ben: \u200eimage omitted\r\n"
    "[01.01.21, 15:00:00] Ann: Hi!\r\n[01.01.21, 15:01:00] Ben: Hello.\r\n"
)


def test_whatsapp_of_android(tmp_path: Path) -> None:
    conversations, skipped, found = seen(write(tmp_path / "WhatsApp Chat with Test.txt", ANDROID))
    assert found.source.reader == "whatsapp"
    assert texts(conversations) == [["Is the shop\nopen?", "Until six."], ["Hi!", "Hello."]]
    assert speakers(conversations[0]) == ["Ann", "Ben"]
    assert conversations[0].id == "WhatsApp Chat with Test#1"
    assert conversations[0].split is None  # a chat with somebody called Test is no test split
    assert skipped.total == 0
    assert dict(skipped.noted) == {"notice of the app, no turn": 1, "media or words of the app, no text": 1}


@pytest.mark.parametrize(
    "media", ["image omitted", "imagen omitida", "Bild weggelassen", "画像を省略しました"]
)
def test_whatsapp_of_ios(tmp_path: Path, media: str) -> None:
    """Of other languages than English, "imagen omitida" was something that somebody said."""
    text = IOS.replace("image omitted", media)
    conversations, skipped, _ = seen(write(tmp_path / "_chat.txt", text), session_gap_minutes=60)
    assert texts(conversations) == [["Is the shop\nopen?", "Until six."], ["Hi!", "Hello."]]
    assert skipped.noted["media or words of the app, no text"] == 2


def test_dates_in_no_common_order_are_refused(tmp_path: Path) -> None:
    text = "13/1/21, 10:00 - A: x\n1/13/21, 10:00 - B: y\n"
    with pytest.raises(CorpusError, match=r"'1/13/21, 10:00' is no date .* source\.date_order"):
        seen(write(tmp_path / "a.txt", text))


def test_dates_that_could_be_two_orders_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """4/3 then 5/3 runs forward either way: day first, and a warning; 1/4 then 2/1 runs back as days."""
    text = "4/3/21, 10:00 - A: x\n5/3/21, 10:00 - B: y\n"
    conversations, _, _ = seen(write(tmp_path / "a/a.txt", text))
    assert "dates are read as dmy, but could be mdy" in caplog.text
    assert conversations[0].utterances[0].time == 1614852000.0  # 4 March 2021, 10:00 UTC
    (conversation,), _, _ = seen(
        write(tmp_path / "b/b.txt", "1/4/21, 10:00 - A: x\n2/1/21, 10:00 - B: y\n"), session_gap_minutes=1e6
    )
    assert conversation.utterances[0].time == 1609754400.0  # 4 January


TELEGRAM = {
    "name": "Us", "type": "personal_chat", "id": 7,
    "messages": [
        {"id": 1, "type": "service", "date": "2021-01-01T10:00:00", "action": "create_group", "text": ""},
        {"id": 2, "type": "message", "date": "2021-01-01T10:00:00", "date_unixtime": "1609495200", "from": "Ann",
         "text": ["Is the shop ", {"type": "bold", "text": "open"}, "?"]},
        {"id": 3, "type": "message", "date": "2021-01-01T10:01:00", "from": "Ben", "text": "Until six."},
        {"id": 4, "type": "message", "date": "2021-01-01T10:02:00", "from": "Ben", "text": "", "media_type": "sticker"},
        {"id": 5, "type": "message", "date": "2021-01-02T10:00:00", "from": "Ann", "text": "Hi!"},
        {"id": 6, "type": "message", "date": "2021-01-02T10:01:00", "from": None, "text": "Hello."},
        {"id": 7, "type": "message", "date": "2021-01-02T10:02:00", "from": "Ben", "text": 5},
    ],
}  # fmt: skip


@pytest.mark.parametrize("whole", [False, True])
def test_telegram(tmp_path: Path, whole: bool) -> None:
    document = {"about": "", "chats": {"list": [TELEGRAM, {**TELEGRAM, "id": 8}]}} if whole else TELEGRAM
    conversations, skipped, found = seen(write(tmp_path / "result.json", json.dumps(document)))
    assert found.source.reader == "telegram"
    assert texts(conversations)[:2] == SAID
    assert conversations[0].id == ("Us (7)#1" if whole else "Us#1")
    assert skipped.counts == {"text is not a string": 1 + whole}


def test_slack(tmp_path: Path) -> None:
    root = tmp_path / "export"
    users = [{"id": "U1", "real_name": "Ann"}, {"id": "U2", "name": "ben"}]
    write(root / "users.json", json.dumps(users))
    day = [
        {"type": "message", "subtype": "channel_join", "user": "U1", "text": "joined", "ts": "1609495200.000100"},
        {"type": "message", "user": "U1", "text": "Is the <#C1|shop> open, <@U2>?", "ts": "1609495201.000100"},
        {"type": "message", "user": "U2", "text": "Until six &amp; no longer", "ts": "1609495300.000100"},
        {"type": "message", "user": "U1", "text": "Hi!", "ts": "1609495250.000100", "thread_ts": "1609495250.000100"},
        {"type": "message", "user": "U2", "text": "Hello.", "ts": "1609581000.000100", "thread_ts": "1609495250.000100"},
    ]  # fmt: skip
    write(root / "general/2021-01-01.json", json.dumps(day[:4]))
    write(root / "general/2021-01-02.json", json.dumps(day[4:]))
    conversations, skipped, found = seen(root, session_gap_minutes=10_000)
    assert found.source.reader == "slack"
    assert texts(conversations) == [["Is the #shop open, @ben?", "Until six & no longer"], ["Hi!", "Hello."]]
    assert speakers(conversations[0]) == ["Ann", "ben"]
    assert dict(skipped.noted) == {"notice of the app, no turn": 1}


def test_discord_as_json_and_as_csv(tmp_path: Path) -> None:
    messages = [
        {"id": "1", "type": "GuildMemberJoin", "timestamp": "2021-01-01T10:00:00+00:00", "content": "Joined", "author": {"name": "a"}},
        {"id": "2", "type": "Default", "timestamp": "2021-01-01T10:00:00.1+00:00", "content": "Is the shop open?", "author": {"name": "a", "nickname": "Ann"}},
        {"id": "3", "type": "Reply", "timestamp": "2021-01-01T10:01:00+00:00", "content": "Until six.", "author": {"name": "ben"}},
        {"id": "4", "type": "Default", "timestamp": "2021-01-01T10:02:00+00:00", "content": "", "author": {"name": "ben"}},
    ]  # fmt: skip
    document = {"guild": {"name": "g"}, "channel": {"id": "9", "name": "general"}, "messages": messages}
    (conversation,), skipped, found = seen(write(tmp_path / "j/g - general [9].json", json.dumps(document)))
    assert found.source.reader == "discord"
    assert [u.text for u in conversation.utterances] == SAID[0]
    assert speakers(conversation) == ["Ann", "ben"]
    assert dict(skipped.noted) == {"notice of the app, no turn": 1, "attachment, no text": 1}
    table = (
        "AuthorID,Author,Date,Content,Attachments,Reactions\n"
        '"1","ann","2021-01-01T10:00:00.0000000+00:00","Is the shop open?","",""\n'
        '"2","ben","2021-01-01T10:01:00.0000000+00:00","Until six.","",""\n'
    )
    (conversation,), skipped, found = seen(write(tmp_path / "c/g.csv", table))
    assert (found.source.columns.time, found.source.columns.speaker) == ("Date", "Author")
    assert [u.text for u in conversation.utterances] == SAID[0]


JSONL = b'{"utterances": ["Is the shop open?", "Until six."]}\n{"utterances": ["Hi!", "Hello."]}\n'


def test_the_ubuntu_corpus_is_no_table_without_a_header(tmp_path: Path) -> None:
    """Its first message was taken for the names of columns."""
    said = (
        "2004-11-23T11:49:00.000Z\tann\t\tIs the shop open?\n2004-11-23T11:50:00.000Z\tben\tann\tUntil six.\n"
    )
    write(tmp_path / "corpus/dialogs/3/1.tsv", said)
    conversations, _, found = seen(tmp_path / "corpus")
    assert (found.source.reader, found.source.session_gap_minutes, found.is_chat) == ("ubuntu", None, True)
    assert texts(conversations) == SAID[:1]


@pytest.mark.parametrize("packed", ["a.jsonl.gz", "a.jsonl.zst", "a.zip", "folder", "inner.zip"])
def test_packed_files_read_as_plain_ones(tmp_path: Path, packed: str) -> None:
    zst = pa.compress(JSONL, codec="zstd", asbytes=True)
    if packed == "a.jsonl.gz":
        path = write(tmp_path / packed, gzip.compress(JSONL))
    elif packed == "a.jsonl.zst":
        path = write(tmp_path / packed, zst)
    elif packed == "folder":
        path = write(tmp_path / "folder/a.jsonl.gz", gzip.compress(JSONL)).parent
    else:
        path = make_zip(tmp_path / packed, {"a.jsonl": JSONL} if packed == "a.zip" else {"a.jsonl.zst": zst})
    conversations, _, _ = seen(path)
    assert texts(conversations) == SAID
    assert [c.id for c in conversations] == ["a:1", "a:2"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    whole = (
        gzip.compress(JSONL * 50) if suffix == ".gz" else pa.compress(JSONL * 50, codec="zstd", asbytes=True)
    )
    with pytest.raises(CorpusError, match=r"a\.jsonl\.\w+: damaged"):
        seen(write(tmp_path / f"a.jsonl{suffix}", whole[:-20]))


def test_a_packed_bomb_is_refused(tmp_path: Path) -> None:
    bomb = write(tmp_path / "a.jsonl.gz", gzip.compress(b" " * 20 * 2**20))
    with pytest.raises(CorpusError, match="unpacks to over 200 times its own size"):
        seen(bomb)


def test_what_is_in_no_known_format_is_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no known format: letter\.txt; known are JSON .* WhatsApp"):
        seen(write(tmp_path / "letter.txt", "Dear Ann,\nall is well.\n"))
