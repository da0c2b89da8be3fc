"""Nothing that generates a word has seen it, or anything after it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.models.examples import ANCHORS, CONDITIONINGS, READINGS, SYSTEMS, Conversation, network, packed
from vhcr.models import ConversationModel, HierarchicalModel, ModelOutput, Noise
from vhcr.models.gaussian import DiagonalGaussian

BEFORE: Conversation = [[4, 5, 3], [6, 3], [7, 8, 9, 3], [10, 4, 3]]
# Without the posterior, which may see all: latents are noise alone, the same whatever the words.
FIXED = Noise(5)


def fixed_latents(posterior: DiagonalGaussian, prior: DiagonalGaussian, eps: Tensor) -> Tensor:
    return eps


def score(model: ConversationModel, conversation: Conversation) -> ModelOutput:
    with torch.no_grad():
        output: ModelOutput = model(packed([conversation]), FIXED, draw=fixed_latents)
        return output


def words_of_turn(output: ModelOutput, conversation: Conversation, turn: int) -> Tensor:
    """-log p of each word of one turn, in order."""
    batch = packed([conversation])
    row = int(batch.turn.tolist().index(turn))
    return output.word_errors[batch.word_row == row]


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("name", [*SYSTEMS, *ANCHORS])
def test_turns_do_not_see_the_future(name: str, reading: str) -> None:
    model = network(name, reading, layers=2, scale=1.5).eval()
    original = score(model, BEFORE)
    for turn in range(len(BEFORE)):
        changed: Conversation = [list(words) for words in BEFORE]
        changed[turn][0] = 8 if changed[turn][0] != 8 else 9
        output = score(model, changed)
        for earlier in range(turn):
            a, b = (words_of_turn(x, c, earlier) for x, c in ((original, BEFORE), (output, changed)))
            assert torch.equal(a, b), f"turn {turn} is seen at turn {earlier}"
        if name == "kneser-ney":  # it has no h_cxt, and reaches back four words
            continue
        # h_cxt at t itself does not contain x_t, but the next one does.
        context, moved = original.latents.h_cxt, output.latents.h_cxt
        assert torch.equal(context[: turn + 1], moved[: turn + 1])
        assert (context[turn + 1 :] != moved[turn + 1 :]).any(1).all()
        if original.latents.prior_utt is None:
            continue
        assert output.latents.prior_utt is not None
        assert original.latents.posterior_utt is not None
        assert output.latents.posterior_utt is not None
        for part in ("mu", "var"):
            prior, other = getattr(original.latents.prior_utt, part), getattr(output.latents.prior_utt, part)
            assert torch.equal(prior[: turn + 1], other[: turn + 1])
            assert (prior[turn + 1 :] != other[turn + 1 :]).any(1).all()
            posterior = getattr(original.latents.posterior_utt, part)
            other = getattr(output.latents.posterior_utt, part)
            assert torch.equal(posterior[:turn], other[:turn])
            assert (posterior[turn] != other[turn]).any(), "q(z_utt_t) does not see x_t"
        if original.latents.posterior_conv is not None:
            assert output.latents.posterior_conv is not None
            moved_conv = output.latents.posterior_conv.mu != original.latents.posterior_conv.mu
            assert moved_conv.any(), f"q(z_conv) does not see turn {turn}"


@pytest.mark.parametrize("name", ["hred", "vhred", "vhcr", "transformer"])
def test_words_do_not_see_themselves_or_the_future(name: str) -> None:
    model = network(name, layers=2).eval()
    turn = 2
    original = words_of_turn(score(model, BEFORE), BEFORE, turn)
    for position in range(len(BEFORE[turn]) - 1):
        changed: Conversation = [list(words) for words in BEFORE]
        changed[turn][position] = 6
        errors = words_of_turn(score(model, changed), changed, turn)
        assert torch.equal(errors[:position], original[:position])
        assert (errors[position:] != original[position:]).all(), "later words do not hear this one"
        # The distribution of the word itself did not move: its new error is what the old one gave word 6.
        longer: Conversation = [list(words) for words in BEFORE]
        longer[turn] = [*BEFORE[turn][:position], 6, 3]
        same_prefix = words_of_turn(score(model, longer), longer, turn)
        torch.testing.assert_close(errors[position], same_prefix[position], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["hred", "vhcr", "transformer"])
def test_word_probabilities_sum_to_one(name: str) -> None:
    """Over every word of the vocabulary in one place: what is scored is a distribution given the past."""
    model = network(name).eval()
    total = 0.0
    for word in range(11):
        changed: Conversation = [list(words) for words in BEFORE]
        changed[1] = [6, word, 3]
        total += float(torch.exp(-words_of_turn(score(model, changed), changed, 1)[1]))
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("layers", [1, 2])
def test_decoding_step_by_step_gives_the_teacher_forced_errors(layers: int, conditioning: str) -> None:
    """With the pieces that generation uses: encode, context.step, utterance latents, decoder.step."""
    model = network("vhcr", layers=layers, decoder_conditioning=conditioning).eval()
    batch = packed([BEFORE])
    with torch.no_grad():
        output = model(batch, FIXED, draw=fixed_latents)
        z_utt, z_conv = output.latents.z_utt, output.latents.z_conv
        assert z_utt is not None
        assert z_conv is not None
        h_enc = model.encode(batch)
        state = model.context_start(1, z_conv)
        for turn, words in enumerate(BEFORE):
            if turn > 0:
                state = model.context.step(torch.cat([h_enc[turn - 1 : turn], z_conv], dim=-1), state)
            torch.testing.assert_close(state[:, -1], output.latents.h_cxt[turn : turn + 1])
            decoder = model.decoder_start(state[:, -1], z_utt[turn : turn + 1], z_conv)
            errors, heard = [], 2
            for word in words:
                kept = decoder
                log_probs, decoder = model.decoder.step(torch.tensor([heard]), decoder)
                logits, other = model.decoder.logits(torch.tensor([heard]), kept)
                torch.testing.assert_close(logits.log_softmax(-1), log_probs)
                assert torch.equal(other, decoder)
                errors.append(-log_probs[0, word])
                heard = word
            torch.testing.assert_close(torch.stack(errors), words_of_turn(output, BEFORE, turn))
        state = model.context.step(torch.cat([h_enc[-1:], z_conv], dim=-1), state)
        inputs = torch.cat([h_enc, z_conv[batch.conversation]], dim=-1)
        torch.testing.assert_close(model.context.after(inputs, model.context_start(1, z_conv), batch), state)


def test_context_after_the_last_turn_of_each_conversation() -> None:
    model = network("hred", layers=2).eval()
    several: list[Conversation] = [BEFORE[:2], BEFORE, BEFORE[1:2]]
    with torch.no_grad():
        batch = packed(several)
        h_enc = model.encode(batch)
        after = model.context.after(h_enc, model.context_start(3), batch)
        for place, name in enumerate(batch.index.tolist()):
            alone = packed([several[name]])
            h_enc = model.encode(alone)
            single = model.context.after(h_enc, model.context_start(1), alone)
            torch.testing.assert_close(after[place], single[0], rtol=1e-12, atol=1e-12)


def test_generation_draws_latents_from_the_distributions_that_training_names() -> None:
    model = network("vhcr").eval()
    batch = packed([BEFORE, BEFORE[:1]])
    with torch.no_grad():
        h_enc = model.encode(batch)
        eps = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        z_conv = model.draw_z_conv(h_enc, batch, eps)
        assert z_conv is not None
        posterior = model(batch, FIXED).latents.posterior_conv
        assert posterior is not None
        torch.testing.assert_close(z_conv, posterior.sample(eps))
        z_prior = model.draw_z_conv(h_enc, batch, eps, from_prior=True)
        torch.testing.assert_close(z_prior, eps)
        h_cxt = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        z_utt = model.draw_z_utt(h_cxt, eps[:, :2], z_conv)
        assert isinstance(model, HierarchicalModel)
        prior = model.utterance_prior(h_cxt, z_conv)
        torch.testing.assert_close(z_utt, prior.sample(eps[:, :2]))
        for name in ("hred", "vhred"):
            other = network(name).eval()
            assert other.draw_z_conv(other.encode(batch), batch, eps) is None
            assert (other.draw_z_utt(h_cxt, eps[:, :2]) is None) == (name == "hred")
