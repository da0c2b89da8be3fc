"""Parts about all that is not training: the stages before it, and how soon a command answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.data import SCRATCH
from benchmarks.measure import Part

STAGES = ("download", "tokenise", "validate", "embeddings")
TARGETS = {"tokenise": "≤ 10"}


def _run(command: list[str], folder: Path = Path(), **environment: str) -> float:
    """Wall seconds of a command that must succeed."""
    start = time.perf_counter()
    subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def pipeline(corpus: str = "cornell") -> Part:
    """Wall seconds of every stage before training, on the real corpus, from the local archive."""
    part = Part("pipeline", {"corpus": corpus, "clock": "wall"})
    sources = os.environ.get("VHCR_SOURCES")
    if not sources:
        part.settings["left out"] = "VHCR_SOURCES names no folder with the corpus"
        return part
    folder = SCRATCH / "pipeline"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copyfile("params.yaml", folder / "params.yaml")
    total = 0.0
    for stage in STAGES:
        command = [sys.executable, "-m", f"vhcr.stages.{stage}", "--corpus", corpus]
        seconds = _run(command, folder, VHCR_SOURCES=str(Path(sources).resolve()))
        total += seconds
        part.add(f"{stage} {corpus}", seconds, "s", target=TARGETS.get(stage, ""))
    part.add("all stages before training", total, "s", target="≤ 60")
    return part


def startup(repeats: int) -> Part:
    """Wall seconds until a command answers: ``vhcr --help``, and ``dvc repro`` with nothing to do."""
    part = Part("startup", {"clock": "wall", "repeats": repeats})
    beside = Path(sys.executable).parent
    seconds = median(_run([sys.executable, "-m", "vhcr.cli", "--help"]) for _ in range(repeats))
    part.add("vhcr --help", seconds, "s", target="≤ 0.5")
    dvc = beside / "dvc"
    status = subprocess.run([dvc, "status", "--quiet"], check=False, stdout=subprocess.DEVNULL)
    if status.returncode == 0:
        path = f"{beside}{os.pathsep}{os.environ.get('PATH', '')}"
        seconds = median(_run([str(dvc), "repro", "--quiet"], PATH=path) for _ in range(repeats))
        part.add("dvc repro with nothing to do", seconds, "s", target="≤ 3")
    else:
        part.settings["left out"] = "dvc repro: there is something to do; run it first"
    return part
