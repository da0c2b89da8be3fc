"""Evaluated runs and the data they saw, read from the files of the stages."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vhcr import layout
from vhcr.errors import DataError
from vhcr.evaluation.records import Evaluation, Parameters
from vhcr.files import read_json, read_record, read_text
from vhcr.results.labels import SYSTEM_LABELS, kinds, label, roles, system_order
from vhcr.results.records import (
    Data,
    Embeddings,
    EvaluationRecord,
    Manifest,
    Tokenisation,
    TrainingRecord,
    Validation,
    read_training,
)
from vhcr.results.statistics import Resampled

if TYPE_CHECKING:
    import pyarrow

Point = tuple[float, float]
# Makes text of the words that an evaluation kept, by the rules of tokenisation that a run recorded.
Readable = Callable[[str, Parameters], str]

EMBEDDING_METRICS = ("average", "extrema", "greedy")
RESPONSE_MEASURES = tuple(f"{metric}_{turns}turn" for turns in (1, 3) for metric in EMBEDDING_METRICS)
# What each conversation adds to a number, as columns of conversations.parquet.
_NATS = {
    "nll_per_word": ("nll",),
    "reconstruction_per_word": ("reconstruction_error",),
    "kl_per_word": ("kl_conv", "kl_utt"),
    "kl_conv_per_word": ("kl_conv",),
    "kl_utt_per_word": ("kl_utt",),
}
MEASURES = (*_NATS, *RESPONSE_MEASURES)  # the numbers of table.json


@dataclass(frozen=True)
class Response:
    """Generated turns after one context, beside what was really said."""

    context: tuple[str, ...]
    references: tuple[str, ...]
    responses: tuple[str, ...]


@dataclass(frozen=True)
class Talk:
    """A whole conversation from a chosen z_conv."""

    position: float | None  # on the way from one z_conv to another (Table 6), else null
    sample: int
    opening: str | None  # the first utterance where it was given rather than said
    turns: tuple[str, ...]


@dataclass(frozen=True)
class LatentMap:
    """Conversations of the test split in the plane of z_conv's two principal components, and its topics."""

    x: Sequence[float]
    y: Sequence[float]
    texts: Sequence[str]
    labels: Mapping[str, Sequence[str | None]]  # of conversations, by name
    topic: Sequence[int]  # of each conversation, its place in ``topics``
    topics: Sequence[tuple[str, ...]]  # the words that set each apart, by falling weight
    typical: Sequence[int]  # of each topic, the conversation nearest to its centre


TalkKey = tuple[str, str, int]  # "interpolation" or "fixed", the path if any, the number of the example


@dataclass(frozen=True)
class Sums:
    """Numerators and denominators per test conversation; [parts, conversations] each."""

    conversation_ids: tuple[str, ...]
    numerators: NDArray[np.float64]
    denominators: NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """curves.csv: for each row its step and split, and by column a number or None."""

    steps: Sequence[float] = ()
    splits: Sequence[str] = ()
    columns: Mapping[str, Sequence[float | None]] = field(default_factory=dict)

    def points(self, column: str, split: str) -> list[Point]:
        """(step, number) where a split has one; empty for a column that is not there."""
        rows = zip(self.steps, self.splits, self.columns.get(column, ()), strict=False)
        return [(step, y) for step, part, y in rows if part == split and y is not None]


@dataclass(frozen=True)
class Run:
    """One evaluated run: a system trained with one seed on one corpus."""

    system: str
    training: TrainingRecord
    evaluation: Evaluation
    evaluated: EvaluationRecord
    curves: Curves = Curves()
    sums: Mapping[str, Sums] = field(default_factory=dict)  # by measure
    resampled: Mapping[str, Resampled] = field(default_factory=dict)  # in their place, of published runs
    responses: Mapping[tuple[int, str], Response] = field(default_factory=dict)  # (turns, conversation id)
    talks: Mapping[TalkKey, tuple[Talk, ...]] = field(default_factory=dict)  # Tables 6 and 7
    map: LatentMap | None = None  # where there is a z_conv

    @property
    def corpus(self) -> str:
        """The corpus it was trained on."""
        return self.training.corpus

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return self.training.seed

    @property
    def name(self) -> str:
        """What to call this run among others."""
        return f"{label(self.system)}, seed {self.seed}"

    @property
    def settings(self) -> Parameters:
        """The ``system`` section that it was trained with."""
        return self.training.params.get("system", {})

    @property
    def is_bound(self) -> bool:
        """Whether its NLL is only a bound."""
        return not self.evaluation.bound_is_exact

    @property
    def bounds(self) -> dict[int, float]:
        """K -> the importance-weighted bound with K samples, K ascending."""
        return dict(sorted(self.evaluation.importance_weighted_nll_per_word.items()))

    def value(self, measure: str) -> float | None:
        """The number of a measure (one of ``MEASURES``, or "importance_weighted"), or None.

        ``importance_weighted`` is the bound with the largest K on its subset of the test split; of an exact
        NLL, the NLL there.
        """
        found = self.evaluation
        if measure == "importance_weighted":
            if not self.is_bound:
                return found.importance_bound_subset_nll_per_word
            return next(reversed(self.bounds.values()), None)
        if measure in RESPONSE_MEASURES:
            metric, _, turns = measure.rpartition("_")
            scores = found.responses.get(int(turns.removesuffix("turn")))
            if scores is None:
                return None
            return {"average": scores.average, "extrema": scores.extrema, "greedy": scores.greedy}[metric]
        return {
            "nll_per_word": found.nll_per_word,
            "reconstruction_per_word": found.reconstruction_per_word,
            "kl_per_word": found.kl_per_word,
            "kl_conv_per_word": found.kl_conv_per_word,
            "kl_utt_per_word": found.kl_utt_per_word,
        }[measure]

    def table_row(self) -> dict[str, str | int | float | None]:
        """The row of table.json."""
        return {
            "corpus": self.corpus,
            "system": self.system,
            "seed": self.seed,
            **{measure: self.value(measure) for measure in MEASURES},
            "mlflow_run_id": self.evaluated.mlflow_run_id or self.training.mlflow_run_id,
        }


class LeftOut(NamedTuple):
    """A run that is on disk but not among the results."""

    system: str
    seed: str
    reason: str


@dataclass(frozen=True)
class Results:
    """Runs that compare, and the data they saw."""

    title: str
    corpus: str
    runs: tuple[Run, ...]
    data: Data
    left_out: tuple[LeftOut, ...] = ()

    @property
    def systems(self) -> tuple[str, ...]:
        """Systems with a run: the paper's order, then the others by name."""
        return tuple(sorted({run.system for run in self.runs}, key=system_order))

    def of(self, system: str) -> tuple[Run, ...]:
        """The runs of one system, by seed."""
        return tuple(run for run in self.runs if run.system == system)

    @cached_property
    def roles(self) -> dict[str, str]:
        """System -> the paper's system that its recorded parameters make it, for those that are one."""
        return roles(self._settings)

    @cached_property
    def kinds(self) -> dict[str, str]:
        """As ``roles``, but several systems may be the same one of the paper's, as in both readings."""
        return kinds(self._settings)

    @property
    def _settings(self) -> dict[str, Parameters]:
        return {run.system: run.settings for run in reversed(self.runs)}

    def in_roles(self) -> Results:
        """The same with each system under the paper's name of what it is.

        A system that bears a name of the paper's without being that one keeps it no longer.
        """
        names = {
            system: self.roles.get(system, f"{system}*" if system in SYSTEM_LABELS else system)
            for system in self.systems
        }
        return replace(self, runs=tuple(replace(run, system=names[run.system]) for run in self.runs))


def as_kept(words: str, _: Parameters) -> str:
    """The words with blanks between them."""
    return words


def load(
    corpus: str,
    *,
    paper_corpus: str | None = None,
    num_samples: int = 20,
    readable: Readable = as_kept,
) -> Results:
    """All evaluated runs of ``corpus`` that saw the present data; the others are listed with the reason.

    ``num_samples`` contexts are kept with the responses to them, their words made ``readable``.

    Raises:
        DataError: the corpus is not tokenised, or a file that is there is damaged.
    """
    data = read_data(corpus).model_copy(update={"paper_corpus": paper_corpus})
    found, left_out = [], []
    for system, seed in _run_names(corpus):
        reason = _why_not(corpus, system, seed, data.manifest.data_hash)
        if reason is None:
            found.append((system, int(seed)))
        else:
            left_out.append(LeftOut(system, seed, reason))
    found.sort(key=lambda item: (system_order(item[0]), item[1]))
    places = [(layout.trained(corpus, *item), layout.evaluated(corpus, *item)) for item in found]
    runs = load_runs(places, num_samples, readable)
    # A folder may bear another name than the system: that of a variant of it.
    named = tuple(replace(run, system=system) for run, (system, _) in zip(runs, found, strict=True))
    return Results(corpus, corpus, named, data, tuple(left_out))


def load_one(
    corpus: str, system: str, seed: int, *, num_samples: int = 20, readable: Readable = as_kept
) -> Results:
    """One evaluated run alone, as ``load`` reads it among others.

    Raises:
        DataError: a file is missing or damaged.
    """
    place = layout.trained(corpus, system, seed), layout.evaluated(corpus, system, seed)
    (run,) = load_runs([place], num_samples, readable)
    return Results(run.name, corpus, (run,), Data(manifest=Manifest(data_hash=run.training.data_hash)))


def read_data(corpus: str) -> Data:
    """What the stages wrote about the data of a corpus.

    Raises:
        DataError: it is not tokenised, or a file that is there is damaged.
    """
    tokenised = layout.tokenised(corpus)
    metrics, validation = tokenised / "metrics.json", layout.validated(corpus) / "validation.json"
    embeddings = layout.embeddings(corpus) / "metrics.json"
    return Data(
        manifest=read_record(Manifest, tokenised / "manifest.json"),
        tokenisation=read_record(Tokenisation, metrics) if metrics.exists() else Tokenisation(),
        validation=read_record(Validation, validation) if validation.exists() else None,
        embeddings=read_record(Embeddings, embeddings) if embeddings.exists() else None,
    )


def load_runs(
    places: Sequence[tuple[Path, Path]], num_samples: int, readable: Readable = as_kept
) -> tuple[Run, ...]:
    """Runs from their two folders each, with responses in ``num_samples`` contexts that all have.

    Raises:
        DataError: a file is missing or damaged.
    """
    shown = conversations_shown([evaluated for _, evaluated in places], num_samples)
    return tuple(_load_run(trained, evaluated, shown, readable) for trained, evaluated in places)


def _load_run(trained: Path, evaluated: Path, shown: Sequence[str], readable: Readable) -> Run:
    training = read_training(trained)

    def as_written(words: str) -> str:
        return readable(words, training.rules)

    return Run(
        system=training.system,
        training=training,
        evaluation=read_record(Evaluation, evaluated / "metrics.json"),
        evaluated=read_record(EvaluationRecord, evaluated / "provenance.json"),
        curves=read_curves(trained / "curves.csv"),
        sums=read_sums(evaluated),
        responses=_responses(evaluated / "responses.parquet", shown, as_written),
        talks=_talks(evaluated / "control.parquet", as_written),
        map=read_map(evaluated / "latents"),
    )


def read_map(folder: Path) -> LatentMap | None:
    """The map that an evaluation left; None of a system without z_conv.

    Raises:
        DataError: a file is missing or damaged.
    """
    if not (folder / "latents.parquet").exists():
        return None
    import pyarrow.parquet

    latents = folder / "latents.parquet"
    named = [name for name in pyarrow.parquet.read_schema(latents).names if name.startswith("label_")]
    table = _read_parquet(latents, ["id", "text", "x", "y", "topic", *named]).to_pydict()
    if len(set(table["id"])) < len(table["id"]):
        raise DataError(f"{latents}: an id stands there twice: damaged or changed; evaluate this run again")
    topics = read_json(folder / "topics.json")
    place = {name: number for number, name in enumerate(table["id"])}
    try:
        words = [tuple(topic["words"]) for topic in topics]
        typical = [place[topic["typical"][0]] for topic in topics]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{folder / 'topics.json'}: not the topics of {latents}: {error!r}") from None
    labels = {name.removeprefix("label_"): table[name] for name in named}
    return LatentMap(table["x"], table["y"], table["text"], labels, table["topic"], words, typical)


def read_curves(path: Path) -> Curves:
    """The curves of a training.

    Raises:
        DataError: the file is missing, lacks a column, or holds something that is no number.
    """
    text = read_text(path)
    reader = csv.DictReader(text.splitlines())
    rows = list(reader)
    if text != "\n" and not {"step", "split"} <= set(
        reader.fieldnames or ()
    ):  # a model that only counts has none
        raise DataError(f"{path}: no column named step or split")

    def number(line: int, name: str) -> float | None:
        cell: str | None = rows[line][name]
        try:
            value = None if cell == "" else float(cell or "nothing")
        except ValueError:
            raise DataError(f"{path}, line {line + 2}: {name} = {cell!r}") from None
        return value if value is not None and np.isfinite(value) else None

    names = [name for name in (rows[0] if rows else ()) if name != "split"]
    columns = {name: [number(line, name) for line in range(len(rows))] for name in names}
    steps = [step for step in columns.pop("step", ()) if step is not None]
    return Curves(steps, [row["split"] for row in rows], columns)


def _run_names(corpus: str) -> list[tuple[str, str]]:
    names = set()
    for root in ("evaluated", "trained"):
        for path in (layout.DATA / root / corpus).glob("*/*"):
            if path.is_dir() and any(path.iterdir()):
                names.add((path.parent.name, path.name))
    return sorted(names)


def _why_not(corpus: str, system: str, seed: str, data_hash: str) -> str | None:
    """Why a run has no place among the results, or None if it has."""
    if not seed.isdecimal():
        return f"its folder is not named after a seed: {seed!r}"
    evaluated = layout.evaluated(corpus, system, int(seed))
    trained = layout.trained(corpus, system, int(seed))
    if not (evaluated / "metrics.json").exists():
        return "trained, but not evaluated"
    if not (trained / "run.json").exists():
        return "evaluated, but what was trained is gone (run.json is missing)"
    seen = {
        "provenance.json": read_record(EvaluationRecord, evaluated / "provenance.json").data_hash,
        "run.json": read_training(trained).data_hash,
    }
    for name, hashed in seen.items():
        if hashed != data_hash:
            return f"saw other data: {hashed[:12]} in {name}, now {data_hash[:12]}"
    return None


def _read_parquet(path: Path, wanted: Iterable[str], ids: Sequence[str] | None = None) -> pyarrow.Table:
    import pyarrow
    import pyarrow.parquet

    try:
        filters = None if ids is None else [("conversation_id", "in", list(ids))]
        return pyarrow.parquet.read_table(
            path, columns=list(wanted), filters=filters, page_checksum_verification=True
        )
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None


def read_sums(evaluated: Path) -> dict[str, Sums]:
    """By measure, what each test conversation adds to a number of the evaluation in this folder.

    Raises:
        DataError: a file is missing or damaged.
    """
    return {
        **_likelihood_sums(evaluated / "conversations.parquet"),
        **_response_sums(evaluated / "responses.parquet"),
    }


def read_nll(evaluated: Path) -> Sums | None:
    """What each test conversation adds to the bound alone; None where that was not kept.

    Raises:
        DataError: the file is damaged.
    """
    path = evaluated / "conversations.parquet"
    if not path.exists():
        return None
    table = _read_parquet(path, ["conversation_id", "num_words", "nll"])
    nats, words = (np.asarray(table[name].to_numpy(), np.float64)[None] for name in ("nll", "num_words"))
    return Sums(tuple(table["conversation_id"].to_pylist()), nats, words)


def _likelihood_sums(path: Path) -> dict[str, Sums]:
    parts = dict.fromkeys(part for columns in _NATS.values() for part in columns)
    table = _read_parquet(path, ["conversation_id", "num_words", *parts, "importance_weighted_nll"])
    ids = tuple(table["conversation_id"].to_pylist())
    numbers = {
        name: np.asarray(table[name].to_numpy(), np.float64)
        for name in table.column_names
        if name != "conversation_id"
    }
    words = numbers["num_words"][None]
    sums = {
        measure: Sums(ids, np.sum([numbers[name] for name in columns], axis=0)[None], words)
        for measure, columns in _NATS.items()
    }
    bounds = numbers["importance_weighted_nll"]
    there = np.flatnonzero(np.isfinite(bounds))
    subset = tuple(ids[i] for i in there)
    return sums | {"importance_weighted": Sums(subset, bounds[None, there], words[:, there])}


def _response_sums(path: Path) -> dict[str, Sums]:
    """Scores per conversation and turn: numerator the score, denominator 1, both 0 where it was dropped."""
    table = _read_parquet(path, ["conversation_id", "num_response_turns", "turn", *EMBEDDING_METRICS])
    ids = np.asarray(table["conversation_id"].to_pylist())
    lengths, turns = table["num_response_turns"].to_numpy(), table["turn"].to_numpy()
    sums = {}
    for length in np.unique(lengths):
        rows = lengths == length
        names, column = np.unique(ids[rows], return_inverse=True)
        _, part = np.unique(turns[rows], return_inverse=True)
        for metric in EMBEDDING_METRICS:
            scores = table[metric].to_numpy()[rows].astype(np.float64)
            kept = np.isfinite(scores)
            top, bottom = np.zeros((2, int(part.max()) + 1, len(names)))
            np.add.at(top, (part[kept], column[kept]), scores[kept])
            np.add.at(bottom, (part[kept], column[kept]), 1.0)
            sums[f"{metric}_{length}turn"] = Sums(tuple(names.tolist()), top, bottom)
    return sums


def conversations_shown(folders: Sequence[Path], num_samples: int) -> list[str]:
    """Conversations that every run responded to, drawn from a fixed seed, longest continuation first."""
    common: set[str] | None = None
    for folder in folders if num_samples else ():
        table = _read_parquet(folder / "responses.parquet", ["conversation_id", "num_response_turns"])
        if table.num_rows == 0:
            continue
        # Those with the longest continuation have the shorter ones too.
        lengths = table["num_response_turns"].to_numpy()
        ids = set(np.asarray(table["conversation_id"].to_pylist())[lengths == lengths.max()].tolist())
        common = ids if common is None else common & ids
    ordered = sorted(common or ())
    chosen = np.random.default_rng(0).permutation(len(ordered))[:num_samples]
    return [ordered[i] for i in chosen]


def _responses(
    path: Path, shown: Sequence[str], readable: Callable[[str], str]
) -> dict[tuple[int, str], Response]:
    if not shown:
        return {}
    columns = ["num_response_turns", "conversation_id", "turn", "context", "reference", "response"]
    rows = zip(*(column.to_pylist() for column in _read_parquet(path, columns, shown).columns), strict=True)
    grouped: dict[tuple[int, str], list[tuple[int, list[str], str, str]]] = {}
    for length, name, *row in rows:
        grouped.setdefault((length, name), []).append((row[0], row[1], row[2], row[3]))
    order = {name: position for position, name in enumerate(shown)}
    result = {}
    for key in sorted(grouped, key=lambda item: (item[0], order[item[1]])):
        turns = sorted(grouped[key])
        result[key] = Response(
            context=tuple(map(readable, turns[0][1])),
            references=tuple(readable(reference) for _, _, reference, _ in turns),
            responses=tuple(readable(response) for *_, response in turns),
        )
    return result


def _talks(path: Path, readable: Callable[[str], str]) -> dict[TalkKey, tuple[Talk, ...]]:
    columns = ["table", "path", "example", "position", "sample", "opening", "turn", "text"]
    rows = zip(*(column.to_pylist() for column in _read_parquet(path, columns).columns), strict=True)
    said: dict[TalkKey, dict[tuple[float | None, int, str | None], dict[int, str]]] = {}
    for table, way, example, position, sample, opening, turn, text in rows:
        place = (position, sample, None if opening is None else readable(opening))
        said.setdefault((table, way or "", example), {}).setdefault(place, {})[turn] = readable(text)
    return {
        key: tuple(
            Talk(*place, tuple(text for _, text in sorted(found[place].items())))
            for place in sorted(found, key=lambda place: (place[0] or 0.0, place[1]))
        )
        for key, found in said.items()
    }
