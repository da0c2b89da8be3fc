"""The graph of dvc.yaml, as DVC itself tells it: a flow has no graph of its own."""

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from vhcr.errors import ParameterError, VhcrError

Graph = Mapping[str, frozenset[str]]  # stage -> the stages it directly needs, in the order of dvc.yaml

_NODE = re.compile(r'^"([^"]+)";?$')
_EDGE = re.compile(r'^"([^"]+)" -> "([^"]+)";?$')


def dvc(*arguments: str) -> list[str]:
    """A DVC command of this very environment, whatever is on PATH."""
    return [sys.executable, "-m", "dvc", *arguments]


def load(root: Path | str = ".") -> Graph:
    """Every stage of the project at ``root`` (matrices written out) with the stages it needs.

    Raises:
        VhcrError: DVC refuses dvc.yaml or params.yaml; its own words say why.
    """
    done = subprocess.run(dvc("dag", "--dot"), cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VhcrError(f"dvc dag: {done.stderr.strip()}")
    return parse(done.stdout)


def parse(dot: str) -> Graph:
    """``dvc dag --dot``: an arrow goes from a stage to one that needs it."""
    needs: dict[str, set[str]] = {}
    for line in map(str.strip, dot.splitlines()):
        if edge := _EDGE.match(line):
            needs.setdefault(edge[1], set())
            needs.setdefault(edge[2], set()).add(edge[1])
        elif node := _NODE.match(line):
            needs.setdefault(node[1], set())
    return {stage: frozenset(needed) for stage, needed in needs.items()}


def kind(stage: str) -> str:
    """``train`` of ``train@toy-hred-0``."""
    return stage.partition("@")[0]


def select(graph: Graph, targets: Iterable[str] = ()) -> list[str]:
    """``targets`` and all they need, needed ones first; without targets, everything.

    A target is a stage (``train@toy-hred-0``) or a kind of stage (``train``: all of them).

    Raises:
        ParameterError: a target is neither.
    """
    wanted: list[str] = []
    for target in targets:
        matching = [stage for stage in graph if target in (stage, kind(stage))]
        if not matching:
            known = ", ".join(sorted({kind(stage) for stage in graph} | set(graph)))
            raise ParameterError(f"target {target!r} is no stage of dvc.yaml; known: {known}")
        wanted.extend(matching)
    ordered: dict[str, None] = {}

    def add(stage: str) -> None:
        if stage not in ordered:
            for needed in sorted(graph[stage], key=list(graph).index):
                add(needed)
            ordered[stage] = None

    for stage in wanted or graph:
        add(stage)
    return list(ordered)
