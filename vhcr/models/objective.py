"""From a ModelOutput to numbers: the ELBO (Eq. 2), the KL weight (Eq. 12), the loss, and per-word averages.

The only place where what training minimises is summed over turns or averaged over words.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vhcr.models.conversation_model import ModelOutput


def elbo(output: ModelOutput) -> Tensor:
    """Eq. 2 per conversation, [batch], in nats: a lower bound on log p(c); exact for HRED.

    With ``sampled_kl`` as divergence it is the log weight log p(c, z) - log q(z | c) instead.
    """
    return -(output.reconstruction_error.sum(1) + output.kl_utt.sum(1) + output.kl_conv)


def kl_weight(step: int, annealing_steps: int, cycles: int = 1, final: float = 1.0) -> float:
    """lambda of Eq. 12: linear from 0 at step 0 to 1 at ``annealing_steps``; a pure function of the step.

    With several ``cycles`` (Fu et al., 2019) annealing is cut into as many equal parts; in each the weight
    rises over the first half and rests over the second. ``final`` is what it rises to.
    """
    if step >= annealing_steps:
        return final
    if cycles == 1:
        return final * step / annealing_steps
    length = annealing_steps / cycles
    return final * min(1.0, 2.0 * (step % length) / length)


def loss(
    output: ModelOutput,
    kl_weight: float,
    bag_of_words_weight: float,
    free_bits_utt: float = 0.0,
    free_bits_conv: float = 0.0,
    free_bits_conv_per_word: float = 0.0,
) -> Tensor:
    """What the optimiser minimises: Eq. 12, sign turned, plus the bag-of-words loss; nats per word.

    The KL of an utterance counts as ``free_bits_utt`` nats at least, that of a conversation as
    ``free_bits_conv`` and ``free_bits_conv_per_word`` for each of its words: below them it is not pushed
    further down (Kingma et al., 2016, one group a latent).
    """
    kl_utt, kl_conv = output.kl_utt, output.kl_conv
    if free_bits_utt > 0.0:
        kl_utt = torch.where(output.num_words > 0, kl_utt.clamp_min(free_bits_utt), kl_utt)
    if free_bits_conv > 0.0 or free_bits_conv_per_word > 0.0:
        words = output.num_words.sum(1).to(kl_conv)
        kl_conv = kl_conv.clamp_min(free_bits_conv + free_bits_conv_per_word * words)
    kl = kl_utt.sum() + kl_conv.sum()
    total = output.reconstruction_error.sum() + kl_weight * kl
    if bag_of_words_weight > 0.0:
        total = total + bag_of_words_weight * output.bag_of_words_error.sum()
    return total / output.num_words.sum().clamp_min(1)


@dataclass
class Totals:
    """Sums over conversations, in nats; ``per_word`` divides by the words scored, EOS and UNK counted."""

    reconstruction_error: float = 0.0
    kl_conv: float = 0.0
    kl_utt: float = 0.0
    bag_of_words_error: float = 0.0
    loss: float = 0.0  # weighted by words, so that per_word gives its mean
    num_words: int = 0
    num_conversations: int = 0

    @classmethod
    def of(cls, output: ModelOutput, loss: Tensor | None = None) -> Totals:
        """The sums of one batch."""
        parts = (output.reconstruction_error, output.kl_conv, output.kl_utt, output.bag_of_words_error)
        sums = torch.stack([part.detach().double().sum() for part in parts]).tolist()
        words = int(output.num_words.sum())
        mean_loss = 0.0 if loss is None else float(loss.detach())
        return cls(sums[0], sums[1], sums[2], sums[3], mean_loss * words, words, len(output.kl_conv))

    def add(self, other: Totals) -> None:
        """Add another batch."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def per_word(self) -> dict[str, float]:
        """Nats per word: the bound (``nll_per_word``), its parts, and the bag-of-words error beside it."""
        words = max(self.num_words, 1)
        kl = self.kl_conv + self.kl_utt
        return {
            "nll_per_word": (self.reconstruction_error + kl) / words,
            "reconstruction_per_word": self.reconstruction_error / words,
            "kl_per_word": kl / words,
            "kl_conv_per_word": self.kl_conv / words,
            "kl_utt_per_word": self.kl_utt / words,
            "bag_of_words_per_word": self.bag_of_words_error / words,
        }
