"""Bounds per conversation: the same however batched, and ordered as they must be."""

import numpy as np
import pytest
import torch

from tests.training import tiny
from vhcr.evaluation import likelihood
from vhcr.evaluation.likelihood import (
    LogWeights,
    Scores,
    importance_subset,
    importance_weighted_nll,
    log_weights,
    perplexity,
    score,
)
from vhcr.models import build

DATA = tiny.conversations(17, seed=4)


def model(system: str, **changes: object):
    return build(tiny.MODEL, tiny.system(system, **changes), tiny.VOCABULARY, seed=0).double().eval()


@pytest.mark.parametrize("system", ["hred", "vhred", "vhcr-ud"])
@pytest.mark.parametrize("reading", ["paper", "release"])
def test_batching_changes_no_score(system, reading):
    """The authors summed log weights over a batch before the log: their bound depended on its size."""
    network = model(system, reading=reading)
    one, many = (score(network, DATA, size, seed=1) for size in (1, 17))
    for name, expected in vars(many).items():
        np.testing.assert_allclose(getattr(one, name), expected, rtol=1e-10, atol=1e-12, err_msg=name)


def test_scores_stand_in_the_order_of_the_split():
    scores = score(model("hred"), DATA, 4, seed=1)
    words = [sum(len(u) for u in DATA.utterances(i)) for i in range(len(DATA))]
    assert scores.num_words.tolist() == words


def test_per_word_divides_totals_and_adds_up():
    scores = score(model("vhcr-ud"), DATA, 4, seed=1)
    per_word = scores.per_word()
    assert per_word["nll_per_word"] == pytest.approx(scores.nll.sum() / DATA.num_words)
    assert per_word["nll_per_word"] == pytest.approx(
        per_word["reconstruction_per_word"] + per_word["kl_per_word"]
    )
    assert per_word["kl_per_word"] == pytest.approx(
        per_word["kl_conv_per_word"] + per_word["kl_utt_per_word"]
    )
    assert per_word["kl_conv_per_word"] > 0 < per_word["kl_utt_per_word"]


def test_by_turn_adds_up_to_the_whole_but_for_kl_conv():
    scores = score(model("vhcr-ud"), DATA, 4, seed=1)
    by_turn = np.sum(scores.error_by_turn)
    assert by_turn == pytest.approx(scores.nll.sum() - scores.kl_conv.sum())
    assert np.sum(scores.words_by_turn) == DATA.num_words


def test_the_release_reading_scores_no_first_turn():
    scores = score(model("vhcr-ud", reading="release"), DATA, 4, seed=1)
    by_turn = scores.nll_per_word_by_turn()
    assert by_turn[0] is None
    assert all(value is not None for value in by_turn[1:])


@pytest.mark.parametrize("reading", ["paper", "release"])
def test_parts_by_length_and_position_add_up_to_the_whole_but_for_kl_conv(reading):
    scores = score(model("vhcr-ud", reading=reading), DATA, 4, seed=1)
    first = int(reading == "release")
    lengths = [len(u) for i in range(len(DATA)) for u in DATA.utterances(i)[first:]]
    counts = np.bincount(lengths)
    np.testing.assert_array_equal(scores.utterances_by_length, counts)
    at = [sum(length > position for length in lengths) for position in range(max(lengths))]
    np.testing.assert_array_equal(scores.words_by_position, at)
    for parts in (scores.reconstruction_by_length, scores.reconstruction_by_position):
        assert parts.sum() == pytest.approx(scores.reconstruction_error.sum())
    for parts in (scores.kl_by_length, scores.kl_by_turn):
        assert parts.sum() == pytest.approx(scores.kl_utt.sum())
    assert len(scores.reconstruction_by_word_position()) == max(lengths)
    assert (scores.kl_per_word_by_turn()[0] is None) == (reading == "release")


def test_bins_of_utterance_length_by_hand():
    sizes = {name: np.zeros(2) for name in ("num_words", "reconstruction_error", "kl_utt", "kl_conv")}
    scores = Scores(
        **sizes,
        error_by_turn=np.zeros((2, 1)),
        words_by_turn=np.zeros((2, 1)),
        kl_by_turn=np.zeros(1),
        # One utterance of 1 word, two of 2, none of 3 or 4, one of 5.
        utterances_by_length=np.array([0.0, 1, 2, 0, 0, 1]),
        reconstruction_by_length=np.array([0.0, 1, 8, 0, 0, 10]),
        kl_by_length=np.array([0.0, 1, 0, 0, 0, 5]),
        words_by_position=np.array([4.0, 3]),
        reconstruction_by_position=np.array([8.0, 3]),
    )
    first, last = scores.by_utterance_length(2)
    assert (first.first, first.last, first.num_utterances, first.num_words) == (1, 2, 3, 5)
    assert first.nll_per_word == pytest.approx((1 + 8 + 1) / 5)
    assert first.kl_utt_per_word == pytest.approx(1 / 5)
    assert first.perplexity == pytest.approx(np.exp(2.0))
    assert (last.first, last.last) == (5, 6)
    assert last.nll_per_word == pytest.approx((10 + 5) / 5)
    assert scores.reconstruction_by_word_position() == (2.0, 1.0)


@pytest.mark.parametrize("system", ["vhred", "vhcr-ud"])
@pytest.mark.parametrize("utterance_draws", [1, 3])
def test_log_weights_do_not_depend_on_how_draws_are_grouped(system, utterance_draws):
    network = model(system)
    chosen = [3, 11, 0, 8]
    whole = log_weights(network, DATA, chosen, 6, 2, utterance_draws)
    pieces = log_weights(network, DATA, chosen, 6, 2, utterance_draws, max_words=1)
    alone = log_weights(network, DATA, [8], 6, 2, utterance_draws)
    for name in ("conversation", "utterances"):
        found = getattr(whole, name)
        np.testing.assert_allclose(found, getattr(pieces, name), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(
            getattr(alone, name)[0], found[3][..., : DATA.num_turns[8]] if found.ndim == 3 else found[3]
        )
    joint = whole.conversation + whole.utterances.sum(2)
    assert len(np.unique(joint.round(9))) == joint.size, "every draw is another one"
    of_z_conv = [len(np.unique(row.round(9))) for row in whole.conversation]
    assert of_z_conv == [1 if system == "vhred" else 6 // utterance_draws] * 4


def test_no_more_words_are_in_flight_than_allowed_but_for_a_conversation_with_more_alone(monkeypatch):
    network, passes = model("vhred"), []
    scored = type(network).score
    monkeypatch.setattr(
        type(network),
        "score",
        lambda self, batch, *rest, **options: (
            passes.append((batch.num_conversations, len(batch.token_ids)))
            or scored(self, batch, *rest, **options)
        ),
    )
    words = DATA.words_per_conversation
    for limit in (1, int(words.max()), 3 * int(words.max()), likelihood.MAX_WORDS):
        passes.clear()
        log_weights(network, DATA, range(len(DATA)), 4, seed=2, max_words=limit)
        assert all(size <= limit or conversations == 1 for conversations, size in passes), limit
        assert sum(size for _, size in passes) == 4 * words.sum()
    assert len(passes) == 1


def of_draws(weights: LogWeights, first: int, last: int) -> LogWeights:
    here = slice(first, last)
    return LogWeights(weights.conversation[:, here], weights.utterances[:, here], weights.utterance_draws)


@pytest.mark.parametrize("utterance_draws", [1, 5])
def test_the_bound_tightens_with_more_samples(utterance_draws):
    """In expectation -log p <= IW_K <= IW_1; 400 draws in 40 groups of 10 put the average clearly below."""
    weights = log_weights(model("vhcr-ud"), DATA, range(len(DATA)), 400, 3, utterance_draws)
    single = -(weights.conversation + weights.utterances.sum(2)).mean(axis=1)
    groups = [of_draws(weights, i, i + 10) for i in range(0, 400, 10)]
    tens = np.mean([importance_weighted_nll(group, 10) for group in groups], axis=0)
    whole = importance_weighted_nll(weights, 400)
    assert (tens < single).all()
    assert whole.sum() < tens.sum() < single.sum()


def test_turn_by_turn_a_bound_is_tighter_and_of_the_same_likelihood():
    """Without z_conv, all draws of a turn are combined with all draws of the others, at the same cost."""
    chosen = range(len(DATA))
    joint = log_weights(model("vhred"), DATA, chosen, 2000, seed=3)
    by_turn = LogWeights(joint.conversation, joint.utterances, 2000)

    def mean_of_tens(weights: LogWeights, within: int) -> float:
        groups = [of_draws(weights, i, i + 10) for i in range(0, 2000, 10)]
        tens = [LogWeights(each.conversation, each.utterances, within) for each in groups]
        return float(np.mean([importance_weighted_nll(each, 10).sum() for each in tens]))

    limit = importance_weighted_nll(by_turn, 2000).sum()
    assert importance_weighted_nll(joint, 2000).sum() == pytest.approx(limit, rel=2e-3)
    looseness = [mean_of_tens(joint, within) - limit for within in (1, 10)]
    assert 0 < looseness[1] < 0.95 * looseness[0]


def test_means_of_weights_are_taken_before_the_log_by_turn_by_draw_of_z_conv_and_by_conversation():
    flat = LogWeights(np.zeros((2, 2)), np.log(np.array([[1.0, 3.0], [2.0, 2.0]]))[..., None], 1)
    np.testing.assert_allclose(importance_weighted_nll(flat, 2), [-np.log(2.0), -np.log(2.0)])
    np.testing.assert_allclose(importance_weighted_nll(flat, 1), [0.0, -np.log(2.0)])
    huge = LogWeights(np.zeros((1, 2)), np.array([[[-1000.0], [-1001.0]]]), 1)
    assert importance_weighted_nll(huge, 2)[0] == pytest.approx(1000 - np.log((1 + np.exp(-1)) / 2))
    utterances = np.log(np.array([[[1.0, 5.0], [3.0, 1.0], [2.0, 4.0], [4.0, 2.0]]]))
    conversation = np.log(np.array([[0.5, 0.5, 2.0, 2.0]]))
    nested = LogWeights(conversation, utterances, 2)
    # Of the first z_conv 0.5 * mean(1, 3) * mean(5, 1), of the second 2 * mean(2, 4) * mean(4, 2).
    assert importance_weighted_nll(nested, 4)[0] == pytest.approx(-np.log((0.5 * 2 * 3 + 2 * 3 * 3) / 2))
    assert importance_weighted_nll(nested, 2)[0] == pytest.approx(-np.log(0.5 * 2 * 3))
    assert importance_weighted_nll(nested, 1)[0] == pytest.approx(-np.log(0.5 * 1 * 5))
    together = LogWeights(conversation, utterances, 1)
    joint = [0.5 * 1 * 5, 0.5 * 3 * 1, 2 * 2 * 4, 2 * 4 * 2]
    assert importance_weighted_nll(together, 4)[0] == pytest.approx(-np.log(np.mean(joint)))


def test_a_larger_subset_holds_a_smaller_one():
    few, more = importance_subset(50, 5, seed=1), importance_subset(50, 20, seed=1)
    assert set(few.tolist()) < set(more.tolist())
    assert importance_subset(7, 20, seed=1).tolist() == list(range(7))
    assert few.tolist() == sorted(few.tolist()) != importance_subset(50, 5, seed=2).tolist()


def test_hred_is_exact_so_its_weights_are_its_likelihood():
    network = model("hred")
    torch.testing.assert_close(
        torch.from_numpy(-log_weights(network, DATA, [5], 3, seed=0).utterances[0].sum(1)),
        torch.full((3,), score(network, DATA, 4, seed=9).nll[5], dtype=torch.float64),
    )


def test_a_perplexity_beyond_floats_is_none():
    """After a step of training a bound may be of thousands of nats a word; all else was lost too."""
    assert perplexity(2.0) == pytest.approx(np.exp(2.0))
    assert perplexity(709.0) is not None
    assert perplexity(710.0) is None
    assert perplexity(5000.0) is None
