"""Is z used, and how? Numbers about the latent variables of a trained model, per latent level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vhcr.batch import Batch
from vhcr.evaluation.likelihood import added, by_position, ratios
from vhcr.evaluation.probes import Gathered, Labels, drawn, probe_labels
from vhcr.evaluation.records import ByPlace, BySource, Diagnostics, Information, PositionsBySource
from vhcr.models import ConversationModel, Latents, Noise
from vhcr.models.gaussian import DiagonalGaussian
from vhcr.params import EvaluationParams
from vhcr.token_files import Conversations
from vhcr.training.moments import Moments

Floats = NDArray[np.float64]


def gather(
    model: ConversationModel, data: Conversations, limit: int, batch_conversations: int, seed: int
) -> Gathered:
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
            scored = model.scored_rows(batch).bool()
            where_from = torch.stack([batch.index[batch.conversation], batch.turn])
            rows.append(where_from[:, scored].numpy())
            order.append(batch.index.numpy())
            scored = scored.to(device)
            keep("h_cxt", latents.h_cxt[scored])
            for name in ("prior_utt", "posterior_utt", "posterior_conv"):
                gaussian: DiagonalGaussian | None = getattr(latents, name)
                if gaussian is not None:
                    kept = scored if name.endswith("_utt") else slice(None)
                    keep(f"{name}/mu", gaussian.mu[kept])
                    keep(f"{name}/var", gaussian.var[kept])
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


def kl_per_dimension(
    posterior: tuple[Floats, Floats], prior: tuple[Floats, Floats] | None
) -> tuple[float, ...]:
    """Mean KL(q || p) of each dimension, in nats; a prior of None stands for N(0, I)."""
    q = DiagonalGaussian(*(torch.from_numpy(part) for part in posterior))
    p = DiagonalGaussian.standard(q.mu) if prior is None else DiagonalGaussian(*map(torch.from_numpy, prior))
    return tuple(float(value) for value in q.kl(p).mean(0))


def mutual_information(posterior: tuple[Floats, Floats], seed: int) -> tuple[float, float]:
    """I(x; z) under q, in nats, and its standard error, from the aggregated posterior.

    Hoffman and Johnson (2016): E[log q(z | x) - log q(z)] with one z per x and q(z) the mean
    of all posteriors. Biased low: it cannot exceed log of the number of posteriors. Time grows with the
    square of that number, memory with the number.
    """
    mu, var = posterior
    count = len(mu)
    z = drawn(posterior, seed)
    precision = 1.0 / var
    # (z - mu)^2 / var multiplied out, about the mean of all so that little cancels: products of matrices.
    centre = mu.mean(axis=0)
    mu, z = mu - centre, z - centre
    constant = (mu**2 * precision).sum(1) + (np.log(2.0 * np.pi) + np.log(var)).sum(1)
    gained = np.empty(count)
    for first in range(0, count, 256):
        chunk = z[first : first + 256]
        log_q = -0.5 * (chunk**2 @ precision.T - 2.0 * chunk @ (mu * precision).T + constant)
        own = log_q[np.arange(len(chunk)), np.arange(first, first + len(chunk))]
        top = log_q.max(axis=1)
        gained[first : first + 256] = own - (top + np.log(np.exp(log_q - top[:, None]).mean(axis=1)))
    return float(gained.mean()), float(gained.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0


Source = Literal["posterior", "prior", "shuffled"]


class DrawFrom:
    """Where z_conv and z_utt come from: their posterior, their prior, or the posterior of another one.

    Called once for each level of a model, z_conv first; a fresh one serves one pass.
    """

    def __init__(self, batch: Batch, *sources: Source) -> None:
        self._batch = batch
        self._sources = iter(sources)

    def __call__(self, posterior: DiagonalGaussian, prior: DiagonalGaussian, eps: Tensor) -> Tensor:
        """The next level's z, [batch, latent] or [rows, latent]."""
        assert len(eps) in (self._batch.num_rows, self._batch.num_conversations)
        source = next(self._sources)
        if source == "prior":
            return prior.sample(eps)
        sample = posterior.sample(eps)
        return sample.roll(1, dims=0) if source == "shuffled" else sample


class Errors(NamedTuple):
    """Reconstruction error in nats with z from somewhere: per word, and per word at each position."""

    per_word: float
    by_position: ByPlace


def reconstruction_by_source(
    model: ConversationModel, data: Conversations, limit: int, batch_conversations: int, seed: int
) -> dict[str, Errors]:
    """Reconstruction error with z from the posterior, from the prior, and from another's posterior.

    The gap between them is what the decoder gains from z, in nats per word. Of a model with z_conv each level
    is replaced alone too (``prior_conv``, ``shuffled_utt``, ...), the other staying with its posterior; that
    of z_utt is then the posterior given the replaced z_conv.
    """
    device = next(model.parameters()).device
    ways: dict[str, tuple[Source, ...]] = {}
    levels = 2 if model.z_conv_size else 1
    for source in ("posterior", "prior", "shuffled"):
        ways[source] = (source,) * levels
        if levels == 2 and source != "posterior":
            ways[f"{source}_conv"] = (source, "posterior")
            ways[f"{source}_utt"] = ("posterior", source)
    sums = {name: np.zeros((2, 1)) for name in ways}
    with torch.inference_mode():
        for cpu_batch in data.batches(batch_conversations, limit):
            batch = cpu_batch.to(device)
            h_enc = model.encode(batch)
            for name, sources in ways.items():
                output = model.score(batch, h_enc, Noise(seed), draw=DrawFrom(batch, *sources))
                sums[name] = added(sums[name], by_position(model, batch, output))
    return {
        name: Errors(float(errors.sum() / max(words.sum(), 1.0)), ratios(errors, words))
        for name, (words, errors) in sums.items()
    }


def diagnose(
    model: ConversationModel, splits: Mapping[str, Conversations], labels: Labels, params: EvaluationParams
) -> Diagnostics:
    """Is z used? Section 3.4 and the usual diagnostics, on the first ``importance_conversations``.

    On a corpus with labels all are taken, of the validation split too: probes are fitted there.
    """
    size, limit = params.batch_conversations, params.importance_conversations
    found = {
        name: gather(model, data, len(data) if labels else limit, size, params.seed)
        for name, data in splits.items()
        if labels or name == "test"
    }
    test = found["test"]
    known = Diagnostics()
    if test.prior_utt is not None and test.posterior_utt is not None:
        sources = reconstruction_by_source(model, splits["test"], limit, size, params.seed)
        known = Diagnostics(
            prior_variance_ratio=moments(test.prior_utt).variance_ratio(),
            active_units_utt=moments(test.posterior_utt).active_units(),
            kl_utt_per_dimension=kl_per_dimension(test.posterior_utt, test.prior_utt),
            mutual_information_utt=information(test.posterior_utt, test.conversation < limit, params.seed),
            reconstruction_per_word_by_source=BySource.model_validate(
                {name: errors.per_word for name, errors in sources.items()}
            ),
            reconstruction_by_word_position_by_source=PositionsBySource(
                posterior=sources["posterior"].by_position, prior=sources["prior"].by_position
            ),
        )
    if test.posterior_conv is not None:
        conv: dict[str, object] = {
            "active_units_conv": moments(test.posterior_conv).active_units(),
            "kl_conv_per_dimension": kl_per_dimension(test.posterior_conv, None),
            "mutual_information_conv": information(test.posterior_conv, slice(limit), params.seed),
        }
        known = known.model_copy(update=conv)
    if labels:
        known = known.model_copy(update={"probe": probe_labels(found, splits, labels, params.seed)})
    return known


def information(
    posterior: tuple[Floats, Floats], chosen: slice | NDArray[np.bool_], seed: int
) -> Information:
    """I(x; z) with its standard error, and the number of posteriors, whose log is the most it can be."""
    mu, var = (values[chosen] for values in posterior)
    estimate, error = mutual_information((mu, var), seed)
    return Information(estimate=estimate, standard_error=error, num_posteriors=len(mu))
