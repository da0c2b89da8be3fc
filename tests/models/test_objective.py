"""Reduction happens once: the bound, its weight, the loss, and per-word averages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.models.examples import conversations, network, packed
from vhcr.models import Latents, ModelOutput, Noise, objective
from vhcr.models.objective import Totals


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def by_hand() -> ModelOutput:
    """Two conversations, of two turns and of one."""
    return ModelOutput(
        reconstruction_error=tensor([10.0, 20.0], [5.0, 0.0]),
        kl_utt=tensor([1.0, 2.0], [0.5, 0.0]),
        kl_conv=tensor(4.0, 8.0),
        bag_of_words_error=tensor([100.0, 200.0], [300.0, 0.0]),
        num_words=torch.tensor([[3, 4], [1, 0]]),
        word_errors=torch.zeros(8),
        latents=Latents(torch.zeros(3, 1)),
    )


def test_elbo_is_minus_reconstruction_minus_both_kl_terms_per_conversation() -> None:
    assert objective.elbo(by_hand()).tolist() == [-(10 + 20 + 1 + 2 + 4), -(5 + 0.5 + 8)]


def test_loss_weighs_the_kl_and_the_bag_and_is_per_word() -> None:
    output = by_hand()
    assert float(objective.loss(output, 1.0, 0.0)) == pytest.approx((35 + 15.5) / 8)
    assert float(objective.loss(output, 0.0, 0.0)) == pytest.approx(35 / 8)
    assert float(objective.loss(output, 0.25, 0.0)) == pytest.approx((35 + 0.25 * 15.5) / 8)
    assert float(objective.loss(output, 0.25, 0.5)) == pytest.approx((35 + 0.25 * 15.5 + 300) / 8)
    # The bound knows neither weight.
    assert float(objective.loss(output, 1.0, 0.0)) == pytest.approx(float(-objective.elbo(output).sum()) / 8)


def test_loss_of_a_model_is_minus_the_elbo_per_word_once_annealed() -> None:
    model = network("vhcr").eval()
    batch = packed(conversations([3, 1, 2]))
    output = model(batch, Noise(0))
    expected = -objective.elbo(output).sum() / len(batch.token_ids)
    torch.testing.assert_close(objective.loss(output, 1.0, 0.0), expected)


@pytest.mark.parametrize("steps", [1, 7, 15_000])
def test_kl_weight_is_linear_from_zero_to_one_and_stays(steps: int) -> None:
    weights = [objective.kl_weight(step, steps) for step in range(min(steps, 1000) + 1)]
    assert weights[0] == 0.0
    assert weights == pytest.approx([step / steps for step in range(len(weights))])
    assert objective.kl_weight(steps, steps) == 1.0
    assert objective.kl_weight(10 * steps, steps) == 1.0
    if steps > 1:
        assert objective.kl_weight(steps - 1, steps) < 1.0


def test_no_annealing_is_full_weight_from_the_first_step() -> None:
    assert objective.kl_weight(0, 0) == 1.0


def test_totals_are_sums_and_per_word_divides_by_words_scored() -> None:
    output = by_hand()
    totals = Totals.of(output, objective.loss(output, 0.5, 0.1))
    totals.add(Totals.of(output, objective.loss(output, 1.0, 0.0)))
    assert totals.num_words == 16
    assert totals.num_conversations == 4
    assert totals.per_word() == pytest.approx(
        {
            "nll_per_word": (35 + 15.5) / 8,
            "reconstruction_per_word": 35 / 8,
            "kl_per_word": 15.5 / 8,
            "kl_conv_per_word": 12 / 8,
            "kl_utt_per_word": 3.5 / 8,
            "bag_of_words_per_word": 600 / 8,
        }
    )
    assert totals.loss / totals.num_words == pytest.approx(((35 + 7.75 + 60) + (35 + 15.5)) / 16)


def test_totals_of_batches_equal_those_of_the_whole() -> None:
    """Per word over all words, not a mean of batch means: batches differ in size."""
    model = network("vhcr").eval()
    chosen = conversations([4, 1, 2], seed=5)
    with torch.no_grad():
        whole = Totals.of(model(packed(chosen), Noise(0)))
        parts = Totals()
        for number, conversation in enumerate(chosen):
            parts.add(Totals.of(model(packed([conversation], [number]), Noise(0))))
    assert parts.per_word() == pytest.approx(whole.per_word(), rel=1e-12)


def test_totals_of_nothing() -> None:
    assert set(Totals().per_word().values()) == {0.0}


def test_free_bits_are_free_and_no_more_per_utterance_and_per_conversation() -> None:
    """Turns that are not there, or not scored, get none: each would add a constant."""
    output = by_hand()
    # 1, 2 and 0.5 become 1.5, 2 and 1.5; 4 and 8 become 6 and 8.
    assert float(objective.loss(output, 1.0, 0.0, 1.5, 6.0)) == pytest.approx((35 + 5.0 + 14.0) / 8)
    assert float(objective.loss(output, 0.5, 0.0, 1.5, 0.0)) == pytest.approx((35 + 0.5 * (5.0 + 12.0)) / 8)
    assert float(objective.loss(output, 1.0, 0.0, 0.0, 6.0)) == pytest.approx((35 + 3.5 + 14.0) / 8)


def test_free_bits_of_a_conversation_may_go_by_its_length() -> None:
    """Seven words and one: 4 and 8 become 7 and 8, or 9 and 8 with two nats for each conversation."""
    output = by_hand()
    per_word = {"free_bits_conv_per_word": 1.0}
    assert float(objective.loss(output, 1.0, 0.0, **per_word)) == pytest.approx((35 + 3.5 + 15.0) / 8)
    found = objective.loss(output, 1.0, 0.0, free_bits_conv=2.0, **per_word)
    assert float(found) == pytest.approx((35 + 3.5 + 17.0) / 8)


def test_a_kl_below_its_free_bits_is_pushed_nowhere_and_one_above_as_ever() -> None:
    output = by_hand()
    kl_utt, kl_conv = output.kl_utt.clone().requires_grad_(), output.kl_conv.clone().requires_grad_()
    objective.loss(output._replace(kl_utt=kl_utt, kl_conv=kl_conv), 1.0, 0.0, 1.5, 6.0).backward()
    assert kl_utt.grad is not None
    assert kl_conv.grad is not None
    assert (kl_utt.grad * 8).tolist() == [[0.0, 1.0], [0.0, 1.0]]  # the last turn is not there
    assert (kl_conv.grad * 8).tolist() == [0.0, 1.0]


def test_free_bits_do_not_change_the_bound() -> None:
    output = by_hand()
    totals = Totals.of(output, objective.loss(output, 1.0, 0.0, 1.5, 6.0))
    assert totals.per_word()["nll_per_word"] == pytest.approx((35 + 15.5) / 8)


def test_a_cyclical_kl_weight_rises_and_rests_in_each_cycle_and_ends_at_one() -> None:
    weights = [objective.kl_weight(step, 400, cycles=4) for step in range(500)]
    for cycle in range(4):
        own = weights[100 * cycle : 100 * cycle + 100]
        assert own[:50] == pytest.approx([step / 50 for step in range(50)])
        assert own[50:] == [1.0] * 50
    assert weights[400:] == [1.0] * 100


def test_a_final_kl_weight_scales_the_whole_schedule() -> None:
    for cycles in (1, 3):
        full = [objective.kl_weight(step, 90, cycles) for step in range(120)]
        half = [objective.kl_weight(step, 90, cycles, final=0.5) for step in range(120)]
        assert half == pytest.approx([0.5 * weight for weight in full])
