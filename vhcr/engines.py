"""What runs one function over many shards: this process, all cores of this machine, or a Ray cluster.

A function is pure: its result, and the files that it writes into its shard's folder, are the same whenever
it runs. So what a killed worker had begun is simply done again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from vhcr.errors import ParameterError, VhcrError
from vhcr.tether import end_with_parent

T = TypeVar("T")
ATTEMPTS = 4  # of a task whose worker is killed; as Ray's own
# One task has one core: other tasks have the others.
THREADS = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1"}


class Engine(Protocol):
    """Calls a function with each of several lists of arguments; the results come in that order."""

    def __call__(self, function: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
        """The results, one for each of ``tasks``."""


def here(function: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
    """One after the other, in this process."""
    return [function(*task) for task in tasks]


@contextmanager
def started(name: str, workers: int | None = None) -> Iterator[Engine]:
    """The engine of ``tokenisation.engine``; its workers end with the block.

    Raises:
        ParameterError: the engine is not installed.
    """
    engine = Ray(workers) if name == "ray" else Processes(workers)
    try:
        yield engine
    finally:
        engine.stop()


class Processes:
    """Worker processes of this machine, by default one a core; started when there is more than one task."""

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or len(os.sched_getaffinity(0))
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, function: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
        """Raises VhcrError: workers were killed again and again."""
        if len(tasks) < 2 or self._workers < 2:
            return here(function, tasks)
        done: dict[int, T] = {}
        for _ in range(ATTEMPTS):
            try:
                pool = self._started()
                waiting = {
                    pool.submit(function, *task): number
                    for number, task in enumerate(tasks)
                    if number not in done
                }
                for future in as_completed(waiting):
                    done[waiting[future]] = future.result()
            except BrokenProcessPool:
                self.stop()
            else:
                return [done[number] for number in range(len(tasks))]
        raise VhcrError(
            f"{function.__name__}: workers were killed {ATTEMPTS} times, with {len(tasks) - len(done)} of "
            f"{len(tasks)} tasks to do: is there memory for {self._workers} workers?"
        )

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=get_context("spawn"), initializer=_begin
            )
        return self._pool

    def stop(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _begin() -> None:
    """In a new worker, before anything that has threads is imported."""
    end_with_parent()
    os.environ.update(THREADS)


class Ray:
    """Tasks of Ray Core on the cluster of RAY_ADDRESS, or on one that is started on this machine.

    Every node sees the project's folder under the same path, and has the same environment.
    """

    def __init__(self, workers: int | None = None) -> None:
        """Raises ParameterError: it is not installed."""
        try:
            import ray
        except ImportError:
            raise ParameterError(
                "tokenisation.engine = ray needs Ray: pip install 'vhcr[scale]', or take processes"
            ) from None
        self._ray: Any = ray
        self._own = not ray.is_initialized()
        if self._own:
            ray.init(num_cpus=workers, log_to_driver=False, configure_logging=False)

    def __call__(self, function: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
        """A task whose worker is killed, or whose node is lost, is begun again."""
        remote = self._ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1, runtime_env={"env_vars": THREADS})(
            function
        )
        found: list[T] = self._ray.get([remote.remote(*task) for task in tasks])
        return found

    def stop(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._own:
            self._ray.shutdown()
