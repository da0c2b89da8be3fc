"""A small project, finished, and what it should hold: every case begins with a copy of it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.faults import forked
from tests.stages import project

RUN = "--corpus toy --system vhcr-ud --seed 0"


class Stage(NamedTuple):
    """A stage's command, where it writes, and below what it reads."""

    command: str
    writes: str
    reads: tuple[str, ...]


STAGES = {
    "download": Stage("vhcr.stages.download --corpus toy", "data/raw/toy", ()),
    "tokenise": Stage("vhcr.stages.tokenise --corpus toy", "data/tokenised/toy", ("data/raw/toy",)),
    "validate": Stage("vhcr.stages.validate --corpus toy", "data/validated/toy", ("data/tokenised/toy",)),
    "embeddings": Stage(
        "vhcr.stages.embeddings --corpus toy",
        "data/embeddings/toy",
        ("data/tokenised/toy",),
    ),
    "train": Stage(
        f"vhcr.stages.train {RUN}", "data/trained/toy/vhcr-ud/0", ("data/tokenised/toy", "data/validated/toy")
    ),
    "evaluate": Stage(
        f"vhcr.stages.evaluate {RUN}",
        "data/evaluated/toy/vhcr-ud/0",
        ("data/tokenised/toy", "data/embeddings/toy", "data/trained/toy/vhcr-ud/0"),
    ),
    "report": Stage(
        "vhcr.stages.report --corpus toy",
        "reports/toy",
        (
            "data/tokenised/toy",
            "data/validated/toy",
            "data/embeddings/toy",
            "data/trained/toy/vhcr-ud/0",
            "data/evaluated/toy/vhcr-ud/0",
        ),
    ),
}
CHANGES: dict[str, dict[str, object]] = {
    "validation": {"max_unknown_fraction": 0.5, "min_conversations": 1},
    "embeddings": {"vector_size": 8, "epochs": 1},
    "training": {**project.SMALL["training"], "num_epochs": 2, "checkpoint_seconds": 0.2},
    "evaluation": {
        **project.SMALL["evaluation"],
        "diversity": {"num_contexts": 2, "num_samples": 2},
        "num_samples_shown": 2,
    },
    "generation": {"max_words": 6},
}


class Small(NamedTuple):
    """The finished project, the digests of what two runs have alike, and how long stages take."""

    folder: Path
    digests: Mapping[str, str]
    seconds: Mapping[str, float]


def build(root: Path) -> Small:
    """Run every stage twice in ``root``; what differs (times, dates) is not compared later."""
    folder = root / "finished"
    folder.mkdir(parents=True)
    project.make(folder, **CHANGES)
    seconds: dict[str, float] = {}
    made: list[dict[str, str]] = []
    for _ in range(2):
        for name, one in STAGES.items():
            shutil.rmtree(folder / one.writes, ignore_errors=True)
            ended = forked.run(folder, forked.stage(*one.command.split()))
            assert ended.status == 0, f"{name}: {ended.output}"
            seconds[name] = ended.seconds
        made.append(digests(folder))
    same = {path: digest for path, digest in made[1].items() if made[0].get(path) == digest}
    return Small(folder, same, seconds)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path."""
    return {path: hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in files(folder)}


def files(folder: Path) -> list[str]:
    """Paths of all files in a folder, hidden ones too."""
    found = (Path(base, name) for base, _, names in os.walk(folder) for name in names)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def draw_stage(small: Small, draw: random.Random, names: Sequence[str]) -> str:
    """A stage, the quick ones more often: so many more cases are tried."""
    return draw.choices(names, [1 / (0.3 + small.seconds[name]) for name in names])[0]


def copy(small: Small, to: Path) -> Path:
    """The finished project again, whatever was done to the last copy."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(small.folder, to)
    return to


def differing(small: Small, folder: Path) -> list[str]:
    """What is another file than it should be, is missing, or was left behind."""
    found = digests(folder)
    wrong = [path for path, digest in small.digests.items() if found.get(path) != digest]
    allowed = set(files(small.folder))
    return wrong + [f"{path} (left behind)" for path in found if path not in allowed]
