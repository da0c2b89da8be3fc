"""What files say of a run and of its data, as records: read in one place, and reached by attribute.

A training leaves run.json (what made it: equal in equal runs) and provenance.json (where and when), an
evaluation metrics.json (``vhcr.evaluation.records.Evaluation``) and a provenance.json of its own. What a file
of an older program lacks has the default that stands here; what it has besides is passed over.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict, Field, JsonValue

from vhcr.evaluation.records import Parameters, Protocol, Record
from vhcr.files import read_record


class Machine(Record):
    """What something ran on."""

    cpu: str = "CPU"
    cores: int | str = "?"
    system: str = ""
    memory_gib: float | None = None


class Made(Record):
    """Where, when and by which code something was made."""

    code_version: str | None = None  # the commit
    dirty: bool = False  # ... with changes that are not in it
    device: str | None = None
    machine: Machine | None = None
    versions: dict[str, str] = {}
    seconds: float | None = None
    mlflow_run_id: str | None = None

    @property
    def commit(self) -> str | None:
        """The commit as people read it."""
        if not self.code_version:
            return None
        return self.code_version[:10] + (", with changes" if self.dirty else "")

    @property
    def processor(self) -> str | None:
        """The GPU, or how many cores of which CPU."""
        if self.device == "cpu" and self.machine is not None:
            return f"{self.machine.cores} x {self.machine.cpu}"
        return self.device


class TrainingRecord(Made):
    """run.json with provenance.json: what was trained, on what, how and where."""

    corpus: str
    system: str
    seed: int
    data_hash: str
    params: dict[str, Parameters]  # the sections model, system and training
    vocabulary_hash: str = ""
    code: str | None = None  # a digest of the source that decides what a training computes
    inputs: dict[str, str] = {}
    rules: Parameters = {}  # of tokenisation, by which its text is read
    num_parameters: int | None = None
    best_step: int = 0
    torch_version: str | None = None


class EvaluationRecord(Made):
    """provenance.json of an evaluation."""

    data_hash: str
    finished_at: str = ""  # ISO 8601, UTC
    inputs: dict[str, str] = {}
    protocol: Protocol


class Manifest(Record):
    """What was tokenised, and how."""

    corpus: str = ""
    data_hash: str
    vocabulary_hash: str | None = None
    tokenisation: Parameters = {}
    splits: dict[str, dict[str, float]] = {}  # split -> conversations, utterances, words


class Expectation(Record):
    """One thing that must hold of tokenised data, and whether it does."""

    expectation: str
    success: bool = False
    explanation: str = ""
    table: str = ""
    column: str | None = ""
    observed: JsonValue = None
    unexpected_count: int | None = None
    examples: list[JsonValue] = []


class Validation(Record):
    """validation.json."""

    success: bool
    results: tuple[Expectation, ...] = ()


class Embeddings(Record):
    """metrics.json of the word vectors; all of it is shown."""

    model_config = ConfigDict(extra="allow")

    source: str = ""
    origin: str = "vectors from a file"
    token_coverage: float | None = None  # share of the test split's words that have a vector


class Tokenisation(Record):
    """metrics.json of the tokenised data; all of it is shown."""

    model_config = ConfigDict(extra="allow")

    splits: dict[str, dict[str, float]] = {}
    leakage: dict[str, dict[str, JsonValue]] = {}  # kind of content -> where it recurs


class Data(Record):
    """All that is known of the data that runs saw."""

    manifest: Manifest
    tokenisation: Tokenisation = Tokenisation()
    validation: Validation | None = None
    embeddings: Embeddings | None = None
    paper_corpus: str | None = Field(default=None, description="Which of the paper's corpora, if either.")
    account: tuple[str, ...] | None = Field(
        default=None, description="Of somebody's own conversations: what became of them; else None."
    )


def read_training(folder: Path) -> TrainingRecord:
    """The record of a trained run; its provenance is a file of its own, which may be missing.

    Raises:
        DataError: run.json is missing, or one of the two is damaged.
    """
    provenance = folder / "provenance.json"
    return read_record(TrainingRecord, folder / "run.json", *([provenance] if provenance.exists() else []))
