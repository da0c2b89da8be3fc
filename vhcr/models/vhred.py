"""VHRED (Serban et al., 2017): HRED with a latent variable z_utt per utterance (section 3.2)."""

from __future__ import annotations

from torch import Tensor, nn

from vhcr.batch import Batch
from vhcr.models.conversation_model import Latents, ModelOutput
from vhcr.models.gaussian import DiagonalGaussian, Divergence, Draw, GaussianMLP, analytic_kl, draw_posterior
from vhcr.models.hred import HRED
from vhcr.models.layers import BagOfWords
from vhcr.models.noise import Noise
from vhcr.params import ModelParams, SystemParams


class VHRED(HRED):
    """p(x_t | x_<t) = integral of f_dec(x | h_cxt_t, z_utt_t) p(z_utt_t | x_<t)."""

    def __init__(self, model: ModelParams, system: SystemParams, vocabulary_size: int) -> None:
        super().__init__(model, system, vocabulary_size)
        given = model.context_size + self.z_conv_size
        self.prior_mlp = GaussianMLP(given, model.context_size, model.z_utt_size, self.prior_layers)
        self.posterior_mlp = GaussianMLP(
            self.encoder.output_size + given,
            model.context_size,
            model.z_utt_size,
            2,
            system.posterior_batch_norm,
        )
        self.bag_of_words = (
            BagOfWords(self.z_utt_size + self.z_conv_size, model.decoder_size, vocabulary_size)
            if system.bag_of_words_weight > 0.0
            else None
        )

    @property
    def z_utt_size(self) -> int:
        """Size of z_utt."""
        return self.sizes.z_utt_size

    @property
    def prior_layers(self) -> int:
        """Hidden layers of the prior of z_utt."""
        return self.reading.vhred_prior_layers

    def inference_parameters(self) -> list[nn.Parameter]:
        """Those of q(z_utt | ...)."""
        return list(self.posterior_mlp.parameters())

    def utterance_prior(self, h_cxt: Tensor, *z_conv: Tensor) -> DiagonalGaussian:
        """p(z_utt_t | x_<t [, z_conv]) (Eq. 5-7; 17-19), [..., latent]."""
        prior: DiagonalGaussian = self.prior_mlp(h_cxt, *z_conv)
        return prior

    def utterance_posterior(self, h_enc: Tensor, h_cxt: Tensor, *z_conv: Tensor) -> DiagonalGaussian:
        """q(z_utt_t | x_<=t [, z_conv]) (Eq. 9-11; 24-25), [..., latent]; ``h_enc`` is of x_t itself."""
        posterior: DiagonalGaussian = self.posterior_mlp(h_enc, h_cxt, *z_conv)
        return posterior

    def utterance_latents(self, h_cxt: Tensor, eps: Tensor, *z_conv: Tensor) -> tuple[Tensor, ...]:
        """z_utt ~ p(z_utt_t | x_<t [, z_conv]) (Eq. 5; 17) by standard normal ``eps``, ([..., latent],)."""
        return (self.utterance_prior(h_cxt, *z_conv).sample(eps),)

    def utterance_noise(self, batch: Batch, noise: Noise, like: Tensor) -> Tensor:
        """Standard normal for z_utt, [rows, latent], keyed by conversation, draw and turn."""
        of = batch.conversation
        return noise.normal(
            "z_utt", batch.index[of], batch.sample[of], batch.turn, size=self.z_utt_size, dtype=like.dtype
        )

    def score(
        self,
        batch: Batch,
        h_enc: Tensor,
        noise: Noise,
        draw: Draw = draw_posterior,
        divergence: Divergence = analytic_kl,
    ) -> ModelOutput:
        """Eq. 2 with Eq. 3-11, given h_enc [rows, size]."""
        h_cxt = self.context(
            self.heard(h_enc, batch, noise), self.context_start(h_enc[: batch.num_conversations]), batch
        )
        prior = self.utterance_prior(h_cxt)
        posterior = self.utterance_posterior(h_enc, h_cxt)
        z_utt = draw(posterior, prior, self.utterance_noise(batch, noise, h_cxt))
        return self.collect(
            batch,
            self.word_errors(self.decoder_start(h_cxt, z_utt), batch, noise),
            Latents(h_cxt, z_utt, None, prior, posterior),
            kl_utt=divergence(posterior, prior, z_utt).sum(-1),
            bag_of_words_error=None if self.bag_of_words is None else self.bag_of_words(z_utt, batch),
        )
