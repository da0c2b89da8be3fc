"""What every model of conversations is to training, evaluation and generation, whatever it is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vhcr.batch import Batch
from vhcr.models.gaussian import DiagonalGaussian, Divergence, Draw, analytic_kl, draw_posterior
from vhcr.models.kernels.projection import OutputLayer
from vhcr.models.noise import Noise
from vhcr.models.reading import READINGS
from vhcr.params import ModelParams, SystemParams


class Latents(NamedTuple):
    """What inference found; [rows, latent] and [batch, latent], None where a model has no such latent."""

    h_cxt: Tensor
    z_utt: Tensor | None = None
    z_conv: Tensor | None = None
    prior_utt: DiagonalGaussian | None = None
    posterior_utt: DiagonalGaussian | None = None
    posterior_conv: DiagonalGaussian | None = None


class ModelOutput(NamedTuple):
    """One forward pass, in nats, with nothing averaged yet; zero where no turn is, or none is scored."""

    reconstruction_error: Tensor  # [batch, turns]
    kl_utt: Tensor  # [batch, turns], zero without z_utt
    kl_conv: Tensor  # [batch], zero without z_conv
    bag_of_words_error: Tensor  # [batch, turns], zero unless asked for
    num_words: Tensor  # [batch, turns] int64: words scored
    word_errors: Tensor  # [words]: -log p of each word, in the batch's order of words
    latents: Latents


class ConversationModel(nn.Module, ABC):
    """p(x_1, ..., x_n) turn by turn, word by word; without latents unless a subclass has some.

    ``z_utt_size`` and ``z_conv_size`` are the sizes of its latents, 0 where it has none.

    A *state* is all that a model keeps of the conversation so far: [batch, ...], one entry a conversation.
    """

    z_utt_size: int = 0
    z_conv_size: int = 0

    def __init__(self, model: ModelParams, system: SystemParams, vocabulary_size: int) -> None:
        super().__init__()
        self.sizes = model
        self.system = system
        self.reading = READINGS[system.reading]
        self.vocabulary_size = vocabulary_size

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its parameters."""
        return next(self.parameters()).dtype

    # --- what a model is made of ---

    @abstractmethod
    def encode(self, batch: Batch) -> Tensor:
        """What of a batch does not depend on latents: computed once for all draws."""

    @abstractmethod
    def score(
        self,
        batch: Batch,
        h_enc: Tensor,
        noise: Noise,
        draw: Draw = draw_posterior,
        divergence: Divergence = analytic_kl,
    ) -> ModelOutput:
        """Score a batch given what ``encode`` made of it; ``draw`` and ``divergence`` as in ``forward``."""

    @abstractmethod
    def context_start(self, count: int, z_conv: Tensor | None = None) -> Tensor:
        """The state of ``count`` conversations before the first turn."""

    @abstractmethod
    def context_after(self, h_enc: Tensor, batch: Batch, z_conv: Tensor | None = None) -> Tensor:
        """The state after each conversation's last turn; ``h_enc`` is what ``encode`` made of the batch."""

    @abstractmethod
    def context_step(self, said: Batch, state: Tensor, z_conv: Tensor | None = None) -> Tensor:
        """The state after one more utterance of each conversation, in the order of ``state``."""

    @abstractmethod
    def logits(self, word_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One word: ([sequences], a decoder's state) -> (log p of the next word up to a constant, new state).

        The first is a new tensor, [sequences, vocab].
        """

    def h_cxt(self, state: Tensor) -> Tensor:
        """What the next turn is given of a state: h_cxt (Eq. 4); here all of it."""
        return state

    def decoder_start(
        self,
        h_cxt: Tensor,
        z_utt: Tensor | None = None,  # noqa: ARG002
        z_conv: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Where decoding of an utterance begins, [sequences, ...]: here h_cxt, all that was said."""
        return h_cxt

    def make_room(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the shapes of ``tensors``, which are to be loaded, where data decide them; here none."""

    # --- latents, where there are any ---

    def draw_z_conv(
        self,
        h_enc: Tensor,  # noqa: ARG002
        batch: Batch,  # noqa: ARG002
        eps: Tensor,  # noqa: ARG002
        *,
        from_prior: bool = False,  # noqa: ARG002
    ) -> Tensor | None:
        """z_conv drawn given the turns in ``batch``, [batch, latent]; None without z_conv."""
        return None

    def draw_z_utt(self, h_cxt: Tensor, eps: Tensor, z_conv: Tensor | None = None) -> Tensor | None:  # noqa: ARG002
        """z_utt of the next utterance drawn from its prior, [batch, latent]; None without z_utt."""
        return None

    def inference_parameters(self) -> list[nn.Parameter]:
        """Parameters that serve posteriors alone: here none."""
        return []

    # --- shared by all ---

    def scored_rows(self, batch: Batch) -> Tensor:
        """1 for utterances that are scored, else 0; [rows] (Eq. 14: all of them)."""
        if self.reading.scores_first_utterance:
            return torch.ones_like(batch.turn)
        return (batch.turn > 0).long()

    def errors(self, output: OutputLayer, hidden: Tensor, batch: Batch) -> Tensor:
        """-log p of every scored word given hidden states [words, hidden], else zero; [words]."""
        if self.reading.scores_first_utterance:
            errors: Tensor = output(hidden, batch.token_ids)
            return errors
        scored = batch.turn[batch.word_row] > 0
        errors = output(hidden[scored], batch.token_ids[scored])
        return errors.new_zeros(len(batch.token_ids)).index_put((scored,), errors)

    def collect(
        self,
        batch: Batch,
        word_errors: Tensor,
        latents: Latents,
        kl_utt: Tensor | None = None,
        kl_conv: Tensor | None = None,
        bag_of_words_error: Tensor | None = None,
    ) -> ModelOutput:
        """Per-word and per-row values as a ModelOutput; rows that are not scored become zero."""
        scored = self.scored_rows(batch)
        zero = word_errors.new_zeros(batch.num_rows)
        return ModelOutput(
            reconstruction_error=batch.by_turn(zero.index_add(0, batch.word_row, word_errors)),
            kl_utt=batch.by_turn(zero if kl_utt is None else kl_utt * scored),
            kl_conv=zero.new_zeros(batch.num_conversations) if kl_conv is None else kl_conv,
            bag_of_words_error=batch.by_turn(
                zero if bag_of_words_error is None else bag_of_words_error * scored
            ),
            num_words=batch.by_turn(batch.num_words * scored),
            word_errors=word_errors,
            latents=latents,
        )

    def forward(
        self, batch: Batch, noise: Noise, draw: Draw = draw_posterior, divergence: Divergence = analytic_kl
    ) -> ModelOutput:
        """Score a batch; ``draw`` says how latents are drawn, ``divergence`` what they cost."""
        return self.score(batch, self.encode(batch), noise, draw, divergence)
