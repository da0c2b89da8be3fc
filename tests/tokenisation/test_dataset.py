from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from vhcr.conversation import SPLITS, Conversation, Split, Utterance
from vhcr.errors import DataError
from vhcr.params import Params, TokenisationParams
from vhcr.tokenisation.account import account
from vhcr.tokenisation.dataset import Dataset, build
from vhcr.tokenisation.specials import EOS, UNK
from vhcr.tokenisation.spool import merge_speaker_turns, windows
from vhcr.tokenisation.tables import SCHEMAS, TOKEN_IDS
from vhcr.tokenisation.tokeniser import tokenise
from vhcr.tokenisation.vocabulary import Vocabulary


def settings(**overrides: Any) -> TokenisationParams:
    defaults = Params.load(Path(__file__).parents[2] / "params.yaml").defaults.tokenisation
    return TokenisationParams.model_validate({**defaults.model_dump(), "min_count": 1, **overrides})


def said(id: str, *texts: str, split: Split | None = "train", group: str | None = None) -> Conversation:
    """A conversation of two speakers who take turns."""
    utterances = tuple(Utterance(text, "AB"[turn % 2]) for turn, text in enumerate(texts))
    return Conversation(id, utterances, group=group, split=split)


HELD_OUT = (said("v", "hello you", split="validation"), said("t", "hello me", "who?", split="test"))


def many(count: int = 200) -> Iterator[Conversation]:
    """Conversations of 1 to 12 turns, some empty, some lines without words, in three groups."""
    for number in range(count):
        texts = [
            "--"
            if (number + turn) % 11 == 5
            else f"Line {turn} of w{number % 17}, isn't it? " * (1 + turn % 3)
            for turn in range(number % 13)
        ]
        utterances = tuple(
            Utterance(
                text, None if turn % 5 == 4 else "ABB"[turn % 3], {"act": f"a{turn % 2}"} if turn % 2 else {}
            )
            for turn, text in enumerate(texts)
        )
        yield Conversation(f"c{number}", utterances, f"g{number % 3}", None, {"topic": f"t{number % 4}"})


def make(folder: Path, *conversations: Conversation, chunk: int = 1000, **overrides: Any) -> Dataset:
    params = settings(**{"split_by": "published", **overrides})
    return build([*conversations, *HELD_OUT], params, folder, corpus="own", shard_utterances=chunk)


def table(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_words_ids_and_sizes_of_a_conversation(tmp_path: Path) -> None:
    data = make(tmp_path, said("a", "Don't go!", "go go go"))
    utterances = table(tmp_path, "utterances").filter(pl.col("conversation_id") == "a")
    assert utterances["words"].to_list() == [["do", "n't", "go", "!"], ["go", "go", "go"]]
    assert utterances["num_words"].to_list() == [5, 4]
    assert utterances["turn"].to_list() == [0, 1]
    assert utterances["speaker"].to_list() == ["A", "B"]
    assert utterances["text"].to_list() == ["Don't go!", "go go go"]
    assert table(tmp_path, "conversations").row(0) == ("a", "train", None, 2, 9)
    # go 4 times; then !, do, n't once each, in code point order
    vocabulary = Vocabulary.load(tmp_path / "vocabulary.parquet")
    assert vocabulary.words[4:] == ("go", "!", "do", "n't")
    ids = table(tmp_path, "token_ids/train").row(0)
    assert ids == ("a", [[6, 7, 4, 5, EOS], [4, 4, 4, EOS]])
    assert data.manifest["splits"]["train"] == {"conversations": 1, "utterances": 2, "words": 9}
    assert data.manifest["splits"]["test"] == {"conversations": 1, "utterances": 2, "words": 6}
    # of the test split's hello, me, who, ? none occurs in training
    assert data.metrics["splits"]["test"]["unknown_words"] == 4
    assert data.metrics["splits"]["test"]["unknown_fraction"] == 1.0
    assert table(tmp_path, "token_ids/test").row(0) == ("t", [[UNK, UNK, EOS], [UNK, UNK, EOS]])


def test_files_have_the_promised_schemas_even_when_empty(tmp_path: Path) -> None:
    make(tmp_path, said("a", "x"))
    for name, schema in SCHEMAS.items():
        assert pq.read_schema(tmp_path / f"{name}.parquet").equals(schema)
    assert table(tmp_path, "labels").height == 0
    for split in SPLITS:
        assert pq.read_schema(tmp_path / "token_ids" / f"{split}.parquet").equals(TOKEN_IDS)
    assert not (tmp_path / "shards").exists()


def test_long_utterances_and_conversations_are_cut_and_counted(tmp_path: Path) -> None:
    data = make(
        tmp_path, said("a", "a b c d e f", "g", "h i", "j"), said("b", "a b c"), max_words=4, max_turns=3
    )
    utterances = table(tmp_path, "utterances").filter(pl.col("split") == "train")
    assert utterances["words"].to_list() == [["a", "b", "c"], ["g"], ["h", "i"], ["a", "b", "c"]]
    assert utterances["num_words"].to_list() == [4, 2, 3, 4]
    assert data.metrics["cut"] == {"conversations": 1, "turns": 1, "utterances": 1, "words": 3}


def test_vocabulary_counts_training_words_before_cutting(tmp_path: Path) -> None:
    make(tmp_path, said("a", "x y z z", "q"), max_words=2, max_turns=1)
    vocabulary = Vocabulary.load(tmp_path / "vocabulary.parquet")
    assert vocabulary.words[4:] == ("z", "q", "x", "y")
    assert "hello" not in vocabulary


def test_empty_lines_are_dropped_and_turns_renumbered(tmp_path: Path) -> None:
    data = make(
        tmp_path, said("a", "--", "x", "", "y"), said("nothing", "...", "*"), said("none"), said("gone", "*")
    )
    utterances = table(tmp_path, "utterances").filter(pl.col("conversation_id") == "a")
    assert utterances["turn"].to_list() == [0, 1]
    assert utterances["speaker"].to_list() == ["B", "B"]
    assert data.metrics["left_out"]["empty_utterances"] == 4  # two of a, one of nothing, one of gone
    assert data.metrics["left_out"]["empty_conversations"] == 2
    assert table(tmp_path, "conversations")["conversation_id"].to_list() == ["a", "nothing", "v", "t"]
    read = data.metrics["read"]
    assert (read["conversations"], read["utterances"], read["groups"]) == (6, 10, 0)


def test_short_conversations_are_left_out_of_the_vocabulary_too(tmp_path: Path) -> None:
    held_out = [said("v", "b", "b", split="validation"), said("t", "b", "b", split="test")]
    short = [said("a", "a", "a"), said("s", "short")]
    data = build([*short, *held_out], settings(split_by="published", min_turns=2), tmp_path, corpus="own")
    assert data.metrics["left_out"]["short_conversations"] == 1
    assert "short" not in Vocabulary.load(tmp_path / "vocabulary.parquet")


def test_a_conversation_of_one_turn_is_a_conversation(tmp_path: Path) -> None:
    make(tmp_path, said("one", "alone"))
    assert table(tmp_path, "token_ids/train").row(0) == ("one", [[4, EOS]])


def test_conversations_in_no_published_list_are_left_out(tmp_path: Path) -> None:
    data = make(tmp_path, said("a", "x"), said("lost", "word", split=None))
    assert data.metrics["left_out"]["conversations_in_no_list"] == 1
    assert "word" not in Vocabulary.load(tmp_path / "vocabulary.parquet")
    assert "lost" not in table(tmp_path, "conversations")["conversation_id"].to_list()


def test_consecutive_lines_of_one_speaker_are_merged() -> None:
    lines = [
        Utterance("a", "A", {"act": "x", "mood": "m"}),
        Utterance("b", "A", {"act": "y"}),
        Utterance("c", "B"),
        Utterance("d", None),
        Utterance("e", None),
        Utterance("f", "A"),
    ]
    merged = merge_speaker_turns(lines)
    assert [(line.text, line.speaker) for line in merged] == [
        ("a b", "A"),
        ("c", "B"),
        ("d", None),
        ("e", None),
        ("f", "A"),
    ]
    assert merged[0].labels == {"act": "x", "mood": "m"}  # of two lines, the first one's label stands


def test_merging_is_counted_and_precedes_min_turns(tmp_path: Path) -> None:
    lines = (Utterance("a", "A"), Utterance("b", "A"), Utterance("c", "B"))
    double = Conversation("m", lines, split="train")
    held_out = [said("v", "b", "b", "b", split="validation"), said("t", "b", "b", "b", split="test")]
    keep = [said("k", "x", "y", "z"), double, *held_out]
    params = settings(split_by="published", merge_speaker_turns=True, min_turns=3)
    data = build(keep, params, tmp_path, corpus="own")
    assert data.metrics["merged"]["utterances"] == 1
    assert data.metrics["left_out"]["short_conversations"] == 1
    assert table(tmp_path, "token_ids/train")["conversation_id"].to_list() == ["k"]


def test_labels_follow_their_turns(tmp_path: Path) -> None:
    utterances = (
        Utterance("--", "A", {"act": "none"}),
        Utterance("hi", "B", {"tone": "warm", "act": "greet"}),
        Utterance("bye", "A", {"act": "leave"}),
    )
    labelled = Conversation("a", utterances, split="train", labels={"topic": "food"})
    make(tmp_path, labelled, max_turns=1)
    assert table(tmp_path, "labels").rows() == [
        ("a", "train", None, "topic", "food"),
        ("a", "train", 0, "act", "greet"),
        ("a", "train", 0, "tone", "warm"),
    ]


def test_chunks_do_not_show(tmp_path: Path) -> None:
    """Whatever the chunk size: the same rows, ids and hash; and with equal sizes the same bytes."""
    params = settings(max_words=12, max_turns=6, vocabulary_size=15, merge_speaker_turns=True)
    folders = {}
    for name, chunk in (("one", 10**6), ("again", 10**6), ("seven", 7), ("single", 1)):
        folders[name] = build(many(30), params, tmp_path / name, corpus="own", shard_utterances=chunk)
    assert digests(tmp_path / "one") == digests(tmp_path / "again")
    # The files are others, since each chunk is a row group of its own.
    manifests = [{**folders[name].manifest, "files": None} for name in ("one", "seven", "single")]
    assert manifests[0] == manifests[1] == manifests[2]
    assert folders["one"].metrics == folders["seven"].metrics == folders["single"].metrics
    for name in ("conversations", "utterances", "labels", "token_ids/train", "token_ids/test"):
        assert table(tmp_path / "one", name).equals(table(tmp_path / "seven", name))
        assert table(tmp_path / "one", name).equals(table(tmp_path / "single", name))


def test_tables_agree_with_a_plain_loop(tmp_path: Path) -> None:
    """The same rules, one conversation and one word at a time."""
    params = settings(max_words=9, max_turns=5, min_turns=2, vocabulary_size=20, min_count=2)
    build(many(), params, tmp_path, corpus="own", shard_utterances=200)
    split_of = dict(table(tmp_path, "conversations").select("conversation_id", "split").iter_rows())
    vocabulary = Vocabulary.load(tmp_path / "vocabulary.parquet")
    counts: dict[str, int] = {}
    expected: dict[str, dict[str, list[list[int]]]] = {split: {} for split in SPLITS}
    kept = []
    for conversation in many():
        lines = [found for line in conversation.utterances if (found := tokenise(line.text))]
        if len(lines) >= 2:
            kept.append((conversation.id, lines))
    assert [id for id, _ in kept] == table(tmp_path, "conversations")["conversation_id"].to_list()
    for id, lines in kept:
        expected[split_of[id]][id] = [vocabulary.encode(line[:8], end=True) for line in lines[:5]]
        if split_of[id] == "train":
            for word in (word for line in lines for word in line):
                counts[word] = counts.get(word, 0) + 1
    assert vocabulary == Vocabulary.from_counts(counts, size=20, min_count=2)
    for split in SPLITS:
        assert dict(table(tmp_path, f"token_ids/{split}").iter_rows()) == expected[split]


def test_data_hash_sees_content_and_nothing_else(tmp_path: Path) -> None:
    def hash_of(name: str, *conversations: Conversation, **overrides: Any) -> str:
        found: str = make(tmp_path / name, *conversations, **overrides).manifest["data_hash"]
        return found

    base = hash_of("base", said("a", "x y", "z"))
    assert hash_of("punctuation lost anyway", said("a", "X -- y", "z")) == base
    assert hash_of("word", said("a", "x x", "z")) != base
    assert hash_of("break", said("a", "x", "y z")) != base
    assert hash_of("conversations", said("a", "x y"), said("b", "z")) != base
    assert hash_of("id", said("b", "x y", "z")) != base
    labelled = Conversation("a", said("a", "x y", "z").utterances, split="train", labels={"topic": "t"})
    assert hash_of("labels", labelled) != base
    assert hash_of("a dial that changes nothing", said("a", "x y", "z"), max_words=20) == base


def test_leakage_is_reported(tmp_path: Path) -> None:
    train = [said("a", "hello me", "WHO?", group="m"), said("b", "other", group="n")]
    data = make(tmp_path, *train, said("c", "hello me", "me", split="validation", group="m"))
    leaks = data.metrics["leakage"]
    # t repeats a word for word; c and t begin as a does; c shares the group m with a
    assert leaks["conversation_words"]["in_several_splits"] == 1
    assert leaks["conversation_words"]["test_also_in_train"] == {"conversations": 1, "fraction": 1.0}
    assert leaks["conversation_words"]["validation_also_in_train"] == {"conversations": 0, "fraction": 0.0}
    assert leaks["first_utterance"]["validation_also_in_train"] == {"conversations": 1, "fraction": 0.5}
    assert leaks["first_utterance"]["test_also_in_validation"]["conversations"] == 1
    assert leaks["group"]["distinct"] == 2
    assert leaks["group"]["validation_also_in_train"] == {"conversations": 1, "fraction": 1.0}


def test_metrics_are_plain_json(tmp_path: Path) -> None:
    data = build(many(), settings(), tmp_path, corpus="own")
    for value in (data.metrics, data.manifest):
        assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="own: not one conversation"):
        build([], settings(), tmp_path, corpus="own")


def test_a_split_without_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no conversation of split train is left.*min_turns = 1"):
        make(tmp_path, said("a", "--"))


def test_windows_keep_what_was_cut(tmp_path: Path) -> None:
    """30 chats of 5,000 turns lost 149,700 of 150,000 turns to max_turns = 10."""
    chats = [said(f"c{n}", *(f"w{turn}" for turn in range(500))) for n in range(30)]
    data = build(
        chats, settings(long_conversations="windows", split_by="conversation"), tmp_path, corpus="own"
    )
    assert sum(split["utterances"] for split in data.manifest["splits"].values()) == 15_000
    assert data.metrics["cut"]["turns"] == 0
    assert data.metrics["windows"] == {"conversations": 30, "windows": 1500}
    assert data.metrics["read"]["conversations"] == 30
    conversations = table(tmp_path, "conversations")
    assert conversations["conversation_id"].to_list()[:2] == ["c0#1", "c0#2"]
    units = conversations.with_columns(pl.col("conversation_id").str.split("#").list.first().alias("unit"))
    assert units.group_by("unit").agg(pl.col("split").n_unique())["split"].max() == 1


def test_windows_are_few_and_equal() -> None:
    turns = [Utterance(str(n)) for n in range(25)]
    assert [len(part) for part in windows(turns, 10)] == [9, 8, 8]
    assert [u.text for part in windows(turns, 10) for u in part] == [u.text for u in turns]
    assert [len(part) for part in windows(turns[:11], 10)] == [6, 5]  # not ten and a lone one
    assert [len(part) for part in windows(turns[:10], 10)] == [10]


def test_labels_of_a_conversation_are_those_of_its_windows(tmp_path: Path) -> None:
    whole = Conversation("a", said("a", *"abcd").utterances, split="train", labels={"topic": "t"})
    make(tmp_path, whole, max_turns=2, long_conversations="windows")
    assert table(tmp_path, "labels").rows() == [
        ("a#1", "train", None, "topic", "t"),
        ("a#2", "train", None, "topic", "t"),
    ]


def test_copies_are_taken_out_of_training(tmp_path: Path) -> None:
    """200 equal conversations: all of test stood in train, and nothing was said.

    Those that differ in an unknown word alone are copies, too: a model sees the same.
    """
    train = [
        said("a", "hello me", "who?"),
        said("b", "hello hapax", "who?"),
        said("c", "hello", "me", "who?"),
    ]
    rare = said("r", "hello rare", "who?", split="test")
    found = make(tmp_path / "1", *train, rare, min_count=2).metrics["leakage"]
    assert found["conversation_words"]["test_also_in_train"]["conversations"] == 1  # t is a, word for word
    assert found["token_ids"]["test_also_in_train"]["conversations"] == 2
    data = make(tmp_path / "2", *train, rare, min_count=2, deduplicate=True)
    # Without a and b, "me", "who" and "?" are unknown as well; nothing else becomes equal.
    assert data.metrics["left_out"]["copies"] == 2
    assert data.metrics["left_out_examples"]["copies"] == ["a", "b"]
    assert data.manifest["splits"]["train"]["conversations"] == 1
    assert data.metrics["leakage"]["token_ids"]["test_also_in_train"]["conversations"] == 0


def test_what_became_of_a_corpus_is_told(tmp_path: Path) -> None:
    train = [said(f"c{n}", "hello me", "who?") for n in range(4)]
    long = said("e", "--", "a " * 40, *"bcdefghijk")
    data = make(tmp_path, *train, long, said("lost", "x", split=None))
    data.metrics["read"]["skipped"] = {
        "records": 2, "by_reason": {"not valid JSON": 2}, "noted": {},
        "examples": {"not valid JSON": ["f.jsonl:3"]},
    }  # fmt: skip
    lines = list(account(data.manifest, data.metrics))
    warnings = [line.text for line in lines if line.level == logging.WARNING]
    assert "skipped 2: not valid JSON (such as f.jsonl:3)" in warnings
    assert "1 utterances without a word left out (such as e)" in warnings
    assert any(
        "1 conversations left out: others have a split, they have none (such as lost)" in w for w in warnings
    )
    assert any("11 words (" in line.text and "beyond max_words = 30" in line.text for line in lines)
    assert any("lie beyond max_turns = 10 and are cut" in line.text for line in lines)
    assert any("1 conversations of test (100.0 %)" in w and "deduplicate: true" in w for w in warnings)
    assert any("as the corpus says" in line.text for line in lines)
