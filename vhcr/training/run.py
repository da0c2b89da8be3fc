"""A run: what makes it, the folder it leaves behind, and how to load that again.

A folder holds ``best.safetensors`` (parameters), ``last.safetensors`` (the whole training state),
``vocabulary.txt`` (line number = token id), ``run.json`` (what made it: equal in equal runs),
``provenance.json`` (where and when), ``curves.csv``, ``metrics.json`` and ``summary.json`` (the few numbers
that DVC compares).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vhcr.errors import CheckpointError
from vhcr.files import read_object, tree_digest, values_digest
from vhcr.models import ConversationModel, build
from vhcr.params import ModelParams, Section, SystemParams, TrainingParams, fingerprint, recorded
from vhcr.tokenisation.rules import Rules
from vhcr.tokenisation.vocabulary import Vocabulary
from vhcr.training.state import Row, load_parameters, read_tensors

RUN_FORMAT = 1
# A run in the form of the Hugging Face Hub: run.json with the words, and the parameters (``vhcr.hub``).
HUB_CONFIG, HUB_PARAMETERS = "config.json", "model.safetensors"
# The source that decides what a training computes, files and folders of vhcr/; dvc.yaml names the same. What
# reads, writes, shows or sends is not among it: a changed message makes nothing be trained again.
NUMBERS = (
    "batch.py",
    "token_files.py",
    "tokenisation/specials.py",
    "models",
    "training/device.py",
    "training/loop.py",
    "training/moments.py",
    "training/order.py",
    "training/parallel.py",
    "training/state.py",
)


class RunParams(Section):
    """The parameters a run was made with."""

    model: ModelParams
    system: SystemParams
    training: TrainingParams


@cache
def code_digest() -> str:
    """A digest of the source that decides what a training computes (``NUMBERS``)."""
    root = Path(__file__).resolve().parent.parent
    files = (path for name in NUMBERS for path in (sorted((root / name).rglob("*.py")) or [root / name]))
    return tree_digest(files, root)[:16]


def identity(params: RunParams, seed: int, data_hash: str) -> str:
    """A digest that two runs share exactly when they must come out the same (on one machine)."""
    return fingerprint(params, seed, data_hash, code_digest())


def recorded_identity(info: Mapping[str, Any]) -> str:
    """The identity that follows from what a run says of itself."""
    return values_digest(info["params"], info.get("seed"), info.get("data_hash"), info.get("code"))


@dataclass(frozen=True)
class TrainedRun:
    """A trained system as it lies in its folder, ready to score and to speak."""

    folder: Path
    info: dict[str, Any]
    params: RunParams
    vocabulary: Vocabulary
    model: ConversationModel  # in evaluation mode

    @classmethod
    def load(cls, folder: Path | str, checkpoint: str = "best", device: str = "cpu") -> TrainedRun:
        """Read a folder; ``checkpoint`` is ``best`` (lowest validation bound) or ``last``.

        A folder in the form of the Hub (``vhcr.hub``) holds one checkpoint, whichever is asked for.

        Raises:
            CheckpointError: a file is missing or damaged, or parameters and vocabulary do not fit together.
        """
        folder = Path(folder)
        record, path = folder / "run.json", folder / f"{checkpoint}.safetensors"
        if from_hub := not record.is_file() and (folder / HUB_CONFIG).is_file():
            record, path = folder / HUB_CONFIG, folder / HUB_PARAMETERS
        if not record.is_file():
            raise CheckpointError(f"{folder}: no trained run here (run.json is missing)")
        info = read_object(record)
        if info.get("format") != RUN_FORMAT:
            raise CheckpointError(f"{record}: format {info.get('format')!r}, expected {RUN_FORMAT}")
        for key in ("params", "vocabulary_hash", *(["words"] if from_hub else [])):
            if key not in info:
                raise CheckpointError(f"{record}: {key}: missing key")
        if info.get("identity") and info["identity"] != recorded_identity(info):
            raise CheckpointError(
                f"{record}: changed after it was written: its parameters, seed or data are not "
                f"those of run {info['identity']}"
            )
        params = recorded(RunParams, info["params"], where="params", origin=str(record))
        named = record if from_hub else folder / "vocabulary.txt"
        try:
            rules = TypeAdapter(Rules).validate_python({} if info.get("rules") is None else info["rules"])
        except ValidationError:
            raise CheckpointError(f"{record}: rules: of no tokeniser: {info['rules']!r:.60}") from None
        if from_hub:
            vocabulary = Vocabulary(info.pop("words"), rules=rules, origin=str(named))
        else:
            vocabulary = Vocabulary.load(named, rules)
        if vocabulary.hash != info["vocabulary_hash"]:
            raise CheckpointError(
                f"{named}: not the vocabulary this run was trained with "
                f"({vocabulary.hash}, expected {info['vocabulary_hash']})"
            )
        model = build(params.model, params.system, len(vocabulary))
        tensors, _ = read_tensors(path)
        if checkpoint == "last" and not from_hub:
            tensors = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
        model.make_room(tensors)
        load_parameters(model, tensors, path)
        return cls(folder, info, params, vocabulary, model.to(device).eval())


def curves_csv(rows: Sequence[Row]) -> str:
    """The training curves as CSV text; numbers in full precision, so that equal runs give equal bytes.

    A cell is empty where a split does not have that number.
    """
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
