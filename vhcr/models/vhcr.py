"""VHCR (section 3.5): VHRED with one more latent variable, z_conv, for the whole conversation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vhcr.batch import Batch
from vhcr.models.conversation_model import Latents, ModelOutput
from vhcr.models.gaussian import DiagonalGaussian, Divergence, Draw, GaussianMLP, analytic_kl, draw_posterior
from vhcr.models.layers import ConversationEncoder, shuffled_starts
from vhcr.models.noise import Noise
from vhcr.models.precision import Linear, at_least_float32
from vhcr.models.vhred import VHRED
from vhcr.params import ModelParams, SystemParams


class VHCR(VHRED):
    """p(c) = integral of p(x_1, ..., x_n | z_conv) p(z_conv) (Eq. 14)."""

    def __init__(self, model: ModelParams, system: SystemParams, vocabulary_size: int) -> None:
        super().__init__(model, system, vocabulary_size)
        self.conversation_encoder = ConversationEncoder(
            self.encoder.output_size, model.conversation_encoder_size, model.conversation_encoder_layers
        )
        self.conversation_posterior_mlp = GaussianMLP(
            self.conversation_encoder.output_size,
            model.context_size,
            model.z_conv_size,
            2,
            system.posterior_batch_norm,
        )
        layers, size = self.context.state_shape
        self.context_from_z_conv = Linear(model.z_conv_size, layers * size)

    @property
    def z_conv_size(self) -> int:
        """Size of z_conv."""
        return self.sizes.z_conv_size

    @property
    def prior_layers(self) -> int:
        """Hidden layers of the prior of z_utt."""
        return self.reading.vhcr_prior_layers

    def inference_parameters(self) -> list[nn.Parameter]:
        """Those of q(z_utt | ...) and of q(z_conv | ...), f_conv included."""
        own = (self.conversation_encoder, self.conversation_posterior_mlp)
        return [*super().inference_parameters(), *(p for part in own for p in part.parameters())]

    def context_start(self, like: Tensor) -> Tensor:
        """h_cxt_0 = MLP(z_conv) (under Eq. 15); ``like`` is z_conv, [batch, latent]."""
        start = torch.tanh(at_least_float32(self.context_from_z_conv(like)))
        return start.unflatten(-1, self.context.state_shape)

    def conversation_prior(self, like: Tensor) -> DiagonalGaussian:
        """p(z_conv) = N(0, I) (Eq. 16), shaped as ``like``."""
        return DiagonalGaussian.standard(like)

    def conversation_posterior(self, h_enc: Tensor, batch: Batch) -> DiagonalGaussian:
        """q(z_conv | x_1, ..., x_n) (Eq. 20-23), [batch, latent]; computed once for all copies."""
        h_conv = self.conversation_encoder(h_enc[:: batch.samples], batch.once)
        posterior: DiagonalGaussian = self.conversation_posterior_mlp(h_conv)
        return DiagonalGaussian(*(value.repeat_interleave(batch.samples, dim=0) for value in posterior))

    def conversation_latents(
        self, h_enc: Tensor, batch: Batch, eps: Tensor, *, from_prior: bool = False
    ) -> tuple[Tensor, ...]:
        """z_conv ~ q(z_conv | x_1, ..., x_t) of the turns in ``batch``, or p(z_conv); ([batch, latent],)."""
        if from_prior:
            return (self.conversation_prior(eps).sample(eps),)
        return (self.conversation_posterior(h_enc, batch).sample(eps),)

    def conversation_noise(self, batch: Batch, noise: Noise, like: Tensor) -> Tensor:
        """Standard normal for z_conv, [batch, latent], keyed by conversation and draw of z_conv."""
        draw = batch.sample // batch.utterance_draws
        return noise.normal("z_conv", batch.index, draw, size=self.z_conv_size, dtype=like.dtype)

    def score(
        self,
        batch: Batch,
        h_enc: Tensor,
        noise: Noise,
        draw: Draw = draw_posterior,
        divergence: Divergence = analytic_kl,
    ) -> ModelOutput:
        """Eq. 2 with Eq. 14-25, given h_enc [rows, size]."""
        heard = self.heard(h_enc, batch, noise)
        posterior_conv = self.conversation_posterior(
            heard if self.reading.conversation_encoder_sees_drops else h_enc, batch
        )
        prior_conv = self.conversation_prior(posterior_conv.mu)
        z_conv = draw(posterior_conv, prior_conv, self.conversation_noise(batch, noise, h_enc))
        z_rows = z_conv[batch.conversation]
        start = self.context_start(z_conv)
        if self.training and self.reading.shuffles_context_starts:
            start = shuffled_starts(start, batch, noise)
        h_cxt = self.context(torch.cat([heard, z_rows], dim=-1), start, batch)
        prior = self.utterance_prior(h_cxt, z_rows)
        posterior = self.utterance_posterior(h_enc, h_cxt, z_rows)
        z_utt = draw(posterior, prior, self.utterance_noise(batch, noise, h_cxt))
        bag = (
            None
            if self.bag_of_words is None
            else self.bag_of_words(torch.cat([z_utt, z_rows], dim=-1), batch)
        )
        return self.collect(
            batch,
            self.word_errors(self.decoder_start(h_cxt, z_utt, z_rows), batch, noise),
            Latents(h_cxt, z_utt, z_conv, prior, posterior, posterior_conv),
            kl_utt=divergence(posterior, prior, z_utt).sum(-1),
            kl_conv=divergence(posterior_conv, prior_conv, z_conv).sum(-1),
            bag_of_words_error=bag,
        )
