"""Several processes train what one trains: same batches, same noise, same losses, to rounding."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.processes import free_port
from tests.stages import project
from tests.training import tiny
from vhcr import layout
from vhcr.models import build
from vhcr.params import TrainingParams
from vhcr.training.loop import Interrupted, adam, fit
from vhcr.training.parallel import Workers, join
from vhcr.training.run import TrainedRun
from vhcr.training.state import TrainState, read_tensors

TRAIN = tiny.conversations(22, seed=1)
VALIDATION = tiny.conversations(9, seed=2)

# What each process of a test runs.
WORKER = """
import sys
from pathlib import Path
import torch
from tests.training import test_distributed
test_distributed.work(sys.argv[1], Path(sys.argv[2]))
"""


def settings() -> TrainingParams:
    # 22 conversations in batches of 7: the last batch has one, which leaves the second process nothing.
    return tiny.training(batch_conversations=7, num_epochs=3, record_every_steps=1)


def new_state(system: str) -> TrainState:
    torch.set_num_threads(1)
    model = build(tiny.MODEL, tiny.system(system), tiny.VOCABULARY, seed=3)
    return TrainState(model, adam(model, settings()), "run")


def work(system: str, folder: Path) -> None:
    """Train as one of several processes; ``STOP_AT``: the so-manieth question stops the second."""
    asked = itertools.count(1)
    stop_at = int(os.environ.get("STOP_AT", "0"))
    with join(torch.device("cpu")) as workers, contextlib.suppress(Interrupted):
        assert workers.size == int(os.environ["WORLD_SIZE"])
        seen: list[object] = []

        class Watch:
            def recorded(self, rows: object, words_per_second: float) -> None:
                seen.append(rows)

            def progress(self, progress: object) -> None:
                pass

        state = new_state(system)
        if (folder / "state.safetensors").exists():
            state.load(folder / "state.safetensors")
            seen += state.position.rows
        workers.wait()
        fit(
            state,
            TRAIN,
            VALIDATION,
            settings(),
            seed=5,
            work=folder,
            observers=[Watch()],
            should_stop=lambda: workers.rank == 1 and next(asked) == stop_at,
            workers=workers,
        )
        state.save(folder / f"end-{workers.rank}.safetensors")
        assert len(state.position.rows) == len(seen)


def run_workers(count: int, system: str, folder: Path, stop_at: int = 0) -> None:
    port = str(free_port())
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    common |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "STOP_AT": str(stop_at)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, system, str(folder)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]
    try:
        assert [process.wait(timeout=250) for process in processes] == [0] * count
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize("system", ["vhcr-ud"])
def test_two_processes_train_what_one_trains(tmp_path: Path, system: str) -> None:
    alone = new_state(system)
    fit(alone, TRAIN, VALIDATION, settings(), seed=5, work=tmp_path / "alone")
    run_workers(2, system, tmp_path / "two")

    ends = [read_tensors(tmp_path / "two" / f"end-{rank}.safetensors") for rank in (0, 1)]
    for name, tensor in ends[0][0].items():
        assert torch.equal(tensor, ends[1][0][name]), f"{name}: the processes have drifted apart"
    one, two = alone.position.rows, ends[0][1]["position"]["rows"]
    assert len(one) == len(two) == 15  # 3 epochs of 4 steps and a validation
    for mine, theirs in zip(one, two, strict=True):
        for key, value in mine.items():
            # 12 updates by Adam let rounding in float32 grow from 1e-7.
            assert theirs[key] == (pytest.approx(value, rel=2e-5) if isinstance(value, float) else value), key
    best = read_tensors(tmp_path / "two" / "best.safetensors")[0]
    for name, tensor in read_tensors(tmp_path / "alone" / "best.safetensors")[0].items():
        torch.testing.assert_close(best[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_one_process_that_is_stopped_while_validating_stops_both(tmp_path: Path) -> None:
    """Signals reach one before the other; one that went on alone would wait for the other for ever."""
    folder = tmp_path / "two"
    run_workers(2, "vhcr-ud", tmp_path / "straight")
    run_workers(2, "vhcr-ud", folder, stop_at=5)  # after the four steps of the first epoch
    _, metadata = read_tensors(folder / "state.safetensors")
    assert metadata["position"]["step"] == 4
    assert [row["split"] for row in metadata["position"]["rows"]] == ["train"] * 4
    assert not (folder / "end-0.safetensors").exists()
    run_workers(2, "vhcr-ud", folder)
    ends = [(of / "end-1.safetensors").read_bytes() for of in (folder, tmp_path / "straight")]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_shares_cover_a_batch_once(size: int) -> None:
    chosen = np.random.default_rng(0).permutation(22)[:8]
    shares = [Workers(rank, size).share(chosen) for rank in range(size)]
    assert sorted(np.concatenate(shares).tolist()) == sorted(chosen.tolist())
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    scored = [
        index
        for rank in range(size)
        for batch in VALIDATION.batches(2, every=size, first=rank)
        for index in batch.index.tolist()
    ]
    assert sorted(scored) == list(range(9))


@pytest.mark.slow
def test_torchrun_runs_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of the docs: one run in the end, with one process's curves to rounding."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VHCR_MLFLOW", "off")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    project.prepare(project.make(tmp_path))
    stage = ["-m", "vhcr.stages.train", "--corpus", "toy", "--system", "vhcr-ud", "--seed", "0"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    curves = []
    for command in (stage, [*launcher, *stage]):
        subprocess.run([sys.executable, *command], check=True, timeout=240)
        folder = layout.trained("toy", "vhcr-ud", 0)
        curves.append((folder / "curves.csv").read_text(encoding="utf-8").splitlines())
        assert TrainedRun.load(folder).info["system"] == "vhcr-ud"
        shutil.rmtree(folder)
    assert len(curves[0]) == len(curves[1]) > 3
    assert curves[0][0] == curves[1][0]
    for alone, together in zip(curves[0][1:], curves[1][1:], strict=True):
        for mine, theirs in zip(alone.split(","), together.split(","), strict=True):
            try:
                assert float(theirs) == pytest.approx(float(mine), rel=1e-4, abs=1e-6)
            except ValueError:
                assert mine == theirs
    assert not list((layout.WORK / "train").iterdir())
