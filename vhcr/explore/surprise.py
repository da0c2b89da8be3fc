"""Which words a model finds likely and which surprising, and what z has to do with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from vhcr.batch import Ints, pack
from vhcr.models import ConversationModel, Noise
from vhcr.models.gaussian import Draw, draw_posterior_mean, draw_prior

PRIOR_DRAWS = 8


class Surprise(NamedTuple):
    """-log p of each word of each utterance, in nats, EOS included: [turns][words]; 0 where none is scored.

    ``with_z``: every latent at its posterior's mean. ``without_z``: latents drawn from their priors, which
    have not seen what is said, the mean over ``PRIOR_DRAWS`` draws.
    """

    with_z: list[list[float]]
    without_z: list[list[float]]


@torch.inference_mode()
def surprise(model: ConversationModel, utterances: Sequence[Ints], number: int) -> Surprise:
    """The surprise of one conversation; ``number`` keys the draws, so it is the same on every call."""

    def errors(samples: int, draw: Draw) -> list[list[float]]:
        batch = pack([utterances], [number], samples).to(model.device)
        found = model(batch, Noise(0), draw=draw).word_errors.double()
        sums = [found.new_zeros(len(words)) for words in utterances]
        for row, step, error in zip(
            batch.turn[batch.word_row].tolist(), batch.word_step.tolist(), found / samples, strict=True
        ):
            sums[row][step] += error
        return [values.tolist() for values in sums]

    return Surprise(errors(1, draw_posterior_mean), errors(PRIOR_DRAWS, draw_prior))
