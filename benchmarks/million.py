"""The part ``million``: tokenising and validating a corpus of a million dialogs, its time and its memory.

Dialogs of the Ubuntu sample are drawn with replacement and read as anybody's own JSON Lines, tokenised as the
preset ``ubuntu`` does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml

from benchmarks.data import SCRATCH
from benchmarks.measure import Part
from vhcr import corpora, layout
from vhcr.corpora.skipped import Skipped
from vhcr.params import Params

SAMPLE, OWN = "ubuntu", "own"
FOLDER = SCRATCH / "million"


def million(count: int = 1_000_000) -> Part:
    """Wall seconds and peak memory of each stage up to validation."""
    part = Part("million", {"conversations": count, "clock": "wall", "cores": len(os.sched_getaffinity(0))})
    sources = os.environ.get("VHCR_SOURCES")
    if not sources:
        part.settings["left out"] = "VHCR_SOURCES names no folder with the Ubuntu sample"
        return part
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    shutil.copyfile("params.yaml", FOLDER / "params.yaml")
    _stage("download", SAMPLE, VHCR_SOURCES=str(Path(sources).resolve()))
    part.settings["data"] = _resample(count)
    total = 0.0
    for stage in ("download", "tokenise", "validate"):
        seconds, memory = _stage(stage, OWN)
        total += seconds
        part.add(f"{stage}: time", seconds, "s")
        part.add(f"{stage}: peak memory of its largest process", memory, "GB", target="≤ 4")
    part.add("until validated", total, "s", target="≤ 900")
    manifest = layout.read_json(FOLDER / layout.tokenised(OWN) / "manifest.json")
    part.settings["splits"] = manifest["splits"]
    shutil.rmtree(FOLDER)
    return part


def _resample(count: int) -> str:
    """Write chats.jsonl and the parameters that read it; says what it was drawn from."""
    params = Params.load(FOLDER / "params.yaml")
    found = list(corpora.read(FOLDER / layout.raw(SAMPLE), params.corpus(SAMPLE).source, Skipped()))
    lines = [
        json.dumps([{"text": each.text, "speaker": each.speaker} for each in dialog.utterances])
        for dialog in found
    ]
    chats = FOLDER / "chats.jsonl"
    with chats.open("w", encoding="utf-8") as file:
        for number, drawn in enumerate(np.random.default_rng(0).integers(len(lines), size=count).tolist()):
            file.write(f'{{"id": "d{number}", "utterances": {lines[drawn]}}}\n')
    values = yaml.safe_load((FOLDER / "params.yaml").read_text(encoding="utf-8"))
    own = values["corpora"][OWN]
    own["source"]["path"] = chats.name
    own["tokenisation"] = {**values["corpora"][SAMPLE]["tokenisation"], "split_by": "conversation"}
    (FOLDER / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return f"{len(lines)} dialogs of the Ubuntu sample, {chats.stat().st_size / 1e9:.2f} GB of JSON Lines"


def _stage(name: str, corpus: str, **environment: str) -> tuple[float, float]:
    """Wall seconds, and peak memory in GB of the largest process that it started."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", f"vhcr.stages.{name}", "--corpus", corpus],
        cwd=FOLDER,
        env={**os.environ, "PYTHONPATH": str(Path().resolve()), **environment},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"stage {name} of {corpus} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9
