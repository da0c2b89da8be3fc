"""A project folder of its own: the parameter file shrunk, and a small toy corpus tokenised in it."""

from __future__ import annotations

from pathlib import Path

import yaml

from vhcr import layout
from vhcr.files import write_json
from vhcr.params import Params
from vhcr.stages import download, tokenise
from vhcr.tokenisation.manifest import Manifest
from vhcr.tokenisation.verdict import seal

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "source": {"toy": {"num_conversations": 60, "seed": 0}},
    "tokenisation": {"min_count": 1},
    "model": {
        "embedding_size": 12,
        "encoder_size": 12,
        "context_size": 12,
        "decoder_size": 12,
        "conversation_encoder_size": 12,
        "z_utt_size": 4,
        "z_conv_size": 4,
    },
    "training": {
        "num_epochs": 4,
        "batch_conversations": 8,
        "kl_annealing_steps": 12,
        "record_every_steps": 2,
        "num_threads": 1,
        "device": "cpu",
        "checkpoint_seconds": 0.0001,
    },
    "evaluation": {"importance_samples": 5, "importance_conversations": 5, "bootstrap_samples": 100},
}


def make(folder: Path, **changes: dict[str, object]) -> Params:
    """Write params.yaml into ``folder``, which is the working directory, and read it back."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    toy = values["corpora"]["toy"]
    for section, keys in [*SMALL.items(), *changes.items()]:
        toy[section] = {**(toy[section] or {}), **keys}
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return Params.load(path)


def prepare(params: Params) -> None:
    """Everything that training needs, in the working directory."""
    download.run(params, corpus="toy")
    tokenise.run(params, corpus="toy")
    found = {"success": True, "data_hash": Manifest.load(layout.tokenised("toy")).data_hash}
    write_json(layout.validated("toy") / "validation.json", seal(found, layout.tokenised("toy")))
