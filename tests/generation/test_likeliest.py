"""The search for the likeliest word finds what computing every logit finds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.generation.examples import generation
from tests.models.examples import CONDITIONINGS, network
from vhcr.generation import likeliest
from vhcr.generation.decode import WordModel, WordSearch, decode, greedy
from vhcr.generation.likeliest import BLOCK, LikeliestWord, WordDecoder, integer_products
from vhcr.models import HierarchicalModel, Noise
from vhcr.tokenisation.specials import EOS, PAD, SOS, UNK

NEVER = (PAD, SOS)
NOISE = Noise(0)

# Processors that add up in 16 bits would not be exact, and are not used so.
exact = pytest.mark.skipif(not integer_products(), reason="no exact products of 8-bit integers here")


def layer(words: int = 700, size: int = 64, seed: int = 0) -> nn.Linear:
    """An output layer as training leaves it: some words have large weights, all have a bias."""
    generator = torch.Generator().manual_seed(seed)
    made = nn.Linear(size, words)
    with torch.no_grad():
        norms = torch.rand(words, 1, generator=generator).square().mul(2.0 / size**0.5)
        made.weight.copy_(torch.randn(words, size, generator=generator) * norms)
        made.bias.copy_(torch.randn(words, generator=generator) * 0.3)
        made.weight[EOS] *= 20.0
    return made


def states(count: int, size: int = 64, scale: float = 1.0, seed: int = 1) -> Tensor:
    """States of a GRU: between -1 and 1."""
    return torch.tanh(torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) * scale)


def plain(of: nn.Linear, hidden: Tensor) -> Tensor:
    """All logits in float64, and the largest."""
    logits = hidden.double() @ of.weight.double().t() + of.bias.double()
    logits[:, list(NEVER)] = -torch.inf
    return logits.argmax(1)


@pytest.fixture
def every_layer_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search is made for any layer and any number of sequences."""
    monkeypatch.setattr(likeliest, "MIN_WEIGHTS", 1)
    monkeypatch.setattr(likeliest, "MIN_SEQUENCES", 1)


@exact
@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 30.0])
@pytest.mark.parametrize("words", [5, BLOCK, 700])
def test_the_search_finds_what_all_logits_say(words: int, scale: float) -> None:
    """Also with hardly any signal, with saturated states, and where the last block is not full."""
    with torch.no_grad():
        of, hidden = layer(words), states(400, scale=scale)
        of.bias *= min(scale, 1.0)
        found = LikeliestWord(of, NEVER)(hidden)
        assert found is not None
        assert torch.equal(found, plain(of, hidden))
        assert len(set(found.tolist())) >= min(words - 2, 12), "the example must hold different answers"


@exact
def test_the_bound_holds_where_rounding_does_its_worst() -> None:
    """Weights and states half a unit off the integers, all in the direction of a wrong winner.

    Word 5 loses by rounding what word 6 gains: by the integers alone 6 would win, in truth 5 does.
    """
    size, unit = 96, 1.0 / 127.0
    of = nn.Linear(size, 8)
    with torch.no_grad():
        of.bias.zero_()
        of.weight.zero_()
        of.weight[5], of.weight[6] = 60.49 * unit, 60.51 * unit
        of.weight[5:7, 0] = 1.0  # so that one unit is 1 / 127
        of.bias[5] = size * 0.021 * unit * 0.5  # more than what 6 is ahead by
        hidden = torch.full((1, size), 0.5)
        hidden[0, 0] = 1.0
        rounded = (of.weight / unit).round() @ (hidden / unit).round().t() * unit**2 + of.bias[:, None]
        assert int(rounded.argmax()) == 6
        assert int(plain(of, hidden)) == 5
        found = LikeliestWord(of, NEVER)(hidden)
    assert found is not None
    assert found.tolist() == [5]


@exact
def test_the_bound_holds_where_the_state_is_rounded_down() -> None:
    """Weights that the integers hold exactly, and a state of which each part loses nearly half a unit.

    In truth word 5 says 95 * 10.49 / 127 = 7.85, by the integers 95 * 10 / 127 = 7.48; word 6 says 7.66.
    """
    of, hidden = nn.Linear(96, 8), torch.full((1, 96), 10.49 / 127.0)
    with torch.no_grad():
        of.weight.zero_()
        of.bias.zero_()
        of.weight[5, 1:] = 1.0
        of.bias[6] = 7.66
        hidden[0, 0] = 1.0  # so that one unit is 1 / 127
        assert int(plain(of, (hidden * 127.0).round() / 127.0)) == 6
        assert int(plain(of, hidden)) == 5
        found = LikeliestWord(of, NEVER)(hidden)
    assert found is not None
    assert found.tolist() == [5]


@exact
def test_of_equal_words_the_first_wins() -> None:
    of, hidden = layer(), states(50)
    with torch.no_grad():
        best = plain(of, hidden)
        for word in set(best.tolist()):
            of.weight[699 - word], of.bias[699 - word] = of.weight[word].clone(), of.bias[word].clone()
        found = LikeliestWord(of, NEVER)(hidden)
        assert found is not None
        logits = of(hidden)
        logits[:, list(NEVER)] = -torch.inf
        assert torch.equal(found, logits.max(1).indices)


@exact
def test_forbidden_words_lose_however_likely() -> None:
    of, hidden = layer(), states(50)
    with torch.no_grad():
        of.bias[list(NEVER)] += 100.0
        found = LikeliestWord(of, NEVER)(hidden)
        assert found is not None
        assert torch.equal(found, plain(of, hidden))


@exact
def test_where_most_words_could_win_the_search_gives_up() -> None:
    """All words alike but for less than rounding: nothing is saved, and nothing is guessed."""
    of = nn.Linear(64, 700)
    with torch.no_grad():
        of.weight.copy_(of.weight[:1] + 1e-6 * of.weight)
        of.bias.zero_()
        search = LikeliestWord(of, NEVER)
        assert search(states(40)) is None
        assert search(torch.full((2, 64), torch.nan)) is None
        assert search(torch.full((2, 64), torch.inf)) is None


def model(scale: float = 3.0, **changes: object):  # type: ignore[no-untyped-def]
    """A model in float32 whose utterances differ in length."""
    made = network("hred", scale=scale, **changes).float().eval()
    with torch.no_grad():
        made.decoder.output.linear.bias[EOS] += 2.0
    return made


def starts(count: int) -> Tensor:
    return states(count, size=6, scale=2.0).unsqueeze(1)


def starts_of(speaks: HierarchicalModel, count: int) -> Tensor:
    """The states that the model's own decoder starts from."""
    context = torch.randn(count, 5, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return speaks.decoder.start(context.to(speaks.embedding.weight))


@pytest.mark.usefixtures("every_layer_is_large")
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_greedy_by_search_says_what_the_plain_loop_says(conditioning: str) -> None:
    speaks = model(decoder_conditioning=conditioning)
    start = starts_of(speaks, 200)
    speaker = WordDecoder(speaks)
    found = greedy(speaker, start, generation(), want_log_probs=False)
    expected = greedy(speaks.decoder, start, generation())
    assert found.token_ids == expected.token_ids
    assert len({len(ids) for ids in found.token_ids}) > 2
    assert found.log_probs is None
    # With log p wanted every logit is computed.
    assert greedy(speaker, start, generation()).log_probs is not None


@exact
@pytest.mark.usefixtures("every_layer_is_large")
def test_greedy_does_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one full product: else the test above would compare the plain loop with itself."""
    speaks = model()
    monkeypatch.setattr(type(speaks.decoder.output.linear), "forward", None)
    greedy(WordDecoder(speaks), starts(50), generation(), want_log_probs=False)


@pytest.mark.usefixtures("every_layer_is_large")
def test_weights_that_change_are_searched_as_they_are() -> None:
    speaks, start = model(), starts(100)
    speaker = WordDecoder(speaks)
    bias = speaks.decoder.output.linear.bias
    with torch.no_grad():
        bias[UNK] -= 50.0  # never a candidate
    before = greedy(speaker, start, generation(), want_log_probs=False)
    with torch.no_grad():
        bias[UNK] += 100.0
    after = greedy(speaker, start, generation(), want_log_probs=False)
    assert after.token_ids == greedy(speaks.decoder, start, generation()).token_ids
    assert not any(UNK in ids for ids in before.token_ids)
    assert all(set(ids[:-1]) == {UNK} for ids in after.token_ids)
    never = greedy(speaker, start, generation(unknown_words="never"), want_log_probs=False)
    assert never.token_ids == before.token_ids


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
@pytest.mark.parametrize(("layers", "conditioning"), [(1, "initial_state"), (2, "every_step")])
def test_a_speaker_says_what_its_decoder_says(strategy: str, layers: int, conditioning: str) -> None:
    """Input gates once per distinct word change nothing."""
    speaks = network("hred", layers=layers, scale=3.0, decoder_conditioning=conditioning).eval()
    start = starts_of(speaks, 40)
    keys = [torch.arange(40) for _ in range(3)]
    found, expected = (
        decode(speaker, start, generation(strategy=strategy), NOISE, *keys)
        for speaker in (WordDecoder(speaks), speaks.decoder)
    )
    assert found.token_ids == expected.token_ids
    assert found.log_probs is not None
    assert expected.log_probs is not None
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=1e-12, atol=0.0)


def test_small_layers_and_few_sequences_are_computed_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer in a chat must not wait for all weights to be rounded."""
    assert not LikeliestWord.suits(layer())
    monkeypatch.setattr(likeliest, "MIN_WEIGHTS", 1)
    assert LikeliestWord.suits(layer()) == integer_products()
    assert not LikeliestWord.suits(layer().double())
    monkeypatch.setattr(LikeliestWord, "__init__", None)
    found = greedy(
        WordDecoder(model()), starts(likeliest.MIN_SEQUENCES - 1), generation(), want_log_probs=False
    )
    assert len(found.token_ids) == likeliest.MIN_SEQUENCES - 1


def test_what_can_search_is_told_from_what_cannot() -> None:
    speaks = model()
    speaker: WordModel = WordDecoder(speaks)
    assert isinstance(speaker, WordSearch)
    assert not isinstance(speaks.decoder, WordSearch)
