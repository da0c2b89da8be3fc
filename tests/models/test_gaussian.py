"""The Gaussian against torch.distributions, Monte Carlo, and integrals on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from tests.models.examples import conversations, network, packed
from vhcr.models import Noise, objective
from vhcr.models.gaussian import (
    DiagonalGaussian,
    GaussianMLP,
    analytic_kl,
    draw_posterior,
    draw_posterior_mean,
    draw_prior,
    sampled_kl,
)


def some(seed: int, *shape: int) -> DiagonalGaussian:
    generator = torch.Generator().manual_seed(seed)
    mu = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return DiagonalGaussian(mu, torch.rand(*shape, generator=generator, dtype=torch.float64) * 3.0 + 0.05)


def library(gaussian: DiagonalGaussian) -> Normal:
    return Normal(gaussian.mu, gaussian.var.sqrt())


def test_log_prob_and_kl_equal_torch_distributions() -> None:
    q, p, value = some(0, 5, 3), some(1, 5, 3), some(2, 5, 3).mu
    torch.testing.assert_close(q.log_prob(value), library(q).log_prob(value), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(q.kl(p), kl_divergence(library(q), library(p)), rtol=1e-12, atol=1e-12)


def test_kl_within_five_standard_errors_of_monte_carlo() -> None:
    q, p = some(3, 4), some(4, 4)
    eps = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    z = q.sample(eps)
    estimate = sampled_kl(q, p, z)
    error = estimate.std(0) / math.sqrt(len(eps))
    assert ((estimate.mean(0) - q.kl(p)).abs() < 5.0 * error).all()
    # The sample itself: its second parameter is a variance, not a deviation.
    assert ((z.mean(0) - q.mu).abs() < 5.0 * z.std(0) / math.sqrt(len(eps))).all()
    assert ((z.var(0) / q.var - 1.0).abs() < 5.0 * math.sqrt(2.0 / len(eps))).all()


def test_kl_is_zero_when_equal_and_positive_otherwise() -> None:
    q, p = some(6, 1000), some(7, 1000)
    assert (q.kl(q) == 0.0).all()
    assert (q.kl(p) > 0.0).all()
    only_mean = DiagonalGaussian(q.mu + 0.1, q.var)
    only_variance = DiagonalGaussian(q.mu, q.var * 1.1)
    assert (q.kl(only_mean) > 0.0).all()
    assert (q.kl(only_variance) > 0.0).all()


def test_latent_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="latent sizes differ: 3 and 1"):
        some(0, 2, 3).kl(some(1, 2, 1))


def test_standard_is_the_standard_normal_in_the_type_of_its_model() -> None:
    standard = DiagonalGaussian.standard(torch.full((2, 3), 7.0, dtype=torch.float32))
    assert standard.mu.dtype == standard.var.dtype == torch.float32
    assert (standard.mu == 0.0).all()
    assert (standard.var == 1.0).all()


def test_the_variance_of_an_mlp_stays_positive() -> None:
    """Softplus underflows to zero far on the left; a zero variance has an infinite KL."""
    mlp = GaussianMLP(2, 3, 4, num_layers=2)
    with torch.no_grad():
        mlp.var.bias.fill_(-1000.0)
    q = mlp(torch.ones(5, 2))
    assert (q.var > 0.0).all()
    assert torch.isfinite(q.kl(DiagonalGaussian.standard(q.mu))).all()
    assert torch.isfinite(q.log_prob(q.mu)).all()


def test_draws_and_divergences_are_of_the_distributions_they_name() -> None:
    q, p, eps = some(8, 6), some(9, 6), some(10, 6).mu
    torch.testing.assert_close(draw_posterior(q, p, eps), q.mu + q.var.sqrt() * eps)
    torch.testing.assert_close(draw_prior(q, p, eps), p.mu + p.var.sqrt() * eps)
    assert draw_posterior_mean(q, p, eps) is q.mu
    torch.testing.assert_close(analytic_kl(q, p, eps), kl_divergence(library(q), library(p)))
    expected = library(q).log_prob(eps) - library(p).log_prob(eps)
    torch.testing.assert_close(sampled_kl(q, p, eps), expected)


# --- bound against truth: one-dimensional latents, integrated on a grid ---

GRID = torch.linspace(-9.0, 9.0, 81, dtype=torch.float64)
SPACING = math.log(float(GRID[1] - GRID[0]))


def truth_vhred(name: str, reading: str, turns: int) -> tuple[Tensor, Callable[[int], Tensor]]:
    """log p(c) by integrating each z_utt, and a function that scores K draws of the posterior."""
    model = network(name, reading, latent=1, seed=2, scale=3.0).eval()
    chosen = conversations([turns], seed=4)
    output = model(
        packed(chosen, [5], samples=len(GRID)), Noise(0), draw=lambda q, p, eps: p.mu * 0.0 + on_rows(q.mu)
    )
    prior = output.latents.prior_utt
    assert prior is not None
    by_turn = prior.log_prob(output.latents.z_utt).reshape(turns, len(GRID)).t()
    integrand = by_turn - output.reconstruction_error
    first = 0 if reading == "paper" else 1
    return torch.logsumexp(integrand[:, first:] + SPACING, dim=0).sum(), draws(model, chosen)


def on_rows(like: Tensor) -> Tensor:
    """The grid as z: rows are turn-major, and within a turn stand the copies in order."""
    return GRID.repeat(len(like) // len(GRID)).unsqueeze(-1)


def truth_vhcr(reading: str, turns: int) -> tuple[Tensor, Callable[[int], Tensor]]:
    """log p(c) by integrating every z_utt for each z_conv, then z_conv."""
    model = network("vhcr", reading, latent=1, seed=2, scale=2.0).eval()
    chosen = conversations([turns], seed=4)
    size = len(GRID)
    z_conv, z_utt = (grid.reshape(-1, 1) for grid in torch.meshgrid(GRID, GRID, indexing="ij"))

    def draw(q: DiagonalGaussian, p: DiagonalGaussian, eps: Tensor) -> Tensor:
        return z_conv if len(q.mu) == size**2 and (p.mu == 0.0).all() else z_utt.repeat(turns, 1)

    output = model(packed(chosen, [5], samples=size**2), Noise(0), draw=draw)
    prior = output.latents.prior_utt
    assert prior is not None
    by_turn = prior.log_prob(output.latents.z_utt).reshape(turns, size, size)
    integrand = by_turn - output.reconstruction_error.t().reshape(turns, size, size)
    first = 0 if reading == "paper" else 1
    given_z_conv = torch.logsumexp(integrand[first:] + SPACING, dim=2).sum(0)  # [size]
    prior_conv = DiagonalGaussian.standard(GRID).log_prob(GRID)
    return torch.logsumexp(given_z_conv + prior_conv + SPACING, dim=0), draws(model, chosen)


def draws(model: torch.nn.Module, chosen: list[list[list[int]]]) -> Callable[[int], Tensor]:
    """log weights log p(c, z) - log q(z | c) of K draws from the posterior."""

    def log_weights(num_samples: int) -> Tensor:
        with torch.no_grad():
            output = model(packed(chosen, [5], samples=num_samples), Noise(1), divergence=sampled_kl)
            return objective.elbo(output)

    return log_weights


@pytest.mark.parametrize(
    ("name", "reading"),
    [
        ("vhred", "paper"),
        ("vhcr", "release"),
        pytest.param("vhred", "release", marks=pytest.mark.slow),
        pytest.param("vhcr", "paper", marks=pytest.mark.slow),
    ],
)
def test_elbo_below_importance_weighted_below_integral(name: str, reading: str) -> None:
    """ELBO < E log mean of 4 weights < log p(c), each gap far beyond sampling error.

    And the mean weight itself estimates p(c) without bias, within five standard errors.
    """
    with torch.no_grad():
        truth, log_weights = truth_vhcr(reading, 2) if name == "vhcr" else truth_vhred(name, reading, 2)
    weights = log_weights(15_000)
    groups = torch.logsumexp(weights.reshape(-1, 4), dim=1) - math.log(4)
    bound, tighter = weights.mean(), groups.mean()
    error, error_tighter = (x.std() / math.sqrt(len(x)) for x in (weights, groups))
    assert bound + 5.0 * error < tighter
    assert tighter + 5.0 * error_tighter < truth
    relative = (weights - truth).exp()
    assert abs(float(relative.mean()) - 1.0) < 5.0 * float(relative.std()) / math.sqrt(len(relative))
