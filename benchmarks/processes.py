"""Part about several processes: words per second of a training step, by how the cores are shared.

Each way is a process group of its own, started by ``torchrun`` as a training is; the ways take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

import torch

from benchmarks.contestants import Chosen, Fast, Setting
from benchmarks.data import conversations
from benchmarks.measure import Part
from vhcr.training.parallel import join

WARM_UP = 2
ANSWER = "@words_per_second "


def processes(preset: str, repeats: int, steps: int = 6) -> Part:
    """One process with one core and with all, and one process a core: words per second of each."""
    cores = len(os.sched_getaffinity(0))
    setting = Setting.of(preset)
    _, name = conversations("train", setting.vocabulary_size)
    about = {**setting.describe(name), "repeats": repeats, "steps": steps, "clock": "wall", "cores": cores}
    part = Part(f"processes-{preset}", about)
    ways = {
        "1 process, 1 thread": (1, 1),
        f"1 process, {cores} threads": (1, cores),
        f"{cores} processes, 1 thread each": (cores, 1),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, (number, threads) in ways.items():
            rates[way].append(_measure(preset, number, threads, steps))
    alone = median(rates["1 process, 1 thread"])
    for way, found in rates.items():
        part.add(way, median(found), "words/s", baseline=alone, ratio=median(found) / alone)
    return part


def _measure(preset: str, number: int, threads: int, steps: int) -> float:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number),
        "-m", "benchmarks.processes", preset, str(threads), str(steps),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if done.returncode != 0 or len(lines) != 1:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return float(json.loads(lines[0].removeprefix(ANSWER)))


def work(preset: str, threads: int, steps: int) -> None:
    """What each process does; the first prints the rate of all."""
    torch.set_num_threads(threads)
    setting = Setting.of(preset)
    data, _ = conversations("train", setting.vocabulary_size)
    chosen = Chosen(data, setting.batch_conversations)
    with join(torch.device("cpu")) as workers:
        step = Fast(setting, chosen, workers=workers)
        for number in range(WARM_UP):
            step(number)
        workers.wait()
        start = time.perf_counter()
        for number in range(WARM_UP, WARM_UP + steps):
            step(number)
        workers.wait()
        seconds = time.perf_counter() - start
        words = sum(len(chosen.packed(number).token_ids) for number in range(WARM_UP, WARM_UP + steps))
        if workers.records:
            print(ANSWER + json.dumps(words / seconds), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="One of several processes; started by `python -m benchmarks`."
    )
    parser.add_argument("preset")
    parser.add_argument("threads", type=int)
    parser.add_argument("steps", type=int)
    arguments = parser.parse_args()
    work(arguments.preset, arguments.threads, arguments.steps)
