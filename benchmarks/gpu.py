"""All that wants a GPU, in one command of at most ten minutes: ``python -m benchmarks.gpu --out DIR``.

Needs torch, numpy, pyarrow, safetensors, pydantic and rich beside this repository; no params.yaml reader, no
pipeline. On a machine without a GPU ``--device cpu --tiny`` runs the same script on a toy, to test it. Every
section is written as soon as it is measured; one that no longer fits into the time is left out, and named.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from benchmarks import inference
from benchmarks.__main__ import show
from benchmarks.contestants import Chosen, Fast, Plain, Setting
from benchmarks.data import conversations, synthetic
from benchmarks.limit import limit, model_flops, peak
from benchmarks.measure import Clock, Part, alternate
from vhcr.files import write_text
from vhcr.models import Noise
from vhcr.models.objective import loss
from vhcr.params import GenerationParams, ModelParams, SystemParams, TrainingParams
from vhcr.token_files import Conversations

CLOCK = Clock()


def paper() -> Setting:
    """The paper's sizes, as ``cornell`` and ``vhcr-ud`` of params.yaml have them (a test compares)."""
    return Setting(
        "cornell",
        20000,
        ModelParams(
            embedding_size=500,
            encoder_size=1000,
            context_size=1000,
            decoder_size=1000,
            conversation_encoder_size=1000,
            z_utt_size=100,
            z_conv_size=100,
            encoder_layers=1,
            context_layers=1,
            decoder_layers=1,
            conversation_encoder_layers=1,
            initialisation="release",
        ),
        SystemParams(
            architecture="vhcr",
            reading="paper",
            word_drop=0.0,
            utterance_drop=0.25,
            bag_of_words_weight=0.0,
            decoder_sees_context=True,
            decoder_conditioning="initial_state",
            free_bits_utt=0.0,
            free_bits_conv=0.0,
            free_bits_conv_per_word=0.0,
            kl_cycles=1,
            final_kl_weight=1.0,
            posterior_batch_norm=0.0,
            inference_first_steps=0,
        ),
        TrainingParams(
            num_epochs=30,
            max_steps=None,
            epoch_order="shuffled",
            batch_conversations=80,
            learning_rate=0.0001,
            final_learning_rate_factor=1.0,
            loss_reduction="mean",
            gradient_clip_norm=1.0,
            kl_annealing_steps=15000,
            precision="auto",
            device="auto",
            num_threads=0,
            checkpoint_seconds=60,
            record_every_steps=50,
            validate_every_steps=None,
            patience_epochs=None,
        ),
        GenerationParams(
            strategy="greedy",
            max_words=30,
            unknown_words="allow",
            beam_size=5,
            length_penalty=1.0,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            z_conv_from="posterior",
        ),
    )


def tiny() -> Setting:
    """The same script in seconds on a CPU."""
    setting = paper()
    large = setting.model_params.model_dump()
    small = {name: 12 if name.endswith("size") else value for name, value in large.items()}
    training = {**setting.training.model_dump(), "batch_conversations": 8}
    return replace(
        setting,
        name="tiny",
        vocabulary_size=60,
        model_params=ModelParams.model_validate(small),
        training=TrainingParams.model_validate(training),
    )


def agreement(setting: Setting, data: Conversations, device: str) -> Part:
    """Loss and gradients on the device against those on the CPU, in float64; and in the two precisions."""
    part = Part("gpu-agreement", setting.describe("a batch of 8"))
    results = []
    for where in ("cpu", device):
        model = setting.model(where).double()
        value = loss(model(data.batch(range(8)).to(where), Noise(0)), 1.0, 0.0)
        value.backward()
        grads = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
        results.append((float(value.detach()), torch.cat(grads)))
    (mine, mine_grad), (theirs, theirs_grad) = results
    part.add("loss in float64, relative difference to the CPU", abs(theirs / mine - 1.0), "")
    difference = float((theirs_grad - mine_grad).norm() / mine_grad.norm())
    part.add("gradient in float64, relative difference to the CPU", difference, "")
    model = setting.model(device)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = model(data.batch(range(8)).to(device), Noise(0))
        value = loss(output, 1.0, 0.0)
        part.add(f"loss in {precision}, relative difference", abs(float(value.detach()) / mine - 1.0), "")
    return part


def steps(setting: Setting, data: Conversations, name: str, device: str, repeats: int) -> Part:
    """Training steps in float32 and bfloat16 against both baselines and the limit; larger batches; memory."""
    part = Part("gpu-train-step", {**setting.describe(name), "repeats": repeats})
    chosen = Chosen(data, setting.batch_conversations, device)
    contestants: dict[str, Callable[[int], object]] = {
        "float32": Fast(setting, chosen, device),
        "bfloat16": Fast(setting, chosen, device, "bfloat16"),
        "baseline": Plain(setting, chosen, device, pad_turns=True),
        "baseline, real turns only": Plain(setting, chosen, device, pad_turns=False),
    }
    memory = {}
    for who, contestant in contestants.items():
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            contestant(0)
            memory[who] = (torch.cuda.max_memory_allocated() - held) / 2**20
    seconds = alternate(contestants, repeats, CLOCK, warm_up=3)
    for precision in ("float32", "bfloat16"):
        for baseline in ("baseline", "baseline, real turns only"):
            part.add(
                f"training step in {precision} against {baseline}",
                seconds[precision],
                "s",
                baseline=seconds[baseline],
                ratio=seconds[baseline] / seconds[precision],
                target="≥ 20" if precision == "bfloat16" and baseline == "baseline" else "",
            )
            if memory:
                part.add(
                    f"memory of a step in {precision} beyond what is held, against {baseline}",
                    memory[precision],
                    "MB",
                    baseline=memory[baseline],
                    ratio=memory[baseline] / memory[precision],
                )
    size = 8192 if device != "cpu" else 256
    rates = {
        "float32": peak(torch.float32, device, CLOCK, size),
        "bfloat16": peak(torch.bfloat16, device, CLOCK, size),
    }
    for factor in (1, 4, 16):
        larger = Chosen(data, factor * setting.batch_conversations, device)
        for precision, rate in rates.items():
            step = Fast(setting, larger, device, precision)
            taken = alternate({"": step}, repeats, CLOCK, warm_up=3)[""]
            batches = [larger.packed(3 + number) for number in range(repeats)]
            operations = float(
                np.median([model_flops(setting.model_params, b, setting.vocabulary_size) for b in batches])
            )
            words = float(np.median([len(batch.token_ids) for batch in batches]))
            what = f"{factor * setting.batch_conversations} conversations in {precision}"
            part.add(f"{what}: target words", words / taken, "words/s")
            target = "≥ 40" if factor == 1 and precision == "bfloat16" else ""
            part.add(f"{what}: share of the limit", 100 * operations / taken / rate, "%", target=target)
    return part


def profile(setting: Setting, data: Conversations, device: str, out: Path) -> Part:
    """Where the time of a bfloat16 step goes, as a table of kernels beside the JSON."""
    part = Part("gpu-profile", {"table": "gpu-profile.txt"})
    step = Fast(setting, Chosen(data, setting.batch_conversations, device), device, "bfloat16")
    for number in range(3):
        step(number)
    start = CLOCK()
    with torch.profiler.profile() as profiled:
        for number in range(3, 8):
            step(number)
        wall = (CLOCK() - start) / 5
    averages = profiled.key_averages()
    key = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    write_text(out / "gpu-profile.txt", averages.table(sort_by=key, row_limit=40))
    busy = sum(getattr(event, key) for event in averages) / 5e6
    part.add("a step while profiled", wall, "s")
    part.add("of that, the device was busy", busy, "s")
    part.add("operations launched in a step", sum(event.count for event in averages) / 5, "")
    return part


def epoch(setting: Setting, data: Conversations, name: str, device: str, limit_seconds: float) -> Part:
    """One epoch of training in bfloat16; scaled up where it does not fit into ``limit_seconds``."""
    part = Part("gpu-epoch", setting.describe(name))
    step = Fast(setting, Chosen(data, setting.batch_conversations, device), device, "bfloat16")
    step(0)
    total = len(data) // setting.batch_conversations
    start, done = CLOCK(), 0
    while done < total and time.perf_counter() - start < limit_seconds:
        step(done)
        done += 1
    note = "all of it" if done == total else f"{done} of {total} steps, scaled up"
    part.add("one epoch", (CLOCK() - start) * total / done, "s", note=note)
    return part


def curves(setting: Setting, data: Conversations, name: str, device: str, num_steps: int) -> Part:
    """Losses of the first steps from the same start in float32 and in bfloat16, means of tenths."""
    part = Part("gpu-curves", {**setting.describe(name), "steps": num_steps})
    chosen = Chosen(data, setting.batch_conversations, device)
    found = []
    for precision in ("float32", "bfloat16"):
        step = Fast(setting, chosen, device, precision)
        found.append(np.array([step(number) for number in range(num_steps)]).reshape(10, -1).mean(1))
    for number, (long, short) in enumerate(zip(*found, strict=True)):
        last = (number + 1) * num_steps // 10
        part.add(f"loss in bfloat16 up to step {last}", float(short), "nats/word", baseline=float(long))
    return part


def main(argv: list[str] | None = None) -> None:
    """Measure everything; see the module."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], prog="python -m benchmarks.gpu"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON and the profile")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a toy: to test the script")
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="begin nothing new after this (default: 9)"
    )
    arguments = parser.parse_args(argv)
    device, out = arguments.device, arguments.out
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no usable GPU; --device cpu --tiny tests the script")
    setting = tiny() if arguments.tiny else paper()
    if arguments.tiny:
        train, test, name = synthetic(400, 60), synthetic(330, 60), "invented"
    else:
        (train, name), (test, _) = (
            conversations(split, setting.vocabulary_size) for split in ("train", "test")
        )
    few = arguments.tiny
    sections: dict[str, Callable[[], Part]] = {
        "limit": lambda: limit(CLOCK, device, 256 if few else 8192),
        "agreement": lambda: agreement(setting, train, device),
        "steps": lambda: steps(setting, train, name, device, 2 if few else 10),
        "profile": lambda: profile(setting, train, device, out),
        "epoch": lambda: epoch(setting, train, name, device, 1.0 if few else 90.0),
        "curves": lambda: curves(setting, train, name, device, 20 if few else 300),
        "importance": lambda: inference.importance(
            setting, test, name, 1 if few else 3, CLOCK, device, 4 if few else 64, 5 if few else 100
        ),
        "decoding": lambda: inference.decoding(
            setting, test, name, 1 if few else 3, CLOCK, device, 64 if few else 4000
        ),
    }
    console, done = Console(), []
    start = time.monotonic()
    for section, measure in sections.items():
        if time.monotonic() - start > 60.0 * arguments.minutes:
            console.print(f"{section}: left out, the time is up")
            continue
        part = measure()
        part.settings["seconds to measure"] = round(time.monotonic() - start, 1)
        part.write(out)
        console.print(f"{section}: done after {time.monotonic() - start:.0f} s")
        done.append(part)
    show(done, console)


if __name__ == "__main__":
    main()
