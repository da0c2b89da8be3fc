"""Commands under a flow: their lines, their end, and who holds the project."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from prefect.client.schemas import TaskRun
from prefect.logging.loggers import task_run_logger

from flows import running, shown
from tests.flows.conftest import dvc
from tests.processes import gone, wait_for

PYTHON = sys.executable


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python with some arguments; whatever is still running after the test is killed."""
    with contextlib.ExitStack() as started:

        def popen(*arguments: str) -> subprocess.Popen[str]:
            process = started.enter_context(
                subprocess.Popen([PYTHON, *arguments], stdout=subprocess.PIPE, text=True)
            )
            started.callback(process.kill)
            return process

        yield popen


def run(code: str, timeout_seconds: float = 60.0) -> tuple[int, list[str]]:
    lines: list[str] = []
    done = running.run([PYTHON, "-c", code], lines.append, timeout_seconds=timeout_seconds)
    return done.status, lines


def test_lines_of_both_streams_arrive_whole() -> None:
    code = "import sys; print('grüße'); sys.stdout.flush(); print('trouble', file=sys.stderr); sys.exit(3)"
    assert run(code) == (3, ["grüße", "trouble"])


def test_lines_arrive_while_the_command_runs(tmp_path: Path) -> None:
    """Read at the end only, a training would show nothing for hours. The command goes on once it was heard:
    its lines were told apart by the time between them, and came close together where the machine was busy.
    """
    heard = tmp_path / "heard"
    code = (
        "import pathlib, time\n"
        "print('first')\n"
        f"while not pathlib.Path({str(heard)!r}).exists(): time.sleep(0.02)\n"
        "print('last')"
    )
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        heard.touch()

    assert running.run([PYTHON, "-c", code], hear, timeout_seconds=60).status == 0
    assert lines == ["first", "last"]


def test_a_progress_bar_does_not_fill_the_log() -> None:
    code = (
        "import sys, time\n"
        "for i in range(200):\n"
        "    sys.stderr.write(f'\\r{i} of 200'); sys.stderr.flush(); time.sleep(0.002)\n"
        "sys.stderr.write('\\rdone\\n')"
    )
    status, lines = run(code)
    assert status == 0
    assert len(lines) <= 3
    assert lines[-1] == "done"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass at once, as time limits see it: a command that was given ten minutes to start
    has a second left. With a limit of three from the first, a busy machine had not started it by then.
    """
    ahead = 0.0

    def let_pass(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead, sleep=time.sleep)
    monkeypatch.setattr(running, "time", clock)
    return let_pass


def test_a_command_that_takes_too_long_is_stopped_with_all_below_it(
    tmp_path: Path, later: Callable[[float], None]
) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "print('half way', flush=True); child.wait()"
    )
    with pytest.raises(running.CommandError, match=r"(?s)stopped after 600 s.*half way"):
        running.run([PYTHON, "-c", code], lambda line: later(599.0), timeout_seconds=600.0)
    assert gone(int((tmp_path / "pid").read_text()))


LAST_WORDS = """
import signal, sys, time

def end(number, frame):
    time.sleep(0.5)
    print("checkpoint left", flush=True)
    sys.exit(3)

signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(600)
"""


def test_what_a_command_says_while_it_is_stopped_is_heard(later: Callable[[float], None]) -> None:
    """Out of time, a training once left a checkpoint and nobody could tell: the pipe was read no more."""
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        if line == "ready":
            later(599.0)

    with pytest.raises(running.CommandError, match=r"(?s)stopped after 600 s.*checkpoint left"):
        running.run([PYTHON, "-c", LAST_WORDS], hear, timeout_seconds=600.0)
    assert lines == ["ready", "checkpoint left"]


def test_an_interrupted_flow_hears_what_its_commands_child_still_has_to_say(tmp_path: Path) -> None:
    """Cancelled, all are asked to stop at once: DVC is gone first, and the training writes its checkpoint."""
    (tmp_path / "training.py").write_text(LAST_WORDS)
    command = f"import subprocess, sys; subprocess.run([sys.executable, {str(tmp_path / 'training.py')!r}])"
    lines: list[str] = []

    class Cancelled(BaseException):
        pass

    def hear(line: str) -> None:
        lines.append(line)
        if line == "ready":
            (above,) = (
                child for child in psutil.Process().children() if str(tmp_path) in str(child.cmdline())
            )
            for process in (above, *above.children()):
                process.terminate()
            wait_for(lambda: gone(above.pid))
            raise Cancelled

    with pytest.raises(Cancelled):
        running.run([PYTHON, "-c", command], hear, timeout_seconds=60.0)
    assert lines == ["ready", "checkpoint left"]


def test_a_command_ends_with_a_killed_parent(tmp_path: Path, start: Start) -> None:
    """SIGKILL lets nobody tidy up; an orphan would keep its core."""
    note = tmp_path / "pid"
    (tmp_path / "child.py").write_text(
        f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    command = [PYTHON, str(tmp_path / "child.py")]
    parent = start("-c", f"from flows import running; running.run({command}, print, timeout_seconds=600)")
    wait_for(lambda: note.exists() and note.read_text() != "")
    parent.kill()
    parent.wait()
    wait_for(lambda: gone(int(note.read_text())), 10.0)


def test_stop_all_ends_what_other_threads_run() -> None:
    """Once the one who stopped it took its exit status, and the other read 0: done."""
    lines: list[str] = []
    statuses: list[int] = []

    def work() -> None:
        code = "import time; print('up', flush=True); time.sleep(600)"
        statuses.append(running.run([PYTHON, "-c", code], lines.append, timeout_seconds=600).status)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: lines == ["up"])
    running.stop_all()
    thread.join(15)
    assert statuses == [-signal.SIGTERM]


NOTING = """
import pathlib, subprocess, sys, time

child = subprocess.Popen([sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)"])
status = child.wait()
notes = pathlib.Path(sys.argv[1])
notes.write_text("")
time.sleep({seconds})
notes.write_text(str(status))
"""


def stopped(tmp_path: Path, seconds: float) -> tuple[int, str]:
    """The exit status of a command that is stopped, and what it notes so long after the end of its child."""
    notes = tmp_path / "notes"

    def hear(line: str) -> None:
        if line == "ready":
            threading.Thread(target=running.stop_all).start()

    command = [PYTHON, "-c", NOTING.format(seconds=seconds), str(notes)]
    return running.run(command, hear, timeout_seconds=60).status, notes.read_text()


def test_a_command_that_is_stopped_may_note_how_its_child_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to end with its training, DVC died in the middle of that: its list of who holds which files was
    empty, and every later run in that folder failed.
    """
    monkeypatch.setattr(running, "END_SECONDS", 60.0)  # the machine may be busy
    assert stopped(tmp_path, 0.5) == (0, str(-signal.SIGTERM))


def test_but_not_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "END_SECONDS", 0.5)
    assert stopped(tmp_path, 600.0) == (-signal.SIGTERM, "")


def reproduce(stage: str, lines: list[str], wait_seconds: float = 60.0) -> bool:
    return running.reproduce(stage, lines.append, timeout_seconds=60, wait_seconds=wait_seconds)


def test_a_stage_runs_once(project: Path) -> None:
    lines: list[str] = []
    assert reproduce("download@toy", lines)
    assert any(line.startswith("making raw.txt") for line in lines)
    assert not any("dvc push" in line for line in lines)  # DVC's advice after every stage
    assert not reproduce("download@toy", lines)


def test_an_error_of_ours_is_logged_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancel, or a stage that failed, left a page of traceback for each task in the worker's log."""

    def logged(error: Exception) -> str:
        text = io.StringIO()
        logger = task_run_logger(TaskRun(task_key="step", dynamic_key="0"))
        assert any(isinstance(one, shown.Plainly) for one in logger.logger.filters)
        handler = logging.StreamHandler(text)
        monkeypatch.setattr(logger.logger, "handlers", [handler])
        monkeypatch.setattr(logger.logger, "propagate", False)
        try:
            raise error
        except Exception:
            logger.error("Task run failed", exc_info=True)  # as Prefect's engine does
        return text.getvalue()

    assert logged(running.CommandError("train@toy failed (status -15)")) == "Task run failed\n"
    assert "Traceback" in logged(ZeroDivisionError("a mistake of ours"))


def test_a_failed_stage_says_why_in_its_own_words(project: Path) -> None:
    (project / "broken").write_text("raw.txt")
    with pytest.raises(running.CommandError, match=r"(?s)download@toy failed.*line 3 is not text"):
        reproduce("download@toy", [])


def test_a_flow_goes_on_where_dvc_was_killed_while_it_wrote_who_holds_which_files(project: Path) -> None:
    assert reproduce("download@toy", [])
    listed = project / ".dvc" / "tmp" / "rwlock"
    for left in ("", '{"write": {"/da'):
        listed.write_text(left)
        lines: list[str] = []
        assert not reproduce("download@toy", lines)
        assert [line for line in lines if "begun anew" in line]
        json.loads(listed.read_text())


def test_a_list_that_tells_who_holds_which_files_is_kept(tmp_path: Path) -> None:
    listed = tmp_path / "rwlock"
    listed.write_text('{"write": {}}')
    running._forget_holders(tmp_path)
    assert listed.read_text() == '{"write": {}}'
    listed.unlink()
    running._forget_holders(tmp_path)


@pytest.mark.slow  # two real DVCs beside each other
def test_a_flow_waits_for_a_plain_repro_and_names_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    monkeypatch.setenv("WAITING", "raw.txt")
    other = start("-m", "dvc", "repro", "download@toy")
    monkeypatch.delenv("WAITING")
    wait_for((project / "begun.raw.txt").exists)
    lines: list[str] = []
    result: list[bool] = []
    thread = threading.Thread(target=lambda: result.append(reproduce("download@toy", lines)))
    thread.start()
    wait_for(lambda: any(line.startswith("waiting:") for line in lines))
    assert f"(PID {other.pid})" in next(line for line in lines if line.startswith("waiting:"))
    (project / "go").touch()
    thread.join(60)
    assert result == [False]  # the other one made it
    assert other.wait(60) == 0


@pytest.mark.slow  # two real DVCs beside each other
def test_a_plain_repro_beside_a_flow_says_who_holds_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAITING", "raw.txt")
    thread = threading.Thread(target=lambda: reproduce("download@toy", []))
    thread.start()
    wait_for((project / "begun.raw.txt").exists)
    done = dvc("repro")
    assert done.returncode != 0
    assert "is being blocked by" in done.stdout
    assert "(PID " in done.stdout
    (project / "go").touch()
    thread.join(60)
    assert dvc("repro", "download@toy").returncode == 0


@pytest.mark.slow  # two real DVCs beside each other
def test_waiting_has_an_end(project: Path, monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    monkeypatch.setenv("WAITING", "raw.txt")
    other = start("-m", "dvc", "repro", "download@toy")
    wait_for((project / "begun.raw.txt").exists)
    with pytest.raises(running.ProjectHeldError, match=f"PID {other.pid}"):
        reproduce("download@toy", [], wait_seconds=0.0)
    (project / "go").touch()
    assert other.wait(60) == 0


def test_one_flow_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / ".work" / "project.lock"
    with running.hold_project("flow run first", print, wait_seconds=0, path=lock):
        code = (
            "from pathlib import Path; from flows import running\n"
            f"with running.hold_project('second', print, wait_seconds=0, path=Path({str(lock)!r})): pass"
        )
        second = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert f"held by flow run first (PID {os.getpid()})" in second.stderr
    with running.hold_project("flow run third", print, wait_seconds=0, path=lock):
        pass


def test_a_lock_goes_with_its_killed_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    """It is killed once the other one waits: by a clock, it was gone at times before that one had come."""
    monkeypatch.setattr(running, "POLL_SECONDS", 0.05)
    lock = tmp_path / "project.lock"
    code = (
        "import time; from pathlib import Path; from flows import running\n"
        f"with running.hold_project('first', print, wait_seconds=0, path=Path({str(lock)!r})):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    first = start("-c", code)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    waited: list[str] = []

    def kill(text: str) -> None:
        waited.append(text)
        first.kill()

    with running.hold_project("second", kill, wait_seconds=30, path=lock):
        assert waited == [f"waiting: the project is held by first (PID {first.pid})"]
