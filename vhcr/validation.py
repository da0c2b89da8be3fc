"""What must hold of tokenised data before anything is trained on it, as Great Expectations.

Great Expectations looks at data frames in memory. So polars first boils the tables down: each conversation to
what its own row says of it and what was found of it in the other tables, and each shard of conversations to
how many offend against each expectation, with some of them. The expectations hold over one row a shard. A
shard is a bucket of conversation ids, on disk, so that memory does not grow with the corpus.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
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
SHARD_CONVERSATIONS = 100_000
MAX_SHARDS = 500  # each is an open file while tables are read
TABLES = ("schema", "vocabulary", "conversations", "labels", "splits", "corpus")


@dataclass(frozen=True)
class Check:
    """One expectation: ``build`` makes it from the module great_expectations.expectations."""

    table: str
    columns: tuple[str, ...]
    explanation: str
    build: Callable[[Any], Any]
    offends: pl.Expr | None = None  # the rows that it does not hold of; for a table that comes in shards


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
        table: str,
        columns: str | tuple[str, ...],
        explanation: str,
        build: Callable[[Any], Any],
        offends: pl.Expr | None = None,
    ) -> None:
        names = (columns,) if isinstance(columns, str) else columns
        result.append(Check(table, names, explanation, build, offends))

    def never_null(table: str, column: str) -> None:
        add(
            table,
            column,
            "is never null",
            lambda e: e.ExpectColumnValuesToNotBeNull(column=column),
            pl.col(column).is_null(),
        )

    def between(table: str, column: str, low: float | None, high: float | None, explanation: str) -> None:
        below = pl.lit(False) if low is None else pl.col(column) < low
        above = pl.lit(False) if high is None else pl.col(column) > high
        add(
            table,
            column,
            explanation,
            lambda e: e.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high),
            below | above,
        )

    def equal(table: str, a: str, b: str, explanation: str) -> None:
        add(
            table,
            (a, b),
            explanation,
            lambda e: e.ExpectColumnPairValuesToBeEqual(
                column_A=a, column_B=b, ignore_row_if="both_values_are_missing"
            ),
            pl.col(a).ne_missing(pl.col(b)),
        )

    def unique(table: str, column: str, explanation: str) -> None:
        add(
            table,
            column,
            explanation,
            lambda e: e.ExpectColumnValuesToBeUnique(column=column),
            pl.col(column).is_duplicated() & pl.col(column).is_not_null(),
        )

    def one_of(table: str, column: str, values: Sequence[Any], explanation: str) -> None:
        add(
            table,
            column,
            explanation,
            lambda e: e.ExpectColumnValuesToBeInSet(column=column, value_set=list(values)),
            ~pl.col(column).is_in(list(values)),
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


def expect(frames: Mapping[str, pl.DataFrame | Shards], wanted: Sequence[Check]) -> list[dict[str, Any]]:
    """Each check on its frame, by Great Expectations; on shards, over one row a shard."""
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
        frame, offences = frames[table], None
        if isinstance(frame, Shards):
            offences = frame.offences(own)
            seen, asked = offences.counts, [_none(number) for number in range(len(own))]
        else:
            seen = frame.select(*dict.fromkeys(column for check in own for column in check.columns))
            asked = [check.build for check in own]
        pandas = seen.to_pandas(use_pyarrow_extension_array=True)
        whole = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
        batch = whole.get_batch(batch_parameters={"dataframe": pandas})
        suite = gx.ExpectationSuite(name=table)
        for number, build in enumerate(asked):
            expectation = build(expectations)
            expectation.meta = {"number": number}  # results come in an order of their own
            suite.add_expectation(expectation)
        # Asking for the index of unexpected rows takes minutes where a million fail; polars is quick.
        found = batch.validate(suite, result_format="BASIC").to_json_dict()["results"]
        found.sort(key=lambda result: result["expectation_config"]["meta"]["number"])
        for number, (check, result) in enumerate(zip(own, found, strict=True)):
            if isinstance(frame, pl.DataFrame):
                values = result["result"].get("partial_unexpected_list") or []
                count = result["result"].get("unexpected_count")
                examples = _examples(frame, check.columns, values)
            else:
                assert offences is not None
                count, examples = int(offences.counts[str(number)].sum()), offences.examples[number]
            results.append(_result(check, result, count, examples))
    return results


def _none(number: int) -> Callable[[Any], Any]:
    """No shard has an offence against check ``number``."""
    return lambda e: e.ExpectColumnValuesToBeBetween(column=str(number), min_value=0, max_value=0)


def _result(
    check: Check, found: dict[str, Any], count: int | None, examples: list[dict[str, Any]]
) -> dict[str, Any]:
    failure = next(iter(_exceptions(found["exception_info"])), None)
    return {
        "expectation": found["expectation_config"]["type"],
        "table": check.table,
        "column": ", ".join(check.columns),
        "success": bool(found["success"]),
        "observed": found["result"].get("observed_value") if failure is None else failure,
        "unexpected_count": count,
        "examples": examples,
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


@dataclass(frozen=True)
class Offences:
    """Of each check, by its number: in each shard how many rows offend, and some of them from all shards."""

    counts: pl.DataFrame  # one row a shard, one column a check
    examples: list[list[dict[str, Any]]]


class Shards:
    """One row per conversation, in frames on disk, of which one at a time is read."""

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        """The folder goes with this object."""
        self._paths = paths
        self.height = sum(pl.scan_ipc(path).select(pl.len()).collect().item() for path in paths)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def __iter__(self) -> Iterator[pl.DataFrame]:
        return (pl.read_ipc(path) for path in self._paths)

    def equals(self, other: Shards) -> bool:
        """Whether all frames are the same."""
        return all(mine.equals(theirs) for mine, theirs in zip(self, other, strict=True))

    def offences(self, wanted: Sequence[Check]) -> Offences:
        """Of each shard, how often each check does not hold."""
        counts: list[dict[str, int]] = []
        examples: list[list[dict[str, Any]]] = [[] for _ in wanted]
        for frame in self:
            name = frame.columns[0]
            offending = []
            for check in wanted:
                assert check.offends is not None, check.explanation
                offending.append(check.offends.fill_null(False))  # nulls pass, as with Great Expectations
            found = frame.select(each.sum().alias(str(number)) for number, each in enumerate(offending))
            counts.append(found.row(0, named=True))
            for number, check in enumerate(wanted):
                if counts[-1][str(number)] and len(examples[number]) < NUM_EXAMPLES:
                    rows = frame.filter(offending[number]).select(*dict.fromkeys((name, *check.columns)))
                    examples[number] += rows.head(NUM_EXAMPLES - len(examples[number])).to_dicts()
        schema = {str(number): pl.Int64 for number in range(len(wanted))}
        return Offences(pl.DataFrame(counts, schema=schema), examples)


def summarise(folder: Path) -> dict[str, pl.DataFrame | Shards]:
    """One small frame per table of checks, and shards of conversations; the first column names the row.

    The shards lie in a temporary folder (of ``TMPDIR``) for as long as somebody has them.

    Raises:
        DataError: a file is missing or damaged, or lacks a column.
    """
    schema = _schema(folder)
    for column, found in schema.select("column", "found").iter_rows():
        if found in ("missing", "twice"):
            what = "is missing" if found == "missing" else "is there twice"
            raise DataError(f"{folder}: {column} {what}; run the tokenise stage again")
    spill = Path(tempfile.mkdtemp(prefix="validate-"))
    try:
        vocabulary = pl.read_parquet(folder / "vocabulary.parquet")
        conversations, labels, splits = _conversations(folder, spill, vocabulary.height)
        return {
            "schema": schema,
            "vocabulary": _vocabulary(vocabulary),
            "conversations": conversations,
            "labels": labels,
            "splits": splits,
            "corpus": _corpus(folder),
        }
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        shutil.rmtree(spill, ignore_errors=True)
        raise DataError(f"{folder}: damaged, run the tokenise stage again: {error}") from error
    except BaseException:
        shutil.rmtree(spill, ignore_errors=True)
        raise


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


def _token_ids(folder: Path, vocabulary_size: int, unknown: dict[Split, int]) -> Iterator[pl.DataFrame]:
    """Per conversation: what its token ids are like. The number of unknown words is added to its split."""
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
                yield pl.DataFrame(
                    {
                        "conversation_id": table["conversation_id"].to_pylist(),
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
                    schema=_OF_IDS,
                )


_OF_IDS = pl.Schema(
    {
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


def _conversations(
    folder: Path, spill: Path, vocabulary_size: int
) -> tuple[Shards, pl.DataFrame, pl.DataFrame]:
    """Shards of conversations; one row per name of a label; one row per split."""
    manifest = read_object(folder / "manifest.json", "splits")
    unknown = dict.fromkeys(SPLITS, 0)
    rows = pq.read_metadata(folder / "conversations.parquet").num_rows
    count = min(MAX_SHARDS, rows // SHARD_CONVERSATIONS + 1)
    for name in ("conversations", "labels"):
        _spill(_row_groups(folder / f"{name}.parquet"), spill, name, count)
    _spill(map(_of_utterances, _row_groups(folder / "utterances.parquet")), spill, "utterances", count)
    _spill(_token_ids(folder, vocabulary_size, unknown), spill, "token_ids", count)
    paths, labels, splits = [], [], []
    for number in range(count):
        own = _spilled(spill, "conversations", number, _CONVERSATIONS)
        frame = _joined(
            own,
            _spilled(spill, "utterances", number, _UTTERANCES),
            _spilled(spill, "token_ids", number, _OF_IDS),
        )
        labels.append(_labels(own, _spilled(spill, "labels", number, _LABELS)))
        splits.append(
            frame.group_by("split").agg(
                pl.len().alias("conversations"),
                pl.col("utterances", "token_ids_words").fill_null(0).sum(),
            )
        )
        paths.append(spill / f"joined-{number}.arrow")
        frame.write_ipc(paths[-1])
    of_labels = pl.concat(labels).group_by("name").sum().sort("name")
    of_splits = {split: counts for split, *counts in pl.concat(splits).group_by("split").sum().iter_rows()}
    found = []
    for split in SPLITS:
        conversations, utterances, words = of_splits.get(split, (0, 0, 0))
        found.append(
            {
                "split": split,
                "conversations": conversations,
                "utterances": utterances,
                "words": words,
                "unknown_fraction": unknown[split] / max(words - utterances, 1),
                **{f"manifest_{name}": count for name, count in manifest["splits"][split].items()},
            }
        )
    return Shards(spill, paths), of_labels, pl.DataFrame(found)


def _row_groups(path: Path) -> Iterator[pl.DataFrame]:
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            frame = pl.from_arrow(file.read_row_group(number))
            assert isinstance(frame, pl.DataFrame)  # of a table, polars never makes a Series
            yield frame


def _spill(frames: Iterable[pl.DataFrame], folder: Path, name: str, count: int) -> None:
    """Write each row to the shard of its conversation, one stream a shard."""
    with ExitStack() as opened:
        writers: dict[int, Any] = {}
        for frame in frames:
            bucket = (pl.col("conversation_id").hash() % count).alias("bucket")
            for (number,), part in (
                frame.with_columns(bucket)
                .partition_by("bucket", maintain_order=True, include_key=False, as_dict=True)
                .items()
            ):
                table = part.to_arrow()
                if number not in writers:
                    stream = pa.ipc.new_stream(str(folder / f"{name}-{number}.arrows"), table.schema)
                    writers[number] = opened.enter_context(stream)
                writers[number].write_table(table)


def _spilled(folder: Path, name: str, number: int, schema: pl.Schema) -> pl.DataFrame:
    """The rows of one shard, which are then gone from the disk."""
    path = folder / f"{name}-{number}.arrows"
    if not path.exists():
        return pl.DataFrame(schema=schema)
    with pa.ipc.open_stream(str(path)) as stream:
        frame = pl.from_arrow(stream.read_all())
    path.unlink()
    assert isinstance(frame, pl.DataFrame)
    return frame


def _of_utterances(frame: pl.DataFrame) -> pl.DataFrame:
    """Of each utterance what is looked at, without its text."""
    return frame.select(
        "conversation_id",
        "split",
        "turn",
        "num_words",
        (pl.col("num_words") != pl.col("words").list.len().cast(pl.Int64) + 1).alias("miscounted"),
        (pl.col("text").is_null() | pl.col("words").is_null()).alias("missing"),
    )


_CONVERSATIONS = pl.DataFrame(SCHEMAS["conversations"].empty_table()).schema
_LABELS = pl.DataFrame(SCHEMAS["labels"].empty_table()).schema
_UTTERANCES = _of_utterances(pl.DataFrame(SCHEMAS["utterances"].empty_table())).schema


def _joined(own: pl.DataFrame, utterances: pl.DataFrame, ids: pl.DataFrame) -> pl.DataFrame:
    """One row per conversation of any table; what only other tables know has nulls."""
    own = own.with_columns(pl.lit(True).alias("in_conversations"))
    split_of = own.select("conversation_id", pl.col("split").alias("split_own")).unique(
        "conversation_id", keep="first", maintain_order=True
    )
    other_split = pl.col("split").ne_missing(pl.col("split_own"))
    of_utterances = (
        utterances.join(split_of, on="conversation_id", how="left", maintain_order="left")
        .group_by("conversation_id", maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("utterances"),
            pl.col("turn").n_unique().cast(pl.Int64).alias("distinct_turns"),
            pl.col("turn").min().cast(pl.Int64).alias("smallest_turn"),
            (pl.col("turn").max().cast(pl.Int64) + 1).alias("turns_by_largest"),
            pl.col("num_words").cast(pl.Int64).sum().alias("utterances_words"),
            pl.col("num_words").min().cast(pl.Int64).alias("shortest_utterance"),
            pl.col("num_words").max().cast(pl.Int64).alias("longest_utterance"),
            other_split.sum().cast(pl.Int64).alias("other_split_utterances"),
            pl.col("miscounted").sum().cast(pl.Int64).alias("miscounted_utterances"),
            pl.col("missing").sum().cast(pl.Int64).alias("missing_texts"),
            pl.lit(True).alias("in_utterances"),
        )
    )
    joined = own.with_columns(pl.col("num_turns", "num_words").cast(pl.Int64))
    for other in (of_utterances, ids):
        joined = joined.join(
            other, on="conversation_id", how="full", coalesce=True, maintain_order="left_right"
        )
    return joined.with_columns(pl.col("in_conversations", "in_utterances", "in_token_ids").fill_null(False))


def _labels(conversations: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """One row per name of a label."""
    turns = conversations.select("conversation_id", "num_turns").unique("conversation_id")
    known = labels.join(turns, on="conversation_id", how="left")
    repeated = pl.struct("conversation_id", "turn").is_duplicated()
    return known.group_by("name").agg(
        (pl.col("value").is_null() | pl.col("name").is_null()).sum().cast(pl.Int64).alias("missing"),
        (pl.col("num_turns").is_null() | (pl.col("turn").fill_null(0) >= pl.col("num_turns")))
        .sum()
        .cast(pl.Int64)
        .alias("orphans"),
        repeated.sum().cast(pl.Int64).alias("repeated"),
    )


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
