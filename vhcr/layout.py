"""Where each stage writes. dvc.yaml says the same; a test holds the two together."""

from __future__ import annotations

from pathlib import Path

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
    """(metrics, summary, provenance).json, (conversations, responses, control).parquet, latents/."""
    return DATA / "evaluated" / corpus / system / str(seed)


def report(corpus: str) -> Path:
    """The page, its plots, table.json."""
    return Path("reports") / corpus


def study(corpus: str, name: str) -> Path:
    """A human evaluation with its votes; made by people, so no stage writes here and nothing cleans it."""
    return DATA / "human_evaluation" / corpus / f"{name}.sqlite"
