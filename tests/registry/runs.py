"""Evaluated runs small enough to make in a test: untrained weights, invented numbers, real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.generation.runs import trained_run
from vhcr import layout
from vhcr.commands.options import DEFAULTS
from vhcr.files import write_json, write_text
from vhcr.stages.evaluate import RESPONSES

NUM = 50


def evaluated_run(corpus: str, seed: int = 0, nll: float = 4.0, **trained: str) -> tuple[Path, Path]:
    """A trained run and its evaluation in the working directory, ``nll`` nats a word with little noise."""
    folder = trained_run(Path(), seed=seed, corpus=corpus, **trained)
    info = json.loads((folder / "run.json").read_text())
    info |= {"data_hash": "d" * 64, "best_step": 20, "num_parameters": 1234, "code": "c0de"}
    write_json(folder / "run.json", info)
    made = {
        "mlflow_run_id": None,
        "code_version": "c0ffee" * 6,
        "dirty": False,
        "device": "cpu",
        "seconds": 1.5,
    }
    write_json(folder / "provenance.json", made)
    curves = f"step,epoch,split,nll_per_word\n10,0,train,5.5\n20,0,validation,{nll}\n"
    write_text(folder / "curves.csv", curves)
    write_json(folder / "metrics.json", {"num_steps": 20, "best_validation": {"nll_per_word": nll}})
    out = layout.evaluated(corpus, info["system"], seed)
    evaluate(out, nll)
    return folder, out


def evaluate(out: Path, nll: float) -> None:
    """The files of an evaluation at ``nll`` nats a word."""
    draw = np.random.default_rng(0)
    words = draw.integers(20, 60, NUM)
    nats = (draw.normal(nll, 0.5, NUM)) * words
    nats *= nll * words.sum() / nats.sum()
    out.mkdir(parents=True, exist_ok=True)
    nothing = np.zeros(NUM)
    columns = {"conversation_id": [f"c{i}" for i in range(NUM)], "num_words": words, "nll": nats}
    columns |= {"reconstruction_error": nats, "kl_conv": nothing, "kl_utt": nothing}
    pq.write_table(pa.table(columns | {"importance_weighted_nll": nats}), out / "conversations.parquet")
    pq.write_table(RESPONSES.empty_table(), out / "responses.parquet")
    write_json(
        out / "metrics.json",
        {
            "metric_version": 2,
            "num_conversations": NUM,
            "num_words": int(words.sum()),
            "nll_per_word": nll,
            "reconstruction_per_word": nll,
            "kl_per_word": 0.001,
            "kl_conv_per_word": 0.0,
            "kl_utt_per_word": 0.001,
            "bound_is_exact": False,
        },
    )
    protocol = {"evaluation": {"bootstrap_samples": 200, "seed": 0}, "generation": DEFAULTS}
    write_json(out / "provenance.json", {"data_hash": "d" * 64, "protocol": protocol})
