"""Is z used, and how? Numbers about the latent variables of a trained model, per latent level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vhcr.batch import Batch, Conversations
from vhcr.diagnostics.moments import Moments
from vhcr.models import HRED, Latents, Noise
from vhcr.models.gaussian import DiagonalGaussian, draw_prior

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gathered:
    """Latent quantities over a split; arrays are float64, conversations in the split's order."""

    conversation: NDArray[np.int64]  # [utterances]
    turn: NDArray[np.int64]  # [utterances]
    h_cxt: Floats  # [utterances, size]
    prior_utt: tuple[Floats, Floats] | None  # mu and var, [utterances, latent]
    posterior_utt: tuple[Floats, Floats] | None
    posterior_conv: tuple[Floats, Floats] | None  # [conversations, latent]


def gather(model: HRED, data: Conversations, limit: int, batch_conversations: int, seed: int) -> Gathered:
    """Run inference over the first ``limit`` conversations and keep what the diagnostics need."""
    device = next(model.parameters()).device
    parts: dict[str, list[Floats]] = {}
    rows: list[NDArray[np.int64]] = []
    order: list[NDArray[np.int64]] = []

    def keep(name: str, value: Tensor) -> None:
        parts.setdefault(name, []).append(value.double().cpu().numpy())

    with torch.inference_mode():
        for batch in data.batches(batch_conversations, limit):
            latents: Latents = model(batch.to(device), Noise(seed)).latents
            rows.append(np.stack([batch.index[batch.conversation].numpy(), batch.turn.numpy()]))
            order.append(batch.index.numpy())
            keep("h_cxt", latents.h_cxt)
            for name in ("prior_utt", "posterior_utt", "posterior_conv"):
                gaussian: DiagonalGaussian | None = getattr(latents, name)
                if gaussian is not None:
                    keep(f"{name}/mu", gaussian.mu)
                    keep(f"{name}/var", gaussian.var)
    where = np.concatenate(rows, axis=1)
    by_row = np.lexsort((where[1], where[0]))
    by_conversation = np.argsort(np.concatenate(order), kind="stable")

    def pair(name: str, sort: NDArray[np.int64]) -> tuple[Floats, Floats] | None:
        if f"{name}/mu" not in parts:
            return None
        return np.concatenate(parts[f"{name}/mu"])[sort], np.concatenate(parts[f"{name}/var"])[sort]

    return Gathered(
        where[0][by_row],
        where[1][by_row],
        np.concatenate(parts["h_cxt"])[by_row],
        pair("prior_utt", by_row),
        pair("posterior_utt", by_row),
        pair("posterior_conv", by_conversation),
    )


def moments(gaussians: tuple[Floats, Floats]) -> Moments:
    """Var(mu) and E[var] of priors or posteriors over the data, per dimension."""
    mu, var = gaussians
    return Moments(torch.from_numpy(mu.var(axis=0)), torch.from_numpy(var.mean(axis=0)))


def kl_per_dimension(posterior: tuple[Floats, Floats], prior: tuple[Floats, Floats] | None) -> list[float]:
    """Mean KL(q || p) of each dimension, in nats; a prior of None stands for N(0, I)."""
    q = DiagonalGaussian(*(torch.from_numpy(part) for part in posterior))
    p = DiagonalGaussian.standard(q.mu) if prior is None else DiagonalGaussian(*map(torch.from_numpy, prior))
    return [float(value) for value in q.kl(p).mean(0)]


def mutual_information(posterior: tuple[Floats, Floats], seed: int) -> tuple[float, float]:
    """I(x; z) under q, in nats, and its standard error, from the aggregated posterior.

    Hoffman and Johnson (2016): E[log q(z | x) - log q(z)] with one z per x and q(z) the mean
    of all posteriors. Biased low: it cannot
    exceed log of the number of posteriors.
    """
    mu, var = posterior
    count = len(mu)
    z = mu + np.sqrt(var) * np.random.Generator(np.random.Philox(key=seed)).standard_normal(mu.shape)
    gained = np.empty(count)
    constant = np.log(2.0 * np.pi) + np.log(var)
    for first in range(0, count, 256):
        chunk = z[first : first + 256]
        log_q = -0.5 * (constant.sum(1) + (((chunk[:, None] - mu) ** 2) / var).sum(2))  # [chunk, count]
        own = log_q[np.arange(len(chunk)), np.arange(first, first + len(chunk))]
        top = log_q.max(axis=1)
        gained[first : first + 256] = own - (top + np.log(np.exp(log_q - top[:, None]).mean(axis=1)))
    return float(gained.mean()), float(gained.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0


def shuffled(batch: Batch) -> Callable[[DiagonalGaussian, DiagonalGaussian, Tensor], Tensor]:
    """A draw that hands every utterance (or conversation) the posterior sample of another one."""

    def draw(posterior: DiagonalGaussian, prior: DiagonalGaussian, eps: Tensor) -> Tensor:  # noqa: ARG001
        assert len(eps) in (batch.num_rows, batch.num_conversations)
        return posterior.sample(eps).roll(1, dims=0)

    return draw


def reconstruction_by_source(
    model: HRED, data: Conversations, limit: int, batch_conversations: int, seed: int
) -> dict[str, float]:
    """Reconstruction error per word with z from the posterior, from the prior, and from another's posterior.

    The gap between them is what the decoder gains from z, in nats per word.
    """
    device = next(model.parameters()).device
    sums = dict.fromkeys(("posterior", "prior", "shuffled"), 0.0)
    words = 0
    with torch.inference_mode():
        for cpu_batch in data.batches(batch_conversations, limit):
            batch = cpu_batch.to(device)
            h_enc = model.encode(batch)
            noise = Noise(seed)
            outputs = {
                "posterior": model.score(batch, h_enc, noise),
                "prior": model.score(batch, h_enc, noise, draw=draw_prior),
                "shuffled": model.score(batch, h_enc, noise, draw=shuffled(batch)),
            }
            for name, output in outputs.items():
                sums[name] += float(output.reconstruction_error.double().sum())
            words += int(outputs["posterior"].num_words.sum())
    return {name: value / max(words, 1) for name, value in sums.items()}
