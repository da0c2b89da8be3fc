"""The commands a person types first."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^\.PHONY: (.+)$", TEXT, flags=re.MULTILINE)[0].split())


def make(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=cwd,
        env={**os.environ, "MAKEFLAGS": "", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )


def test_help_lists_every_command() -> None:
    shown = set(re.findall(r"^  make ([a-z0-9-]+) +\S", make("help").stdout, flags=re.MULTILINE))
    assert shown == TARGETS
    defined = set(re.findall(r"^([a-z0-9-]+):(?! export)", TEXT, flags=re.MULTILINE))
    assert defined == TARGETS


def test_an_old_python_is_refused_in_plain_words(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").touch()
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2"\nexit 1\n')
    old.chmod(0o755)
    done = make("run", f"PYTHON={old}", cwd=tmp_path)
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "Python 3.9.2" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_without_any_python_it_says_what_to_install(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").touch()
    done = make("run", "PYTHON=", cwd=tmp_path)
    assert done.returncode != 0
    assert "python3-venv" in done.stderr


def test_running_installs_no_tools_of_the_tests(tmp_path: Path) -> None:
    """`make run` once fetched a browser driver, a type checker and a false S3 that nothing of it uses."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    for target, tools in (("run", False), ("mlflow", False), ("test", True), ("lint", True)):
        said = make("-n", target, f"PYTHON={sys.executable}", cwd=tmp_path).stdout
        assert ".[pipeline]" in said
        assert (".[pipeline,dev,scale]" in said) == tools, target


def test_a_folder_without_git_is_told_to_dvc_before_anything_is_installed(tmp_path: Path) -> None:
    """`dvc repro` failed in an unpacked archive after an installation of 2.7 GB."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    bare = tmp_path / "python3"  # new enough, but it can make no virtual environment: there all ends
    bare.write_text('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\n')
    bare.chmod(0o755)
    ceiling = {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    done = make("install", f"PYTHON={bare}", cwd=tmp_path, **ceiling)
    assert done.returncode != 0
    assert "This folder is in no git repository" in done.stdout
    assert "no_scm = true" in (tmp_path / ".dvc" / "config.local").read_text()


def test_mlflows_pages_are_not_begun_over_those_of_a_server(tmp_path: Path) -> None:
    """It asked itself for its database, and ended with a refused connection."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    done = make("mlflow", cwd=tmp_path, MLFLOW_TRACKING_URI="http://elsewhere:5000")
    assert done.returncode != 0
    assert "whose pages are there: http://elsewhere:5000" in done.stderr
