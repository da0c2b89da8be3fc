"""Diagnostics: values worked out by hand, and extremes that must come out as extremes."""

import numpy as np
import pytest
import torch

from tests.training import tiny
from vhcr.batch import Batch
from vhcr.evaluation.latents import (
    DrawFrom,
    gather,
    kl_per_dimension,
    moments,
    mutual_information,
    reconstruction_by_source,
)
from vhcr.evaluation.likelihood import score
from vhcr.evaluation.probes import drawn, probe
from vhcr.models import build
from vhcr.models.gaussian import DiagonalGaussian

DATA = tiny.conversations(17, seed=4)


def test_prior_variance_ratio_is_within_over_between():
    # One: means 0 and 2, Var 1, mean variance 0.5. Two: means 0 and 4, Var 4, mean variance 1.
    mu = np.array([[0.0, 0.0], [2.0, 4.0]])
    var = np.array([[0.25, 1.0], [0.75, 1.0]])
    assert moments((mu, var)).variance_ratio() == pytest.approx((0.5 / 1 + 1 / 4) / 2)


def test_active_units_counts_dimensions_whose_mean_moves():
    mu = np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 0.1]])  # variances 0, 1 and 0.0025
    assert moments((mu, np.ones_like(mu))).active_units() == 1


def test_kl_per_dimension_by_hand():
    # KL(N(1, 1) || N(0, 1)) = 1/2; KL(N(0, 4) || N(0, 1)) = (4 - 1 - log 4) / 2.
    posterior = (np.array([[1.0, 0.0]]), np.array([[1.0, 4.0]]))
    assert kl_per_dimension(posterior, None) == pytest.approx([0.5, (3 - np.log(4)) / 2])
    shifted = (np.array([[1.0, 0.0]]), np.array([[1.0, 4.0]]))
    assert kl_per_dimension(posterior, shifted) == pytest.approx([0.0, 0.0])


def test_mutual_information_is_zero_when_collapsed_and_log_n_when_separate():
    random = np.random.default_rng(0)
    collapsed = (np.zeros((300, 2)), np.ones((300, 2)))
    estimate, error = mutual_information(collapsed, seed=1)
    assert estimate == pytest.approx(0.0, abs=1e-9)
    assert error == pytest.approx(0.0, abs=1e-9)
    separate = (random.standard_normal((300, 2)) * 1e4, np.ones((300, 2)))
    estimate, _ = mutual_information(separate, seed=1)
    assert estimate == pytest.approx(np.log(300), abs=1e-3)


def test_mutual_information_of_a_known_mixture():
    """Posteriors N(-1, 1) and N(1, 1), half the data each: I = h(mixture) - h(N(., 1))."""
    mu = np.repeat([[-1.0], [1.0]], 2000, axis=0)
    grid = np.linspace(-9, 9, 20001)
    density = 0.5 * (np.exp(-0.5 * (grid - 1) ** 2) + np.exp(-0.5 * (grid + 1) ** 2)) / np.sqrt(2 * np.pi)
    truth = -np.trapezoid(density * np.log(density), grid) - 0.5 * np.log(2 * np.pi * np.e)
    estimate, error = mutual_information((mu, np.ones_like(mu)), seed=3)
    assert abs(estimate - truth) < 5 * error
    assert error < 0.01


def test_a_draw_has_the_deviation_of_its_posterior():
    mu, var = np.full((4000, 2), 3.0), np.tile([0.25, 9.0], (4000, 1))
    z = drawn((mu, var), seed=5)
    assert z.mean(0) == pytest.approx([3.0, 3.0], abs=5 * 3 / 4000**0.5)
    assert z.std(0) == pytest.approx([0.5, 3.0], rel=0.05)
    assert (z == drawn((mu, var), seed=5)).all()
    assert (z != drawn((mu, var), seed=6)).all()


def test_z_comes_from_where_it_is_said_to():
    batch = DATA.batch(range(5))
    assert isinstance(batch, Batch)
    posterior, prior = (DiagonalGaussian(torch.randn(5, 3), torch.rand(5, 3) + 0.1) for _ in range(2))
    eps = torch.randn(5, 3)
    draw = DrawFrom(batch, "posterior", "prior", "shuffled")
    own = posterior.mu + posterior.var.sqrt() * eps
    assert torch.allclose(draw(posterior, prior, eps), own)
    assert torch.allclose(draw(posterior, prior, eps), prior.mu + prior.var.sqrt() * eps)
    assert torch.allclose(draw(posterior, prior, eps), own[[4, 0, 1, 2, 3]])


def test_gather_keeps_conversations_and_turns_in_order():
    network = build(tiny.MODEL, tiny.system("vhcr-ud"), tiny.VOCABULARY).double().eval()
    small, large = (gather(network, DATA, len(DATA), size, seed=0) for size in (2, 17))
    expected = [(c, t) for c in range(len(DATA)) for t in range(len(DATA.utterances(c)))]
    assert list(zip(large.conversation.tolist(), large.turn.tolist(), strict=True)) == expected
    np.testing.assert_allclose(small.h_cxt, large.h_cxt, atol=1e-12)
    assert small.posterior_conv is not None
    assert large.posterior_conv is not None
    np.testing.assert_allclose(small.posterior_conv[0], large.posterior_conv[0], atol=1e-12)


def test_gathered_kl_is_the_kl_of_the_bound():
    network = build(tiny.MODEL, tiny.system("vhcr-ud"), tiny.VOCABULARY).double().eval()
    found = gather(network, DATA, len(DATA), 5, seed=0)
    scores = score(network, DATA, 5, seed=0)
    assert found.posterior_utt is not None
    assert found.posterior_conv is not None
    of_utterances = sum(kl_per_dimension(found.posterior_utt, found.prior_utt)) * len(found.turn)
    of_conversations = sum(kl_per_dimension(found.posterior_conv, None)) * len(DATA)
    assert of_utterances == pytest.approx(scores.kl_utt.sum())
    assert of_conversations == pytest.approx(scores.kl_conv.sum())


@pytest.mark.parametrize("scale", [1e-4, 1.0], ids=["apart", "overlapping"])
def test_mutual_information_survives_means_far_from_zero_and_tiny_variances(scale):
    """Squares multiplied out cancel; the same points elsewhere must tell as much."""
    random = np.random.default_rng(2)
    mu, var = random.standard_normal((200, 3)), scale * np.exp(random.standard_normal((200, 3)))
    near, _ = mutual_information((mu, var), seed=1)
    far, _ = mutual_information((mu + 1e3, var), seed=1)
    assert far == pytest.approx(near, rel=1e-6)
    slow = []
    z = mu + np.sqrt(var) * np.random.Generator(np.random.Philox(key=1)).standard_normal(mu.shape)
    for i in range(200):
        log_q = -0.5 * ((z[i] - mu) ** 2 / var + np.log(2 * np.pi * var)).sum(1)
        slow.append(log_q[i] - np.log(np.mean(np.exp(log_q - log_q.max()))) - log_q.max())
    assert near == pytest.approx(np.mean(slow), rel=1e-9)


def test_gather_leaves_out_what_is_never_scored():
    network = build(tiny.MODEL, tiny.system("vhcr-ud", reading="release"), tiny.VOCABULARY).double().eval()
    found = gather(network, DATA, len(DATA), 5, seed=0)
    assert found.turn.min() == 1
    assert found.posterior_utt is not None
    assert len(found.posterior_utt[0]) == len(found.turn) == len(found.h_cxt)
    scores = score(network, DATA, 5, seed=0)
    assert sum(kl_per_dimension(found.posterior_utt, found.prior_utt)) * len(found.turn) == pytest.approx(
        scores.kl_utt.sum()
    )


@pytest.mark.parametrize("system", ["vhred-zonly", "vhcr-ud"])
@pytest.mark.parametrize("reading", ["paper", "release"])
def test_reconstruction_by_source_starts_from_the_bound_and_is_equal_when_the_decoder_ignores_z(
    system, reading
):
    network = build(tiny.MODEL, tiny.system(system, reading=reading), tiny.VOCABULARY).double().eval()
    found = reconstruction_by_source(network, DATA, len(DATA), 5, seed=0)
    scores = score(network, DATA, 5, seed=0)
    assert found["posterior"].per_word == pytest.approx(scores.per_word()["reconstruction_per_word"])
    assert found["posterior"].by_position == pytest.approx(scores.reconstruction_by_word_position())
    names = {"posterior", "prior", "shuffled"}
    if system == "vhcr-ud":
        names |= {"prior_conv", "prior_utt", "shuffled_conv", "shuffled_utt"}
    assert found.keys() == names
    assert len({round(value.per_word, 9) for value in found.values()}) == len(names)
    network.decoder.from_sources.weight.data.zero_()
    deaf = reconstruction_by_source(network, DATA, len(DATA), 5, seed=0)
    for name in names:
        assert deaf[name].per_word == pytest.approx(deaf["posterior"].per_word), name
        assert deaf[name].by_position == pytest.approx(deaf["posterior"].by_position)


def test_each_level_is_replaced_alone():
    """Deaf to z_utt, a decoder must not care where it comes from, while z_conv still tells."""
    network = build(tiny.MODEL, tiny.system("vhcr-ud"), tiny.VOCABULARY).double().eval()
    columns = network.decoder.from_sources.weight.data
    sizes = (tiny.MODEL.context_size, tiny.MODEL.z_utt_size)
    columns[:, sizes[0] : sum(sizes)] = 0.0
    found = reconstruction_by_source(network, DATA, len(DATA), 5, seed=0)
    for name in ("prior_utt", "shuffled_utt"):
        assert found[name].per_word == pytest.approx(found["posterior"].per_word)
    for name in ("prior_conv", "shuffled_conv"):
        assert found[name].per_word != pytest.approx(found["posterior"].per_word, abs=1e-6)


def test_a_probe_reads_what_is_there_and_nothing_from_noise():
    random = np.random.default_rng(1)
    labels = [str(label) for label in random.integers(0, 4, 800)]
    telling = np.array([[float(label == str(k)) for k in range(4)] for label in labels])
    telling += 0.1 * random.standard_normal(telling.shape)
    noise = random.standard_normal((800, 4))
    known = probe(telling[:400], labels[:400], telling[400:], labels[400:])
    guessed = probe(noise[:400], labels[:400], noise[400:], labels[400:])
    assert known is not None
    assert guessed is not None
    assert known.accuracy > 0.98
    assert guessed.accuracy < 0.4
    assert 0.25 <= known.chance < 0.35


def test_chance_is_the_share_of_the_most_frequent_label_of_those_tested():
    points = np.random.default_rng(0).standard_normal((10, 1))
    found = probe(points, list("aaaaabbbbb"), points, list("aaaaaaabbc"))
    assert found is not None
    assert (found.chance, found.num_test) == (0.7, 10)


def test_a_probe_needs_labels_to_tell_apart():
    points = np.zeros((4, 2))
    assert probe(points, ["a"] * 4, points, ["a"] * 4) is None
