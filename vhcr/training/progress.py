"""What a person sees while a run trains: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from vhcr.training.loop import Progress
from vhcr.training.state import Row

log = logging.getLogger(__name__)

LOG_SECONDS = 15.0


def duration(seconds: float) -> str:
    """``1:05:09`` or ``5:09``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def line(progress: Progress) -> str:
    """Loss, KL, speed and time left in one line; nats per word."""
    return (
        f"step {progress.step}/{progress.total_steps}  loss {progress.loss:.3f}  "
        f"nll {progress.nll_per_word:.3f}  kl {progress.kl_per_word:.3f}  "
        f"{progress.words_per_second:,.0f} words/s in {progress.precision}  "
        f"{duration(progress.seconds_left)} left"
    )


class TerminalProgress:
    """An observer that draws a bar on a terminal, or logs a line every few seconds where there is none."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._logged = time.monotonic()

    def __enter__(self) -> TerminalProgress:
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"))
            self._bar = Bar(*columns, console=Console(stderr=True), refresh_per_second=4)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def recorded(self, rows: Sequence[Row], words_per_second: float) -> None:
        """Nothing to draw: the curves have their own place."""

    def progress(self, progress: Progress) -> None:
        """Move the bar, or log a line if the last is old enough."""
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(self._title, total=progress.total_steps, line="")
            self._bar.update(self._task, completed=progress.step, line=line(progress))
        elif time.monotonic() - self._logged > LOG_SECONDS:
            self._logged = time.monotonic()
            log.info("%s: %s", self._title, line(progress))
