"""Decoding: each strategy against a slower way to the same answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from tests.generation.examples import (
    VOCABULARY,
    A,
    B,
    C,
    D,
    Table,
    all_utterances,
    generation,
    naive_greedy,
)
from tests.models.examples import network
from vhcr.batch import pack
from vhcr.errors import ParameterError
from vhcr.generation import decode as decoding
from vhcr.generation.decode import beam, decode, draw, greedy, sample, top, word_distribution
from vhcr.models import Noise
from vhcr.tokenisation.specials import EOS, PAD, SOS, UNK

NOISE = Noise(seed=3)

# Greedy says A (0.6) and is then drawn on to B C D ...; B EOS is likelier as a whole.
GARDEN_PATH = Table(
    {
        (): {A: 0.6, B: 0.4},
        (A,): {B: 0.5, C: 0.3, EOS: 0.2},
        (B,): {EOS: 0.9, D: 0.1},
        (C,): {D: 0.5, EOS: 0.5},
        (D,): {EOS: 1.0},
        (A, B): {C: 0.4, D: 0.35, EOS: 0.25},
    }
)


def starts(count: int, layers: int = 1, seed: int = 0) -> torch.Tensor:
    """Decoder states of ``tests.models.examples.network``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, layers, 6, generator=generator, dtype=torch.float64) * 2 - 1


def keys(count: int) -> tuple[torch.Tensor, ...]:
    return torch.arange(count), torch.zeros(count, dtype=torch.int64), torch.ones(count, dtype=torch.int64)


def talkative(layers: int = 1, scale: float = 3.0):  # type: ignore[no-untyped-def]
    """A model whose utterances differ in length."""
    model = network("hred", layers=layers, scale=scale).eval()
    with torch.no_grad():
        model.decoder.output.linear.bias[EOS] += 2.0
    return model


@pytest.mark.parametrize("layers", [1, 2])
def test_greedy_is_the_plain_loop(layers: int) -> None:
    model, start = talkative(layers), starts(40, layers)
    found = greedy(model.decoder, start, generation(max_words=6))
    expected = [naive_greedy(model, one, 6) for one in start]
    assert found.token_ids == [ids for ids, _ in expected]
    assert found.log_probs is not None
    np.testing.assert_allclose(found.log_probs, [log_p for _, log_p in expected], rtol=1e-12)
    lengths = {len(ids) for ids in found.token_ids}
    assert len(lengths) > 2, "the example must hold utterances that end early, and some that do not"


def test_greedy_without_log_probs_says_the_same() -> None:
    model, start = talkative(), starts(40)
    fast = greedy(model.decoder, start, generation(), want_log_probs=False)
    assert fast.token_ids == greedy(model.decoder, start, generation()).token_ids
    assert fast.log_probs is None
    with pytest.raises(ValueError, match="without their log-prob"):
        fast.scores(1.0)


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_utterances_end_with_their_only_eos_within_max_words(strategy: str) -> None:
    model = talkative()
    for max_words in (2, 5):
        params = generation(strategy=strategy, max_words=max_words)
        found = decode(model.decoder, starts(60), params, NOISE, *keys(60))
        for ids in found.token_ids:
            assert ids.index(EOS) == len(ids) - 1 < max_words
            assert not {PAD, SOS} & set(ids)
        assert max(map(len, found.token_ids)) == max_words, "the limit must have been met by some"


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_specials_are_never_said_however_likely_but_unk_is(strategy: str) -> None:
    model = talkative()
    with torch.no_grad():
        model.decoder.output.linear.bias[[PAD, SOS, UNK]] += 30.0
    found = decode(model.decoder, starts(5), generation(strategy=strategy), NOISE, *keys(5))
    for ids in found.token_ids:
        assert set(ids[:-1]) == {UNK}
        assert ids[-1] == EOS


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_unknown_words_may_be_forbidden(strategy: str) -> None:
    """39 % of the responses to one's own conversations held <unk>: the next likeliest is said."""
    model = talkative()
    with torch.no_grad():
        model.decoder.output.linear.bias[UNK] += 30.0
    params = generation(strategy=strategy, unknown_words="never")
    found = decode(model.decoder, starts(20), params, NOISE, *keys(20))
    assert not any(UNK in ids for ids in found.token_ids)
    assert found.log_probs is not None
    assert (found.log_probs < -20).all(), "log p is the model's own, UNK counted"
    if strategy == "beam":  # it compares utterances by the model's own log p, which counts UNK's mass
        return
    with torch.no_grad():
        model.decoder.output.linear.bias[UNK] -= 1000.0
    expected = decode(model.decoder, starts(20), generation(strategy=strategy), NOISE, *keys(20))
    assert found.token_ids == expected.token_ids


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
@pytest.mark.parametrize("layers", [1, 2])
def test_log_probs_are_those_of_teacher_forcing(strategy: str, layers: int) -> None:
    """Forced EOS at max_words, masked specials and temperature leave the reported log p the model's own."""
    model, start = talkative(layers), starts(25, layers)
    params = generation(strategy=strategy, temperature=1.7, top_k=6, top_p=0.9, max_words=5)
    found = decode(model.decoder, start, params, NOISE, *keys(25))
    batch = pack([[np.array(ids)] for ids in found.token_ids], range(25))
    errors = model.word_errors(start[batch.conversation], batch, NOISE)
    expected = -torch.zeros(25, dtype=torch.float64).index_add(0, batch.word_row, errors)
    assert found.log_probs is not None
    torch.testing.assert_close(found.log_probs, expected, rtol=1e-10, atol=1e-10)
    lengths = torch.tensor([len(ids) for ids in found.token_ids])
    torch.testing.assert_close(found.scores(0.7), expected / lengths**0.7)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_of_one_is_greedy(length_penalty: float) -> None:
    """Also where EOS is the second best word: a search that took it as finished would stop too early."""
    model, start = talkative(), starts(60)
    found = beam(model.decoder, start, generation(beam_size=1, length_penalty=length_penalty))
    expected = greedy(model.decoder, start, generation())
    assert found.token_ids == expected.token_ids
    assert found.log_probs is not None
    assert expected.log_probs is not None
    torch.testing.assert_close(found.log_probs, expected.log_probs)
    table = Table({(): {A: 0.6, EOS: 0.4}, (A,): {B: 0.9, EOS: 0.1}, (B,): {EOS: 1.0}})
    one = beam(table, table.start(1), generation(beam_size=1, length_penalty=length_penalty))
    assert one.token_ids == [[A, B, EOS]]


@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 1.0, 2.0])
def test_a_wide_beam_finds_the_best_of_all_utterances(length_penalty: float) -> None:
    every = all_utterances(GARDEN_PATH, 6)
    best = max(every, key=lambda ids: every[ids] / len(ids) ** length_penalty)
    params = generation(strategy="beam", beam_size=64, max_words=6, length_penalty=length_penalty)
    found = decode(GARDEN_PATH, GARDEN_PATH.start(2), params, NOISE)
    assert found.token_ids == [list(best)] * 2
    assert found.log_probs is not None
    np.testing.assert_allclose(found.log_probs, [every[best]] * 2, rtol=1e-12)


def test_length_normalisation_changes_who_wins() -> None:
    """Worked by hand: p(B EOS) = 0.4 * 0.9 = 0.36; p(A A A D EOS) = 0.6 * 0.8 * 0.8 * 0.9 = 0.3456.

    As a whole B EOS is likelier; per word, ln(0.3456) / 5 = -0.21 beats ln(0.36) / 2 = -0.51.
    """
    table = Table(
        {
            (): {A: 0.6, B: 0.4},
            (B,): {EOS: 0.9, D: 0.1},
            (A,): {A: 0.8, EOS: 0.2},
            (A, A): {A: 0.8, EOS: 0.2},
            (A, A, A): {D: 0.9, EOS: 0.1},
            (D,): {EOS: 1.0},
        }
    )
    short = beam(table, table.start(1), generation(beam_size=8, length_penalty=0.0))
    long = beam(table, table.start(1), generation(beam_size=8, length_penalty=1.0))
    assert short.token_ids == [[B, EOS]]
    assert long.token_ids == [[A, A, A, D, EOS]]
    assert short.log_probs is not None
    assert float(short.log_probs[0]) == pytest.approx(np.log(0.36))


def test_a_finished_hypothesis_is_kept_while_others_grow() -> None:
    """EOS alone (p = 0.3) is finished at the first step, second in the beam; what goes on only gets worse.

    With two hypotheses, A and then A A and A B live on at 0.1 and less: a search that forgot what has
    finished would return one of those.
    """
    table = Table(
        {
            (): {A: 0.5, EOS: 0.3, B: 0.2},
            (A,): {A: 0.25, B: 0.25, C: 0.25, D: 0.25},
            (B,): {C: 0.5, D: 0.5},
            (C,): {C: 0.4, D: 0.4, EOS: 0.2},
            (D,): {C: 0.4, D: 0.4, EOS: 0.2},
        }
    )
    found = beam(table, table.start(1), generation(beam_size=2, length_penalty=0.0, max_words=6))
    assert found.token_ids == [[EOS]]
    assert found.log_probs is not None
    assert float(found.log_probs[0]) == pytest.approx(np.log(0.3))


def test_a_finished_hypothesis_does_not_narrow_the_beam() -> None:
    """EOS takes a place among the best two at the first step; A and B both live on, and B leads to the best.

    p(B C EOS) = 0.25 by the only way through B, which is third at the first step.
    """
    table = Table(
        {
            (): {EOS: 0.3, A: 0.4, B: 0.25, C: 0.05},
            (A,): {A: 0.5, D: 0.5},
            (D,): {D: 1.0},
            (A, A): {D: 1.0},
            (B,): {C: 1.0},
            (C,): {EOS: 1.0},
        }
    )
    found = beam(table, table.start(1), generation(beam_size=2, length_penalty=1.0, max_words=5))
    assert found.token_ids == [[B, C, EOS]]  # ln 0.25 / 3 = -0.46; EOS alone: ln 0.3 = -1.2


def test_a_beam_is_done_when_so_many_have_finished() -> None:
    """Two of two hypotheses end at the second step; nothing is computed after that."""
    table = Table({(): {A: 0.5, B: 0.5}, (A,): {EOS: 0.9, C: 0.1}, (B,): {EOS: 0.9, C: 0.1}, (C,): {C: 1.0}})
    beam(table, table.start(3), generation(beam_size=2))
    assert table.sizes == [3, 6]


def test_finished_sequences_leave_the_computation() -> None:
    """One sequence ends at each step: 3, 2, 1 rows are computed, not 3, 3, 3."""
    table = Table({(): {EOS: 1.0}, (A,): {EOS: 1.0}, (B,): {A: 1.0}})
    start = table.start(3)
    start[1, -1], start[2, -1] = A, B  # as if these words had been said: A ends, B says A first

    class Echo(Table):
        def logits(self, word_ids: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            said = state[:, -1].clone()
            logits, _ = super().logits(said.long(), torch.full_like(state, PAD))
            following = state.clone()
            following[:, -1] = torch.where(said == B, float(A), float(PAD))
            return logits, following

    echo = Echo(table.rows)
    found = greedy(echo, start, generation())
    assert found.token_ids == [[EOS], [EOS], [A, EOS]]
    assert echo.sizes == [3, 1]


def test_ties_go_to_the_lower_id_and_the_better_hypothesis() -> None:
    table = Table({(): {C: 0.25, A: 0.25, D: 0.25, B: 0.25}, (A,): {EOS: 1.0}, (B,): {EOS: 1.0},
                   (C,): {EOS: 1.0}, (D,): {EOS: 1.0}})  # fmt: skip
    assert greedy(table, table.start(2), generation()).token_ids == [[A, EOS]] * 2
    for width in (1, 2, 3):
        assert beam(table, table.start(2), generation(beam_size=width)).token_ids == [[A, EOS]] * 2
    assert sample(table, table.start(1), generation(top_k=1), NOISE, *keys(1)).token_ids == [[A, EOS]]


def test_top_is_a_stable_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (200, 30), generator=generator).double()  # ties everywhere
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    for k in (1, 4, 30):
        values, places = top(scores, k)
        assert torch.equal(values, ordered[:, :k])
        assert torch.equal(places, order[:, :k])


def chi_squared_p(counts: np.ndarray, expected: np.ndarray) -> float:
    """p-value of the counts under the expected probabilities; words of probability zero must not occur."""
    assert (counts[expected == 0] == 0).all()
    seen = expected > 0
    return float(stats.chisquare(counts[seen], counts.sum() * expected[seen] / expected[seen].sum()).pvalue)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_p": 0.7},
        {"temperature": 1.5, "top_k": 4, "top_p": 0.8},
    ],
    ids=str,
)
def test_sampled_words_follow_the_distribution(changes: dict[str, float]) -> None:
    """The first words of 10,000 utterances against p worked out here in plain numpy, by chi-squared."""
    p = np.array([0.1, 0.05, 0.1, 0.15, 0.25, 0.05, 0.2, 0.1])
    table = Table({(): dict(enumerate(p)), **{(word,): {EOS: 1.0} for word in (A, B, C, D, UNK)}})
    params = generation(strategy="sample", **changes)
    count = 10_000
    found = decode(table, table.start(count), params, NOISE, *keys(count))
    counts = np.bincount([ids[0] for ids in found.token_ids], minlength=VOCABULARY)

    expected = p ** (1.0 / params.temperature)
    expected[[PAD, SOS]] = 0.0
    order = np.argsort(-expected, kind="stable")
    if params.top_k:
        expected[order[params.top_k :]] = 0.0
    expected /= expected.sum()
    kept = np.searchsorted(np.cumsum(expected[order]), params.top_p - 1e-12) + 1
    expected[order[kept:]] = 0.0
    expected /= expected.sum()
    assert chi_squared_p(counts, expected) > 1e-3
    np.testing.assert_allclose(
        word_distribution(torch.tensor(p).log().unsqueeze(0), params)[0], expected, atol=1e-12
    )


def test_words_at_different_positions_and_of_different_conversations_are_independent() -> None:
    """A model that says A or B with even odds, four times: all 16 ways are equally likely."""
    coin = {A: 0.5, B: 0.5}
    table = Table({(): coin, (A,): coin, (B,): coin})
    count = 16_000
    found = sample(table, table.start(count), generation(max_words=5), NOISE, *keys(count))
    ways = [int("".join("01"[word == B] for word in ids[:-1]), 2) for ids in found.token_ids]
    assert chi_squared_p(np.bincount(ways, minlength=16), np.full(16, 1 / 16)) > 1e-3


def test_a_draw_at_the_edges_hits_words_that_are_possible() -> None:
    """A uniform draw rounded to 0 or to 1 stays within the words of positive probability."""
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]])
    at = [0.0, 0.25, 0.5 - 1e-12, 0.5, 0.75, 1.0]
    drawn = draw(probabilities.expand(len(at), -1), torch.tensor(at, dtype=torch.float64))
    assert drawn.tolist() == [1, 1, 1, 3, 3, 3]


def test_top_p_keeps_the_likeliest_word_whatever_its_mass() -> None:
    distribution = word_distribution(torch.zeros(1, VOCABULARY), generation(top_p=1e-9))
    assert distribution[0].tolist() == [0.0, 1.0] + [0.0] * (VOCABULARY - 2)  # UNK, the first of equals


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_alone_or_in_company_the_same(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any batch, any order, and the splitting that bounds memory give every sequence the same utterance."""
    model, start, who = talkative(), starts(30), keys(30)
    params = generation(strategy=strategy)
    together = decode(model.decoder, start, params, NOISE, *who)
    alone = [
        decode(model.decoder, start[i : i + 1], params, NOISE, *(k[i : i + 1] for k in who))
        for i in range(30)
    ]
    assert together.token_ids == [one.token_ids[0] for one in alone]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    shuffled = decode(model.decoder, start[order], params, NOISE, *(key[order] for key in who))
    assert shuffled.token_ids == [together.token_ids[i] for i in order.tolist()]
    monkeypatch.setattr(decoding, "MAX_LOGITS", 7 * model.vocabulary_size)
    split = decode(model.decoder, start, params, NOISE, *who)
    assert split.token_ids == together.token_ids
    assert split.log_probs is not None
    assert together.log_probs is not None
    torch.testing.assert_close(split.log_probs, together.log_probs)


def test_no_sequence_gives_no_utterance() -> None:
    model = talkative()
    for strategy in ("greedy", "beam", "sample"):
        none = decode(model.decoder, starts(0), generation(strategy=strategy), NOISE, *keys(0))
        assert none.token_ids == []
        assert none.log_probs is not None
        assert none.log_probs.shape == (0,)


def test_a_vocabulary_of_specials_has_nothing_to_say() -> None:
    table = Table({})
    table.vocabulary_size = 3
    with pytest.raises(ParameterError, match="vocabulary of 3"):
        decode(table, table.start(1), generation(), NOISE)


@pytest.mark.parametrize(
    ("strategy", "changes", "said"),
    [
        ("sample", {"temperature": 1e-40}, "temperature = 1e-40: must be at least 1e-20"),
        ("beam", {"length_penalty": 1e300}, r"length_penalty = 1e\+300: must be at most 332 for .* 8 words"),
    ],
)
def test_parameters_that_overflow_are_refused(strategy: str, changes: dict[str, float], said: str) -> None:
    """They ended in errors of torch and of Python's floats; just within the bound they are what they say."""
    table = Table({(): {EOS: 0.4, A: 0.6}, (A,): {EOS: 1.0}})
    with pytest.raises(ParameterError, match=said):
        decode(table, table.start(1), generation(strategy=strategy, **changes), NOISE, *keys(1))
    within = {"temperature": 1e-20} if strategy == "sample" else {"length_penalty": 332.0}
    found = decode(table, table.start(1), generation(strategy=strategy, **within), NOISE, *keys(1))
    assert found.token_ids == [[A, EOS]]
    decode(table, table.start(1), generation(strategy="greedy", **changes), NOISE, *keys(1))


def test_decoding_leaves_no_trace_in_the_model() -> None:
    """No gradients, and the start state is not written over."""
    model, start = talkative(), starts(10)
    before = start.clone()
    decode(model.decoder, start, generation(strategy="beam"), NOISE)
    assert torch.equal(start, before)
    assert all(parameter.grad is None for parameter in model.parameters())
