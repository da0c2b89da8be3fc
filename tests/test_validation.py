from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from vhcr.conversation import Conversation, Split, Utterance
from vhcr.errors import DataError, ValidationError
from vhcr.files import read_json, write_json
from vhcr.params import Params, TokenisationParams, ValidationParams
from vhcr.stages import validate as stage
from vhcr.tokenisation.dataset import build
from vhcr.validation import checks, expect, require, summarise, validate

ROOT = Path(__file__).parents[1]
WORDS = ["one", "two", "three", "four", "five", "six", "seven"]


def corpus() -> list[Conversation]:
    """Twelve conversations in two movies, all words known."""
    splits: list[Split] = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
    return [
        Conversation(
            f"c{number}",
            tuple(
                Utterance(" ".join(WORDS[: 2 + (number + turn) % 6]), "A", {"act": "say"})
                for turn in range(3)
            ),
            group=f"m{number % 2}",
            split=split,
            labels={"topic": "numbers"},
        )
        for number, split in enumerate(splits)
    ]


def settings(**overrides: Any) -> tuple[TokenisationParams, ValidationParams]:
    own = Params.load(ROOT / "params.yaml").defaults
    tokenisation = own.tokenisation.model_copy(
        update={"split_by": "published", "min_count": 1, "max_words": 9, "max_turns": 4}
    )
    return tokenisation, ValidationParams.model_validate({**own.validation.model_dump(), **overrides})


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenised") / "own"
    data = build(corpus(), settings()[0], folder, corpus="own")
    data.metrics["read"]["skipped"] = {
        "records": 1, "conversations": 0, "utterances": 1,
        "by_reason": {"malformed": 1}, "noted": {}, "examples": {"malformed": ["a.jsonl:3"]},
    }  # fmt: skip
    write_json(folder / "manifest.json", data.manifest)
    write_json(folder / "metrics.json", data.metrics)
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "data/tokenised/own"))


def rewrite(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    schema = pq.read_schema(path)
    pq.write_table(change(pl.read_parquet(path)).to_arrow().cast(schema), path)


def failures(folder: Path, **overrides: Any) -> list[dict[str, Any]]:
    report = validate(folder, *settings(**overrides))
    failed = [result for result in report["results"] if not result["success"]]
    assert report["success"] == (not failed)
    assert report["num_failed"] == len(failed)
    return failed


def outcome(folder: Path, explanation: str) -> dict[str, Any]:
    """The result of the one expectation of that explanation; on sound data all hold."""
    wanted = [check for check in checks(*settings()) if check.explanation == explanation]
    (result,) = expect(summarise(folder), wanted)
    return result


def test_sound_data_passes_all_and_published_totals_are_checked(folder: Path) -> None:
    known = {"num_lines": 36, "num_conversations": 12, "num_groups": 2}
    report = validate(folder, *settings(**known))
    assert report["success"]
    assert report["num_expectations"] == len(checks(*settings(**known))) == len(report["results"])
    assert (
        report["num_expectations"] == len(checks(*settings())) + 3
    )  # each total: never null, and as published
    assert report == json.loads(json.dumps(report, allow_nan=False))
    assert report == validate(folder, *settings(**known))


@pytest.mark.parametrize(
    ("overrides", "expected", "observed"),
    [
        ({"num_lines": 37}, "the raw corpus has the published 37 lines", {"corpus": "own", "num_lines": 36}),
        (
            {"num_groups": 617},
            "the raw corpus has the published 617 groups",
            {"corpus": "own", "num_groups": 2},
        ),
        (
            {"min_conversations": 3},
            "every split has min_conversations = 3 or more",
            {"split": "validation", "conversations": 2},
        ),
        (
            {"max_skipped_fraction": 0.02},
            "at most max_skipped_fraction = 0.02 of conversations, or of utterances, are malformed",
            {"corpus": "own", "skipped_fraction": 1 / 37},
        ),
    ],
)
def test_limits(folder: Path, overrides: dict[str, Any], expected: str, observed: dict[str, Any]) -> None:
    failed = failures(folder, **overrides)
    assert [result["explanation"] for result in failed] == [expected]
    assert failed[0]["examples"][0] == observed


def test_unknown_words_are_counted_without_ends(folder: Path) -> None:
    # Of each test utterance, the first word becomes UNK: 6 of the 24 words.
    total = sum(2 + (number + turn) % 6 for number in (10, 11) for turn in range(3))
    rewrite(
        folder / "token_ids/test.parquet",
        lambda frame: frame.with_columns(
            pl.col("token_ids").list.eval(
                pl.element().list.eval(pl.when(pl.int_range(pl.len()) == 0).then(1).otherwise(pl.element()))
            )
        ),
    )
    failed = failures(folder, max_unknown_fraction=6 / total - 0.01)
    assert [result["column"] for result in failed] == ["unknown_fraction"]
    assert failed[0]["examples"] == [{"split": "test", "unknown_fraction": 6 / total}]
    assert not failures(folder, max_unknown_fraction=6 / total + 0.01)


def where(condition: pl.Expr, column: str, value: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.with_columns(
        pl.when(condition)
        .then(pl.lit(value, dtype=frame.schema[column]))
        .otherwise(pl.col(column))
        .alias(column)
    )


IS_C3 = pl.col("conversation_id") == "c3"
C3 = IS_C3 & (pl.col("turn") == 1)
FAULTS: dict[str, tuple[str, Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "utterance lost": ("utterances", lambda f: f.filter(~C3), "num_turns is the number of utterances"),
    "utterance twice": (
        "utterances",
        where(IS_C3 & (pl.col("turn") == 2), "turn", 1),
        "(conversation_id, turn) is unique",
    ),
    "turns from one": (
        "utterances",
        lambda f: f.with_columns(pl.when(IS_C3).then(pl.col("turn") + 1).otherwise("turn").alias("turn")),
        "turns are numbered from 0",
    ),
    "all utterances lost": ("utterances", lambda f: f.filter(~IS_C3), "every conversation has utterances"),
    "text missing": ("utterances", where(C3, "text", None), "texts and words are never null"),
    "length wrong": (
        "utterances",
        where(C3, "num_words", 8),
        "an utterance's num_words is its words and EOS",
    ),
    "too long": (
        "utterances",
        where(C3, "num_words", 10),
        "no utterance exceeds max_words = 9, EOS included",
    ),
    "empty": ("utterances", where(C3, "num_words", 1), "no utterance is empty"),
    "other split": (
        "utterances",
        where(C3, "split", "test"),
        "utterances bear the split of their conversation",
    ),
    "unknown split": (
        "conversations",
        where(IS_C3, "split", "dev"),
        "split is one of train, validation, test",
    ),
    "wrong file": (
        "conversations",
        where(IS_C3, "split", "test"),
        "token ids lie in the file of the conversation's split",
    ),
    "conversation twice": (
        "conversations",
        lambda f: pl.concat([f, f.filter(IS_C3)]),
        "conversation ids are unique",
    ),
    "conversation lost": (
        "conversations",
        lambda f: f.filter(~IS_C3),
        "whatever has utterances or token ids has a row in conversations",
    ),
    "words miscounted": (
        "conversations",
        where(IS_C3, "num_words", 5),
        "num_words is the sum over utterances",
    ),
    "too many turns": (
        "conversations",
        where(IS_C3, "num_turns", 5),
        "min_turns = 1 <= num_turns <= max_turns = 4",
    ),
    "label of nobody": (
        "labels",
        where(IS_C3, "conversation_id", "stranger"),
        "labels belong to a conversation, and to one of its turns",
    ),
    "label beyond": (
        "labels",
        where(C3, "turn", 3),
        "labels belong to a conversation, and to one of its turns",
    ),
    "label null": ("labels", where(C3, "value", None), "names and values of labels are never null"),
    "label twice": ("labels", lambda f: pl.concat([f, f.filter(C3)]), "a label is given once"),
    "word twice": ("vocabulary", where(pl.col("id") == 5, "word", "one"), "words are unique"),
    "blank word": (
        "vocabulary",
        where(pl.col("id") == 5, "word", "a b"),
        "words are not empty and hold no white space",
    ),
    "special moved": (
        "vocabulary",
        where(pl.col("id") == 1, "word", "<eos>"),
        "the first four are <pad>, <unk>, <sos>, <eos>",
    ),
    "id skipped": ("vocabulary", where(pl.col("id") == 7, "id", 17), "ids are 0, 1, 2, ... in order"),
    "rare word": (
        "vocabulary",
        where(pl.col("id") == 10, "count", 0),
        "every word but the specials was counted min_count = 1 times or more",
    ),
    "order of words": ("vocabulary", where(pl.col("id") == 10, "count", 999), "words stand by falling count"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named(folder: Path, fault: str) -> None:
    table, change, expected = FAULTS[fault]
    rewrite(folder / f"{table}.parquet", change)
    result = outcome(folder, expected)
    assert not result["success"]
    assert result["unexpected_count"] >= 1
    if table in ("conversations", "utterances"):
        assert {example["conversation_id"] for example in result["examples"]} == {"c3"}
    else:
        assert result["examples"]


ID_FAULTS: dict[str, tuple[list[list[int] | None] | None, str]] = {
    "no end": ([[4, 5], [4, 3], [4, 3]], "every utterance ends with EOS"),
    "empty": ([[], [4, 3], [4, 3]], "every utterance ends with EOS"),
    "end within": ([[4, 3, 5, 3], [4, 3], [4, 3]], "no EOS stands within an utterance"),
    "padding": ([[4, 0, 3], [4, 3], [4, 3]], "no <pad> and no <sos> among token ids"),
    "start": ([[2, 4, 3], [4, 3], [4, 3]], "no <pad> and no <sos> among token ids"),
    "beyond": ([[4, 11, 3], [4, 3], [4, 3]], "token ids lie in the vocabulary"),
    "negative": ([[4, -1, 3], [4, 3], [4, 3]], "token ids are not negative"),
    "turn lost": ([[4, 3], [4, 3]], "token ids hold as many utterances"),
    "words lost": ([[4, 3], [4, 3], [4, 3]], "token ids hold as many words"),
    "null turn": ([None, [4, 3], [4, 3]], "every utterance ends with EOS"),
    "null": (None, "token ids hold as many utterances"),
}


@pytest.mark.parametrize("fault", ID_FAULTS)
def test_every_fault_of_ids_is_named(folder: Path, fault: str) -> None:
    ids, expected = ID_FAULTS[fault]
    path = folder / "token_ids/train.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[3]["token_ids"] = ids
    pq.write_table(pq.read_table(path).from_pylist(rows, schema=pq.read_schema(path)), path)
    result = outcome(folder, expected)
    assert not result["success"]
    assert [example["conversation_id"] for example in result["examples"]] == ["c3"]


def test_token_ids_of_a_conversation_lost(folder: Path) -> None:
    rewrite(folder / "token_ids/train.parquet", lambda frame: frame.filter(~IS_C3))
    assert not outcome(folder, "every conversation has token ids")["success"]


def test_manifest_of_other_data(folder: Path) -> None:
    manifest = read_json(folder / "manifest.json")
    manifest["splits"]["test"]["words"] += 1
    write_json(folder / "manifest.json", manifest)
    failed = [result["explanation"] for result in failures(folder)]
    assert failed == ["the manifest's number of words is what the tables hold"]


def test_a_column_of_another_type(folder: Path) -> None:
    path = folder / "conversations.parquet"
    pq.write_table(pl.read_parquet(path).with_columns(pl.col("num_words").cast(pl.Int64)).to_arrow(), path)
    failed = failures(folder)[0]
    assert failed["explanation"] == "every column has its type"
    assert {"column": "conversations.parquet: num_words", "expected": "int32", "found": "int64"} in failed[
        "examples"
    ]


def test_row_groups_do_not_show(folder: Path) -> None:
    whole = summarise(folder)
    for name in ("utterances", "token_ids/train"):
        table = pq.read_table(folder / f"{name}.parquet")
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=5)
    for name, frame in summarise(folder).items():
        assert frame.equals(whole[name]), name


@pytest.mark.parametrize(
    "fault", [None, "utterance lost", "conversation twice", "other split", "label twice"]
)
def test_shards_do_not_show(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str | None) -> None:
    """Whatever the shards are, the same conversations are named, as often; an id has one shard."""
    if fault is not None:
        table, change, _ = FAULTS[fault]
        rewrite(folder / f"{table}.parquet", change)
    whole = validate(folder, *settings())
    monkeypatch.setattr("vhcr.validation.SHARD_CONVERSATIONS", 2)
    frames = summarise(folder)
    heights = [frame.height for frame in frames["conversations"]]  # type: ignore[union-attr]
    assert len(heights) > 5
    assert max(heights) < sum(heights) == whole["rows"]["conversations"]
    assert validate(folder, *settings()) == whole
    for name in ("labels", "splits"):
        assert frames[name].height == whole["rows"][name]


def test_no_shard_is_left_on_disk(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spill))
    frames = summarise(folder)
    assert [path.suffix for path in spill.rglob("*.arrow*")] == [".arrow"]
    del frames
    assert not list(spill.iterdir())
    (folder / "metrics.json").write_text("null")
    with pytest.raises(DataError):
        summarise(folder)
    assert not list(spill.iterdir())


@pytest.mark.parametrize("name", ["conversations", "utterances", "labels", "vocabulary", "token_ids/test"])
def test_corrupted_and_missing_files_are_named(folder: Path, name: str) -> None:
    path = folder / f"{name}.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{name}.parquet: not Parquet"):
        validate(folder, *settings())
    path.unlink()
    with pytest.raises(DataError, match=f"{name}.parquet: missing; run the tokenise stage"):
        validate(folder, *settings())


def test_damage_behind_an_intact_footer_is_named(folder: Path) -> None:
    path = folder / "utterances.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + bytes(255 - byte for byte in whole[4:300]) + whole[300:])
    with pytest.raises(DataError, match="own: damaged, run the tokenise stage again"):
        validate(folder, *settings())


def test_a_lost_column_is_named(folder: Path) -> None:
    rewrite_without = pl.read_parquet(folder / "utterances.parquet").drop("turn")
    pq.write_table(rewrite_without.to_arrow(), folder / "utterances.parquet")
    with pytest.raises(DataError, match=r"utterances\.parquet: turn is missing"):
        validate(folder, *settings())


def test_a_column_that_is_there_twice_is_named(folder: Path) -> None:
    table = pq.read_table(folder / "labels.parquet")
    pq.write_table(table.append_column("value", table["value"]), folder / "labels.parquet")
    with pytest.raises(DataError, match=r"labels\.parquet: value is there twice"):
        validate(folder, *settings())


@pytest.mark.parametrize("text", ["null", "[]", "5", "{}", "[" * 100_000])
@pytest.mark.parametrize("name", ["manifest.json", "metrics.json"])
def test_json_that_is_no_object_is_named(folder: Path, name: str, text: str) -> None:
    """Each was a traceback."""
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=name):
        validate(folder, *settings())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("skipped", None, "read.skipped: missing key"), ("groups", -5, "read.groups: .*, not -5")],
)
def test_a_count_that_is_missing_or_none_is_named(folder: Path, key: str, value: object, said: str) -> None:
    """metrics.json without one was a traceback; found by the search for faults."""
    path = folder / "metrics.json"
    metrics = read_json(path)
    del metrics["read"][key]
    if value is not None:
        metrics["read"][key] = value
    write_json(path, metrics)
    with pytest.raises(DataError, match=rf"metrics\.json: {said}"):
        validate(folder, *settings())


def test_failure_tells_which_how_many_and_shows_some(folder: Path) -> None:
    rewrite(folder / "conversations.parquet", where(IS_C3, "num_words", 5))
    report = validate(folder, *settings())
    with pytest.raises(ValidationError) as error:
        require(report, "own", Path("kept.json"))
    message = str(error.value)
    assert "all results: kept.json" in message
    assert (
        "conversations.num_words, utterances_words: num_words is the sum over utterances, 1 rows" in message
    )
    assert "'conversation_id': 'c3'" in message


def params(**validation: Any) -> Params:
    import yaml

    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["corpora"]["own"]["tokenisation"] = settings()[0].model_dump(mode="json")
    values["corpora"]["own"]["validation"] = validation
    return Params(values)


def test_stage_stops_on_failure_and_keeps_the_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parents[2])
    kept, passed = Path(".work/validation/own.json"), Path("data/validated/own/validation.json")
    with pytest.raises(
        ValidationError, match=r"own: 1 of \d+ expectations failed; all results: \.work/validation"
    ):
        stage.run(params(num_lines=99), corpus="own")
    assert read_json(kept)["success"] is False
    assert not passed.exists()
    stage.run(params(), corpus="own")
    assert read_json(passed)["success"] is True
    assert not kept.exists()


def test_text_without_spaces_is_told_its_remedy(tmp_path: Path) -> None:
    """A Chinese corpus failed with 40 % unknown words, and nothing said why."""
    topics = "茶雨火车咖啡电影音乐"
    chinese = [
        replace(one, utterances=tuple(Utterance(f"我{n}喜欢{topics[n % 10]}你呢{t}") for t in range(3)))
        for n, one in enumerate(corpus())
    ]
    tokenisation, validation = settings()
    data = build(chinese, tokenisation, tmp_path / "own", corpus="own")
    data.metrics["read"]["skipped"] = {"records": 0, "conversations": 0, "utterances": 0, "by_reason": {},
                                       "noted": {}, "examples": {}}  # fmt: skip
    write_json(tmp_path / "own/manifest.json", data.manifest)
    write_json(tmp_path / "own/metrics.json", data.metrics)
    report = validate(tmp_path / "own", tokenisation, validation)
    with pytest.raises(ValidationError, match="no spaces between its words: tokenisation"):
        require(report, "own", tmp_path)
    assert report["remedies"] == [
        "this text has no spaces between its words: tokenisation.segmenter = auto divides it (chinese)"
    ]
