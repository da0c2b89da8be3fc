"""What a training is said to take, against what it then does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training import tiny
from vhcr.errors import DataError
from vhcr.models import build
from vhcr.models.objective import Totals
from vhcr.stages.train import read_tokenised
from vhcr.training import estimate as module
from vhcr.training import loop
from vhcr.training.estimate import Estimate, Work, estimate, work
from vhcr.training.run import RunParams
from vhcr.training.state import TrainState

TRAIN, VALIDATION = tiny.conversations(11, seed=1), tiny.conversations(5, seed=2)  # 4 + 4 + 3 a batch


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_steps": 4},  # ends within the second epoch
        {"max_steps": 6},  # ends with it
        {"max_steps": 100},
        {"validate_every_steps": 2},
        {"validate_every_steps": 3},  # as often as an epoch ends
        {"validate_every_steps": 2, "max_steps": 4},
        {"batch_conversations": 80},  # every batch is short
    ],
)
def test_what_is_counted_is_what_fit_computes(
    changes: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short last batch, and validations at one step, are easily counted twice or not at all."""
    params = tiny.training(**changes)
    model = build(tiny.MODEL, tiny.system("hred"), tiny.VOCABULARY, seed=0)
    state = TrainState(model, loop.adam(model, params), "counted")
    done: list[int] = []

    def step(state: object, batch: object, *_: object) -> Totals:
        done.append(len(batch.token_ids))  # type: ignore[attr-defined]
        return Totals()

    validations: list[int] = []

    def validated(model: object, data: object, *_: object) -> tuple[Totals, dict[str, float]]:
        validations.append(len(done))
        return Totals(), {}

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(loop, "validate", validated)
    loop.fit(state, TRAIN, VALIDATION, params, seed=3, work=tmp_path)
    expected = Work(len(done), sum(done), len(validations), VALIDATION.num_words)
    assert work(TRAIN, VALIDATION, params, seed=3) == expected


def test_seconds_are_those_of_all_words() -> None:
    """100 words a second for 5,000 words, and 400 for three validations of 2,000."""
    found = Estimate(Work(60, 5000, 3, 2000), 100.0, 400.0, "float32", 1_640_000_000)
    assert found.seconds == 50.0 + 15.0
    assert str(found) == (
        "60 steps, 3 validations, about 0:01:05 (100 words/s in float32), peak memory 1.6 GB"
    )


def test_a_short_batch_counts_by_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each update takes a second a word here, each validation half of one: whatever is timed, so is the rate.

    Seconds a batch instead would promise a third more where one batch of three is nearly empty.
    """
    now = 0.0
    update = loop.train_step

    def step(state: TrainState, batch: object, *rest: object) -> Totals:
        nonlocal now
        now += len(batch.token_ids)  # type: ignore[attr-defined]
        return update(state, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "train_step", step)
    params = RunParams(model=tiny.MODEL, system=tiny.system("vhcr-ud"), training=tiny.training())
    before = torch.random.get_rng_state()
    found = estimate(params, tiny.VOCABULARY, TRAIN, VALIDATION, 3, clock=lambda: now)
    assert found.words_per_second == pytest.approx(1.0)
    assert found.work == work(TRAIN, VALIDATION, params.training, 3)
    assert found.precision == "float32"
    assert found.peak_bytes > 10_000_000
    assert torch.equal(torch.random.get_rng_state(), before), "a training must not notice"


def test_a_corpus_that_is_not_tokenised_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"manifest.json is missing: 'toy' is not tokenised yet; `dvc repro"):
        read_tokenised("toy")
