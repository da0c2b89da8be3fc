"""What made a number: the code's version, the installed set, the kind of machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vhcr import provenance


def write_project(folder: Path, constraints: str, dependencies: str) -> tuple[Path, Path]:
    (folder / "constraints.txt").write_text(constraints)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "vhcr"\ndependencies = [{dependencies}]\n[project.optional-dependencies]\n'
    )
    return folder / "constraints.txt", folder / "pyproject.toml"


def test_an_installed_set_is_recognised(tmp_path: Path) -> None:
    """So that a newer time stamp on a file does not start pip, which would ask the network."""
    import numpy as np

    good = write_project(tmp_path, f"numpy=={np.__version__}  # pinned\nnot-for-here==1.0\n", '"numpy>=2"')
    assert provenance.mismatches(*good) == []
    other = write_project(tmp_path, "numpy==1.0.0\n", '"numpy>=2", "no-such.package[extra]>=3"')
    assert provenance.mismatches(*other) == [
        "no-such-package is not installed",
        f"numpy is {np.__version__}, pinned to 1.0.0",
    ]


def git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *name, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_code_version_tells_code_from_parameters_and_results(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "vhcr").mkdir()
    (tmp_path / "vhcr" / "batch.py").write_text("a = 1\n")
    (tmp_path / "params.yaml").write_text("a: 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / "params.yaml").write_text("a: 2\n")
    (tmp_path / "dvc.lock").write_text("x")
    assert provenance.code_version(tmp_path) == (commit, False)
    (tmp_path / "vhcr" / "new.py").write_text("b = 1\n")
    assert provenance.code_version(tmp_path) == (commit, True)


def test_no_repository_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.code_version(tmp_path) == (None, False)


def test_the_machine_is_described_and_not_named() -> None:
    described = provenance.machine()
    assert described["cores"]
    assert os.uname().nodename not in str(described)


def test_hashes_are_those_of_dvc(tmp_path: Path) -> None:
    """The numbers below are what ``dvc add`` wrote into its .dvc files for the same content."""
    (tmp_path / "a" / "inner").mkdir(parents=True)
    (tmp_path / "a" / "two.txt").write_text("two\n")
    (tmp_path / "a" / "inner" / "one.txt").write_text("one\n")
    assert provenance.dvc_hash(tmp_path / "a" / "two.txt") == "c193497a1a06b2c72230e6146ff47080"
    assert provenance.dvc_hash(tmp_path / "a") == "b22d57f1a94efc902b41b772d2645062.dir"
