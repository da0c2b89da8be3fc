"""Trained runs small enough to make in a test: real files, untrained weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.models.examples import params as example_params
from tests.models.examples import sizes, system
from vhcr.models import build
from vhcr.tokenisation.specials import EOS, SPECIALS
from vhcr.tokenisation.vocabulary import Vocabulary
from vhcr.training.run import RunParams
from vhcr.training.state import write_tensors

TEXT = "hello how are you ? fine , thanks i 'm the printer is broken . again ! do n't"
VOCABULARY = Vocabulary([*SPECIALS, *TEXT.split()])


def trained_run(
    root: Path,
    name: str = "vhcr-ud",
    reading: str = "paper",
    seed: int = 0,
    corpus: str = "invented",
    mlflow_run_id: str | None = None,
) -> Path:
    """A run in ``root``/data/trained/<corpus>/<name>/<seed>, as the train stage leaves it."""
    params = RunParams(
        model=sizes(), system=system(name, reading), training=example_params().corpus("toy").training
    )
    model = build(params.model, params.system, len(VOCABULARY), seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
        model.decoder.output.linear.bias[EOS] += 1.0
    folder = root / "data" / "trained" / corpus / name / str(seed)
    write_tensors(folder / "best.safetensors", model.state_dict(), {})
    last = {f"model/{key}": -value for key, value in model.state_dict().items()}
    write_tensors(folder / "last.safetensors", last, {})
    VOCABULARY.save(folder / "vocabulary.txt")
    info = {
        "format": 1,
        "corpus": corpus,
        "system": name,
        "seed": seed,
        "vocabulary_hash": VOCABULARY.hash,
        "params": params.model_dump(mode="json"),
    }
    (folder / "run.json").write_text(json.dumps(info), encoding="utf-8")
    (folder / "provenance.json").write_text(json.dumps({"mlflow_run_id": mlflow_run_id}), encoding="utf-8")
    return folder
