"""The part ``scale``: what a corpus of a million conversations costs in memory and in time per batch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import SCRATCH, synthetic
from benchmarks.measure import Part
from vhcr.token_files import Conversations
from vhcr.training.order import epoch_order

VOCABULARY = 20_000
CHUNK = 50_000
BATCHES = 300


def write(path: Path, num_conversations: int) -> None:
    """Token ids of invented conversations with Cornell's lengths, in pieces."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = pa.list_(pa.list_(pa.int32()))
    schema = pa.schema([("conversation_id", pa.string()), ("token_ids", lists)])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, num_conversations, CHUNK):
            piece = synthetic(min(CHUNK, num_conversations - first), VOCABULARY, seed=first)
            ids = [f"c{first + number}" for number in range(len(piece))]
            tokens = [piece.utterances(number) for number in range(len(piece))]
            writer.write_table(pa.table({"conversation_id": ids, "token_ids": tokens}, schema=schema))


def measure(path: Path) -> dict[str, float]:
    """Load a split and pack batches in the order of training; memory in MB, of this process."""
    before = _anonymous()
    start = time.perf_counter()
    data = Conversations.load(path, VOCABULARY)
    loaded = time.perf_counter() - start
    order = epoch_order(len(data), 0, 0, "computed")
    start, words = time.process_time(), 0
    for number in range(BATCHES):
        first = 80 * number % (len(data) - 79)
        words += len(data.batch(order[first : first + 80]).token_ids)
    packed = time.process_time() - start
    return {
        "load_s": loaded,
        "memory_mb": _anonymous() - before,
        "batch_ms": 1000.0 * packed / BATCHES,
        "words": words,
    }


def _anonymous() -> float:
    """Memory that no file stands behind; mapped pages are the system's to take back."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def scale(small: int = 66_477, large: int = 1_000_000) -> Part:
    """A million conversations against Cornell's number of them."""
    part = Part("scale", {"conversations": large, "baseline": small, "data": "invented", "clock": "cpu"})
    folder = SCRATCH / "scale"
    found = {}
    for number in (small, large):
        path = folder / f"{number}.parquet"
        write(path, number)
        for attempt in ("first", "again"):
            # There, so that what is spooled goes with the rest.
            command = [sys.executable, "-m", "benchmarks.scale", path.name]
            environment = {**os.environ, "PYTHONPATH": str(Path().resolve())}
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=True
            )
            found[number, attempt] = json.loads(done.stdout)
    shutil.rmtree(folder)
    less, more = found[small, "again"], found[large, "again"]
    part.add("opened for the first time", found[large, "first"]["load_s"], "s", baseline=less["load_s"])
    part.add("opened again", more["load_s"], "s", baseline=less["load_s"])
    part.add(
        "memory held by the data and an epoch's order",
        more["memory_mb"],
        "MB",
        baseline=less["memory_mb"],
        note="the order is computed, not stored",
    )
    part.add("packing a batch of 80", more["batch_ms"], "ms", baseline=less["batch_ms"])
    return part


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
