"""Run a command for a flow: its lines as they come, a time limit, and nothing left behind."""

import codecs
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from flows.graph import dvc
from vhcr.errors import HeldError, VhcrError
from vhcr.files import locked

STOP_SECONDS = 10.0  # a training leaves a checkpoint within this time
END_SECONDS = 3.0  # and DVC above it, which then notes its end, ends within this time
BAR_SECONDS = 10.0  # a progress bar is repeated in the log no more often than this
POLL_SECONDS = 2.0
# For commands that run beside each other. The number of threads stays what it is: sums over other parts round
# differently, and a run would not come out the same. But threads that wait let others compute.
SHARED_CORES = {"OMP_WAIT_POLICY": "PASSIVE"}
ADVICE = (  # what DVC says after every stage, to people at a terminal
    "To track the changes with git, run:",
    "git add dvc.lock",
    "To enable auto staging, run:",
    "dvc config core.autostage true",
    "Use `dvc push` to send your updates to remote storage.",
)
BUSY = "it is being blocked by"  # DVC's words when another process reads or writes a stage's files
BROKEN = "Unable to read RWLock-file"  # and when its list of who does is no JSON

_children: set[int] = set()
_children_lock = threading.Lock()


class CommandError(VhcrError):
    """A command failed or took too long; the message ends with its last lines."""


class ProjectHeldError(VhcrError):
    """Somebody else runs the project, and went on doing so for longer than we would wait."""


class Finished(NamedTuple):
    """How a command ended."""

    status: int
    lines: tuple[str, ...]  # the last ones


def run(
    command: Sequence[str],
    on_line: Callable[[str], None],
    *,
    timeout_seconds: float,
    environment: Mapping[str, str] | None = None,
    cwd: Path | str = ".",
) -> Finished:
    """Run ``command`` and hand over each line it prints, as it prints it.

    It stays in our process group, so that cancelling the flow reaches it too; and it is tethered, so that it
    ends even when we are killed. Where it has to be stopped, by the time limit or because we are, its last
    lines are handed over too: they say whether it left a checkpoint.

    Raises:
        CommandError: it took longer than ``timeout_seconds``; it has been stopped.
    """
    tethered = [sys.executable, "-m", "flows.tether", str(os.getpid()), *command]
    root = str(Path(__file__).resolve().parent.parent)
    inherited = {**os.environ, **(environment or {})}
    inherited["PYTHONPATH"] = os.pathsep.join(filter(None, (root, inherited.get("PYTHONPATH"))))
    inherited["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), inherited.get("PATH", "")))
    inherited["PYTHONUNBUFFERED"] = "1"
    last: deque[str] = deque(maxlen=40)
    deadline = time.monotonic() + timeout_seconds
    process = subprocess.Popen(
        tethered,
        cwd=cwd,
        env=inherited,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with _children_lock:
        _children.add(process.pid)
    assert process.stdout is not None
    output = _Lines(process.stdout.fileno())

    def hear(until: float) -> None:
        for line in output.read(until):
            last.append(line)
            on_line(line)

    try:
        try:
            hear(deadline)
            status = process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            # Stopped together with us, it may be gone while what it started still leaves a checkpoint.
            if process.poll() is None or not output.ended:
                with _stopping(process), contextlib.suppress(TimeoutError):
                    hear(time.monotonic() + STOP_SECONDS + 2 * END_SECONDS)
    except (TimeoutError, subprocess.TimeoutExpired):
        shown = "\n".join(last)
        raise CommandError(
            f"{' '.join(command)}: stopped after {timeout_seconds:.0f} s\n{shown}".rstrip()
        ) from None
    finally:
        process.stdout.close()
        with _children_lock:
            _children.discard(process.pid)
    return Finished(status, tuple(last))


@contextlib.contextmanager
def _stopping(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stop a process in the background, so that we can hear what it says meanwhile."""
    stopper = threading.Thread(target=lambda: stop(process.pid) if process.poll() is None else None)
    stopper.start()
    try:
        yield
    finally:
        stopper.join()
        process.wait()


class _Lines:
    """The lines of a pipe; of one that a progress bar rewrites, only some come through."""

    def __init__(self, descriptor: int) -> None:
        self.ended = False  # everybody who wrote to the pipe has closed it
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ready: deque[str] = deque()
        self._pending = ""
        self._bar_shown = -BAR_SECONDS

    def read(self, until: float) -> Iterator[str]:
        """Lines until the pipe ends; interrupted or out of time, one may read on where that was.

        Raises:
            TimeoutError: it is later than ``until``, by the monotonic clock.
        """
        while True:
            while self._ready:
                yield self._ready.popleft()
            if self.ended:
                return
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if select.select([self._descriptor], [], [], min(left, 1.0))[0]:
                self._take(os.read(self._descriptor, 65536))

    def _take(self, data: bytes) -> None:
        self.ended = not data
        text = self._pending + self._decoder.decode(data, final=self.ended)
        *whole, self._pending = text.replace("\r\n", "\n").split("\n")
        if self.ended:
            whole.append(self._pending)
        self._ready.extend(shown for line in whole if (shown := line.rpartition("\r")[2].rstrip()))
        if "\r" in self._pending and not self.ended:
            parts = [part for part in self._pending.split("\r") if part.strip()]
            self._pending = self._pending.rpartition("\r")[2]
            if parts and time.monotonic() - self._bar_shown >= BAR_SECONDS:
                self._bar_shown = time.monotonic()
                self._ready.append(parts[-1].rstrip())


def stop(pid: int) -> None:
    """End a process and all below it: asked first, forced after STOP_SECONDS.

    The process itself is asked only if it goes on once those below it have ended. A training leaves its
    checkpoint, and DVC above it notes in its own files how that ended; stopped while it writes, it leaves
    them empty, and no DVC works in that folder again.
    """
    try:
        parent = psutil.Process(pid)
        below = parent.children(recursive=True)
    except psutil.NoSuchProcess:
        return
    deadline = time.monotonic() + STOP_SECONDS
    _end(below, deadline)
    if below:
        _wait([parent], time.monotonic() + END_SECONDS)
    with contextlib.suppress(psutil.NoSuchProcess):
        _end([*parent.children(recursive=True), parent], max(deadline, time.monotonic() + END_SECONDS))


def _end(processes: Sequence[psutil.Process], deadline: float) -> None:
    """Ask processes to end, and force those that have not by then."""
    for process in filter(_alive, processes):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _wait(processes, deadline)
    for process in filter(_alive, processes):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _wait(processes: Sequence[psutil.Process], deadline: float) -> None:
    while any(map(_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _alive(process: psutil.Process) -> bool:
    """Whether it still runs. psutil's own wait would take the exit status away from whoever waits for it,
    who would then read 0: a stage that was stopped would count as done.
    """
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def stop_all() -> None:
    """End every command that `run` has started in this process and that still goes on."""
    with _children_lock:
        pids = tuple(_children)
    for pid in pids:
        stop(pid)


def reproduce(
    stages: str | Sequence[str],
    on_line: Callable[[str], None],
    *,
    timeout_seconds: float,
    wait_seconds: float,
    environment: Mapping[str, str] | None = None,
    cwd: Path | str = ".",
) -> bool:
    """Bring a stage up to date (or several, with all they need); returns whether anything had to run.

    While another DVC process holds the stage's files, say who and wait. Where one was killed while it wrote
    down who holds which, forget that list.

    Raises:
        CommandError: the stage failed.
        ProjectHeldError: the files were held for longer than ``wait_seconds``.
    """
    give_up = time.monotonic() + wait_seconds
    said: tuple[str, ...] = ()
    targets = ["--single-item", stages] if isinstance(stages, str) else list(stages)
    stage = stages if isinstance(stages, str) else " ".join(stages)
    ran = False

    def heard(line: str) -> None:
        nonlocal ran
        ran = ran or line.startswith("Running stage ")
        if line.strip() not in ADVICE:
            on_line(line)

    while True:
        done = run(
            dvc("--wait-for-lock", "repro", *targets),
            heard,
            timeout_seconds=timeout_seconds,
            environment=environment,
            cwd=cwd,
        )
        if done.status == 0:
            return ran
        if any(BROKEN in line for line in done.lines):
            on_line("DVC was killed here while it wrote down who holds which files; that list is begun anew")
            _forget_holders(Path(cwd) / ".dvc" / "tmp")
            continue
        if not any(BUSY in line for line in done.lines):
            raise CommandError(f"{stage} failed (status {done.status})\n" + "\n".join(done.lines[-15:]))
        holders = tuple(line.strip() for line in done.lines if line.strip().startswith("(PID "))
        if time.monotonic() > give_up:
            raise ProjectHeldError(f"{stage}: its files are held by {'; '.join(holders)}")
        if holders != said:
            on_line(f"waiting: the files of {stage} are held by {'; '.join(holders)}")
            said = holders
        time.sleep(POLL_SECONDS)


def _forget_holders(folder: Path) -> None:
    """Remove DVC's list of who reads and writes which files, if it is broken: it tells nobody anything."""
    listed = folder / "rwlock"
    with locked(folder / "rwlock.lock"):  # as DVC does while it reads or writes the list
        try:
            json.loads(listed.read_text(encoding="utf-8"))
        except ValueError:
            listed.unlink()
        except FileNotFoundError:
            pass  # another flow was quicker


@contextlib.contextmanager
def hold_project(
    who: str,
    on_wait: Callable[[str], None],
    *,
    wait_seconds: float,
    path: Path = Path(".work/project.lock"),
    what: str = "the project",
) -> Iterator[None]:
    """One flow at a time runs the project (or ``what``); a second one is told who does, and waits.

    The lock goes with the process, however that ends.

    Raises:
        ProjectHeldError: it was held for longer than ``wait_seconds``.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(
                locked(
                    path,
                    who,
                    wait_seconds=wait_seconds,
                    on_wait=lambda holder: on_wait(f"waiting: {what} is held by {holder}"),
                )
            )
        except HeldError as error:
            raise ProjectHeldError(f"{what} is held by {error}") from None
        yield
