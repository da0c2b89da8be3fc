"""``python -m benchmarks [part ...]``: measure, print a table, write JSON."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Clock, Part

PARTS = (
    "limit",
    "train-step",
    "precision",
    "memory",
    "length",
    "processes",
    "importance",
    "decoding",
    "serving",
    "pipeline",
    "scale",
    "million",
    "startup",
)


def number(value: float | None) -> str:
    """Three digits that count."""
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def show(parts: list[Part], console: Console) -> None:
    """All figures as one table."""
    table = Table(title="Each speed beside its baseline and its limit")
    table.add_column("part")
    table.add_column("what")
    for heading in ("value", "baseline", "ratio", "target"):
        table.add_column(heading, justify="right")
    table.add_column("note")
    for part in parts:
        for figure in part.figures:
            cells = [f"{number(figure.value)} {figure.unit}", number(figure.baseline), number(figure.ratio)]
            table.add_row(part.name, figure.what, *cells, figure.target, figure.note)
        if "left out" in part.settings:
            table.add_row(part.name, f"left out: {part.settings['left out']}")
    console.print(table)


def main(argv: list[str] | None = None) -> None:
    """Measure the parts that were asked for; all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks")
    parser.add_argument("part", nargs="*", help=f"any of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--preset", default="cornell", help="toy, cornell-small or cornell (default)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds counted, median taken (default: 3)")
    parser.add_argument(
        "--warm-up", type=int, default=3, help="rounds of a training step before those counted (default: 3)"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads; default: all cores")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: where others compute too"
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder for the JSON")
    arguments = parser.parse_args(argv)
    wanted = arguments.part or list(PARTS)
    for part in wanted:
        if part not in PARTS:
            parser.error(f"{part!r} is no part; known: {', '.join(PARTS)}")

    from benchmarks import around, inference, limit, million, processes, scale, training
    from benchmarks.contestants import Setting
    from benchmarks.data import conversations
    from vhcr.token_files import Conversations
    from vhcr.training.device import set_up_cpu

    set_up_cpu(arguments.threads or len(os.sched_getaffinity(0)))
    clock, preset, repeats = Clock(arguments.clock), arguments.preset, arguments.repeats
    run: dict[str, Callable[[], Part]] = {
        "limit": lambda: limit.limit(clock),
        "train-step": lambda: training.train_step(preset, repeats, clock, arguments.warm_up),
        "precision": lambda: training.precision(preset, repeats, clock, arguments.warm_up),
        "memory": lambda: training.memory(preset),
        "length": lambda: training.length(preset, repeats, clock, arguments.out),
        "processes": lambda: processes.processes(preset, repeats),
        "importance": lambda: inference.importance(*tested(preset), max(1, repeats // 2), clock),
        "decoding": lambda: inference.decoding(*tested(preset), max(1, repeats // 2), clock),
        "serving": lambda: inference.serving(*tested(preset), repeats, clock),
        "pipeline": around.pipeline,
        "scale": scale.scale,
        "million": lambda: million.million(preset, repeats, clock),
        "startup": lambda: around.startup(repeats),
    }

    def tested(preset: str) -> tuple[Setting, Conversations, str]:
        setting = Setting.of(preset)
        return setting, *conversations("test", setting.vocabulary_size)

    done = []
    console = Console()
    for part in wanted:
        console.print(f"measuring {part} ...")
        done.append(run[part]())
        done[-1].write(arguments.out)
    show(done, console)
    console.print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
