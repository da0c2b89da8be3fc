"""Runs a command, then prints its wall seconds and peak memory: ``python -m benchmarks.peak COMMAND ...``.

A process of its own, and a small one: what the system counts for a child begins with the memory of the
process that it was split off from.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path


def measure(command: list[str], cwd: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """Wall seconds, and peak memory in GB of the largest process that the command started.

    Raises:
        RuntimeError: it failed.
    """
    here = str(Path().resolve())
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak", *command],
        cwd=cwd,
        env={**os.environ, **environment, "PYTHONPATH": here},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}")
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


def main(command: list[str]) -> int:
    """Run it; its output is not kept."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    print(json.dumps([time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9]))
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
