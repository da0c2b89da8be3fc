"""How low the importance-weighted bound of a system goes with many samples, beside HRED's exact NLL.

    python -m benchmarks.tightness cornell-small vhcr-ud-fb3 --samples 1000

On the test conversations of the evaluation's own bound (or more of them), with its seed, so that the first
draws are the same ones. Each difference is paired over these conversations, with a 95 % bootstrap interval;
of several seeds of a system, the mean NLL of each conversation stands. With ``--utterance-draws`` so many
draws of z_utt share one of z_conv and are averaged turn by turn, a tighter bound at the same cost where
z_utt holds most of the KL (``vhcr.evaluation.likelihood``; of K draws those count that make whole groups,
of five in twos four); where there is no z_conv all of them do. All runs must have been evaluated. Written
to ``tightness-<corpus>-<system>-<seeds>.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vhcr import layout
from vhcr.errors import DataError
from vhcr.files import read_json, write_json
from vhcr.token_files import Conversations

POINTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def tightness(
    corpus: str,
    system: str,
    seeds: Sequence[int],
    exact: str,
    exact_seeds: Sequence[int],
    samples: int,
    utterance_draws: int | None = None,
    conversations: int | None = None,
) -> dict[str, Any]:
    """Bounds by K in nats a word, and their differences from the exact NLL of system ``exact``.

    Raises:
        DataError: a run was not evaluated, or two were evaluated on other data.
    """
    from vhcr.evaluation.likelihood import importance_subset, importance_weighted_nll, log_weights
    from vhcr.provenance import code_version, machine, versions
    from vhcr.results.statistics import paired_difference
    from vhcr.training.device import set_up_cpu
    from vhcr.training.run import TrainedRun

    set_up_cpu(0)
    folders = [layout.evaluated(corpus, system, seed) for seed in seeds]
    others = [layout.evaluated(corpus, exact, seed) for seed in exact_seeds]
    made, columns = _read(folders[0])
    exactly = []
    for other in (*folders[1:], *others):
        known, theirs = _read(other)
        if made["data_hash"] != known["data_hash"] or theirs["conversation_id"] != columns["conversation_id"]:
            raise DataError(f"{folders[0]} and {other}: evaluated on other data")
        if other in others:
            if not read_json(other / "metrics.json")["bound_is_exact"]:
                raise DataError(f"{other}: its NLL is a bound, not exact")
            exactly.append(np.array(theirs["nll"], dtype=np.float64))
    evaluation = made["protocol"]["evaluation"]
    number = conversations or evaluation["importance_conversations"]
    chosen = importance_subset(len(columns["nll"]), number, evaluation["seed"]).tolist()
    words = np.array(columns["num_words"], dtype=np.float64)[chosen]
    exactly = [nll[chosen] for nll in exactly]
    nll = np.mean(exactly, axis=0)

    counts = [point for point in POINTS if point < samples] + [samples]
    ids = layout.tokenised(corpus) / "token_ids" / "test.parquet"
    start = time.perf_counter()
    found = []  # [seeds][counts]: NLL of each conversation
    for seed in seeds:
        trained = TrainedRun.load(layout.trained(corpus, system, seed))
        test = Conversations.load(ids, len(trained.vocabulary))
        shared = utterance_draws or (1 if trained.model.z_conv_size else samples)
        weights = log_weights(trained.model, test, chosen, samples, evaluation["seed"], shared)
        found.append([importance_weighted_nll(weights, count) for count in counts])
    seconds = time.perf_counter() - start
    bootstrap = {"num_samples": evaluation["bootstrap_samples"], "seed": evaluation["seed"]}
    bounds = []
    for count, by_seed in zip(counts, zip(*found, strict=True), strict=True):
        values = np.mean(by_seed, axis=0)
        difference = paired_difference(values, words, nll, words, **bootstrap)
        bounds.append(
            {"num_samples": count, "nll_per_word": float(values.sum() / words.sum()),
             "nll_per_word_by_seed": _by_seed(seeds, by_seed, words), **{
                f"minus_{exact}": difference.estimate, "low": difference.low, "high": difference.high,
            }}
        )  # fmt: skip
    commit = code_version()
    kl = [read_json(folder / "metrics.json")["kl_per_word"] for folder in folders]
    return {
        "corpus": corpus,
        "system": system,
        "seeds": list(seeds),
        "num_conversations": len(chosen),
        "num_words": int(words.sum()),
        "utterance_draws": shared,
        f"{exact}_nll_per_word": float(nll.sum() / words.sum()),
        f"{exact}_nll_per_word_by_seed": _by_seed(exact_seeds, exactly, words),
        "kl_per_word_by_seed": {str(seed): value for seed, value in zip(seeds, kl, strict=True)},
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


def _by_seed(seeds: Sequence[int], nats: Sequence[NDArray[np.float64]], words: NDArray[np.float64]) -> Any:
    """Seed -> nats a word."""
    return {str(seed): float(each.sum() / words.sum()) for seed, each in zip(seeds, nats, strict=True)}


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What made an evaluation, and its numbers of each conversation."""
    columns: dict[str, list[Any]] = pq.read_table(folder / "conversations.parquet").to_pydict()
    return read_json(folder / "provenance.json"), columns


def main(argv: Sequence[str] | None = None) -> None:
    """Compute the bounds, print them, write them."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="python -m benchmarks.tightness",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("corpus")
    parser.add_argument("system")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the system (default: 0)")
    parser.add_argument("--exact", default="hred", help="whose NLL is exact (default: hred)")
    parser.add_argument("--exact-seeds", type=int, nargs="+", help="of that system (default: the same seeds)")
    parser.add_argument("--samples", type=int, default=1000, help="largest K (default: 1000)")
    parser.add_argument("--utterance-draws", type=int, help="draws of z_utt to one of z_conv (default: 1)")
    parser.add_argument("--conversations", type=int, help="test conversations (default: the evaluation's)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder for the JSON")
    arguments = parser.parse_args(argv)
    found = tightness(
        arguments.corpus,
        arguments.system,
        arguments.seeds,
        arguments.exact,
        arguments.exact_seeds or arguments.seeds,
        arguments.samples,
        arguments.utterance_draws,
        arguments.conversations,
    )
    seeds = "-".join(map(str, arguments.seeds))
    write_json(
        arguments.out / f"tightness-{arguments.corpus}-{arguments.system}-{seeds}.json", found, by_rows=True
    )
    for row in found["bounds"]:
        print(
            f"K = {row['num_samples']:5d}: {row['nll_per_word']:.4f}, minus {arguments.exact} "
            f"{row[f'minus_{arguments.exact}']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        )


if __name__ == "__main__":
    main()
