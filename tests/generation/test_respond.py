"""Responses against the models' own scoring, turn by turn against all at once, alone against in company."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.generation.examples import generation, naive_greedy
from tests.models.examples import (
    ANCHORS,
    CONDITIONINGS,
    READINGS,
    SYSTEMS,
    arrays,
    conversations,
    network,
    packed,
)
from vhcr.batch import Batch, Ints
from vhcr.errors import DataError, ParameterError
from vhcr.generation import respond
from vhcr.generation.respond import Responder
from vhcr.models import ConversationModel, HierarchicalModel, Latents, Noise, Transformer
from vhcr.models.gaussian import draw_posterior, draw_prior
from vhcr.tokenisation.specials import EOS

CONTEXTS = arrays(conversations([2, 1, 4, 3, 1, 2], seed=4))  # not in order of length


def model_of(
    name: str, reading: str = "paper", layers: int = 1, conditioning: str = "initial_state"
) -> ConversationModel:
    model = network(name, reading, layers=layers, scale=2.5, decoder_conditioning=conditioning).eval()
    with torch.no_grad():
        if isinstance(model, (HierarchicalModel, Transformer)):
            output = model.decoder.output if isinstance(model, HierarchicalModel) else model.output
            output.linear.bias[EOS] += 2.0
    return model


def responder(
    name: str, reading: str = "paper", layers: int = 1, seed: int = 7, **changes: object
) -> Responder:
    return Responder(model_of(name, reading, layers), generation(**changes), Noise(seed))


def said(token_ids: list[list[int]]) -> list[Ints]:
    return [np.array(ids) for ids in token_ids]


@pytest.mark.parametrize(
    ("reading", "conditioning"), list(zip(READINGS, reversed(CONDITIONINGS), strict=True))
)
@pytest.mark.parametrize("name", [*SYSTEMS, *ANCHORS])
def test_what_is_said_scores_as_training_would_score_it(name: str, reading: str, conditioning: str) -> None:
    """context + generated turns, scored by ``forward`` with the very latents: log p of each turn agrees.

    So generation starts its decoder, feeds z_conv to the context RNN and keys its noise as training does.
    For VHCR the z_conv of the context alone is put in the place of that of the whole conversation.
    """
    model = model_of(name, reading, conditioning=conditioning)
    speaker = Responder(model, generation(strategy="sample"), Noise(7))
    found = speaker.respond(CONTEXTS, 3)
    whole = [context + said(turns) for context, turns in zip(CONTEXTS, found.token_ids, strict=True)]
    batch = packed([[ids.tolist() for ids in turns] for turns in whole])

    def draw(posterior, prior, eps):  # type: ignore[no-untyped-def]
        if found.z_conv is not None and len(eps) == batch.num_conversations != batch.num_rows:
            return found.z_conv[batch.index]
        return draw_prior(posterior, prior, eps)

    output = model(batch, speaker.noise, draw)
    assert found.log_probs is not None
    for place, index in enumerate(batch.index.tolist()):
        first = len(CONTEXTS[index])
        errors = output.reconstruction_error[place, first : first + 3]
        torch.testing.assert_close(-errors, found.log_probs[index], rtol=1e-9, atol=1e-9)
    latents: Latents = output.latents
    if latents.z_utt is not None:
        assert found.z_utt is not None
        for row, z_utt in enumerate(latents.z_utt):
            index = int(batch.index[batch.conversation[row]])
            turn = int(batch.turn[row]) - len(CONTEXTS[index])
            if turn >= 0:
                torch.testing.assert_close(z_utt, found.z_utt[index, turn], rtol=1e-9, atol=1e-9)
    else:
        assert found.z_utt is None


@pytest.mark.parametrize("reading", READINGS)
def test_z_conv_is_drawn_from_its_posterior_given_the_context(reading: str) -> None:
    speaker = responder("vhcr-ud", reading)
    batch = packed([[ids.tolist() for ids in context] for context in CONTEXTS])
    latents = speaker.model(batch, speaker.noise, draw_posterior).latents
    state = speaker.read(batch)
    torch.testing.assert_close(state.z_conv, latents.z_conv)
    assert state.turn.tolist() == [4, 3, 2, 2, 1, 1]


def test_z_conv_from_the_prior_ignores_the_context() -> None:
    speaker = responder("vhcr", z_conv_from="prior")
    model = speaker.model
    assert isinstance(model, HierarchicalModel)
    batch = packed([[ids.tolist() for ids in context] for context in CONTEXTS])
    state = speaker.read(batch)
    expected = model.conversation_noise(batch, speaker.noise, state.context)
    torch.testing.assert_close(state.z_conv, expected)
    assert not torch.allclose(state.z_conv, responder("vhcr").read(batch).z_conv)


@pytest.mark.parametrize("name", [*SYSTEMS, *ANCHORS])
@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_alone_or_in_company_the_same(name: str, strategy: str) -> None:
    speaker = responder(name, strategy=strategy)
    together = speaker.respond(CONTEXTS, 2, samples=2)
    in_parts = speaker.respond(CONTEXTS, 2, samples=2, at_once=4)
    assert in_parts.token_ids == together.token_ids
    for place, context in enumerate(CONTEXTS):
        alone = speaker.respond([context], 2, index=[place], samples=2)
        assert alone.token_ids == together.token_ids[2 * place : 2 * place + 2]
        if alone.z_conv is not None and together.z_conv is not None:
            torch.testing.assert_close(alone.z_conv, together.z_conv[2 * place : 2 * place + 2])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", [*SYSTEMS, *ANCHORS])
def test_three_turns_are_one_turn_three_times(name: str, layers: int) -> None:
    """Feeding generated turns back equals hearing them as context, for the same z_conv."""
    speaker = responder(name, layers=layers, strategy="sample")
    found = speaker.respond(CONTEXTS, 3)
    for place, context in enumerate(CONTEXTS):
        heard_so_far = list(context)
        for turn in range(3):
            batch = packed([[ids.tolist() for ids in heard_so_far]], index=[place])
            z_conv = None if found.z_conv is None else found.z_conv[place : place + 1]
            spoken = speaker.next_turn(speaker.read(batch, z_conv))
            assert spoken.token_ids[0] == found.token_ids[place][turn]
            assert spoken.log_probs is not None
            assert found.log_probs is not None
            torch.testing.assert_close(spoken.log_probs[0], found.log_probs[place, turn])
            heard_so_far.append(np.array(spoken.token_ids[0]))


def test_fewer_turns_are_the_beginning_of_more() -> None:
    speaker = responder("vhcr", strategy="sample")
    one, three = speaker.respond(CONTEXTS, 1), speaker.respond(CONTEXTS, 3)
    assert [turns[:1] for turns in three.token_ids] == one.token_ids


@pytest.mark.parametrize("name", ["hred", "vhred", "vhcr", *ANCHORS])
def test_greedy_responses_are_those_of_a_plain_loop(name: str) -> None:
    speaker = responder(name)
    model = speaker.model
    found = speaker.respond(CONTEXTS)
    for place, context in enumerate(CONTEXTS):
        state = speaker.read(packed([[ids.tolist() for ids in context]], index=[place]))
        z_utt = None if found.z_utt is None else found.z_utt[place, 0]
        z_conv = None if found.z_conv is None else found.z_conv[place]
        start = model.decoder_start(model.h_cxt(state.context)[0], z_utt, z_conv)
        assert naive_greedy(model, start, 8)[0] == found.token_ids[place][0]


def test_the_first_samples_of_many_are_those_of_few() -> None:
    speaker = responder("vhred", strategy="sample")
    many, few = speaker.respond(CONTEXTS, samples=3), speaker.respond(CONTEXTS, samples=2)
    assert [ids for i in range(6) for ids in many.token_ids[3 * i : 3 * i + 2]] == few.token_ids
    assert len({str(ids) for ids in many.token_ids}) > 6, "samples of one context must differ"


def test_latent_scale_zero_takes_the_means() -> None:
    """No noise is left in z_conv and z_utt: two seeds agree, and z_conv is the mean of its posterior."""
    found = [
        Responder(model_of("vhcr"), generation(), Noise(seed), latent_scale=0.0).respond(CONTEXTS)
        for seed in (1, 2)
    ]
    assert found[0].token_ids == found[1].token_ids
    speaker = responder("vhcr")
    batch = packed([[ids.tolist() for ids in context] for context in CONTEXTS])
    posterior = speaker.model(batch, Noise(0)).latents.posterior_conv
    assert found[0].z_conv is not None
    torch.testing.assert_close(found[0].z_conv[batch.index], posterior.mu)


def test_a_release_model_cannot_begin_and_says_why() -> None:
    speaker = responder("vhcr", "release")
    with pytest.raises(ParameterError, match=r"'release'.*never generated; give it an opening"):
        speaker.begin(torch.arange(2), torch.zeros(2, dtype=torch.int64))


def test_beginning_is_where_scoring_begins() -> None:
    """Whole conversations out of nothing score as ``forward`` scores them, the first utterance included."""
    for name in SYSTEMS:
        speaker = responder(name, strategy="sample")
        index = torch.arange(5)
        found = speaker.generate(speaker.begin(index, torch.zeros_like(index)), 2)
        batch = packed(found.token_ids)

        def draw(posterior, prior, eps, z_conv=found.z_conv, batch=batch):  # type: ignore[no-untyped-def]
            if z_conv is not None and len(eps) == batch.num_conversations:
                return z_conv
            return draw_prior(posterior, prior, eps)

        with torch.no_grad():
            output = speaker.model(batch, speaker.noise, draw)
        assert found.log_probs is not None
        torch.testing.assert_close(-output.reconstruction_error, found.log_probs, rtol=1e-9, atol=1e-9)


def test_requests_that_make_no_sense_are_refused_by_name() -> None:
    speaker, plain = responder("vhcr"), responder("hred")
    batch = packed(conversations([2, 2]))
    with pytest.raises(ParameterError, match="0 turns"):
        speaker.respond(CONTEXTS, 0)
    with pytest.raises(ParameterError, match="0 samples"):
        speaker.respond(CONTEXTS, samples=0)
    with pytest.raises(ParameterError, match=r"shape \(2, 9\); this needs \(2, 3\)"):
        speaker.read(batch, torch.zeros(2, 9))
    with pytest.raises(ParameterError, match="'hred' has no z_conv"):
        plain.read(batch, torch.zeros(2, 3))
    for value in (1e39, -1e7, float("nan")):
        with pytest.raises(ParameterError, match="its numbers must be from -1e"):
            speaker.read(batch, torch.full((2, 3), value, dtype=torch.float64))
        with pytest.raises(ParameterError, match="latent_scale = "):
            Responder(speaker.model, speaker.params, speaker.noise, latent_scale=value)
    with pytest.raises(DataError, match="at least one word"):
        speaker.respond([[np.array([], dtype=np.int64)]])
    with pytest.raises(ParameterError, match=r"shape \(1, 3\); this needs \(6, 3\)"):
        speaker.respond(CONTEXTS, z_conv=torch.zeros(1, 3))


def test_an_empty_context_among_others_begins_a_conversation() -> None:
    speaker = responder("vhcr-ud", strategy="sample")
    mixed = [CONTEXTS[4], [], CONTEXTS[0], []]
    found = speaker.respond(mixed, 2, samples=2)
    index, sample = torch.tensor([1, 1, 3, 3]), torch.tensor([0, 1, 0, 1])
    begun = speaker.generate(speaker.begin(index, sample), 2)
    state = speaker.respond([mixed[0], mixed[2]], 2, index=[0, 2], samples=2)
    expected = [*state.token_ids[:2], *begun.token_ids[:2], *state.token_ids[2:], *begun.token_ids[2:]]
    assert found.token_ids == expected
    with pytest.raises(ParameterError, match="give it an opening"):
        responder("vhcr", "release").respond(mixed)


def test_memory_bounds_what_is_heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 contexts of 1000 turns in one request would take 90 GB at the paper's size if state together."""
    speaker = responder("vhcr", strategy="sample")
    expected = speaker.respond(CONTEXTS, samples=2)
    state: list[int] = []
    pack = respond.pack

    def counted(contexts: list[list[Ints]], index: list[int], samples: int = 1) -> Batch:
        batch = pack(contexts, index, samples)
        state.append(len(batch.token_ids))
        return batch

    monkeypatch.setattr(respond, "MAX_CONTEXT_WORDS", 60)
    monkeypatch.setattr(respond, "pack", counted)
    found = speaker.respond(CONTEXTS, samples=2)
    assert found.token_ids == expected.token_ids
    words = [2 * sum(map(len, context)) for context in CONTEXTS]
    assert max(state) <= max(60, *words)
    assert sum(state) == sum(words)


def test_no_context_gives_no_response() -> None:
    assert responder("vhcr").respond([]).token_ids == []
