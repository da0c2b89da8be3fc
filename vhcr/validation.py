"""What must hold of tokenised data before anything is trained on it, as Great Expectations.

Great Expectations looks at data frames in memory. So polars first boils the tables down, row group by row
group, to one row per conversation: what its own row says of it, and what was found of it in the other tables.
A failed expectation thereby names the conversations at fault, and memory grows with their number alone.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from vhcr.conversation import SPLITS, Split
from vhcr.corpora.skipped import Skipped, Unit
from vhcr.errors import DataError, ValidationError
from vhcr.files import read_object, read_record
from vhcr.params import TokenisationParams, ValidationParams
from vhcr.tokenisation.specials import EOS, PAD, SOS, SPECIALS, UNK
from vhcr.tokenisation.tables import SCHEMAS, TOKEN_IDS
from vhcr.tokenisation.vocabulary import SCHEMA as VOCABULARY

NUM_EXAMPLES = 5
TABLES = ("schema", "vocabulary", "conversations", "labels", "splits", "corpus")


@dataclass(frozen=True)
class Check:
    """One expectation: ``build`` makes it from the module great_expectations.expectations."""

    table: str
    columns: tuple[str, ...]
    explanation: str
    build: Callable[[Any], Any]


def validate(folder: Path, tokenisation: TokenisationParams, validation: ValidationParams) -> dict[str, Any]:
    """The result of every expectation on the tokenised corpus in ``folder``, ready for JSON.

    Raises:
        DataError: a file is missing, or is not the Parquet or JSON that it should be.
    """
    frames = summarise(folder)
    results = expect(frames, checks(tokenisation, validation))
    manifest = read_object(folder / "manifest.json", "data_hash", "rules", "tokenisation")
    return {
        "success": all(result["success"] for result in results),
        "num_expectations": len(results),
        "num_failed": sum(not result["success"] for result in results),
        "data_hash": manifest["data_hash"],
        "remedies": remedies(results, manifest, read_object(folder / "metrics.json", "read", "language")),
        "rows": {table: frames[table].height for table in TABLES},
        "results": results,
    }


def require(report: dict[str, Any], corpus: str, where: Path) -> None:
    """Nothing, when every expectation holds.

    Raises:
        ValidationError: which failed, in how many rows, with some of them.
    """
    failed = [result for result in report["results"] if not result["success"]]
    if not failed:
        return
    lines = [
        f"{corpus}: {len(failed)} of {report['num_expectations']} expectations failed; all results: {where}"
    ]
    for result in failed:
        rows = "" if result["unexpected_count"] is None else f", {result['unexpected_count']:,} rows"
        observed = "" if result["observed"] is None else f", observed {result['observed']}"
        lines.append(f"  {result['table']}.{result['column']}: {result['explanation']}{rows}{observed}")
        lines += [f"    {example}" for example in result["examples"]]
    lines += [f"  {remedy}" for remedy in report.get("remedies", ())]
    raise ValidationError("\n".join(lines))


def remedies(
    results: Sequence[dict[str, Any]], manifest: dict[str, Any], metrics: dict[str, Any]
) -> list[str]:
    """What to do about what failed, where the data say it."""
    failed = {result["column"] for result in results if not result["success"]}
    found = []
    if "unknown_fraction" in failed:
        language = metrics["language"]["segmenter_for_it"]
        used = manifest["rules"]["segmenter"]
        if language != "none" and used == "none":
            found.append(
                "this text has no spaces between its words: tokenisation.segmenter = auto divides it "
                f"({language})"
            )
        else:
            dials = manifest["tokenisation"]
            found.append(
                "fewer words are unknown with a larger tokenisation.vocabulary_size "
                f"({dials['vocabulary_size']}) or a smaller min_count ({dials['min_count']}); or say what is "
                "enough by validation.max_unknown_fraction"
            )
    if "skipped_fraction" in failed:
        examples = metrics["read"]["skipped"]["examples"]
        found += [
            f"skipped {count}: {reason}, such as {', '.join(examples.get(reason, [])[:3])}"
            for reason, count in metrics["read"]["skipped"]["by_reason"].items()
        ]
    return found


# The expectations


def checks(tokenisation: TokenisationParams, validation: ValidationParams) -> list[Check]:
    """All expectations, in the order in which a reader wants them."""
    result: list[Check] = []

    def add(
        table: str, columns: str | tuple[str, ...], explanation: str, build: Callable[[Any], Any]
    ) -> None:
        names = (columns,) if isinstance(columns, str) else columns
        result.append(Check(table, names, explanation, build))

    def never_null(table: str, column: str) -> None:
        add(table, column, "is never null", lambda e: e.ExpectColumnValuesToNotBeNull(column=column))

    def between(table: str, column: str, low: float | None, high: float | None, explanation: str) -> None:
        add(
            table,
            column,
            explanation,
            lambda e: e.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high),
        )

    def equal(table: str, a: str, b: str, explanation: str) -> None:
        add(
            table,
            (a, b),
            explanation,
            lambda e: e.ExpectColumnPairValuesToBeEqual(
                column_A=a, column_B=b, ignore_row_if="both_values_are_missing"
            ),
        )

    def unique(table: str, column: str, explanation: str) -> None:
        add(table, column, explanation, lambda e: e.ExpectColumnValuesToBeUnique(column=column))

    def one_of(table: str, column: str, values: Sequence[Any], explanation: str) -> None:
        add(
            table,
            column,
            explanation,
            lambda e: e.ExpectColumnValuesToBeInSet(column=column, value_set=list(values)),
        )

    equal("schema", "expected", "found", "every column has its type")
    # Nulls pass all checks of values. Beside these columns, none has any but where a table lacks a
    # conversation, and that is a check of its own.
    for column in ("id", "word", "count"):
        never_null("vocabulary", column)
    for column in ("conversation_id", "split", "num_turns", "num_words"):
        never_null("conversations", column)

    size = tokenisation.vocabulary_size
    unique("vocabulary", "id", "ids are unique")
    equal("vocabulary", "id", "row", "ids are 0, 1, 2, ... in order")
    unique("vocabulary", "word", "words are unique")
    add(
        "vocabulary",
        "word",
        "words are not empty and hold no white space",
        lambda e: e.ExpectColumnValuesToMatchRegex(column="word", regex=r"^\S+$"),
    )
    equal("vocabulary", "word", "expected_word", f"the first four are {', '.join(SPECIALS)}")
    add(
        "vocabulary",
        "id",
        f"no more than vocabulary_size = {size} words",
        lambda e: e.ExpectTableRowCountToBeBetween(min_value=len(SPECIALS) + 1, max_value=size),
    )
    between("vocabulary", "count", 0, None, "counts are not negative")
    between(
        "vocabulary",
        "count_of_word",
        tokenisation.min_count,
        None,
        f"every word but the specials was counted min_count = {tokenisation.min_count} times or more",
    )
    equal("vocabulary", "count_of_word", "largest_count_from_here", "words stand by falling count")

    c = "conversations"
    words = tokenisation.max_words
    unique(c, "conversation_id", "conversation ids are unique")
    one_of(c, "in_conversations", [True], "whatever has utterances or token ids has a row in conversations")
    one_of(c, "in_utterances", [True], "every conversation has utterances")
    one_of(c, "in_token_ids", [True], "every conversation has token ids")
    one_of(c, "split", SPLITS, f"split is one of {', '.join(SPLITS)}")
    equal(c, "split", "token_ids_split", "token ids lie in the file of the conversation's split")
    between(c, "other_split_utterances", 0, 0, "utterances bear the split of their conversation")
    between(
        c,
        "num_turns",
        min(tokenisation.min_turns, tokenisation.max_turns),
        tokenisation.max_turns,
        f"min_turns = {tokenisation.min_turns} <= num_turns <= max_turns = {tokenisation.max_turns}",
    )
    equal(c, "num_turns", "utterances", "num_turns is the number of utterances")
    equal(c, "num_turns", "distinct_turns", "(conversation_id, turn) is unique")
    equal(c, "num_turns", "turns_by_largest", "turns are numbered from 0 without a gap")
    between(c, "smallest_turn", 0, 0, "turns are numbered from 0")
    equal(c, "num_turns", "token_ids_utterances", "token ids hold as many utterances")
    between(c, "num_words", 2, None, "conversations have a word and EOS")
    equal(c, "num_words", "utterances_words", "num_words is the sum over utterances")
    equal(c, "num_words", "token_ids_words", "token ids hold as many words")
    between(c, "shortest_utterance", 2, None, "no utterance is empty")
    between(c, "longest_utterance", None, words, f"no utterance exceeds max_words = {words}, EOS included")
    between(c, "miscounted_utterances", 0, 0, "an utterance's num_words is its words and EOS")
    between(c, "missing_texts", 0, 0, "texts and words are never null")
    between(c, "utterances_without_end", 0, 0, "every utterance ends with EOS")
    between(c, "ends_within_utterances", 0, 0, "no EOS stands within an utterance")
    between(c, "pads_and_starts", 0, 0, "no <pad> and no <sos> among token ids")
    between(c, "smallest_id", 0, None, "token ids are not negative")
    between(c, "ids_beyond_vocabulary", 0, 0, "token ids lie in the vocabulary")

    between("labels", "missing", 0, 0, "names and values of labels are never null")
    between("labels", "orphans", 0, 0, "labels belong to a conversation, and to one of its turns")
    between("labels", "repeated", 0, 0, "a label is given once")

    least, unknown = validation.min_conversations, validation.max_unknown_fraction
    between("splits", "conversations", least, None, f"every split has min_conversations = {least} or more")
    between(
        "splits", "unknown_fraction", 0, unknown, f"at most max_unknown_fraction = {unknown} of words are UNK"
    )
    for name in ("conversations", "utterances", "words"):
        equal("splits", name, f"manifest_{name}", f"the manifest's number of {name} is what the tables hold")

    skipped = validation.max_skipped_fraction
    between(
        "corpus",
        "skipped_fraction",
        0,
        skipped,
        f"at most max_skipped_fraction = {skipped} of conversations, or of utterances, are malformed",
    )
    totals = {
        "num_lines": validation.num_lines,
        "num_conversations": validation.num_conversations,
        "num_groups": validation.num_groups,
    }
    for name, total in totals.items():
        if total is not None:
            one_of(
                "corpus",
                name,
                [total],
                f"the raw corpus has the published {total:,} {name.removeprefix('num_')}",
            )
    return result


def expect(frames: dict[str, pl.DataFrame], wanted: Sequence[Check]) -> list[dict[str, Any]]:
    """Each check on its frame, by Great Expectations."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read on import
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # it tells of its own making
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports sre_constants
        import great_expectations as gx
        from great_expectations import expectations
        from great_expectations.data_context.types import base

    base.logger.setLevel(logging.WARNING)  # which it sets to INFO by itself
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = base.ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("tokenised")
    results = []
    for table in TABLES:
        own = [check for check in wanted if check.table == table]
        if not own:
            continue
        columns = dict.fromkeys(column for check in own for column in check.columns)
        pandas = frames[table].select(*columns).to_pandas(use_pyarrow_extension_array=True)
        whole = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
        batch = whole.get_batch(batch_parameters={"dataframe": pandas})
        suite = gx.ExpectationSuite(name=table)
        for number, check in enumerate(own):
            expectation = check.build(expectations)
            expectation.meta = {"number": number}  # results come in an order of their own
            suite.add_expectation(expectation)
        # Asking for the index of unexpected rows takes minutes where a million fail; polars is quick.
        found = batch.validate(suite, result_format="BASIC").to_json_dict()["results"]
        found.sort(key=lambda result: result["expectation_config"]["meta"]["number"])
        results += [_result(check, result, frames[table]) for check, result in zip(own, found, strict=True)]
    return results


def _result(check: Check, found: dict[str, Any], frame: pl.DataFrame) -> dict[str, Any]:
    detail = found["result"]
    failure = next(iter(_exceptions(found["exception_info"])), None)
    return {
        "expectation": found["expectation_config"]["type"],
        "table": check.table,
        "column": ", ".join(check.columns),
        "success": bool(found["success"]),
        "observed": detail.get("observed_value") if failure is None else failure,
        "unexpected_count": detail.get("unexpected_count"),
        "examples": _examples(frame, check.columns, detail.get("partial_unexpected_list") or []),
        "explanation": check.explanation,
    }


def _exceptions(info: dict[str, Any]) -> list[str]:
    """Messages of exceptions inside Great Expectations: {"raised_exception": ...}, or one such per metric."""
    entries = [info] if "raised_exception" in info else list(info.values())
    return [str(entry["exception_message"]) for entry in entries if entry["raised_exception"]]


def _examples(frame: pl.DataFrame, columns: tuple[str, ...], values: Sequence[Any]) -> list[dict[str, Any]]:
    """Some rows whose ``columns`` hold an unexpected value: the name of the row and those columns."""
    name = frame.columns[0]
    rows: list[dict[str, Any]] = []
    for value in values:
        parts = value if len(columns) > 1 else [value]
        matching = pl.all_horizontal(
            pl.col(column).eq_missing(pl.lit(part)) for column, part in zip(columns, parts, strict=True)
        )
        for row in (
            frame.lazy()
            .filter(matching)
            .select(*dict.fromkeys((name, *columns)))
            .head(NUM_EXAMPLES)
            .collect()
            .to_dicts()
        ):
            if row not in rows:
                rows.append(row)
        if len(rows) >= NUM_EXAMPLES:
            break
    return rows[:NUM_EXAMPLES]


# The frames they look at


def summarise(folder: Path) -> dict[str, pl.DataFrame]:
    """One small frame per table of checks; the first column names the row.

    Raises:
        DataError: a file is missing or damaged, or lacks a column.
    """
    schema = _schema(folder)
    for column, found in schema.select("column", "found").iter_rows():
        if found in ("missing", "twice"):
            what = "is missing" if found == "missing" else "is there twice"
            raise DataError(f"{folder}: {column} {what}; run the tokenise stage again")
    try:
        vocabulary = pl.read_parquet(folder / "vocabulary.parquet")
        ids, unknown = _token_ids(folder, vocabulary.height)
        conversations = _conversations(folder, ids)
        return {
            "schema": schema,
            "vocabulary": _vocabulary(vocabulary),
            "conversations": conversations,
            "labels": _labels(folder),
            "splits": _splits(folder, conversations, unknown),
            "corpus": _corpus(folder),
        }
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        raise DataError(f"{folder}: damaged, run the tokenise stage again: {error}") from error


def _schema(folder: Path) -> pl.DataFrame:
    """Types of all columns, as the files' footers give them."""
    expected = {f"{name}.parquet": schema for name, schema in SCHEMAS.items()}
    expected["vocabulary.parquet"] = VOCABULARY
    expected |= {f"token_ids/{split}.parquet": TOKEN_IDS for split in SPLITS}
    rows = []
    for name, schema in expected.items():
        path = folder / name
        try:
            found = pq.read_schema(path)
        except FileNotFoundError:
            raise DataError(f"{path}: missing; run the tokenise stage") from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not Parquet, run the tokenise stage again: {error}") from error
        for column in schema:
            times = found.names.count(column.name)
            kind = found.field(column.name).type if times == 1 else "twice" if times else "missing"
            # Parquet calls the items of a list something else; that is no other type.
            rows.append(
                (
                    f"{name}: {column.name}",
                    str(column.type),
                    str(column.type if kind == column.type else kind),
                )
            )
    return pl.DataFrame(rows, schema=["column", "expected", "found"], orient="row")


def _vocabulary(vocabulary: pl.DataFrame) -> pl.DataFrame:
    is_word = pl.int_range(pl.len()) >= len(SPECIALS)
    special = pl.Series(SPECIALS).extend_constant(None, max(vocabulary.height - len(SPECIALS), 0))
    return vocabulary.with_columns(
        pl.int_range(pl.len(), dtype=pl.Int32).alias("row"),
        special.head(vocabulary.height).fill_null(vocabulary["word"]).alias("expected_word"),
        # Specials stand apart: as though counted as often as need be.
        pl.when(is_word).then(pl.col("count")).otherwise(pl.lit(2**62)).alias("count_of_word"),
    ).with_columns(pl.col("count_of_word").cum_max(reverse=True).alias("largest_count_from_here"))


def _token_ids(folder: Path, vocabulary_size: int) -> tuple[pl.DataFrame, dict[Split, int]]:
    """Per conversation: what its token ids are like. Per split: the number of unknown words."""
    parts = []
    unknown = dict.fromkeys(SPLITS, 0)
    for split in SPLITS:
        with pq.ParquetFile(folder / "token_ids" / f"{split}.parquet") as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number).combine_chunks()
                nested = table["token_ids"].combine_chunks().cast(pa.large_list(pa.large_list(pa.int32())))
                utterances = nested.flatten()
                tokens = utterances.flatten().fill_null(-1).to_numpy()
                turns = pc.fill_null(pc.list_value_length(nested), 0).to_numpy()
                lengths = pc.fill_null(pc.list_value_length(utterances), 0).to_numpy()
                unknown[split] += int((tokens == UNK).sum())
                owner = np.repeat(np.arange(table.num_rows), turns)
                of_token = np.repeat(owner, lengths)
                last = np.cumsum(lengths) - 1
                ended = (lengths > 0) & (tokens[np.maximum(last, 0)] == EOS if len(tokens) else False)

                def per_conversation(
                    rows: np.ndarray, chosen: np.ndarray, size: int = table.num_rows
                ) -> np.ndarray:
                    return np.bincount(rows[chosen], minlength=size)

                ends = per_conversation(of_token, tokens == EOS)
                good_ends = per_conversation(owner, ended)
                smallest = np.full(table.num_rows, np.iinfo(np.int32).max, dtype=np.int32)
                np.minimum.at(smallest, of_token, tokens)
                parts.append(
                    pl.DataFrame(
                        {
                            "conversation_id": pl.Series(
                                table["conversation_id"].to_pylist(), dtype=pl.String
                            ),
                            "token_ids_split": [split] * table.num_rows,
                            "token_ids_utterances": turns,
                            "token_ids_words": np.bincount(of_token, minlength=table.num_rows),
                            "utterances_without_end": turns - good_ends,
                            "ends_within_utterances": ends - good_ends,
                            "pads_and_starts": per_conversation(of_token, (tokens == PAD) | (tokens == SOS)),
                            "smallest_id": smallest,
                            "ids_beyond_vocabulary": per_conversation(of_token, tokens >= vocabulary_size),
                            "in_token_ids": [True] * table.num_rows,
                        },
                        schema_overrides=dict.fromkeys(
                            ("token_ids_utterances", "token_ids_words", "smallest_id", *_ID_COUNTS), pl.Int64
                        ),
                    )
                )
    return pl.concat([_NO_TOKEN_IDS, *parts]), unknown


_ID_COUNTS = ("utterances_without_end", "ends_within_utterances", "pads_and_starts", "ids_beyond_vocabulary")
_NO_TOKEN_IDS = pl.DataFrame(
    schema={
        "conversation_id": pl.String,
        "token_ids_split": pl.String,
        "token_ids_utterances": pl.Int64,
        "token_ids_words": pl.Int64,
        "utterances_without_end": pl.Int64,
        "ends_within_utterances": pl.Int64,
        "pads_and_starts": pl.Int64,
        "smallest_id": pl.Int64,
        "ids_beyond_vocabulary": pl.Int64,
        "in_token_ids": pl.Boolean,
    }
)


def _conversations(folder: Path, ids: pl.DataFrame) -> pl.DataFrame:
    """One row per conversation of any table; what only other tables know has nulls."""
    own = pl.read_parquet(folder / "conversations.parquet").with_columns(
        pl.lit(True).alias("in_conversations")
    )
    split_of = own.select("conversation_id", "split").unique(
        "conversation_id", keep="first", maintain_order=True
    )
    parts = []
    with pq.ParquetFile(folder / "utterances.parquet") as file:
        columns = ["conversation_id", "split", "turn", "text", "words", "num_words"]
        for number in range(file.num_row_groups):
            frame = pl.from_arrow(file.read_row_group(number, columns))
            assert isinstance(frame, pl.DataFrame)  # of a table, polars never makes a Series
            parts.append(
                frame.join(
                    split_of, on="conversation_id", how="left", suffix="_own", maintain_order="left"
                ).select(
                    "conversation_id",
                    "turn",
                    "num_words",
                    (pl.col("split").ne_missing(pl.col("split_own"))).alias("other_split"),
                    (pl.col("num_words") != pl.col("words").list.len().cast(pl.Int64) + 1).alias(
                        "miscounted"
                    ),
                    (pl.col("text").is_null() | pl.col("words").is_null()).alias("missing"),
                )
            )
    found = pl.concat(parts) if parts else _NO_UTTERANCES
    of_utterances = found.group_by("conversation_id").agg(
        pl.len().cast(pl.Int64).alias("utterances"),
        pl.col("turn").n_unique().cast(pl.Int64).alias("distinct_turns"),
        pl.col("turn").min().cast(pl.Int64).alias("smallest_turn"),
        (pl.col("turn").max().cast(pl.Int64) + 1).alias("turns_by_largest"),
        pl.col("num_words").cast(pl.Int64).sum().alias("utterances_words"),
        pl.col("num_words").min().cast(pl.Int64).alias("shortest_utterance"),
        pl.col("num_words").max().cast(pl.Int64).alias("longest_utterance"),
        pl.col("other_split").sum().cast(pl.Int64).alias("other_split_utterances"),
        pl.col("miscounted").sum().cast(pl.Int64).alias("miscounted_utterances"),
        pl.col("missing").sum().cast(pl.Int64).alias("missing_texts"),
        pl.lit(True).alias("in_utterances"),
    )
    joined = own.with_columns(pl.col("num_turns", "num_words").cast(pl.Int64))
    for other in (of_utterances, ids):
        joined = joined.join(
            other, on="conversation_id", how="full", coalesce=True, maintain_order="left_right"
        )
    return joined.with_columns(pl.col("in_conversations", "in_utterances", "in_token_ids").fill_null(False))


_NO_UTTERANCES = pl.DataFrame(
    schema={
        "conversation_id": pl.String,
        "turn": pl.Int32,
        "num_words": pl.Int32,
        "other_split": pl.Boolean,
        "miscounted": pl.Boolean,
        "missing": pl.Boolean,
    }
)


def _labels(folder: Path) -> pl.DataFrame:
    """One row per name of a label."""
    labels = pl.scan_parquet(folder / "labels.parquet")
    turns = pl.scan_parquet(folder / "conversations.parquet").select("conversation_id", "num_turns")
    known = labels.join(turns.unique("conversation_id"), on="conversation_id", how="left")
    repeated = pl.struct("conversation_id", "turn").is_duplicated()
    return (
        known.group_by("name")
        .agg(
            (pl.col("value").is_null() | pl.col("name").is_null()).sum().cast(pl.Int64).alias("missing"),
            (pl.col("num_turns").is_null() | (pl.col("turn").fill_null(0) >= pl.col("num_turns")))
            .sum()
            .cast(pl.Int64)
            .alias("orphans"),
            repeated.sum().cast(pl.Int64).alias("repeated"),
        )
        .sort("name")
        .collect()
    )


def _splits(folder: Path, conversations: pl.DataFrame, unknown: dict[Split, int]) -> pl.DataFrame:
    """One row per split: what the tables hold, and what the manifest says."""
    manifest = read_object(folder / "manifest.json", "splits")
    rows = []
    for split in SPLITS:
        part = conversations.filter(pl.col("split") == split)
        utterances = int(part["utterances"].fill_null(0).sum())
        words = int(part["token_ids_words"].fill_null(0).sum())
        rows.append(
            {
                "split": split,
                "conversations": part.height,
                "utterances": utterances,
                "words": words,
                "unknown_fraction": unknown[split] / max(words - utterances, 1),
                **{f"manifest_{name}": count for name, count in manifest["splits"][split].items()},
            }
        )
    return pl.DataFrame(rows)


Count = Annotated[int, Field(ge=0, strict=True)]


class _Skipped(BaseModel):
    utterances: Count
    conversations: Count


class _Read(BaseModel):
    utterances: Count
    conversations: Count
    groups: Count
    skipped: _Skipped


class _Metrics(BaseModel):
    """Of metrics.json of a tokenised corpus, what validation looks at."""

    read: _Read


def _corpus(folder: Path) -> pl.DataFrame:
    """One row: what was read of the raw corpus."""
    read = read_record(_Metrics, folder / "metrics.json").read
    skipped = Skipped()
    for unit in get_args(Unit):
        skipped.units[unit] = getattr(read.skipped, f"{unit}s")
    return pl.DataFrame(
        {
            "corpus": [read_object(folder / "manifest.json", "corpus")["corpus"]],
            "num_lines": [read.utterances],
            "num_conversations": [read.conversations],
            "num_groups": [read.groups],
            "skipped_fraction": [skipped.share(read.utterances, read.conversations)],
        }
    )
