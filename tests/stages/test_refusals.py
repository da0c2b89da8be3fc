"""What a stage says when the file system refuses: a line, and status 2."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vhcr.params import Params
from vhcr.stages import train
from vhcr.stages.common import stage_main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "data/x"), "error: data/x: Permission denied\n"),
        (
            OSError(28, "No space left on device"),
            "error: a file: cannot be written: No space left on device\n",
        ),
    ],
)
def test_a_file_system_that_refuses_is_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    said: str,
) -> None:
    """A read-only folder for a finished run, found by the search for faults, was a traceback."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(params: Params, *, corpus: str) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        stage_main(run, ["--corpus", "toy"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--corpus", "toy", "--system", "hred", "--seed", "-1"),
            "--seed -1: a seed is a whole number",
        ),
        (("--corpus", "toy", "--system", "hred", "--seed", str(2**63)), f"error: --seed {2**63}: "),
        (("--corpus", "../x", "--system", "hred", "--seed", "0"), "../x"),
    ],
)
def test_names_and_seeds_out_of_bounds_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        stage_main(train.run, list(arguments))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
