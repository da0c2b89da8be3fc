"""Word drop (3.3) and utterance drop (3.5): how much, of what, when, and for whom."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.examples import DROPS, READINGS, conversations, network, packed
from vhcr.models import HierarchicalModel, ModelOutput, Noise, layers
from vhcr.tokenisation.specials import SOS, UNK

BATCH = packed(conversations([6] * 40, seed=1, max_words=9))
NOISE = Noise(7, 3)
H_ENC = torch.randn(BATCH.num_rows, 3, generator=torch.Generator().manual_seed(0))
H_UNK = torch.tensor([5.0, 6.0, 7.0])
INNER = BATCH.word_step > 0


def utterances(probability: float, *, shared: bool = False, noise: Noise = NOISE) -> Tensor:
    return layers.drop_utterances(H_ENC, H_UNK, BATCH, probability, noise, shared=shared)


def words(probability: float, *, shared: bool = False, noise: Noise = NOISE) -> Tensor:
    return layers.drop_words(BATCH, probability, noise, shared=shared)


@pytest.mark.parametrize("shared", [True, False])
def test_rate_zero_is_identity_and_rate_one_replaces_all(shared: bool) -> None:
    assert torch.equal(words(0.0, shared=shared), BATCH.input_ids)
    assert torch.equal(utterances(0.0, shared=shared), H_ENC)
    assert (utterances(1.0, shared=shared) == H_UNK).all()
    dropped = words(1.0, shared=shared)
    assert (dropped[INNER] == UNK).all()
    assert (dropped[~INNER] == SOS).all(), "SOS is no word of the conversation"


def test_the_authors_coins_fall_on_the_first_input_too() -> None:
    dropped = layers.drop_words(BATCH, 1.0, NOISE, shared=True, sos=True)
    assert (dropped == UNK).all()


@pytest.mark.parametrize(("reading", "apart"), [("paper", False), ("release", True)])
def test_the_authors_program_starts_contexts_from_other_conversations(reading: str, apart: bool) -> None:
    """It sorts the inputs of f_cxt by length and not their starts; only in training, as we have it."""
    model = network("vhcr", reading)
    started: list[Tensor] = []
    own = model.context_start
    model.context_start = lambda count, z: started.append(own(count, z)) or started[-1]  # type: ignore[method-assign]
    with torch.no_grad():
        for training in (True, False):
            h_cxt = model.train(training)(BATCH, NOISE).latents.h_cxt
            first = h_cxt[: BATCH.num_conversations]  # the rows of the first turns
            expected = started[-1][:, -1]
            moved = (first != expected).any(1)
            assert int(moved.sum()) >= 35 if apart and training else not moved.any()
            found, kept = ({tuple(row) for row in x.tolist()} for x in (first, expected))
            assert found == kept, "each start serves one conversation"


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.75])
def test_rates_lie_within_binomial_bounds(rate: float) -> None:
    # Words that are UNK to begin with cannot show a drop.
    shown = INNER & (BATCH.input_ids != UNK)
    replaced = words(rate)[shown] == UNK
    assert (words(rate)[shown & (words(rate) != UNK)] == BATCH.input_ids[shown & (words(rate) != UNK)]).all()
    for share, number in (
        (replaced.double().mean(), int(shown.sum())),
        ((utterances(rate) == H_UNK).all(1).double().mean(), BATCH.num_rows),
    ):
        assert abs(float(share) - rate) < 4.0 * math.sqrt(rate * (1.0 - rate) / number)
    kept = (utterances(rate) != H_UNK).all(1)
    assert torch.equal(utterances(rate)[kept], H_ENC[kept])


def test_shared_coins_fall_per_position_and_have_the_rate_over_steps() -> None:
    """The authors' program: one coin per position for the whole batch."""
    rate, steps = 0.3, 400
    by_position, by_turn = [], []
    for step in range(steps):
        noise = Noise(0, step)
        dropped = words(rate, shared=True, noise=noise)
        coins = []
        for position in range(1, len(BATCH.step_sizes)):
            here = (BATCH.word_step == position) & (BATCH.input_ids != UNK)
            assert len((dropped[here] == UNK).unique()) == 1
            coins.append(bool((dropped[here] == UNK)[0]))
        by_position.append(coins)
        gone = (utterances(rate, shared=True, noise=noise) == H_UNK).all(1)
        turns = [gone[BATCH.turn == turn] for turn in range(BATCH.max_turns)]
        assert all(len(turn.unique()) == 1 for turn in turns)
        by_turn.append([bool(turn[0]) for turn in turns])
    for tosses in (torch.tensor(by_position).double(), torch.tensor(by_turn).double()):
        # Every position has the rate, and positions are independent of each other.
        assert ((tosses.mean(0) - rate).abs() < 4.5 * math.sqrt(rate * (1.0 - rate) / steps)).all()
        correlation = torch.corrcoef(tosses.t()) - torch.eye(tosses.shape[1])
        assert (correlation.abs() < 4.5 / math.sqrt(steps)).all()


def test_independent_coins_differ_between_conversations_turns_and_positions() -> None:
    gone = (utterances(0.5) == H_UNK).all(1)
    table = BATCH.by_turn(gone.double())
    correlation = torch.corrcoef(table.t()) - torch.eye(BATCH.max_turns)
    assert (correlation.abs() < 4.5 / math.sqrt(BATCH.num_conversations)).all()
    assert len(table.unique(dim=0)) > 20  # of 40 conversations with 64 possible patterns
    dropped = words(0.5) == UNK
    for same in (BATCH.word_step == 1, BATCH.turn[BATCH.word_row] == 2):
        share = dropped[same & INNER & (BATCH.input_ids != UNK)].double().mean()
        assert 0.2 < float(share) < 0.8
    # Turns of one conversation do not share their word coins.
    of_one = [
        tuple(dropped[(BATCH.word_row == row) & INNER][:3].tolist())
        for row in torch.nonzero(BATCH.conversation == 0).flatten().tolist()
    ]
    assert len({pattern for pattern in of_one if len(pattern) == 3}) > 1


def test_word_and_utterance_coins_are_not_the_same_coins() -> None:
    coins = [NOISE.uniform(purpose, BATCH.turn) for purpose in ("word drop", "utterance drop")]
    assert (coins[0] != coins[1]).all()


def test_inputs_are_never_modified() -> None:
    """The authors' program wrote h_unk into the vectors that f_conv then read."""
    ids, vectors = BATCH.input_ids.clone(), H_ENC.clone()
    words(0.7)
    utterances(0.7)
    assert torch.equal(BATCH.input_ids, ids)
    assert torch.equal(H_ENC, vectors)
    model = network("vhcr-ud", word_drop=0.5, utterance_drop=0.5).train()
    small = packed(conversations([3, 2], seed=2))
    h_enc = model.encode(small).detach()
    kept, kept_ids = h_enc.clone(), small.input_ids.clone()
    model.score(small, h_enc, NOISE)
    assert torch.equal(h_enc, kept)
    assert torch.equal(small.input_ids, kept_ids)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("name", ["hred", "vhred", "vhcr"])
def test_drops_act_in_training_and_never_in_evaluation(name: str, reading: str) -> None:
    dropping, plain = (network(name, reading, **DROPS), network(name, reading))
    # The same weights; h_unk is the only one that stands apart.
    missing, unexpected = dropping.load_state_dict(plain.state_dict(), strict=False)
    assert (missing, unexpected) == (["h_unk"], [])
    batch = packed(conversations([5, 4, 3], seed=3))

    def run(model: HierarchicalModel, training: bool) -> Tensor:
        with torch.no_grad():
            output: ModelOutput = model.train(training)(batch, NOISE)
            return output.reconstruction_error

    expected = run(plain, False)
    assert torch.equal(run(dropping, False), expected)
    undropped = run(plain, True)
    # Without drops training is evaluation, but that the authors' program mixes up where contexts start.
    assert torch.equal(undropped, expected) is not (plain.reading.shuffles_context_starts and name == "vhcr")
    assert not torch.equal(run(dropping, True), undropped)
    for only in ("word_drop", "utterance_drop"):
        drop: dict[str, Any] = {only: 0.6}
        one = network(name, reading, **drop)
        one.load_state_dict(plain.state_dict(), strict=False)
        assert not torch.equal(run(one, True), undropped), f"{only} does nothing"


@pytest.mark.parametrize(("reading", "sees_drops"), [("paper", False), ("release", True)])
def test_what_f_conv_sees(reading: str, sees_drops: bool) -> None:
    """Eq. 21 reads h_enc; the authors' program let f_conv read the dropped vectors."""
    model = network("vhcr-ud", reading, utterance_drop=1.0)
    batch = packed(conversations([4, 2], seed=4))
    with torch.no_grad():
        evaluated = model.eval()(batch, NOISE).latents.posterior_conv
        trained = model.train()(batch, NOISE).latents.posterior_conv
    assert evaluated is not None
    assert trained is not None
    assert torch.equal(evaluated.mu, trained.mu) is not sees_drops


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("name", ["vhred", "vhcr"])
def test_the_posterior_of_z_utt_always_sees_its_own_utterance(name: str, reading: str) -> None:
    """Utterance drop weakens the context, not the target that q(z_utt_t | x_<=t) encodes (Eq. 10, 25)."""
    model = network(name, reading, utterance_drop=1.0).train()
    outputs = []
    for last in (5, 6):
        with torch.no_grad():
            outputs.append(model(packed([[[4, 3], [last, 3]]]), NOISE).latents)
    first, second = outputs
    if name == "vhred":
        assert torch.equal(first.h_cxt, second.h_cxt)
    assert first.posterior_utt is not None
    assert second.posterior_utt is not None
    assert not torch.equal(first.posterior_utt.mu[1], second.posterior_utt.mu[1])


def test_the_context_hears_h_unk_and_teaches_it() -> None:
    model = network("hred", utterance_drop=1.0).train()
    batch = packed(conversations([3], seed=5))
    model(batch, NOISE).reconstruction_error.sum().backward()
    assert model.h_unk is not None
    assert model.h_unk.grad is not None
    assert (model.h_unk.grad != 0.0).all()
    for name, weights in model.encoder.rnn.named_parameters():
        assert weights.grad is None or not weights.grad.any(), f"the context still hears the encoder: {name}"
