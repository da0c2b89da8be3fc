"""How speed is measured: contestants in turn, each several times, medians; and what a figure says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from vhcr.files import write_json
from vhcr.provenance import machine, versions


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    value: float
    unit: str
    baseline: float | None = None  # in the same unit
    ratio: float | None = None  # how many times better than the baseline
    target: str = ""
    note: str = ""


@dataclass
class Part:
    """The figures of one part, and the settings that they hold for."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)

    def add(self, what: str, value: float, unit: str, **rest: Any) -> None:
        """One more figure."""
        self.figures.append(Figure(what, value, unit, **rest))

    def write(self, folder: Path) -> Path:
        """Everything as JSON, with the kind of machine and the versions."""
        path = folder / f"{self.name}.json"
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        about = {"part": self.name, "machine": {**machine(), "device": device}, "versions": versions()}
        settings = {**self.settings, "threads": torch.get_num_threads(), "capability": capability()}
        figures = [
            {k: v for k, v in asdict(figure).items() if v is not None and v != ""} for figure in self.figures
        ]
        write_json(path, {**about, "settings": settings, "figures": figures}, by_rows=True)
        return path


def capability() -> str:
    """The vector instructions that the library found."""
    return torch.backends.cpu.get_cpu_capability()


@dataclass(frozen=True)
class Clock:
    """``wall`` is what a person waits; ``cpu`` adds up the seconds of all threads.

    On a machine that others use too only the second can be compared, and with one thread at that.
    """

    kind: str = "wall"

    def __call__(self) -> float:
        """Seconds since some moment."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.process_time() if self.kind == "cpu" else time.perf_counter()


def alternate(
    contestants: Mapping[str, Callable[[int], object]], repeats: int, clock: Clock, warm_up: int = 1
) -> dict[str, float]:
    """Median seconds of each contestant; all run once, then all again, so that a slow moment hits all.

    Each is called with the number of the round; the first ``warm_up`` rounds are not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-warm_up, repeats):
        for name, contestant in contestants.items():
            start = clock()
            contestant(number + warm_up)
            if number >= 0:
                seconds[name].append(clock() - start)
    return {name: median(values) for name, values in seconds.items()}
