"""A plausible tree of results, with made-up numbers: what the stages before the report would have left."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vhcr import layout
from vhcr.files import write_json

DATA_HASH = "5f3a" * 16
NUM_CONVERSATIONS = 120
SUBSET = 60  # conversations with an importance-weighted bound
NATS = ("nll", "reconstruction_error", "kl_conv", "kl_utt")

# system: (NLL bound, KL of z_conv, KL of z_utt, Average) in the end
SYSTEMS: dict[str, tuple[float, float, float, float]] = {
    "hred": (3.40, 0.0, 0.0, 0.540),
    "vhred": (3.42, 0.0, 0.004, 0.541),
    "vhred-wd": (3.44, 0.0, 0.012, 0.552),
    "vhred-bow": (3.90, 0.0, 1.10, 0.555),
    "vhcr-ud": (3.50, 0.17, 0.31, 0.620),
}
WORDS = "where is the printer ? i do n't know , sir . she went home <unk> now maybe tomorrow & you"


def write_tree(
    root: Path,
    *,
    corpus: str = "toy",
    systems: Mapping[str, tuple[float, float, float, float]] | None = None,
    seeds: Sequence[int] = (0, 1),
) -> None:
    """All files that stage report reads, under ``root``."""
    write_data(root, corpus)
    for system, numbers in (SYSTEMS if systems is None else systems).items():
        for seed in seeds:
            write_run(root, corpus, system, seed, numbers)


def write_data(root: Path, corpus: str) -> None:
    """Manifest, tokenisation metrics, validation, embeddings."""
    tokenised = root / layout.tokenised(corpus)
    sizes = {
        split: {"conversations": n, "utterances": 5 * n, "words": 40 * n}
        for split, n in (("train", 960), ("validation", 120), ("test", NUM_CONVERSATIONS))
    }
    write_json(
        tokenised / "manifest.json",
        {
            "format": 1,
            "corpus": corpus,
            "data_hash": DATA_HASH,
            "vocabulary_hash": "77aa" * 16,
            "tokenisation": {"max_words": 30, "max_turns": 10},
            "splits": sizes,
        },
    )
    write_json(
        tokenised / "metrics.json",
        {
            "read": {"conversations": 1201, "skipped": {"records": 1, "by_reason": {"not JSON": 1}}},
            "cut": {"utterances": 14, "words": 90},
            "splits": {name: {**size, "unknown_fraction": 0.0123} for name, size in sizes.items()},
            "leakage": {
                "conversation_words": {
                    "distinct": 1180,
                    "in_several_splits": 3,
                    "test_also_in_train": {"conversations": 2, "fraction": 2 / 120},
                }
            },
        },
    )
    expectation = {
        "expectation": "expect_column_values_to_be_between",
        "table": "utterances",
        "column": "num_words",
        "success": True,
        "observed": "1 to 30",
        "unexpected_count": 0,
        "examples": [],
        "explanation": "Utterances have 1 to 30 words",
    }
    write_json(
        root / layout.validated(corpus) / "validation.json",
        {"success": True, "num_expectations": 2, "results": [expectation, {**expectation, "column": "turn"}]},
    )
    write_json(
        root / layout.embeddings(corpus) / "metrics.json",
        {"source": "corpus", "num_vectors": 580, "vector_size": 50, "token_coverage": 0.991},
    )


def write_run(
    root: Path, corpus: str, system: str, seed: int, numbers: tuple[float, float, float, float]
) -> None:
    """One trained and evaluated run; conversations differ in hardness, alike for all runs."""
    nll, kl_conv, kl_utt, average = numbers
    shared = np.random.default_rng(1)
    hardness, words = shared.normal(0, 0.4, NUM_CONVERSATIONS), shared.integers(12, 90, NUM_CONVERSATIONS)
    own = np.random.default_rng([seed, *system.encode()])
    nll += 0.01 * seed
    per_conversation = {
        "conversation_id": [f"c{i}" for i in range(NUM_CONVERSATIONS)],
        "num_words": words,
        "kl_conv": np.maximum(kl_conv * words + own.normal(0, 0.2, NUM_CONVERSATIONS) * (kl_conv > 0), 0),
        "kl_utt": kl_utt * words * np.exp(own.normal(0, 0.2, NUM_CONVERSATIONS)),
    }
    total = words * (nll + hardness + own.normal(0, 0.03, NUM_CONVERSATIONS))
    per_conversation["nll"] = total
    per_conversation["reconstruction_error"] = (
        total - per_conversation["kl_conv"] - per_conversation["kl_utt"]
    )
    gained = 0.0 if system == "hred" else 0.03 * math.log(50)
    per_conversation["importance_weighted_nll"] = [
        float(nats - gained * count) if i < SUBSET else None
        for i, (nats, count) in enumerate(zip(total, words, strict=True))
    ]
    evaluated = root / layout.evaluated(corpus, system, seed)
    evaluated.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(per_conversation), evaluated / "conversations.parquet")
    responses = write_responses(evaluated / "responses.parquet", average, own)
    write_control(evaluated / "control.parquet", kl_conv, own)
    if kl_conv:
        write_latents(evaluated / "latents", own)
    num_words = int(words.sum())
    sums = {name: float(np.sum(per_conversation[name])) / num_words for name in NATS}
    exact = system == "hred"
    write_json(
        evaluated / "metrics.json",
        {
            "metric_version": 1,
            "num_conversations": NUM_CONVERSATIONS,
            "num_words": num_words,
            "nll_per_word": sums["nll"],
            "reconstruction_per_word": sums["reconstruction_error"],
            "kl_per_word": sums["kl_conv"] + sums["kl_utt"],
            "kl_conv_per_word": sums["kl_conv"],
            "kl_utt_per_word": sums["kl_utt"],
            "perplexity": math.exp(sums["nll"]),
            "bound_is_exact": exact,
            "importance_bound_subset_nll_per_word": sums["nll"],
            "importance_weighted_nll_per_word": {
                str(k): sums["nll"] - (0 if exact else 0.03 * math.log(k))
                for k in ((1,) if exact else (1, 10, 50))
            },
            "nll_by_turn": [sums["nll"] + 0.3 / (turn + 1) for turn in range(8)],
            "kl_utt_by_turn": [kl_utt] * 8,
            "by_utterance_length": [
                {"from": 1, "to": 5, "perplexity": 20.0, "kl_utt_per_word": kl_utt},
                {"from": 6, "to": 10, "perplexity": 30.0, "kl_utt_per_word": kl_utt / 2},
            ],
            "reconstruction_by_word_position": [5.0, 3.0, None, 2.0],
            "diversity": {
                "num_contexts": 100,
                "num_samples": 5,
                "greedy": {"embedding_diversity": 0.1, "distinct_responses": 0.4, "distinct_1": 0.01},
            },
            "responses": responses,
            "diagnostics": diagnostics(kl_conv, kl_utt),
        },
    )
    write_json(
        evaluated / "provenance.json",
        {
            "mlflow_run_id": f"{seed:04x}{system.encode().hex():0>28}"[:32],
            "data_hash": DATA_HASH,
            "code_version": "0123456789abcdef0123456789abcdef01234567",
            "dirty": False,
            "versions": {"python": "3.11.2", "torch": "2.13.0"},
            "machine": {"cpu": "Some CPU", "cores": 2},
            "seconds": 12.0,
            "finished_at": "2026-01-02T03:04:05+00:00",
            "protocol": {"generation": {"strategy": "greedy"}, "context": "the first 1 turns"},
        },
    )
    write_training(root / layout.trained(corpus, system, seed), corpus, system, seed, numbers)


def diagnostics(kl_conv: float, kl_utt: float) -> dict[str, Any]:
    """As a run with these KLs might have them."""
    if not kl_utt:
        return {"probe": {"topic": {"chance": 0.2, "h_cxt": 0.61}}}
    found: dict[str, Any] = {
        "active_units_utt": round(16 * min(1.0, kl_utt * 3)),
        "prior_variance_ratio": 0.4 + kl_utt,
        "kl_utt_per_dimension": [kl_utt / 2**i for i in range(16)],
        "reconstruction_per_word_by_source": {
            "posterior": 3.0,
            "prior": 3.0 + kl_utt,
            "shuffled": 3.0 + 2 * kl_utt,
        },
        "reconstruction_by_word_position_by_source": {
            "posterior": [5.0, 3.0, None, 2.0],
            "prior": [5.0 + kl_utt, 3.0, None, 2.0],
        },
        "mutual_information_utt": {"estimate": 2 * kl_utt, "standard_error": 0.02, "num_posteriors": 400},
        "probe": {"topic": {"chance": 0.2, "h_cxt": 0.61}},
    }
    if kl_conv:
        found["active_units_conv"] = 9
        found["mutual_information_conv"] = {"estimate": 3.2, "standard_error": 0.1, "num_posteriors": 120}
        found["reconstruction_per_word_by_source"] |= {
            "prior_conv": 3.0 + kl_conv,
            "prior_utt": 3.05,
            "shuffled_conv": 3.0 + 2 * kl_conv,
            "shuffled_utt": 3.0 + 2 * kl_utt,
        }
        found["kl_conv_per_dimension"] = [2.0 / 1.5**i for i in range(16)]
        found["probe"]["topic"] |= {"z_conv": 0.93, "z_conv_drawn": 0.74}
    return found


def write_responses(path: Path, average: float, rng: np.random.Generator) -> dict[str, Any]:
    """1-turn and 3-turn responses; a few pairs dropped. Returns their part of metrics.json."""
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    shared = np.random.default_rng(2)
    effects = shared.normal(0, 0.1, (NUM_CONVERSATIONS, 3))
    texts = [
        " ".join(shared.choice(WORDS.split(), size=shared.integers(2, 14)))
        for _ in range(4 * NUM_CONVERSATIONS)
    ]
    for length in (1, 3):
        first = len(rows)
        for i in range(NUM_CONVERSATIONS):
            for turn in range(length):
                dropped = (i + turn) % 40 == 7
                score = average + effects[i, turn] + rng.normal(0, 0.04)
                rows.append(
                    {
                        "conversation_id": f"c{i}",
                        "num_response_turns": length,
                        "turn": turn,
                        "context": [texts[4 * i]],
                        "reference": texts[4 * i + 1 + turn],
                        "response": " ".join(rng.choice(WORDS.split(), size=rng.integers(1, 12))),
                        "average": None if dropped else score,
                        "extrema": None if dropped else score * 0.65,
                        "greedy": None if dropped else score * 0.72,
                    }
                )
        scores = [row["average"] for row in rows[first:] if row["average"] is not None]
        mean = float(np.mean(scores))
        result[str(length)] = {
            "average": mean,
            "extrema": 0.65 * mean,
            "greedy": 0.72 * mean,
            "num_pairs": len(scores),
            "num_dropped": len(rows) - first - len(scores),
            "serban": {"average": mean - 0.01, "extrema": 0.6 * mean, "greedy": 0.7 * mean},
            "bleu": 1.2,
            "distinct_1": 0.011,
            "distinct_2": 0.042,
            "entropy": 4.1,
            "length_ratio": 0.8,
            "repetition": 0.031,
        }
    pq.write_table(pa.Table.from_pylist(rows), path)
    return result


def write_latents(folder: Path, rng: np.random.Generator) -> None:
    """A map of two islands, which are the topics, and a label that is nearly them."""
    topic = [i % 2 for i in range(NUM_CONVERSATIONS)]
    rows: dict[str, Any] = {
        "id": [f"c{i}" for i in range(NUM_CONVERSATIONS)],
        "text": ["what about the printer ?\nnothing" if t else "wine ?\nyes" for t in topic],
        "label_topic": [None if i == 0 else ("ink" if t else "wine") for i, t in enumerate(topic)],
        "topic": topic,
        "x": rng.normal(np.array(topic) * 4.0),
        "y": rng.normal(size=NUM_CONVERSATIONS),
    }
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(rows), folder / "latents.parquet")
    words = (["wine", "glass"], ["printer", "ink"])
    write_json(
        folder / "topics.json",
        [{"topic": i, "size": topic.count(i), "words": words[i], "typical": [f"c{i + 2}"]} for i in (0, 1)],
    )


def write_control(path: Path, kl_conv: float, rng: np.random.Generator) -> None:
    """Tables 6 and 7; a system whose z_conv is not used says the same along the whole path."""
    rows: list[dict[str, Any]] = []

    def talk(**place: Any) -> None:
        said = [" ".join(rng.choice(WORDS.split(), size=6)) for _ in range(3)]
        for turn, text in enumerate(said):
            rows.append({**place, "turn": turn, "opening": None, "text": text})

    for example in (0, 1) if kl_conv else ():
        for way in ("linear", "spherical"):
            for position in (0.0, 0.5, 1.0):
                talk(table="interpolation", path=way, example=example, position=position, sample=0)
        for sample in range(4):
            talk(table="fixed", path=None, example=example, position=None, sample=sample)
    schema = pa.schema(
        {
            "table": pa.string(),
            "path": pa.string(),
            "example": pa.int64(),
            "position": pa.float64(),
            "sample": pa.int64(),
            "turn": pa.int64(),
            "opening": pa.string(),
            "text": pa.string(),
        }
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def write_training(
    folder: Path,
    corpus: str,
    system: str,
    seed: int,
    numbers: tuple[float, float, float, float],
    *,
    num_steps: int = 600,
) -> None:
    """run.json and curves.csv: the KL falls from where annealing lets it start to where it ends."""
    nll, kl_conv, kl_utt, _ = numbers
    write_json(
        folder / "run.json",
        {
            "format": 1,
            "corpus": corpus,
            "system": system,
            "seed": seed,
            "data_hash": DATA_HASH,
            "mlflow_run_id": None,
            "code_version": "0123456789abcdef0123456789abcdef01234567",
            "dirty": True,
            "device": "cpu",
            "machine": {"cpu": "Some CPU", "cores": 2},
            "torch_version": "2.13.0",
            "num_parameters": 123456,
            "seconds": 83.5 + seed,
            "params": {
                "model": {"embedding_size": 64, "z_utt_size": 16},
                "system": {
                    "architecture": system.partition("-")[0],
                    "reading": "paper",
                    "word_drop": {"wd": 0.25, "wd50": 0.5, "wd75": 0.75}.get(system.partition("-")[2], 0.0),
                    "utterance_drop": 0.25 if "-ud" in system else 0.0,
                    "bag_of_words_weight": 1.0 if system.endswith("-bow") else 0.0,
                    "decoder_sees_context": not system.endswith("-zonly"),
                },
                "training": {"learning_rate": 0.003, "num_epochs": 10},
            },
        },
    )
    rng = np.random.default_rng([seed, 7, *system.encode()])
    with (folder / "curves.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["step", "epoch", "split", "loss", "nll_per_word", "reconstruction_per_word", "kl_per_word",
             "kl_conv_per_word", "kl_utt_per_word", "kl_weight", "bag_of_words_per_word",
             "prior_variance_ratio", "active_units_utt"]
        )  # fmt: skip
        for step in range(10, num_steps + 1, 10):
            decay = math.exp(-step / 90)
            early = 0.5 * decay if kl_utt else 0.0
            bound = nll + 2.2 * decay
            for split, noise in (("train", 0.05), ("validation", 0.0)):
                if split == "validation" and step % 60:
                    continue
                conv, utt = kl_conv + (early / 2 if kl_conv else 0), kl_utt + early
                here = bound + noise * rng.normal()
                writer.writerow(
                    [step, step // 60, split, here, here, here - conv - utt, conv + utt, conv, utt,
                     min(1.0, step / 300) if split == "train" else "", "",
                     *((2.0 ** (step / 60), 16) if split == "validation" and kl_utt else ("", ""))]
                )  # fmt: skip
