"""The part ``million``: tokenising, validating and training on a million dialogs; time and memory.

Dialogs of the Ubuntu sample are drawn with replacement and read as anybody's own JSON Lines, tokenised as the
preset ``ubuntu`` does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import yaml

from benchmarks.contestants import Chosen, Fast, Setting
from benchmarks.data import SCRATCH, conversations
from benchmarks.measure import Clock, Part, alternate
from benchmarks.peak import measure
from vhcr import corpora, layout
from vhcr.corpora.skipped import Skipped
from vhcr.files import read_json
from vhcr.params import Params
from vhcr.token_files import Conversations

SAMPLE, OWN = "ubuntu", "own"
BATCHES = 4  # in a round of training steps
FOLDER = SCRATCH / "million"


def million(preset: str, repeats: int, clock: Clock, count: int = 1_000_000) -> Part:
    """Wall seconds and peak memory of each stage up to validation; then training steps beside Cornell's."""
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
    _engines(part)
    manifest = read_json(FOLDER / layout.tokenised(OWN) / "manifest.json")
    part.settings["splits"] = manifest["splits"]
    _train(part, preset, repeats, clock)
    shutil.rmtree(FOLDER)
    return part


def _engines(part: Part) -> None:
    """The stage ``tokenise`` again, on one core and by Ray; the contents must be the same."""
    manifest = FOLDER / layout.tokenised(OWN) / "manifest.json"
    expected = read_json(manifest)
    by_all = next(figure.value for figure in part.figures if figure.what == "tokenise: time")
    for what, engine, prefix in (("one core", "processes", ["taskset", "-c", "0"]), ("Ray", "ray", [])):
        if engine == "ray" and importlib.util.find_spec("ray") is None:
            part.settings["Ray"] = "not installed"
            continue
        _set_engine(engine)
        seconds, _ = _stage("tokenise", OWN, prefix)
        part.add(f"tokenise by {what}: time", seconds, "s", baseline=by_all, note="baseline: all cores")
        if read_json(manifest) != expected:
            raise RuntimeError(f"tokenise by {what} made other tables")
    _set_engine("processes")


def _set_engine(engine: str) -> None:
    values = yaml.safe_load((FOLDER / "params.yaml").read_text(encoding="utf-8"))
    values["corpora"][OWN]["tokenisation"]["engine"] = engine
    (FOLDER / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def _train(part: Part, preset: str, repeats: int, clock: Clock) -> None:
    """Training steps on both corpora in turn, by networks of one size."""
    setting = Setting.of(preset)
    many = Conversations.load(FOLDER / layout.tokenised(OWN) / "token_ids" / "train.parquet")
    chosen = {
        "million": Chosen(many, setting.batch_conversations),
        "cornell": Chosen(conversations("train", setting.vocabulary_size)[0], setting.batch_conversations),
    }
    steps = {name: Fast(setting, batches) for name, batches in chosen.items()}

    def several(name: str) -> Callable[[int], None]:
        def run(_round: int) -> None:  # the same batches in every round: medians are of the same words
            for number in range(BATCHES):
                steps[name](number)

        return run

    seconds = alternate({name: several(name) for name in chosen}, repeats, clock)
    words = {
        name: sum(len(batches.packed(number).token_ids) for number in range(BATCHES))
        for name, batches in chosen.items()
    }
    rates = {name: words[name] / seconds[name] for name in chosen}
    about = {"preset": preset, "repeats": repeats, "batches": BATCHES, "clock": clock.kind}
    part.settings["training"] = about
    part.add(
        "training, target words",
        rates["million"],
        "words/s",
        baseline=rates["cornell"],
        ratio=rates["million"] / rates["cornell"],
        target="≥ 0.95",
        note="baseline: Cornell",
    )


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
    own["tokenisation"] = {**values["corpora"][SAMPLE]["tokenisation"], "split_by": "hash"}
    (FOLDER / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return f"{len(lines)} dialogs of the Ubuntu sample, {chats.stat().st_size / 1e9:.2f} GB of JSON Lines"


def _stage(name: str, corpus: str, prefix: Sequence[str] = (), **environment: str) -> tuple[float, float]:
    """Wall seconds of a stage, and the peak memory in GB of its largest process (Ray's are not its own)."""
    command = [*prefix, sys.executable, "-m", f"vhcr.stages.{name}", "--corpus", corpus]
    return measure(command, FOLDER, environment)
