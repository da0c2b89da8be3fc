from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tests.training import tiny
from vhcr.params import recorded
from vhcr.training.order import ComputedOrder, Kind, epoch_order
from vhcr.training.run import RunParams


@pytest.mark.parametrize("kind", ["shuffled", "computed"])
@pytest.mark.parametrize("count", [1, 2, 3, 50, 1000])
def test_a_permutation_of_its_own_for_every_seed_and_epoch(kind: Kind, count: int) -> None:
    orders = {
        (seed, epoch): epoch_order(count, seed, epoch, kind)[:]
        for seed in (0, 2**63 - 1)
        for epoch in (0, 1, 2)
    }
    for order in orders.values():
        assert sorted(order.tolist()) == list(range(count))
    if count >= 50:
        assert len({tuple(order.tolist()) for order in orders.values()}) == 6
    assert (epoch_order(count, 0, 2, kind)[:] == orders[0, 2]).all()


def test_the_computed_order_is_the_same_in_parts_and_on_every_machine() -> None:
    order = ComputedOrder(10_007, seed=5, epoch=1)
    whole = order[:]
    parts = [order[first : first + 80] for first in range(0, len(order), 80)]
    assert np.concatenate(parts).tolist() == whole.tolist()
    assert hashlib.sha256(whole.astype("<i8").tobytes()).hexdigest()[:16] == "472fb474631552fd", (
        "a fixed answer"
    )


def test_the_computed_order_is_random_as_far_as_a_training_can_tell() -> None:
    """Every place holds every number as often; neighbours are as far from each other as by chance."""
    count, epochs = 20, 1000
    seen = np.zeros((count, count))
    for epoch in range(epochs):
        seen[np.arange(count), ComputedOrder(count, seed=3, epoch=epoch)[:]] += 1
    expected = epochs / count
    chi_squared = float(((seen - expected) ** 2 / expected).sum())
    # (20 - 1)² degrees of freedom: 361 ± 27; five standard deviations.
    assert abs(chi_squared - 361) < 135
    large = ComputedOrder(100_000, seed=0, epoch=0)[:]
    # The mean distance of two of n at random is n / 3, of 99,999 pairs within 0.24 % (one deviation).
    assert np.abs(np.diff(large)).mean() / 100_000 == pytest.approx(1 / 3, rel=0.012)
    assert abs(np.corrcoef(large, np.arange(100_000))[0, 1]) < 5 / np.sqrt(100_000)


def test_a_billion_take_no_memory_and_no_time() -> None:
    batch = ComputedOrder(10**9, seed=0, epoch=0)[999_999_920:]
    assert len(set(batch.tolist())) == 80
    assert 0 <= batch.min() < batch.max() < 10**9


def test_a_run_of_before_keeps_the_order_it_had() -> None:
    """Its record names none; resumed or made again, it must see the same batches."""
    values = {
        "model": tiny.MODEL.model_dump(mode="json"),
        "system": tiny.PARAMS.system("vhcr").model_dump(mode="json"),
        "training": tiny.training().model_dump(mode="json"),
    }
    del values["training"]["epoch_order"]
    assert recorded(RunParams, values, origin="run.json").training.epoch_order == "shuffled"
