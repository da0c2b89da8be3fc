"""A diagonal Gaussian: sample, log_prob, kl. Its second parameter is a variance, as in N(mu, sigma I)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vhcr.models.kernels.precision import Linear, at_least_float32

# A variance of exactly zero has no log density; softplus underflows to zero in float32 near -104.
MIN_VARIANCE = 1e-8


class DiagonalGaussian(NamedTuple):
    """N(mu, diag(var)), both [..., latent]."""

    mu: Tensor
    var: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        """mu + sqrt(var) eps for standard normal ``eps`` of the same shape (the reparameterisation trick)."""
        return self.mu + self.var.sqrt() * eps

    def log_prob(self, value: Tensor) -> Tensor:
        """log N(value; mu, var) per dimension, in nats; the caller sums."""
        return -0.5 * (math.log(2.0 * math.pi) + self.var.log() + (value - self.mu) ** 2 / self.var)

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """KL(self || other) per dimension, in nats (the KL of Eq. 2); the caller sums.

        Raises:
            ValueError: the latent sizes differ.
        """
        if self.mu.shape[-1] != other.mu.shape[-1]:
            raise ValueError(f"latent sizes differ: {self.mu.shape[-1]} and {other.mu.shape[-1]}")
        ratio = self.var / other.var
        return 0.5 * (ratio - 1.0 - ratio.log() + (self.mu - other.mu) ** 2 / other.var)

    @classmethod
    def standard(cls, like: Tensor) -> DiagonalGaussian:
        """N(0, I) with the shape of ``like`` (Eq. 16)."""
        return cls(torch.zeros_like(like), torch.ones_like(like))


class NormalisedMean(nn.Module):
    """scale * (mu - mean) / deviation + shift: over the batch while training, over what was seen after that.

    The scale is fixed, the shift learnt (Zhu et al., 2020, section 3.1).
    """

    MOMENTUM = 0.02  # of the running mean and variance: some fifty batches
    mean: Tensor  # of the means seen while training, [size]
    variance: Tensor
    EPS = 1e-8  # beside the variance; with the library's 1e-5 means could evade by shrinking below 0.003

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.shift = nn.Parameter(torch.zeros(size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))

    def forward(self, mu: Tensor) -> Tensor:
        """[items, size] -> [items, size]; a batch of one item is taken as after training."""
        batch = self.training and len(mu) > 1
        weight = torch.full_like(self.shift, self.scale)
        return functional.batch_norm(
            mu, self.mean, self.variance, weight, self.shift, batch, self.MOMENTUM, self.EPS
        )


class GaussianMLP(nn.Module):
    """mu = MLP(x), var = Softplus(MLP(x)) (Eq. 6-7, 10-11, 18-19, 22-23, 25).

    Tanh after every hidden layer, then one linear head each for mu and var. With ``batch_norm`` > 0 the
    means of a batch have that standard deviation in every dimension (BN-VAE, Zhu et al., 2020): a posterior
    cannot then be one and the same for all.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        latent_size: int,
        num_layers: int,
        batch_norm: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [input_size] + [hidden_size] * num_layers
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(sizes))
        self.mu = Linear(hidden_size, latent_size)
        self.var = Linear(hidden_size, latent_size)
        self.normalised = NormalisedMean(latent_size, batch_norm) if batch_norm > 0.0 else None

    def forward(self, *inputs: Tensor) -> DiagonalGaussian:
        """The distribution given the concatenation of ``inputs``, each [..., size]."""
        hidden = torch.cat(inputs, dim=-1)
        for layer in self.layers:
            hidden = torch.tanh(at_least_float32(layer(hidden)))
        var = functional.softplus(at_least_float32(self.var(hidden)))
        mu = at_least_float32(self.mu(hidden))
        if self.normalised is not None:
            mu = self.normalised(mu)
        return DiagonalGaussian(mu, var + MIN_VARIANCE)


# How a latent variable is drawn when a conversation is scored: (posterior, prior, eps) -> z.
Draw = Callable[[DiagonalGaussian, DiagonalGaussian, Tensor], Tensor]
# What it costs: (posterior, prior, z) -> nats per dimension.
Divergence = Callable[[DiagonalGaussian, DiagonalGaussian, Tensor], Tensor]


def draw_posterior(posterior: DiagonalGaussian, prior: DiagonalGaussian, eps: Tensor) -> Tensor:  # noqa: ARG001
    """z ~ q: how the bound is defined."""
    return posterior.sample(eps)


def draw_posterior_mean(posterior: DiagonalGaussian, prior: DiagonalGaussian, eps: Tensor) -> Tensor:  # noqa: ARG001
    """The mean of q: deterministic, no bound."""
    return posterior.mu


def draw_prior(posterior: DiagonalGaussian, prior: DiagonalGaussian, eps: Tensor) -> Tensor:  # noqa: ARG001
    """z ~ p: what the decoder can do without having seen the target."""
    return prior.sample(eps)


def analytic_kl(posterior: DiagonalGaussian, prior: DiagonalGaussian, z: Tensor) -> Tensor:  # noqa: ARG001
    """KL(q || p): the bound of Eq. 2."""
    return posterior.kl(prior)


def sampled_kl(posterior: DiagonalGaussian, prior: DiagonalGaussian, z: Tensor) -> Tensor:
    """log q(z) - log p(z): its one-sample estimate, and the log weight of importance sampling."""
    return posterior.log_prob(z) - prior.log_prob(z)
