"""HRED (Serban et al., 2016): utterance encoder, context RNN, decoder; no latent variable."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vhcr.batch import Batch
from vhcr.models import layers
from vhcr.models.gaussian import DiagonalGaussian, Divergence, Draw, analytic_kl, draw_posterior
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
    kl_utt: Tensor  # [batch, turns], zero for HRED
    kl_conv: Tensor  # [batch], zero for HRED and VHRED
    bag_of_words_error: Tensor  # [batch, turns], zero unless asked for
    num_words: Tensor  # [batch, turns] int64: words scored
    word_errors: Tensor  # [words]: -log p of each word, in the batch's order of words
    latents: Latents


class HRED(nn.Module):
    """p(x_t | x_<t) = f_dec(x | h_cxt_t)."""

    def __init__(self, model: ModelParams, system: SystemParams, vocabulary_size: int) -> None:
        super().__init__()
        self.sizes = model
        self.system = system
        self.reading = READINGS[system.reading]
        self.vocabulary_size = vocabulary_size
        self.embedding = nn.Embedding(vocabulary_size, model.embedding_size)
        self.encoder = layers.UtteranceEncoder(self.embedding, model.encoder_size, model.encoder_layers)
        self.context = layers.ContextRNN(
            self.encoder.output_size + self.z_conv_size, model.context_size, model.context_layers
        )
        source_size = self.z_utt_size + self.z_conv_size
        if system.decoder_sees_context:
            source_size += model.context_size
        self.decoder = layers.Decoder(
            self.embedding,
            source_size,
            model.decoder_size,
            model.decoder_layers,
            vocabulary_size,
            every_step=system.decoder_conditioning == "every_step",
        )
        if system.utterance_drop > 0.0:
            self.h_unk = nn.Parameter(torch.randn(self.encoder.output_size) * 0.1)
        else:
            self.register_parameter("h_unk", None)

    @property
    def z_utt_size(self) -> int:
        """Size of z_utt, 0 where there is none."""
        return 0

    @property
    def z_conv_size(self) -> int:
        """Size of z_conv, 0 where there is none."""
        return 0

    # --- shared pieces: what training, evaluation and generation all build on ---

    def encode(self, batch: Batch) -> Tensor:
        """h_enc of every utterance (Eq. 3, 15), [rows, size]."""
        encoded: Tensor = self.encoder(batch)
        return encoded

    def heard(self, h_enc: Tensor, batch: Batch, noise: Noise) -> Tensor:
        """h_enc as the context RNN hears it: with utterance drop while training (section 3.5)."""
        if not self.training or self.h_unk is None:
            return h_enc
        return layers.drop_utterances(
            h_enc,
            self.h_unk,
            batch,
            self.system.utterance_drop,
            noise,
            shared=self.reading.shares_drops_in_batch,
        )

    def context_start(self, like: Tensor) -> Tensor:
        """h_cxt before the first turn: zeros, [batch, layers, size]."""
        return like.new_zeros(like.shape[0], *self.context.state_shape)

    def decoder_start(self, h_cxt: Tensor, *latents: Tensor) -> Tensor:
        """The decoder's initial state from h_cxt and latents; from latents alone for Eq. 13."""
        sources = (h_cxt, *latents) if self.system.decoder_sees_context else latents
        return self.decoder.start(*sources)

    def conversation_latents(
        self,
        h_enc: Tensor,  # noqa: ARG002
        batch: Batch,  # noqa: ARG002
        eps: Tensor,  # noqa: ARG002
        *,
        from_prior: bool = False,  # noqa: ARG002
    ) -> tuple[Tensor, ...]:
        """Latents of the whole conversation, drawn given the turns in ``batch``: here there are none."""
        return ()

    def inference_parameters(self) -> list[nn.Parameter]:
        """Parameters that serve posteriors alone: f_enc, which the context hears too, is not among them."""
        return []

    def utterance_latents(self, h_cxt: Tensor, eps: Tensor, *z_conv: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Latents of an utterance yet to be said, drawn from their prior: here there are none."""
        return ()

    def word_errors(self, start: Tensor, batch: Batch, noise: Noise) -> Tensor:
        """-log p of every scored word under teacher forcing, with word drop while training; [words]."""
        input_ids = batch.input_ids
        if self.training:
            input_ids = layers.drop_words(
                batch, self.system.word_drop, noise, shared=self.reading.shares_drops_in_batch
            )
        hidden = self.decoder(start, input_ids, batch)
        if self.reading.scores_first_utterance:
            errors: Tensor = self.decoder.output(hidden, batch.token_ids)
            return errors
        scored = batch.turn[batch.word_row] > 0
        errors = self.decoder.output(hidden[scored], batch.token_ids[scored])
        return errors.new_zeros(len(batch.token_ids)).index_put((scored,), errors)

    def scored_rows(self, batch: Batch) -> Tensor:
        """1 for utterances that are scored, else 0; [rows] (Eq. 14: all of them)."""
        if self.reading.scores_first_utterance:
            return torch.ones_like(batch.turn)
        return (batch.turn > 0).long()

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

    # --- the forward pass ---

    def forward(
        self, batch: Batch, noise: Noise, draw: Draw = draw_posterior, divergence: Divergence = analytic_kl
    ) -> ModelOutput:
        """Score a batch; ``draw`` says how latents are drawn, ``divergence`` what they cost."""
        return self.score(batch, self.encode(batch), noise, draw, divergence)

    def score(
        self,
        batch: Batch,
        h_enc: Tensor,
        noise: Noise,
        draw: Draw = draw_posterior,  # noqa: ARG002
        divergence: Divergence = analytic_kl,  # noqa: ARG002
    ) -> ModelOutput:
        """Eq. 3, 4 and p(x_t | x_<t), given h_enc [rows, size]; the error is exact, not a bound."""
        h_cxt = self.context(
            self.heard(h_enc, batch, noise), self.context_start(h_enc[: batch.num_conversations]), batch
        )
        return self.collect(batch, self.word_errors(self.decoder_start(h_cxt), batch, noise), Latents(h_cxt))
