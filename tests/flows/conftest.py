"""A DVC project of four stages that take no time: download, two trainings beside each other, a report."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

GRAPH = """
stages:
  download:
    matrix: {corpus: [toy]}
    cmd: python stage.py raw.txt
    outs: [raw.txt]
  train:
    matrix: {corpus: [toy], system: [a, b]}
    cmd: python stage.py ${item.system}.txt raw.txt
    deps: [raw.txt]
    outs: ["${item.system}.txt"]
  report:
    matrix: {corpus: [toy]}
    cmd: python stage.py reports/toy/table.json a.txt b.txt
    deps: [a.txt, b.txt]
    outs: [reports/toy]
"""

# A stage that is told to wait does so until the file `go` is there, and says that it has begun.
STAGE = """
import json, os, pathlib, sys, time

out, *needs = sys.argv[1:]
print("making", out, "for flow run", os.environ.get("VHCR_FLOW_RUN_ID"), flush=True)
if out in os.environ.get("WAITING", "").split():
    pathlib.Path("begun." + out).write_text(str(os.getpid()))
    while not pathlib.Path("go").exists():
        time.sleep(0.02)
if pathlib.Path("broken").exists() and out in pathlib.Path("broken").read_text().split():
    tries = pathlib.Path("tries")
    with tries.open("a") as file:
        file.write(out + chr(10))
    sys.exit("error: raw.txt: line 3 is not text")
text = "".join(pathlib.Path(need).read_text() for need in needs) + out
path = pathlib.Path(out)
path.parent.mkdir(parents=True, exist_ok=True)
if path.suffix == ".json":
    (path.parent / "index.html").write_text("<title>report</title>")
    text = json.dumps([{"system": "a", "seed": 0, "nll_per_word": 1.5}])
path.write_text(text)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's root, which is also the working directory."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
        f"    site_cache_dir = {tmp_path / '.site'}\n"
    )
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "stage.py").write_text(textwrap.dedent(STAGE))
    (tmp_path / "params.yaml").write_text("")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    monkeypatch.chdir(tmp_path)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path


def dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run DVC in the working directory; errors are part of its output."""
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
