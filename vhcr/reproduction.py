"""A recorded run made again from its commit, data, parameters and seed, and compared bit for bit.

The commit is checked out in a clone of its own, so that nothing in the project is touched; the data it saw
are linked into it, once their hashes have been found to be those that were recorded; and the stages of that
commit train, and evaluate, as they did. Bits are promised on the same kind of machine with the same versions
of libraries; where those differ, nothing is run unless it is asked for anyway.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vhcr.errors import DataError, VhcrError
from vhcr.files import read_json, read_object, write_text
from vhcr.layout import WORK
from vhcr.provenance import dvc_hash, machine, read_run, versions
from vhcr.recording.files import REPRODUCIBLE

log = logging.getLogger(__name__)

EVALUATED = ("metrics.json", "conversations.parquet", "responses.parquet", "control.parquet")
DECISIVE = ("python", "torch", "numpy", "pyarrow")  # the versions that a number can depend on
DECISIVE_EVALUATED = (*DECISIVE, "polars", "gensim")
SHOWN = 5  # differences told of each file


class ReproductionError(VhcrError):
    """The run cannot be made again here; the message lists every reason."""


@dataclass(frozen=True)
class Recorded:
    """A run as it was recorded: its files, what made it, and the project its data lie in."""

    folder: Path
    info: Mapping[str, Any]
    root: Path  # where data/tokenised and the others lie
    evaluated: Path | None

    @classmethod
    def load(cls, folder: Path, evaluated: Path | None = None) -> Recorded:
        """From the folder of a trained run, and that of its evaluation.

        Raises:
            DataError: a file is missing or damaged.
        """
        info = read_run(folder)
        for name in REPRODUCIBLE:
            if not (folder / name).is_file():
                raise DataError(f"{folder / name}: is missing, so nothing can be compared with it")
        parts = folder.resolve().parts
        own = len(parts) > 5 and parts[-5:-3] == ("data", "trained")
        return cls(folder, info, folder.resolve().parents[4] if own else Path.cwd(), evaluated)

    @property
    def name(self) -> str:
        """corpus/system/seed."""
        return "/".join(str(self.info[key]) for key in ("corpus", "system", "seed"))


@dataclass
class Outcome:
    """What came out the same, what did not and how, and what was not compared and why."""

    same: list[str] = field(default_factory=list)
    different: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def is_same(self) -> bool:
        """Whether every file that was compared is the same, bit for bit."""
        return not self.different

    def __str__(self) -> str:
        lines = [f"in spite of: {doubt}" for doubt in self.doubts]
        if self.same:
            lines.append(f"the same, bit for bit: {', '.join(self.same)}")
        for name, details in self.different.items():
            lines.append(f"DIFFERENT: {name}")
            lines += [f"  {detail}" for detail in details]
        return "\n".join([*lines, *self.left_out])


def reproduce(run: Recorded, *, anyway: bool = False, keep: bool = False) -> Outcome:
    """Make ``run`` again and compare. ``anyway``: also where the bits cannot be promised.

    The clone is kept where something came out different, or ``keep`` is given.

    Raises:
        ReproductionError: the code or the data of the run are not to be had here; or its tree was dirty, or
            the versions or the machine are others, and ``anyway`` is not given; or a stage failed.
    """
    missing, doubts = obstacles(run)
    if missing or (doubts and not anyway):
        reasons = missing if anyway else missing + doubts
        advice = "" if missing else "\n--anyway makes it again all the same; it may then come out different"
        raise ReproductionError(f"{run.name} cannot be reproduced here:\n- " + "\n- ".join(reasons) + advice)
    clone = (WORK / "reproduced" / f"{run.name.replace('/', '-')}-{os.getpid()}").resolve()
    outcome = Outcome(doubts=doubts)
    try:
        project = _clone(clone, str(run.info["code_version"]))
        _prepare(project, run)
        _stage(project, "train", run.info)
        where = Path("data", "trained", *run.name.split("/"))
        _compare(outcome, run.folder, project / where, REPRODUCIBLE, "")
        _again_evaluated(outcome, run, project)
    finally:
        if outcome.is_same and not keep:
            shutil.rmtree(clone, ignore_errors=True)
    if clone.exists():
        outcome.left_out.append(f"what came out lies in {os.path.relpath(clone)}")
    return outcome


def obstacles(run: Recorded) -> tuple[list[str], list[str]]:
    """What is not to be had here, and what makes it doubtful that the bits come out the same."""
    info = run.info
    missing, doubts = [], []
    commit = info.get("code_version")
    if not commit:
        missing.append("it was made outside a git repository: no commit says which code made it")
    elif not _knows(str(commit)):
        missing.append(f"commit {commit} is not in this repository (git fetch brings it, if it was pushed)")
    if info.get("dirty"):
        doubts.append(f"its code had uncommitted changes: commit {commit} is not all that made it")
    missing += _data_obstacles(run)
    doubts += _versions_differ(info.get("versions", {}), DECISIVE)
    doubts += _machine_differs(info)
    return missing, doubts


def _data_obstacles(run: Recorded) -> list[str]:
    found = []
    recorded = run.info.get("inputs")
    if not recorded:
        return ["it does not say which files it read (it was recorded by an older version)"]
    for path, expected in recorded.items():
        try:
            actual = dvc_hash(run.root / path)
        except OSError:
            found.append(f"{path} is not here; it had the hash {expected} (dvc pull, or dvc repro)")
            continue
        if actual != expected:
            found.append(f"{path} holds other data: its hash is {actual}, the run saw {expected}")
    return found


def _versions_differ(recorded: Mapping[str, str], names: Sequence[str]) -> list[str]:
    here = versions()
    return [
        f"{name} was {recorded.get(name, 'not recorded')}, here it is {here.get(name)}"
        for name in names
        if recorded.get(name) != here.get(name)
    ]


def _machine_differs(info: Mapping[str, Any]) -> list[str]:
    recorded, here, found = info.get("machine", {}), machine(), []
    if recorded.get("cpu") != here["cpu"]:
        found.append(f"the processor was {recorded.get('cpu')!r}, here it is {here['cpu']!r}")
    # How many cores share a sum decides its rounding, unless the run says how many.
    if not info["params"]["training"]["num_threads"] and recorded.get("cores") != here["cores"]:
        found.append(f"it used {recorded.get('cores')} cores, here there are {here['cores']}")
    device, name = info.get("device", "cpu"), "cpu"
    if info["params"]["training"].get("device") != "cpu":
        import torch

        from vhcr.training.device import choose_device

        chosen = choose_device("auto")
        name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "cpu"
    if name != device:
        found.append(f"it ran on {device!r}, here there is {name!r}")
    return found


def _knows(commit: str) -> bool:
    done = _git("cat-file", "-e", f"{commit}^{{commit}}")
    return done.returncode == 0


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ReproductionError(f"git cannot be run: {error.strerror}") from None


def _clone(target: Path, commit: str) -> Path:
    """The project in a clone of its repository, of which it may be a subfolder."""
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    top = _git("rev-parse", "--show-toplevel").stdout.strip()
    # It shares this repository's objects, which is quick, and leaves no trace here when we are killed.
    for arguments in (
        ("clone", "--quiet", "--shared", "--no-checkout", top, str(target)),
        ("-C", str(target), "checkout", "--quiet", "--detach", commit),
    ):
        done = _git(*arguments)
        if done.returncode:
            raise ReproductionError(f"git {arguments[0]}: {done.stderr.strip()}")
    within = _git("rev-parse", "--show-prefix").stdout.strip()
    project = target / within
    if not (project / "params.yaml").is_file():
        raise ReproductionError(f"commit {commit} has no {within}params.yaml: the project lay elsewhere then")
    return project


def _prepare(clone: Path, run: Recorded) -> None:
    """The data the run saw, by links, and its parameters laid over those of its commit."""
    for path in run.info["inputs"]:
        _link(run.root / path, clone / path)
    params = run.info["params"]
    sections = {name: params[name] for name in ("model", "training")}
    _lay_over(clone, run, {"corpora": sections, "systems": params["system"]})


def _lay_over(clone: Path, run: Recorded, values: Mapping[str, Any]) -> None:
    import yaml

    path = clone / "params.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    corpus, system = run.info["corpus"], run.info["system"]
    if corpus not in tree["corpora"]:
        raise ReproductionError(
            f"{run.name} cannot be reproduced here:\n- params.yaml of its commit has no corpus {corpus!r}"
        )
    tree["corpora"][corpus] |= values.get("corpora", {})
    if "systems" in values:
        tree["systems"][system] = values["systems"]
    write_text(path, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to(source.resolve())


def _stage(clone: Path, stage: str, info: Mapping[str, Any]) -> None:
    """Run a stage of the clone's code, with nothing recorded anywhere but in its files."""
    ours = ("DVC_", "VHCR_", "MLFLOW_RUN_ID")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"VHCR_MLFLOW": "off", "PYTHONPATH": str(clone), "VHCR_TETHERED": "1"}  # it ends with us
    command = [sys.executable, "-m", f"vhcr.stages.{stage}"]
    for name in ("corpus", "system", "seed"):
        command += [f"--{name}", str(info[name])]
    log.info("%s, in a clone at %s", " ".join(command[1:]), info["code_version"])
    done = subprocess.run(command, cwd=clone, env=environment, check=False)
    if done.returncode:
        raise ReproductionError(
            f"the {stage} stage of commit {info['code_version']} ended with status {done.returncode}"
        )


def _again_evaluated(outcome: Outcome, run: Recorded, clone: Path) -> None:
    """Evaluate what was trained again and compare, where the evaluation was recorded well enough."""
    if run.evaluated is None:
        return
    made = read_object(run.evaluated / "provenance.json")
    protocol, inputs = made.get("protocol", {}), made.get("inputs")
    reasons = []
    if not outcome.is_same:
        reasons.append("the training came out different")
    if made.get("code_version") != run.info["code_version"] or made.get("dirty"):
        reasons.append("it was made by other code than the training")
    if not inputs or not {"evaluation", "generation"} <= set(protocol):
        reasons.append("it does not say what it was made from")
    for path, expected in (inputs or {}).items():
        there = run.root / path
        if not there.exists() or dvc_hash(there) != expected:
            reasons.append(f"{path} is not what it saw")
    reasons += _versions_differ(made.get("versions", {}), DECISIVE_EVALUATED)
    if reasons:
        outcome.left_out.append(f"the evaluation was not made again: {'; '.join(reasons)}")
        return
    for path in inputs or ():
        target = clone / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)  # it held links to the few files that training needs
        _link(run.root / path, target)
    sections = {name: protocol[name] for name in ("evaluation", "generation")}
    _lay_over(clone, run, {"corpora": sections})
    _stage(clone, "evaluate", run.info)
    where = Path("data", "evaluated", *run.name.split("/"))
    files = [name for name in EVALUATED if (run.evaluated / name).exists()]
    _compare(outcome, run.evaluated, clone / where, files, "evaluation/")


def _compare(outcome: Outcome, before: Path, after: Path, names: Sequence[str], prefix: str) -> None:
    for name in names:
        old, new = before / name, after / name
        if not new.exists():
            outcome.different[prefix + name] = ["it was not made"]
        elif old.read_bytes() == new.read_bytes():
            outcome.same.append(prefix + name)
        else:
            details = list(_differences(old, new))
            more = len(details) - SHOWN
            outcome.different[prefix + name] = details[:SHOWN] + ([f"and {more} more"] if more > 0 else [])


def _differences(old: Path, new: Path) -> Iterator[str]:
    """How two files that are not the same differ, the first first."""
    if old.suffix == ".csv":
        yield from _rows_differ(old, new)
    elif old.suffix == ".json":
        before, after = (dict(_leaves(read_json(path))) for path in (old, new))
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name):
                yield f"{name}: {before.get(name)} before, {after.get(name)} now"
    elif old.suffix == ".safetensors":
        yield _tensors_differ(old, new)
    else:
        yield f"{old.stat().st_size} bytes before, {new.stat().st_size} now"


def _rows_differ(old: Path, new: Path) -> Iterator[str]:
    before, after = (
        list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) for path in (old, new)
    )
    if len(before) != len(after):
        yield f"{len(before)} rows before, {len(after)} now"
    for number, (row, other) in enumerate(zip(before, after, strict=False), start=2):
        for name in dict.fromkeys([*row, *other]):
            if row.get(name) != other.get(name):
                place = f"line {number} (step {row.get('step')}, {row.get('split')})"
                yield f"{place}: {name} was {row.get(name)}, is {other.get(name)}"


def _tensors_differ(old: Path, new: Path) -> str:
    import numpy as np
    from safetensors.numpy import load_file

    before, after = load_file(old), load_file(new)
    if before.keys() != after.keys():
        return f"other tensors: {', '.join(sorted(before.keys() ^ after.keys()))}"
    other = [name for name in before if before[name].shape != after[name].shape]
    if other:
        return f"other shapes: {', '.join(other)}"
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    if not changed:
        return "the same tensors, with other metadata"
    most = max(float(np.abs(before[n].astype(np.float64) - after[n]).max()) for n in changed)
    return f"{len(changed)} of {len(before)} tensors differ, by at most {most:.3g}"


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}{key}.")
    elif isinstance(tree, list):
        for place, value in enumerate(tree):
            yield from _leaves(value, f"{prefix}{place}.")
    else:
        yield prefix.rstrip("."), json.dumps(tree)
