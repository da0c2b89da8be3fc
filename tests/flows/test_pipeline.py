"""The flow itself, on Prefect's embedded server, over the small DVC project."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from pydantic import ValidationError

from flows import pipeline as flow
from flows.pipeline import pipeline
from flows.settings import PipelineSettings
from tests.flows.conftest import ROOT, dvc
from tests.processes import gone, wait_for
from vhcr import recording


def test_settings_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValidationError, match="paralel_stages"):
        PipelineSettings.model_validate({"paralel_stages": 2})
    with pytest.raises(ValidationError, match="parallel_stages"):
        PipelineSettings(parallel_stages=0)
    with pytest.raises(ValidationError, match="targets"):
        PipelineSettings(targets=("train; rm -rf",))


def test_the_form_has_descriptions_bounds_and_defaults() -> None:
    """Prefect shows this schema as a form, and refuses what does not fit it before a run exists."""
    schema = pipeline.parameters.model_dump()
    settings = schema["definitions"]["PipelineSettings"]
    assert settings["additionalProperties"] is False
    for name, field in settings["properties"].items():
        assert field["description"], name
        assert "default" in field, name
    assert settings["properties"]["parallel_stages"]["minimum"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parallel-stages", "0"], "parallel_stages: Input should be greater than or equal to 1"),
        (["train", "Report"], "targets.1: String should match pattern"),
    ],
)
def test_what_was_typed_wrong_is_said_on_a_line(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """It was said by a traceback through pydantic, where the other flows had a line for it."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
    with pytest.raises(SystemExit) as ended:
        flow.main()
    assert str(ended.value).startswith(f"error: {message}")
    assert "\n" not in str(ended.value)


def test_results_that_cannot_be_shown_fail_no_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all stages done, an MLflow that did not answer made the whole run count as failed."""
    from mlflow.exceptions import MlflowException

    def refuse() -> None:
        raise recording.RecordingError("MLflow: nobody there")

    def fall_silent(_name: str) -> None:
        raise MlflowException("timed out")

    def unreachable(**_content: object) -> None:
        raise httpx.ConnectError("no Prefect there")

    def finish() -> tuple[list[str], list[str]]:
        """What is shown of two reports, and what is said in the log."""
        shown.clear()
        said: list[str] = []
        flow.link_results(["train@toy-hred-0", "report@toy", "report@own"], said.append)
        return shown.copy(), said

    for corpus in ("toy", "own"):
        (tmp_path / "reports" / corpus).mkdir(parents=True)
        (tmp_path / "reports" / corpus / "table.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.delenv("VHCR_MLFLOW", raising=False)
    shown: list[str] = []
    for name in ("create_table_artifact", "create_link_artifact"):
        monkeypatch.setattr(flow, name, lambda *, key, **_content: shown.append(key))
    files = ["table-toy", "report-toy", "table-own", "report-own"]

    monkeypatch.setattr(recording, "client", refuse)
    assert finish() == (files, ["not shown: MLflow: nobody there"] * 2)
    monkeypatch.setattr(recording, "client", lambda: SimpleNamespace(get_experiment_by_name=fall_silent))
    assert finish() == (files, ["not shown: MLflow: timed out"] * 2)
    monkeypatch.setattr(flow, "create_table_artifact", unreachable)
    assert finish() == ([], ["not shown: no Prefect there"] * 2)


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    """Python with the flow imported, in a process group of its own, as a worker starts it."""
    head = "from flows.pipeline import pipeline; from flows.settings import PipelineSettings\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code],
        env={**os.environ, "DO_NOT_TRACK": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(code: str = "pipeline()", **environment: str) -> tuple[int, str]:
    with start(code, **environment) as flow:
        output, _ = flow.communicate(timeout=240)
    return flow.returncode, output


def recorded(project: Path, query: str) -> list[tuple[str, ...]]:
    connected = sqlite3.connect(project / ".prefect" / "prefect.db")
    try:
        return connected.execute(query).fetchall()
    finally:
        connected.close()


@pytest.mark.slow
def test_after_the_flow_dvc_finds_nothing_to_do(project: Path) -> None:
    """On the embedded server, whose database then tells what was run and what can be clicked."""
    status, output = run()
    assert status == 0, output
    assert "4 of 4 stages had to run" in output
    assert "making raw.txt for flow run " in output  # a stage's own lines are in the flow's log
    assert "making raw.txt for flow run None" not in output
    assert "Data and pipelines are up to date" in dvc("repro").stdout

    tasks = recorded(project, "select name, state_type from task_run")
    assert sorted(tasks) == [
        (name, "COMPLETED") for name in ("download@toy", "report@toy", "train@toy-a", "train@toy-b")
    ]
    artifacts = dict(recorded(project, "select key, data from artifact where key is not null"))
    assert "table-toy" in artifacts
    assert (project / "reports" / "toy" / "index.html").as_uri() in artifacts["report-toy"]


@pytest.mark.slow
def test_a_failure_names_the_stage_and_spares_what_does_not_need_it(project: Path, server: str) -> None:
    (project / "broken").write_text("a.txt")
    status, output = run(PREFECT_API_URL=server)
    assert status != 0
    assert "train@toy-a failed" in output
    assert "line 3 is not text" in output
    assert "not run because of that: report@toy" in output
    assert (project / "b.txt").exists()
    assert not (project / "reports").exists()
    assert (project / "tries").read_text().split() == ["a.txt"]  # a training is not tried again
    (project / "broken").unlink()
    status, output = run(PREFECT_API_URL=server)  # and it goes on from there
    assert status == 0, output
    assert "2 of 4 stages had to run" in output


@pytest.mark.slow
def test_downloads_are_tried_again(project: Path, server: str) -> None:
    (project / "broken").write_text("raw.txt")
    code = "pipeline(PipelineSettings(targets=('download',), download_retries=2, retry_delay_seconds=0))"
    status, _ = run(code, PREFECT_API_URL=server)
    assert status != 0
    assert (project / "tries").read_text().split() == ["raw.txt"] * 3


@pytest.mark.slow
def test_a_cancelled_flow_takes_its_stage_along(project: Path, server: str) -> None:
    """As a worker does it: SIGTERM to the group of the flow's process."""
    note = project / "begun.raw.txt"
    with start("pipeline()", WAITING="raw.txt", PREFECT_API_URL=server) as flow:
        wait_for(lambda: note.exists() and note.read_text(), 120)
        os.killpg(flow.pid, signal.SIGTERM)
        flow.communicate(timeout=30)
    assert gone(int(note.read_text()))  # its number may stay for a while, as that of a zombie
    (project / "go").touch()
    assert dvc("repro").returncode == 0  # nothing is left locked
