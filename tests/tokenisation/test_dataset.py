from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from vhcr.conversation import SPLITS, Conversation, Split, Utterance
from vhcr.errors import DataError
from vhcr.params import Params, TokenisationParams
from vhcr.tokenisation.dataset import SCHEMAS, TOKEN_IDS, Dataset, build, merge_speaker_turns
from vhcr.tokenisation.specials import EOS, UNK
from vhcr.tokenisation.tokeniser import tokenise
from vhcr.tokenisation.vocabulary import Vocabulary


def settings(**overrides: Any) -> TokenisationParams:
    defaults = Params.load(Path(__file__).parents[2] / "params.yaml").corpus("own").tokenisation
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
    return build([*conversations, *HELD_OUT], params, folder, corpus="own", chunk_utterances=chunk)


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
    assert not (tmp_path / "spool").exists()


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
    assert data.metrics["read"] == {"conversations": 6, "utterances": 10, "groups": 0}


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
        folders[name] = build(many(), params, tmp_path / name, corpus="own", chunk_utterances=chunk)
    assert digests(tmp_path / "one") == digests(tmp_path / "again")
    assert folders["one"].manifest == folders["seven"].manifest == folders["single"].manifest
    assert folders["one"].metrics == folders["seven"].metrics == folders["single"].metrics
    for name in ("conversations", "utterances", "labels", "token_ids/train", "token_ids/test"):
        assert table(tmp_path / "one", name).equals(table(tmp_path / "seven", name))
        assert table(tmp_path / "one", name).equals(table(tmp_path / "single", name))


def test_tables_agree_with_a_plain_loop(tmp_path: Path) -> None:
    """The same rules, one conversation and one word at a time."""
    params = settings(max_words=9, max_turns=5, min_turns=2, vocabulary_size=20, min_count=2)
    build(many(), params, tmp_path, corpus="own", chunk_utterances=50)
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
    with pytest.raises(DataError, match="own: the corpus holds no conversation"):
        build([], settings(), tmp_path, corpus="own")


def test_a_split_without_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no conversation of split train is left.*min_turns = 1"):
        make(tmp_path, said("a", "--"))
