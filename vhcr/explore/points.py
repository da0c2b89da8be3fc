"""Conversations and utterances as points: posterior means of z_conv and z_utt, in two dimensions, neighbours.

All of it is a function of the run and the data: nothing is drawn but by t-SNE, whose seed is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from vhcr.batch import Ints
from vhcr.errors import ParameterError
from vhcr.models import ConversationModel, Noise
from vhcr.models.gaussian import draw_posterior_mean
from vhcr.token_files import Conversations

Floats = NDArray[np.float64]
Projection = Literal["pca", "tsne"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)

AT_ONCE = 256  # rows of a matrix of distances that are held in memory


@dataclass(frozen=True)
class Points:
    """One row for each conversation, or for each scored utterance; numbers in nats."""

    conversation: Ints  # [points]
    turn: Ints  # [points]; -1 where the point is a conversation
    z: Floats  # [points, latent]: the posterior's mean
    num_words: Floats  # [points], EOS counted
    kl: Floats  # [points]: KL of this latent from its prior
    reconstruction_error: Floats  # [points], with every z at its posterior's mean


def measure(
    model: ConversationModel, data: Sequence[Conversations], batch_conversations: int = 80
) -> tuple[Points | None, Points | None]:
    """The conversations and the utterances of ``data`` as points; None where ``model`` has no such latent.

    Latents are at their posterior's means, z_utt given that of z_conv.
    """
    parts: tuple[list[tuple[Floats, ...]], ...] = ([], [])
    first = 0
    with torch.inference_mode():
        for split in data:
            for cpu_batch in split.batches(batch_conversations):
                batch = cpu_batch.to(model.device)
                output = model(batch, Noise(0), draw=draw_posterior_mean)
                latents = output.latents
                number = batch.index + first
                if latents.posterior_conv is not None:
                    columns = (
                        number,
                        torch.full_like(number, -1),
                        latents.posterior_conv.mu,
                        output.num_words.sum(1),
                        output.kl_conv,
                        output.reconstruction_error.sum(1),
                    )
                    parts[0].append(tuple(column.double().cpu().numpy() for column in columns))
                if latents.posterior_utt is not None:
                    at = (batch.conversation, batch.turn)
                    by_row = (number[at[0]], at[1], latents.posterior_utt.mu, output.num_words[at])
                    columns = (*by_row, output.kl_utt[at], output.reconstruction_error[at])
                    scored = model.scored_rows(batch).bool()
                    parts[1].append(tuple(column[scored].double().cpu().numpy() for column in columns))
            first += len(split)
    return _sorted(parts[0]), _sorted(parts[1])


def _sorted(parts: list[tuple[Floats, ...]]) -> Points | None:
    """The points of all batches, by conversation and turn."""
    if not parts:
        return None
    conversation, turn, *values = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((turn, conversation))
    where = conversation[order].astype(np.int64), turn[order].astype(np.int64)
    return Points(*where, *(column[order] for column in values))


def project(z: Floats, method: Projection = "pca") -> Floats:
    """``z`` [points, latent] in the plane, [points, 2], the same on every call.

    ``pca``: the two directions of most variance, each turned so that its largest weight is positive.
    ``tsne``: van der Maaten and Hinton (2008), begun at the principal components; keeps neighbours together,
    says nothing of distances between islands.

    Raises:
        ParameterError: there is no such method.
    """
    if method not in PROJECTIONS:
        raise ParameterError(f"projection = {method!r}: must be one of {', '.join(PROJECTIONS)}")
    centred = z - z.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, : -min(2, z.shape[1]) - 1 : -1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    plane = centred @ axes
    if plane.shape[1] < 2:
        plane = np.column_stack([plane, np.zeros(len(plane))])
    if method == "tsne" and len(z) > 3:
        from sklearn.manifold import TSNE

        start = plane / max(plane[:, 0].std(), 1e-12) * 1e-4
        perplexity = min(30.0, (len(z) - 1) / 3.0)
        plane = TSNE(perplexity=perplexity, init=start, random_state=0, n_jobs=1).fit_transform(centred)
    return np.asarray(plane, dtype=np.float64)


def nearest(z: Floats, to: Floats, count: int) -> tuple[Ints, Floats]:
    """The ``count`` rows of ``z`` nearest to each row of ``to``, nearest first, and their distances.

    [rows of to, count] each; Euclidean; of equals the first.
    """
    count = min(count, len(z))
    squares = (z**2).sum(axis=1)
    places, distances = np.empty((len(to), count), np.int64), np.empty((len(to), count))
    for first in range(0, len(to), AT_ONCE):
        here = to[first : first + AT_ONCE]
        squared = (here**2).sum(axis=1)[:, None] - 2.0 * here @ z.T + squares
        # The nearest and those as near as the last of them, so that of equals the first are taken.
        cut = np.partition(squared, count - 1, axis=1)[:, count - 1 : count]
        for row, (values, limit) in enumerate(zip(squared, cut, strict=True), start=first):
            near = np.flatnonzero(values <= limit)
            exact = np.sqrt(((z[near] - to[row]) ** 2).sum(axis=1))
            order = np.argsort(exact, kind="stable")[:count]
            places[row], distances[row] = near[order], exact[order]
    return places, distances


def neighbours(z: Floats, count: int) -> tuple[Ints, Floats]:
    """The ``count`` nearest other rows of each row, as ``nearest``."""
    count = min(count, len(z) - 1)
    places, distances = nearest(z, z, count + 1)
    # Itself is left out wherever it stands; where many are equal, it may not be among the first.
    other = places != np.arange(len(z))[:, None]
    other[other.all(axis=1), -1] = False
    return places[other].reshape(-1, count), distances[other].reshape(-1, count)
