"""SIGKILL of `dvc repro` or of a flow, alone or with all it started; then `dvc repro` ends what was begun.

Afterwards the results are bit for bit those of an undisturbed run, MLflow has one run with no point twice,
and nothing is left running. What a worker of Prefect does when it is killed, tests/flows tries.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml

from tests.faults import forked
from tests.faults.outcome import Case, judge
from tests.faults.small import CHANGES, Small, digests
from tests.processes import gone
from tests.stages import project

COPIED = ("dvc.yaml", ".dvcignore", "pyproject.toml")
SAME = (
    "data/trained/toy/vhcr-ud/0/best.safetensors",
    "data/trained/toy/vhcr-ud/0/last.safetensors",
    "data/trained/toy/vhcr-ud/0/curves.csv",
    "data/trained/toy/vhcr-ud/0/metrics.json",
    "data/trained/toy/vhcr-ud/0/run.json",
    "data/evaluated/toy/vhcr-ud/0/metrics.json",
    "data/evaluated/toy/vhcr-ud/0/conversations.parquet",
    "data/evaluated/toy/vhcr-ud/0/responses.parquet",
)
DVC = (sys.executable, "-m", "dvc", "repro")
FLOW = (sys.executable, "-m", "flows.pipeline")
# victim -> what runs, and whether all it started is killed too
VICTIMS = {
    "dvc alone": (DVC, False),
    "dvc and its group": (DVC, True),
    "flow alone": (FLOW, False),
    "flow and its group": (FLOW, True),
}
PREFECT_SERVER = "prefect.server.api.server:create_app"
END_SECONDS = 300  # in which a stage whose starter was killed has ended: it may still be starting up


def case(small: Small, root: Path, draw: random.Random) -> Case:
    """One kill, and one `dvc repro` after it."""
    begun = _made(root)
    folder = root / "whole"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(begun / "start", folder, symlinks=True)
    victim = draw.choice(list(VICTIMS))
    command, group = VICTIMS[victim]
    usual = float((begun / "seconds").read_text()) * (1.5 if command is FLOW else 1.0)
    moment = draw.uniform(0.05, 1.0) * usual
    process = subprocess.Popen(
        command, cwd=folder, env=_environment(folder), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    family, servers = _family(folder)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL) if group else process.kill()
    process.wait()
    for server in servers:
        with contextlib.suppress(psutil.NoSuchProcess):
            server.kill()
    what = f"{victim} killed after {moment:.1f} s"
    until = time.monotonic() + END_SECONDS
    while left := [one for one in family if not gone(one)]:
        if time.monotonic() > until:
            return Case(what, "failed", f"still running: {[_described(one) for one in left]}")
        time.sleep(0.2)
    ended = _run(folder, *DVC)
    wrong = _wrong(begun / "finished", folder)
    return judge(what, ended, wrong)


def _made(root: Path) -> Path:
    """The project with its data ready ("start"), and one in which all of it has run ("finished")."""
    kept = root / "wholes"
    if (kept / "seconds").exists():
        return kept
    start = kept / "start"
    start.mkdir(parents=True)
    project.make(start, **CHANGES)
    values = yaml.safe_load((start / "params.yaml").read_text())
    values["active"] = {"corpora": ["toy"], "systems": ["vhcr-ud"], "seeds": [0]}
    (start / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for name in COPIED:
        shutil.copy(project.ROOT / name, start)
    for name in ("vhcr", "flows"):
        (start / name).symlink_to(project.ROOT / name, target_is_directory=True)
    (start / ".dvc").mkdir()
    (start / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    )
    ended = _run(start, *DVC, "validate@toy", "embeddings@toy")
    assert ended.status == 0, ended.output
    shutil.copytree(start, kept / "finished", symlinks=True)
    ended = _run(kept / "finished", *DVC)
    assert ended.status == 0, ended.output
    (kept / "seconds").write_text(str(ended.seconds))
    return kept


def _environment(folder: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name not in forked.ENVIRONMENT},
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "1",
    }


def _run(folder: Path, *command: str) -> forked.Ended:
    begun = time.monotonic()
    done = subprocess.run(
        command,
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    return forked.Ended(done.returncode, done.stdout + done.stderr, time.monotonic() - begun)


def _family(folder: Path) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """Processes that work in the folder; and servers that Prefect has started for a flow without one.

    These outlive a flow that is killed, which docs/reliability.md says.
    """
    found, servers = [], []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder):
                (servers if PREFECT_SERVER in process.cmdline() else found).append(process)
    return found, servers


def _described(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process} {process.cmdline()}"
    return str(process)


def _wrong(finished: Path, folder: Path) -> list[str]:
    """Files that differ or were left behind, and what MLflow has that it should not."""
    before, now = digests(finished), digests(folder)
    wrong = [path for path in SAME if now.get(path) != before[path]]
    wrong += [
        f"{path} (left behind)" for path in now if path.endswith(".tmp") or path.startswith(".work/train")
    ]
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as base:
        runs = base.execute(
            "select r.run_uuid, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
            "where t.key = 'identity' and r.lifecycle_stage = 'active'"
        ).fetchall()
        double = base.execute(
            "select count(*) from (select 1 from metrics where key like 'train/%' or key like 'validation/%' "
            "group by run_uuid, key, step having count(*) > 1)"
        ).fetchone()[0]
        points = base.execute("select count(*) from metrics where key = 'train/loss'").fetchone()[0]
    with contextlib.closing(sqlite3.connect(finished / "mlflow.db")) as base:
        expected = base.execute("select count(*) from metrics where key = 'train/loss'").fetchone()[0]
    if len(runs) != 1 or runs[0][1] != "FINISHED":
        wrong.append(f"MLflow runs: {runs}")
    if double or points != expected:
        wrong.append(f"MLflow: {double} points twice, {points} of {expected} points")
    return wrong
