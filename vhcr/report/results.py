"""What a report is made from: evaluated runs and the data they saw, read from the files of the stages.

A ``Results`` need not come from one corpus's folders; a page that compares chosen runs fills the same
records from elsewhere and hands them to ``page.render``.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vhcr import layout
from vhcr.errors import DataError
from vhcr.files import read_json
from vhcr.provenance import read_run
from vhcr.report.systems import SYSTEM_LABELS, kinds, label, roles, system_order
from vhcr.results.statistics import Resampled

Json = Mapping[str, Any]

EMBEDDING_METRICS = ("average", "extrema", "greedy")
TABLE_KEYS = (
    "corpus",
    "system",
    "seed",
    "nll_per_word",
    "reconstruction_per_word",
    "kl_per_word",
    "kl_conv_per_word",
    "kl_utt_per_word",
    *(f"{metric}_{turns}turn" for turns in (1, 3) for metric in EMBEDDING_METRICS),
    "mlflow_run_id",
)
_NATS = {
    "nll_per_word": ("nll",),
    "reconstruction_per_word": ("reconstruction_error",),
    "kl_per_word": ("kl_conv", "kl_utt"),
    "kl_conv_per_word": ("kl_conv",),
    "kl_utt_per_word": ("kl_utt",),
}


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


TalkKey = tuple[str, str, int]  # "interpolation" or "fixed", the path if any, the number of the example


@dataclass(frozen=True)
class Sums:
    """Numerators and denominators per test conversation; [parts, conversations] each."""

    conversation_ids: tuple[str, ...]
    numerators: NDArray[np.float64]
    denominators: NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One evaluated run: a system trained with one seed on one corpus."""

    corpus: str
    system: str
    seed: int
    metrics: Json
    training: Json = field(default_factory=dict)  # run.json
    provenance: Json = field(default_factory=dict)
    curves: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    sums: Mapping[str, Sums] = field(default_factory=dict)  # by table key
    resampled: Mapping[str, Resampled] = field(default_factory=dict)  # in their place, of published runs
    responses: Mapping[tuple[int, str], Response] = field(default_factory=dict)  # (turns, conversation id)
    talks: Mapping[TalkKey, tuple[Talk, ...]] = field(default_factory=dict)  # Tables 6 and 7

    @property
    def name(self) -> str:
        """What to call this run among others."""
        return f"{label(self.system)}, seed {self.seed}"

    @property
    def settings(self) -> Json:
        """The ``system`` section that it was trained with; empty where that was not recorded."""
        params = self.training.get("params")
        found = params.get("system") if isinstance(params, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    @property
    def mlflow_run_id(self) -> str | None:
        """The MLflow run that recorded it, if one did."""
        found = self.provenance.get("mlflow_run_id") or self.training.get("mlflow_run_id")
        return str(found) if found else None

    @property
    def is_bound(self) -> bool:
        """Whether its NLL is only a bound."""
        return not self.metrics.get("bound_is_exact", self.system == "hred")

    @property
    def bounds(self) -> dict[int, float]:
        """K -> the importance-weighted bound with K samples, K ascending."""
        found = self.metrics.get("importance_weighted_nll_per_word")
        keys = sorted(int(k) for k in found if str(k).isdecimal()) if isinstance(found, Mapping) else []
        values = {k: number(found, str(k)) for k in keys}
        return {k: value for k, value in values.items() if value is not None}

    def value(self, key: str) -> float | None:
        """The number under a table key ("nll_per_word", "average_3turn", ...), or None.

        ``importance_weighted`` is the bound with the largest K on its subset of the test split; of an exact
        NLL, the NLL there.
        """
        if key == "importance_weighted":
            if not self.is_bound:
                return number(self.metrics, "importance_bound_subset_nll_per_word")
            return next(reversed(self.bounds.values()), None)
        metric, separator, turns = key.rpartition("_")
        if separator and turns.endswith("turn"):
            return number(self.metrics, "responses", turns.removesuffix("turn"), metric)
        return number(self.metrics, key)

    def table_row(self) -> dict[str, Any]:
        """The row of table.json."""
        own = {
            "corpus": self.corpus,
            "system": self.system,
            "seed": self.seed,
            "mlflow_run_id": self.mlflow_run_id,
        }
        return {key: own[key] if key in own else self.value(key) for key in TABLE_KEYS}


@dataclass(frozen=True)
class LeftOut:
    """A run that is on disk but not in the report."""

    system: str
    seed: str
    reason: str


@dataclass(frozen=True)
class Results:
    """All that one page shows."""

    title: str
    corpus: str
    runs: tuple[Run, ...]
    left_out: tuple[LeftOut, ...] = ()
    paper_corpus: str | None = None  # which of the paper's corpora this is, if either
    manifest: Json = field(default_factory=dict)
    tokenisation: Json = field(default_factory=dict)
    validation: Json = field(default_factory=dict)
    embeddings: Json = field(default_factory=dict)

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
    def _settings(self) -> dict[str, Json]:
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


def number(tree: Any, *keys: str) -> float | None:
    """The number at a path of keys, or None when a key is missing or it is no finite number."""
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    if isinstance(tree, bool) or not isinstance(tree, (int, float)):
        return None
    return float(tree) if np.isfinite(tree) else None


def load(
    corpus: str,
    *,
    paper_corpus: str | None = None,
    num_samples: int = 20,
    readable: Callable[[str], str] = str,
) -> Results:
    """All evaluated runs of ``corpus`` that saw the present data; the others are listed with the reason.

    ``num_samples`` contexts are kept with the responses to them, their words made ``readable``.

    Raises:
        DataError: the corpus is not tokenised, or a file that is there is damaged.
    """
    tokenised = layout.tokenised(corpus)
    manifest = read_json(tokenised / "manifest.json")
    data_hash = manifest.get("data_hash")
    if not data_hash:
        raise DataError(f"{tokenised / 'manifest.json'}: data_hash is missing")
    found, left_out = [], []
    for system, seed in _run_names(corpus):
        reason = _why_not(corpus, system, seed, str(data_hash))
        if reason is None:
            found.append((system, int(seed)))
        else:
            left_out.append(LeftOut(system, seed, reason))
    found.sort(key=lambda item: (system_order(item[0]), item[1]))
    shown = conversations_shown([layout.evaluated(corpus, *item) for item in found], num_samples)
    return Results(
        title=corpus,
        corpus=corpus,
        runs=tuple(
            load_run(
                corpus,
                system,
                seed,
                layout.trained(corpus, system, seed),
                layout.evaluated(corpus, system, seed),
                shown,
                readable,
            )
            for system, seed in found
        ),
        left_out=tuple(left_out),
        paper_corpus=paper_corpus,
        manifest=manifest,
        tokenisation=_optional_json(tokenised / "metrics.json"),
        validation=_optional_json(layout.validated(corpus) / "validation.json"),
        embeddings=_optional_json(layout.embeddings(corpus) / "metrics.json"),
    )


def load_one(
    corpus: str, system: str, seed: int, *, num_samples: int = 20, readable: Callable[[str], str] = str
) -> Results:
    """One evaluated run alone, as ``load`` reads it among others.

    Raises:
        DataError: a file that is there is damaged.
    """
    trained, evaluated = layout.trained(corpus, system, seed), layout.evaluated(corpus, system, seed)
    shown = conversations_shown([evaluated], num_samples)
    run = load_run(corpus, system, seed, trained, evaluated, shown, readable)
    return Results(title=run.name, corpus=corpus, runs=(run,))


def read_curves(path: Path) -> dict[str, list[Any]]:
    """curves.csv by column: step and epoch, split, and numbers (None where a cell is empty)."""
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        columns: dict[str, list[Any]] = {name: [] for name in reader.fieldnames or ()}
        if "step" not in columns or "split" not in columns:
            raise DataError(f"{path}: no column named step or split")
        for row in reader:
            for name, column in columns.items():
                text = row[name]
                try:
                    column.append(text if name == "split" else _finite(text))
                except (TypeError, ValueError):
                    raise DataError(f"{path}, line {reader.line_num}: {name} = {text!r}") from None
    return columns


def _finite(text: str) -> float | None:
    value = None if text == "" else float(text)
    return value if value is not None and np.isfinite(value) else None


def _run_names(corpus: str) -> list[tuple[str, str]]:
    names = set()
    for root in ("evaluated", "trained"):
        for path in (layout.DATA / root / corpus).glob("*/*"):
            if path.is_dir() and any(path.iterdir()):
                names.add((path.parent.name, path.name))
    return sorted(names)


def _why_not(corpus: str, system: str, seed: str, data_hash: str) -> str | None:
    """Why a run has no place in the report, or None if it has."""
    if not seed.isdecimal():
        return f"its folder is not named after a seed: {seed!r}"
    evaluated = layout.evaluated(corpus, system, int(seed))
    trained = layout.trained(corpus, system, int(seed))
    if not (evaluated / "metrics.json").exists():
        return "trained, but not evaluated"
    hashes = {
        path.name: read_json(path).get("data_hash")
        for path in (evaluated / "provenance.json", trained / "run.json")
        if path.exists()
    }
    if not any(hashes.values()):
        return "no record of the data it saw (provenance.json and run.json lack data_hash)"
    for name, seen in hashes.items():
        if seen is not None and seen != data_hash:
            return f"saw other data: {str(seen)[:12]} in {name}, now {data_hash[:12]}"
    return None


def _optional_json(path: Path) -> Json:
    return read_json(path) if path.exists() else {}


def load_run(
    corpus: str,
    system: str,
    seed: int,
    trained: Path,
    evaluated: Path,
    shown: Sequence[str] = (),
    readable: Callable[[str], str] = str,
) -> Run:
    """One run from its two folders; responses in the contexts of the conversations ``shown``.

    Raises:
        DataError: metrics.json is missing, or a file that is there is damaged.
    """
    curves = trained / "curves.csv"
    return Run(
        corpus=corpus,
        system=system,
        seed=seed,
        metrics=read_json(evaluated / "metrics.json"),
        training=read_run(trained) if (trained / "run.json").exists() else {},
        provenance=_optional_json(evaluated / "provenance.json"),
        curves=read_curves(curves) if curves.exists() else {},
        sums=read_sums(evaluated),
        responses=_responses(evaluated / "responses.parquet", shown, readable),
        talks=_talks(evaluated / "control.parquet", readable),
    )


def _read_parquet(path: Path, wanted: Iterable[str], ids: Sequence[str] | None = None) -> Any:
    """The wanted columns that exist, as an Arrow table; None when there is no such file."""
    if not path.exists():
        return None
    import pyarrow
    import pyarrow.parquet

    try:
        names = set(pyarrow.parquet.read_schema(path).names)
        columns = [name for name in wanted if name in names]
        filters = None if ids is None else [("conversation_id", "in", list(ids))]
        return pyarrow.parquet.read_table(
            path, columns=columns, filters=filters, page_checksum_verification=True
        )
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None


def read_sums(evaluated: Path) -> dict[str, Sums]:
    """By table key, what each test conversation adds to a number of the evaluation in this folder.

    Raises:
        DataError: a file that is there is damaged.
    """
    return {
        **_likelihood_sums(evaluated / "conversations.parquet"),
        **_response_sums(evaluated / "responses.parquet"),
    }


def _likelihood_sums(path: Path) -> dict[str, Sums]:
    parts = {part for columns in _NATS.values() for part in columns}
    weighted = "importance_weighted_nll"
    table = _read_parquet(path, ["conversation_id", "num_words", *sorted(parts), weighted])
    if table is None or not {"conversation_id", "num_words"} <= set(table.column_names):
        return {}
    ids = tuple(table["conversation_id"].to_pylist())
    words = np.asarray(table["num_words"].to_numpy(), dtype=np.float64)[None]
    sums = {}
    for key, columns in _NATS.items():
        if set(columns) <= set(table.column_names):
            nats = np.sum([np.asarray(table[name].to_numpy(), np.float64) for name in columns], axis=0)
            sums[key] = Sums(ids, nats[None], words)
    if weighted in table.column_names:
        bounds = np.asarray(table[weighted].to_numpy(), np.float64)
        there = np.flatnonzero(np.isfinite(bounds))
        sums["importance_weighted"] = Sums(tuple(ids[i] for i in there), bounds[None, there], words[:, there])
    return sums


def _response_sums(path: Path) -> dict[str, Sums]:
    """Scores per conversation and turn: numerator the score, denominator 1, both 0 where it was dropped."""
    keys = ["conversation_id", "num_response_turns", "turn"]
    table = _read_parquet(path, [*keys, *EMBEDDING_METRICS])
    if table is None or not set(keys) <= set(table.column_names) or table.num_rows == 0:
        return {}
    ids = np.asarray(table["conversation_id"].to_pylist())
    lengths, turns = (table[name].to_numpy() for name in keys[1:])
    sums = {}
    for length in np.unique(lengths):
        rows = lengths == length
        names, column = np.unique(ids[rows], return_inverse=True)
        _, part = np.unique(turns[rows], return_inverse=True)
        for metric in set(EMBEDDING_METRICS) & set(table.column_names):
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
    for folder in folders:
        table = _read_parquet(folder / "responses.parquet", ["conversation_id", "num_response_turns"])
        if table is None or table.num_rows == 0:
            continue
        # Those with the longest continuation have the shorter ones too.
        lengths = table["num_response_turns"].to_numpy()
        ids = np.asarray(table["conversation_id"].to_pylist())[lengths == lengths.max()]
        common = set(ids.tolist()) if common is None else common & set(ids.tolist())
    ordered = sorted(common or ())
    chosen = np.random.default_rng(0).permutation(len(ordered))[:num_samples]
    return [ordered[i] for i in chosen]


def _responses(
    path: Path, shown: Sequence[str], readable: Callable[[str], str]
) -> dict[tuple[int, str], Response]:
    columns = ["conversation_id", "num_response_turns", "turn", "context", "reference", "response"]
    table = _read_parquet(path, columns, ids=shown) if shown else None
    if table is None or not set(columns) <= set(table.column_names):
        return {}
    grouped: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        grouped.setdefault((row["num_response_turns"], row["conversation_id"]), []).append(row)
    order = {name: position for position, name in enumerate(shown)}
    result = {}
    for key in sorted(grouped, key=lambda item: (item[0], order[item[1]])):
        rows = sorted(grouped[key], key=lambda row: row["turn"])
        result[key] = Response(
            context=tuple(map(readable, rows[0]["context"])),
            references=tuple(readable(row["reference"]) for row in rows),
            responses=tuple(readable(row["response"]) for row in rows),
        )
    return result


def _talks(path: Path, readable: Callable[[str], str]) -> dict[TalkKey, tuple[Talk, ...]]:
    columns = ["table", "path", "example", "position", "sample", "turn", "opening", "text"]
    table = _read_parquet(path, columns)
    if table is None or not set(columns) <= set(table.column_names):
        return {}
    grouped: dict[TalkKey, dict[tuple[float, int], list[dict[str, Any]]]] = {}
    for row in table.to_pylist():
        of = grouped.setdefault((row["table"], row["path"] or "", row["example"]), {})
        of.setdefault((row["position"] or 0.0, row["sample"]), []).append(row)
    return {
        key: tuple(_talk(grouped[key][place], readable) for place in sorted(grouped[key])) for key in grouped
    }


def _talk(rows: list[dict[str, Any]], readable: Callable[[str], str]) -> Talk:
    rows.sort(key=lambda row: row["turn"])
    opening = rows[0]["opening"]
    return Talk(
        rows[0]["position"],
        rows[0]["sample"],
        None if opening is None else readable(opening),
        tuple(readable(row["text"]) for row in rows),
    )
