"""What stands beside a conversation changes none of its numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models.examples import ANCHORS, READINGS, SYSTEMS, conversations, network, packed, system
from vhcr.batch import Batch
from vhcr.models import ModelOutput, Noise

NOISE = Noise(9, 4)
MANY = conversations([3, 1, 4, 2, 2, 5, 1], seed=6)
NAMES = [31, 4, 12, 8, 90, 55, 2]
Numbers = dict[int, list[torch.Tensor]]


def by_name(batch: Batch, output: ModelOutput) -> Numbers:
    """Every number of every conversation, cut to its own turns."""
    turns = torch.bincount(batch.conversation)
    result: Numbers = {}
    for place, name in enumerate(batch.index.tolist()):
        own = slice(0, int(turns[place]))
        result[name] = [
            output.reconstruction_error[place, own],
            output.kl_utt[place, own],
            output.kl_conv[place],
            output.bag_of_words_error[place, own],
            output.num_words[place, own].double(),
        ]
        for padding in (output.reconstruction_error, output.kl_utt, output.bag_of_words_error):
            assert (padding[place, int(turns[place]) :] == 0.0).all()
    return result


def same(one: Numbers, other: Numbers, names: list[int]) -> None:
    for name in names:
        for a, b in zip(one[name], other[name], strict=True):
            # Sums may run in another order in a batch of another size: a few roundings of float64.
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# The release tosses its coins per batch, but by position: a conversation still meets the same coins.
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("name", ["hred", "vhred-bow", "vhcr-ud", *ANCHORS])
def test_alone_in_company_and_in_any_order(name: str, reading: str, training: bool) -> None:
    drops = {} if name in ANCHORS else {"word_drop": 0.3, "utterance_drop": 0.3}
    model = network(name, reading, layers=2, **drops).train(training)
    # Which other conversation's z_conv the release starts a context from hangs on the batch (test_drops.py).
    model.reading = replace(model.reading, shuffles_context_starts=False)
    with torch.no_grad():
        together = packed(MANY, NAMES)
        company = by_name(together, model(together, NOISE))
        order = [4, 0, 6, 2, 5, 1, 3]
        shuffled = packed([MANY[n] for n in order], [NAMES[n] for n in order])
        same(by_name(shuffled, model(shuffled, NOISE)), company, NAMES)
        for number, single in enumerate(MANY):
            alone = packed([single], [NAMES[number]])
            same(by_name(alone, model(alone, NOISE)), company, [NAMES[number]])


def test_a_name_and_a_draw_are_what_the_noise_is_keyed_by() -> None:
    model = network("vhcr").eval()
    with torch.no_grad():
        once = model(packed(MANY[:1], [5]), NOISE)
        other_name = model(packed(MANY[:1], [6]), NOISE)
        draws = model(packed(MANY[:1], [5], samples=3), NOISE)
        other_step = model(packed(MANY[:1], [5]), Noise(9, 5))
        other_seed = model(packed(MANY[:1], [5]), Noise(8, 4))
    assert once.latents.z_conv is not None
    assert draws.latents.z_conv is not None
    torch.testing.assert_close(draws.latents.z_conv[:1], once.latents.z_conv)
    torch.testing.assert_close(draws.reconstruction_error[:1], once.reconstruction_error)
    everything = torch.cat(
        [draws.latents.z_conv, *(x.latents.z_conv for x in (other_name, other_step, other_seed))]
    )
    assert len(everything.unique(dim=0)) == len(everything) == 6
    # Each turn draws its own z_utt.
    posterior = once.latents.posterior_utt
    assert posterior is not None
    eps = (once.latents.z_utt - posterior.mu) / posterior.var.sqrt()
    assert len(eps.unique()) == eps.numel() == 3 * 2


@pytest.mark.parametrize("name", SYSTEMS)
def test_weights_come_from_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one = network(name, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    two, other = network(name, seed=3), network(name, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embedding.weight, other.embedding.weight)
    assert one.system == system(name)
