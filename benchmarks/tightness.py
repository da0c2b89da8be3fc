"""How low the importance-weighted bound of a run goes with many samples, beside HRED's exact NLL.

    python -m benchmarks.tightness cornell-small vhcr-ud-fb3 --samples 1000

On the test conversations of the evaluation's own bound, with its seed, so that the first draws are the same
ones. Each difference is paired over these conversations, with a 95 % bootstrap interval; of several seeds of
HRED, the mean NLL of each conversation stands. All runs must have been evaluated. Written to
``tightness-<corpus>-<system>-<seed>.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from vhcr import layout
from vhcr.batch import Conversations
from vhcr.errors import DataError

POINTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def tightness(
    corpus: str, system: str, seed: int, exact: str, exact_seeds: Sequence[int], samples: int
) -> dict[str, Any]:
    """Bounds by K in nats a word, and their differences from the exact NLL of system ``exact``.

    Raises:
        DataError: a run was not evaluated, or the two were evaluated on other data.
    """
    from vhcr.evaluation.likelihood import importance_weighted_nll, log_weights
    from vhcr.evaluation.statistics import paired_difference
    from vhcr.provenance import code_version, machine, versions
    from vhcr.training.run import TrainedRun, set_up_cpu

    set_up_cpu(0)
    folder = layout.evaluated(corpus, system, seed)
    made, columns = _read(folder)
    bounded = columns["importance_weighted_nll"]
    chosen = [index for index, value in enumerate(bounded) if value is not None]
    words = np.array(columns["num_words"], dtype=np.float64)[chosen]
    by_seed = []
    for each in exact_seeds:
        other = layout.evaluated(corpus, exact, each)
        known, theirs = _read(other)
        if not layout.read_json(other / "metrics.json")["bound_is_exact"]:
            raise DataError(f"{other}: its NLL is a bound, not exact")
        if made["data_hash"] != known["data_hash"] or theirs["conversation_id"] != columns["conversation_id"]:
            raise DataError(f"{folder} and {other}: evaluated on other data")
        by_seed.append(np.array(theirs["nll"], dtype=np.float64)[chosen])
    nll = np.mean(by_seed, axis=0)

    trained = TrainedRun.load(layout.trained(corpus, system, seed))
    ids = layout.tokenised(corpus) / "token_ids" / "test.parquet"
    test = Conversations.load(ids, len(trained.vocabulary))
    evaluation = made["protocol"]["evaluation"]
    start = time.perf_counter()
    weights = log_weights(trained.model, test, chosen, samples, evaluation["seed"])
    seconds = time.perf_counter() - start
    bootstrap = {"num_samples": evaluation["bootstrap_samples"], "seed": evaluation["seed"]}
    bounds = []
    for count in [point for point in POINTS if point < samples] + [samples]:
        values = importance_weighted_nll(weights, count)
        difference = paired_difference(values, words, nll, words, **bootstrap)
        bounds.append(
            {"num_samples": count, "nll_per_word": float(values.sum() / words.sum()), **{
                f"minus_{exact}": difference.estimate, "low": difference.low, "high": difference.high,
            }}
        )  # fmt: skip
    commit = code_version()
    return {
        "corpus": corpus,
        "system": system,
        "seed": seed,
        "num_conversations": len(chosen),
        "num_words": int(words.sum()),
        f"{exact}_nll_per_word": float(nll.sum() / words.sum()),
        f"{exact}_nll_per_word_by_seed": {
            str(each): float(nats.sum() / words.sum())
            for each, nats in zip(exact_seeds, by_seed, strict=True)
        },
        "kl_per_word": layout.read_json(folder / "metrics.json")["kl_per_word"],
        "bounds": bounds,
        "bootstrap": bootstrap,
        "seconds": round(seconds, 1),
        "made_by": {
            "code_version": commit.commit,
            "dirty": commit.dirty,
            "machine": machine(),
            "versions": versions(),
            "data_hash": made["data_hash"],
            "params": trained.info["params"],
        },
    }


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What made an evaluation, and its numbers of each conversation."""
    columns: dict[str, list[Any]] = pq.read_table(folder / "conversations.parquet").to_pydict()
    return layout.read_json(folder / "provenance.json"), columns


def main(argv: Sequence[str] | None = None) -> None:
    """Compute the bounds, print them, write them."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="python -m benchmarks.tightness",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("corpus")
    parser.add_argument("system")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exact", default="hred", help="whose NLL is exact (default: hred)")
    parser.add_argument("--exact-seeds", type=int, nargs="+", help="of that system (default: the same seed)")
    parser.add_argument("--samples", type=int, default=1000, help="largest K (default: 1000)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder for the JSON")
    arguments = parser.parse_args(argv)
    exact_seeds = arguments.exact_seeds or [arguments.seed]
    found = tightness(
        arguments.corpus, arguments.system, arguments.seed, arguments.exact, exact_seeds, arguments.samples
    )
    name = f"tightness-{arguments.corpus}-{arguments.system}-{arguments.seed}.json"
    layout.write_json(arguments.out / name, found)
    for row in found["bounds"]:
        print(
            f"K = {row['num_samples']:5d}: {row['nll_per_word']:.4f}, minus {arguments.exact} "
            f"{row[f'minus_{arguments.exact}']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        )


if __name__ == "__main__":
    main()
