"""The diagnostics of every validation: what a pass of its own finds, from sums alone."""

import numpy as np
import pytest
import torch

from tests.training import tiny
from vhcr.evaluation.latents import gather, moments
from vhcr.models import HierarchicalModel, Noise, build
from vhcr.training.loop import validate
from vhcr.training.moments import LatentSums, Moments
from vhcr.training.parallel import Workers

DATA = tiny.conversations(17, seed=4)


def model(system: str, **changes: object) -> HierarchicalModel:
    return build(tiny.MODEL, tiny.system(system, **changes), tiny.VOCABULARY).eval()


def summed(network: HierarchicalModel, size: int, every: int = 1, first: int = 0) -> LatentSums:
    """Over the batches that one of ``every`` processes is given."""
    sums = LatentSums(network)
    with torch.no_grad():
        for batch in DATA.batches(size, every=every, first=first):
            sums.add(network, batch, network(batch, Noise(0)))
    return sums


def test_ratio_and_active_units_by_hand():
    # E[var] / Var(mu): 0.5 / 1, 1 / 4, and of a constant mean 1e-12 / 1e-12. Only two means move.
    found = Moments(
        torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64),
        torch.tensor([0.5, 1.0, 1e-12], dtype=torch.float64),
    )
    assert found.variance_ratio() == pytest.approx((0.5 + 0.25 + 1) / 3)
    assert found.active_units() == 2


@pytest.mark.parametrize("system", ["vhred", "vhcr-ud"])
def test_sums_over_batches_are_the_moments_of_all_that_was_gathered(system):
    network = model(system)
    usage = summed(network, 3).usage()
    found = gather(network, DATA, len(DATA), 5, seed=0)
    assert found.prior_utt is not None
    assert found.posterior_utt is not None
    # float32 passes in other batches; the sums themselves are float64.
    expected = {
        "prior_variance_ratio": moments(found.prior_utt).variance_ratio(),
        "posterior_variance_ratio_utt": moments(found.posterior_utt).variance_ratio(),
        "active_units_utt": moments(found.posterior_utt).active_units(),
    }
    if found.posterior_conv is not None:
        expected["posterior_variance_ratio_conv"] = moments(found.posterior_conv).variance_ratio()
        expected["active_units_conv"] = moments(found.posterior_conv).active_units()
    assert ("active_units_conv" in usage) == (system == "vhcr-ud")
    assert usage == pytest.approx(expected, rel=1e-4)
    # The same in a validation, but for the draws of z_conv, on which the priors of z_utt depend.
    validated = validate(network, DATA, 3, seed=0)[1]
    assert validated.keys() == usage.keys()
    assert validated.get("active_units_conv") == usage.get("active_units_conv")


def test_a_model_without_latents_has_nothing_to_say():
    assert validate(model("hred"), DATA, 3, seed=0)[1] == {}


def test_shares_of_several_processes_add_up():
    """The third process has no batch at all, and must still have zeros to send."""
    network = model("vhcr-ud")
    shares = [summed(network, 9, every=3, first=first).values for first in range(3)]
    assert not shares[2].any()
    together = LatentSums(network)
    together.values = torch.stack(shares).sum(0)
    assert together.usage() == pytest.approx(summed(network, 9).usage(), rel=1e-9)
    assert LatentSums(network).usage() == {}
    assert Workers().sum_tensor(shares[0]) is shares[0]


def test_utterances_that_nothing_trains_are_left_out():
    """The reading ``release`` never scores the first utterance: its prior is whatever it was at the start."""
    network = model("vhred", reading="release")
    found = gather(network, DATA, len(DATA), 5, seed=0)
    assert found.prior_utt is not None
    assert found.turn.min() == 1
    usage = validate(network, DATA, 3, seed=0)[1]
    assert usage["prior_variance_ratio"] == pytest.approx(moments(found.prior_utt).variance_ratio(), rel=1e-4)


def test_a_mean_far_from_zero_does_not_swallow_the_variance():
    network = model("vhred")
    network.posterior_mlp.mu.bias.data += 1000.0
    shifted = validate(network, DATA, 3, seed=0)[1]
    network.posterior_mlp.mu.bias.data -= 1000.0
    plain = validate(network, DATA, 3, seed=0)[1]
    # float32 means near 1000 are 6e-5 apart; float32 sums of squares would be off by 0.1.
    assert shifted["posterior_variance_ratio_utt"] == pytest.approx(
        plain["posterior_variance_ratio_utt"], rel=0.02
    )
    assert np.isfinite(shifted["posterior_variance_ratio_utt"])
