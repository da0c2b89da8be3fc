"""Where each stage writes. dvc.yaml says the same; a test holds the two together."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vhcr.errors import DataError

DATA = Path("data")
WORK = Path(".work")  # in progress, never an output: DVC deletes a stage's outputs before it runs


def project_root() -> Path:
    """The project: the working directory, or the place that DVC copied it from for an experiment.

    Experiments of a queue and those with ``--temp`` run in a copy under .dvc/tmp/exps, which DVC deletes.
    """
    here = Path.cwd()
    for i, parts in enumerate(zip(here.parts, here.parts[1:], here.parts[2:], strict=False)):
        if parts == (".dvc", "tmp", "exps"):
            return Path(*here.parts[:i])
    return here


def raw(corpus: str) -> Path:
    """The unpacked raw corpus."""
    return DATA / "raw" / corpus


def tokenised(corpus: str) -> Path:
    """Parquet: conversations, utterances, labels, vocabulary, token_ids/<split>."""
    return DATA / "tokenised" / corpus


def validated(corpus: str) -> Path:
    """validation.json."""
    return DATA / "validated" / corpus


def embeddings(corpus: str) -> Path:
    """vectors.bin in word2vec binary form, metrics.json with the coverage."""
    return DATA / "embeddings" / corpus


def trained(corpus: str, system: str, seed: int) -> Path:
    """A trained run: parameters, vocabulary, curves.csv and (run, provenance, metrics, summary).json."""
    return DATA / "trained" / corpus / system / str(seed)


def evaluated(corpus: str, system: str, seed: int) -> Path:
    """(metrics, summary, provenance).json and (conversations, responses, control).parquet."""
    return DATA / "evaluated" / corpus / system / str(seed)


def report(corpus: str) -> Path:
    """The page, its plots, table.json."""
    return Path("reports") / corpus


def study(corpus: str, name: str) -> Path:
    """A human evaluation with its votes; made by people, so no stage writes here and nothing cleans it."""
    return DATA / "human_evaluation" / corpus / f"{name}.sqlite"


def read_json(path: Path) -> Any:
    """A JSON file; raises DataError naming it when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None


def read_run(folder: Path) -> dict[str, Any]:
    """All that a trained run says of itself: run.json, and provenance.json where it is there.

    run.json is the same whenever and wherever the run is made again; provenance.json says where and when it
    was made this time.

    Raises:
        DataError: run.json is missing, or one of the two is damaged.
    """
    info: dict[str, Any] = {}
    for path in (folder / "run.json", folder / "provenance.json"):
        if path.name == "run.json" or path.exists():
            said = read_json(path)
            if not isinstance(said, dict):
                raise DataError(f"{path}: not a JSON object")
            info |= said
    return info


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name, then rename, so that no reader sees half of it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]], schema: Any = None) -> None:
    """Write columns, of the Arrow ``schema`` where one is given, under a temporary name, then rename."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        table = pyarrow.table(dict(columns), schema=schema)
        pyarrow.parquet.write_table(table, temporary, compression="zstd")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
