"""What the checks cost: ``python -m tests.faults.cost`` in a project that has trained something.

For each trained run, the seconds that its checks take here (digests and page checksums of the data, a digest
for every checkpoint it wrote and every best parameters it kept), by the seconds that it has trained.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from vhcr import layout
from vhcr.files import read_object
from vhcr.provenance import read_run
from vhcr.stages.resolve import trained_runs
from vhcr.stages.train import READ
from vhcr.tokenisation.manifest import Manifest
from vhcr.training.state import content_digest, read_tensors

REPEATS = 5


class Cost(NamedTuple):
    """Seconds."""

    data: float  # held against the manifest, once
    checkpoints: float  # digests of all of them
    training: float
    rate: float  # bytes a second, of a checkpoint's digest

    @property
    def share(self) -> float:
        """Of the training."""
        return (self.data + self.checkpoints) / self.training


def seconds(work: Callable[[], Any]) -> float:
    """The quickest of a few."""
    taken = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def cost(folder: Path) -> Cost:
    """Of the run in ``folder``."""
    info = read_run(folder)
    source, training = layout.tokenised(info["corpus"]), info["params"]["training"]
    tables = [f"token_ids/{name}.parquet" for name in READ]

    def read(checked: bool) -> None:
        for name in tables:
            pq.read_table(source / name, page_checksum_verification=checked)

    data = seconds(lambda: Manifest.of(source, "vocabulary.parquet", *tables))
    data += max(0.0, seconds(lambda: read(True)) - seconds(lambda: read(False)))
    best, last = (read_tensors(folder / f"{name}.safetensors")[0] for name in ("best", "last"))
    of_best, of_last = (seconds(lambda held=held: content_digest(held, {})) for held in (best, last))
    curves = (folder / "curves.csv").read_text(encoding="utf-8").splitlines()
    num_validations = sum(",validation," in row for row in curves)
    num_epochs = read_object(folder / "metrics.json", "num_epochs")["num_epochs"]
    num_checkpoints = num_epochs + math.ceil(info["seconds"] / float(training["checkpoint_seconds"]))
    size = sum(tensor.nbytes for tensor in last.values())
    return Cost(data, num_validations * of_best + num_checkpoints * of_last, info["seconds"], size / of_last)


def main() -> None:
    """A line for each run."""
    for name, folder in trained_runs().items():
        found = cost(folder)
        print(
            f"{name:30} {100 * found.share:.3f} % of {found.training:.0f} s "
            f"(data {1000 * found.data:.1f} ms, checkpoints {1000 * found.checkpoints:.1f} ms, "
            f"{found.rate / 1e6:.0f} MB/s)"
        )


if __name__ == "__main__":
    main()
