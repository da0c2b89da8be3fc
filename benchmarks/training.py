"""Parts about the training step: its time, its memory, and its cost over length."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.contestants import Chosen, Fast, Plain, Setting
from benchmarks.data import conversations
from benchmarks.limit import model_flops, peak
from benchmarks.measure import Clock, Part, alternate
from vhcr.token_files import Conversations
from vhcr.tokenisation.specials import EOS

PADDED = "baseline"  # padded words and padded turns
TIGHT = "baseline, real turns only"


def train_step(preset: str, repeats: int, clock: Clock, warm_up: int = 1) -> Part:
    """A training step of VHCR with utterance drop against both baselines and the limit.

    In float32, and in bfloat16 too where this processor multiplies that faster.
    """
    setting = Setting.of(preset)
    data, name = conversations("train", setting.vocabulary_size)
    rounds = {"repeats": repeats, "warm_up": warm_up, "clock": clock.kind}
    part = Part(f"train-step-{preset}", {**setting.describe(name), **rounds})
    chosen = Chosen(data, setting.batch_conversations)
    fast = Fast(setting, chosen)
    contestants: dict[str, Callable[[int], object]] = {
        "ours": fast,
        PADDED: Plain(setting, chosen, pad_turns=True),
        TIGHT: Plain(setting, chosen, pad_turns=False),
    }
    rates = {"float32": peak(torch.float32, "cpu", clock)}
    rates["bfloat16"] = peak(torch.bfloat16, "cpu", clock, size=1024)
    if rates["bfloat16"] > rates["float32"]:
        contestants["bfloat16"] = Fast(setting, chosen, precision="bfloat16")
    seconds = alternate(contestants, repeats, clock, warm_up)
    # The words and operations are those of a mean round among those counted.
    batches = [chosen.packed(number) for number in range(warm_up, warm_up + repeats)]
    words = float(np.median([len(batch.token_ids) for batch in batches]))
    operations = float(
        np.median([model_flops(setting.model_params, b, setting.vocabulary_size) for b in batches])
    )
    rate = rates["float32"]
    for baseline, target in ((PADDED, "≥ 3"), (TIGHT, "")):
        part.add(
            f"training step against {baseline}",
            seconds["ours"],
            "s",
            baseline=seconds[baseline],
            ratio=seconds[baseline] / seconds["ours"],
            target=target,
        )
    part.add("target words", words / seconds["ours"], "words/s", baseline=words / seconds[PADDED])
    part.add("arithmetic done", operations / seconds["ours"] / 1e9, "GFLOP/s")
    part.add("limit, float32 matrix products", rate / 1e9, "GFLOP/s")
    part.add(
        "share of the limit",
        100.0 * operations / seconds["ours"] / rate,
        "%",
        baseline=100.0 * operations / seconds[PADDED] / rate,
        note="operations that the batch needs; the baseline does more",
    )
    if "bfloat16" in seconds:
        part.add(
            f"training step in bfloat16 against {PADDED}",
            seconds["bfloat16"],
            "s",
            baseline=seconds[PADDED],
            ratio=seconds[PADDED] / seconds["bfloat16"],
            target="≥ 25 with AMX",
        )
        part.add(
            "training step in bfloat16 against ours in float32",
            seconds["bfloat16"],
            "s",
            baseline=seconds["ours"],
            ratio=seconds["ours"] / seconds["bfloat16"],
            target="≥ 4 with AMX, ≥ 2.3 without",
        )
        _add_share_of_bfloat16(part, operations, seconds["bfloat16"], rates["bfloat16"])
    return part


def _add_share_of_bfloat16(part: Part, operations: float, seconds: float, rate: float) -> None:
    part.add("limit, bfloat16 matrix products", rate / 1e9, "GFLOP/s")
    part.add("share of the limit, bfloat16", 100.0 * operations / seconds / rate, "%", target="≥ 40")


def precision(preset: str, repeats: int, clock: Clock, warm_up: int = 1) -> Part:
    """Our training step in bfloat16 beside the same in float32, without the baselines' patience."""
    setting = Setting.of(preset)
    data, name = conversations("train", setting.vocabulary_size)
    rounds = {"repeats": repeats, "warm_up": warm_up, "clock": clock.kind}
    part = Part(f"precision-{preset}", {**setting.describe(name), **rounds})
    chosen = Chosen(data, setting.batch_conversations)
    seconds = alternate(
        {kind: Fast(setting, chosen, precision=kind) for kind in ("float32", "bfloat16")},
        repeats,
        clock,
        warm_up,
    )
    batches = [chosen.packed(number) for number in range(warm_up, warm_up + repeats)]
    operations = float(
        np.median([model_flops(setting.model_params, b, setting.vocabulary_size) for b in batches])
    )
    part.add(
        "training step in bfloat16 against float32",
        seconds["bfloat16"],
        "s",
        baseline=seconds["float32"],
        ratio=seconds["float32"] / seconds["bfloat16"],
    )
    rate = peak(torch.float32, "cpu", clock)
    part.add("limit, float32 matrix products", rate / 1e9, "GFLOP/s")
    part.add("share of the limit, float32", 100.0 * operations / seconds["float32"] / rate, "%")
    rate = peak(torch.bfloat16, "cpu", clock, size=1024)
    _add_share_of_bfloat16(part, operations, seconds["bfloat16"], rate)
    return part


# --- memory ---


def step_memory(kind: str, preset: str) -> dict[str, float]:
    """Peak memory in MB of a second training step in this process: all of it, and beyond what was there."""
    setting = Setting.of(preset)
    data, _ = conversations("train", setting.vocabulary_size)
    chosen = Chosen(data, setting.batch_conversations)
    before = _resident("VmRSS")
    step: Fast | Plain
    step = Fast(setting, chosen) if kind == "fast" else Plain(setting, chosen, pad_turns=kind == "padded")
    step(0)
    held = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    step(1)
    peak_now = _resident("VmHWM")
    return {"training": peak_now - before, "step": peak_now - held}


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def memory(preset: str) -> Part:
    """Peak memory of training, parameters and optimiser included; each contestant in its own process."""
    setting = Setting.of(preset)
    _, name = conversations("train", setting.vocabulary_size)
    part = Part(f"memory-{preset}", setting.describe(name))
    found = {}
    for kind in ("fast", "padded", "tight"):
        command = [sys.executable, "-m", "benchmarks.training", kind, preset]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        found[kind] = json.loads(done.stdout.splitlines()[-1])
    for kind, baseline, target in (("padded", PADDED, "≥ 4"), ("tight", TIGHT, "")):
        part.add(
            f"peak memory of training against {baseline}",
            found["fast"]["training"],
            "MB",
            baseline=found[kind]["training"],
            ratio=found[kind]["training"] / found["fast"]["training"],
            target=target,
            note="parameters, gradients and Adam included",
        )
    return part


# --- cost over length ---


def of_length(words: int, num_conversations: int, vocabulary_size: int, turns: int = 3) -> Conversations:
    """Invented conversations of ``turns`` utterances of ``words`` words each."""
    draw = np.random.default_rng(words)
    tokens = draw.integers(4, vocabulary_size, (num_conversations * turns, words)).astype(np.int32)
    tokens[:, -1] = EOS
    word_offsets = np.arange(num_conversations * turns + 1, dtype=np.int64) * words
    row_offsets = np.arange(num_conversations + 1, dtype=np.int64) * turns
    ids = [f"c{number}" for number in range(num_conversations)]
    return Conversations(ids, tokens.reshape(-1), word_offsets, row_offsets)


def length(preset: str, repeats: int, clock: Clock, out: Path) -> Part:
    """Seconds of a step over the length of its utterances: ours and the baseline's, with a plot."""
    setting = Setting.of(preset)
    part = Part(f"length-{preset}", {**setting.describe("invented"), "repeats": repeats, "clock": clock.kind})
    lengths = (3, 6, 10, 15, 20, 25, 30)
    batches = {
        words: Chosen(
            of_length(words, setting.batch_conversations, setting.vocabulary_size),
            setting.batch_conversations,
        )
        for words in lengths
    }
    fast, slow = Fast(setting, batches[30]), Plain(setting, batches[30], pad_turns=False)

    def on(step: Fast | Plain, words: int) -> Callable[[int], object]:
        def run(number: int) -> None:
            step.chosen = batches[words]
            step(number)

        return run

    contestants: dict[str, Callable[[int], object]] = {}
    for words in lengths:
        contestants |= {f"ours {words}": on(fast, words), f"baseline {words}": on(slow, words)}
    seconds = alternate(contestants, repeats, clock)
    ours, plain = ([seconds[f"{who} {words}"] for words in lengths] for who in ("ours", "baseline"))
    for words, mine, theirs in zip(lengths, ours, plain, strict=True):
        part.add(f"{words} words an utterance", mine, "s", baseline=theirs, ratio=theirs / mine)
    slope, start = np.polyfit(lengths, ours, 1)
    residual = float(np.max(np.abs(np.polyval([slope, start], lengths) - ours)) / max(ours))
    part.add("deviation from a straight line", 100.0 * residual, "%", note="largest, of the longest step")
    plot(lengths, ours, plain, out / f"length-{preset}.png")
    return part


def plot(lengths: tuple[int, ...], ours: list[float], plain: list[float], path: Path) -> None:
    """Seconds over length."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(lengths, plain, "s--", color="#888888", label="baseline: padded to 30 words")
    axes.plot(lengths, ours, "o-", color="#1f6f8b", label="packed")
    axes.set(xlabel="words in each utterance", ylabel="seconds per training step", ylim=(0, None))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(json.dumps(step_memory(sys.argv[1], sys.argv[2])))
