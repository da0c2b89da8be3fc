"""A small run with data to explore: untrained weights, invented conversations of two kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.generation.runs import VOCABULARY, trained_run
from vhcr.explore.atlas import Atlas
from vhcr.explore.corpus import Corpus
from vhcr.training.run import TrainedRun

SAID = {  # kind -> what is said
    "printer": ("the printer is broken .", "the printer is broken again !", "how is the printer ?"),
    "greeting": ("hello how are you ?", "fine , thanks", "i 'm fine , hello"),
}


def explored(root: Path, name: str = "vhcr-ud", num_conversations: int = 24, reading: str = "paper") -> Path:
    """A run in ``root`` with its data in ``root``/data/tokenised/invented; returns the run's folder."""
    folder = trained_run(root, name, reading)
    info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**info, "data_hash": "d" * 64}), encoding="utf-8")
    data = root / "data" / "tokenised" / "invented"
    (data / "token_ids").mkdir(parents=True, exist_ok=True)
    (data / "manifest.json").write_text(json.dumps({"data_hash": "d" * 64}), encoding="utf-8")
    utterances, labels = [], []
    for split in ("train", "validation", "test"):
        ids = []
        for number in range(num_conversations):
            kind = ("printer", "greeting")[number % 2]
            said = [SAID[kind][(number + turn) % 3] for turn in range(1 + number % 4)]
            key = f"{split}-{number}"
            ids.append(
                {
                    "conversation_id": key,
                    "token_ids": [VOCABULARY.encode(text.split(), end=True) for text in said],
                }
            )
            labels.append(
                {"conversation_id": key, "split": split, "turn": None, "name": "kind", "value": kind}
            )
            for turn, text in enumerate(said):
                row = {"conversation_id": key, "split": split, "turn": turn, "speaker": "AB"[turn % 2]}
                utterances.append({**row, "text": text.capitalize(), "words": text.split()})
                labels.append(
                    {
                        "conversation_id": key,
                        "split": split,
                        "turn": turn,
                        "name": "act",
                        "value": f"act {turn % 2}",
                    }
                )
        pq.write_table(pa.Table.from_pylist(ids), data / "token_ids" / f"{split}.parquet")
    pq.write_table(pa.Table.from_pylist(utterances), data / "utterances.parquet")
    pq.write_table(pa.Table.from_pylist(labels), data / "labels.parquet")
    return folder


def atlas(root: Path, name: str = "vhcr-ud", split: str = "test", reading: str = "paper") -> Atlas:
    """The map of such a run."""
    run = TrainedRun.load(explored(root, name, reading=reading))
    return Atlas.of(run, Corpus.load(run, split, root / "data" / "tokenised" / "invented"), 2)
