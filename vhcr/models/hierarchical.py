"""HRED, VHRED and VHCR: one network, of which the latent variables are parts.

HRED (Serban et al., 2016) encodes utterances, carries a context from turn to turn and decodes. VHRED (Serban
et al., 2017; section 3.2) adds z_utt to each utterance, VHCR (section 3.5) adds z_conv to the whole
conversation. In equations that hold for several of them, z_conv stands in brackets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vhcr.batch import Batch
from vhcr.models import layers
from vhcr.models.conversation_model import ConversationModel, Latents, ModelOutput
from vhcr.models.gaussian import DiagonalGaussian, Divergence, Draw, GaussianMLP, analytic_kl, draw_posterior
from vhcr.models.kernels.precision import Linear, at_least_float32
from vhcr.models.noise import Noise
from vhcr.params import ModelParams, SystemParams


class HierarchicalModel(ConversationModel):
    """p(x_t | x_<t) = f_dec(x | h_cxt_t [, z_utt_t] [, z_conv]), each latent under its prior."""

    def __init__(
        self, model: ModelParams, system: SystemParams, vocabulary_size: int, *, z_utt: bool, z_conv: bool
    ) -> None:
        super().__init__(model, system, vocabulary_size)
        self.z_utt_size = model.z_utt_size if z_utt else 0
        self.z_conv_size = model.z_conv_size if z_conv else 0
        latent_size = self.z_utt_size + self.z_conv_size
        self.embedding = nn.Embedding(vocabulary_size, model.embedding_size)
        self.encoder = layers.UtteranceEncoder(self.embedding, model.encoder_size, model.encoder_layers)
        h_enc_size = self.encoder.output_size
        self.context = layers.ContextRNN(
            h_enc_size + self.z_conv_size, model.context_size, model.context_layers
        )
        self.decoder = layers.Decoder(
            self.embedding,
            latent_size + (model.context_size if system.decoder_sees_context else 0),
            model.decoder_size,
            model.decoder_layers,
            vocabulary_size,
            every_step=system.decoder_conditioning == "every_step",
        )
        self.h_unk = (
            nn.Parameter(torch.randn(h_enc_size) * self.reading.h_unk_deviation)
            if system.utterance_drop > 0.0
            else None
        )
        if self.z_utt_size:
            depth = self.reading.vhcr_prior_layers if self.z_conv_size else self.reading.vhred_prior_layers
            given = model.context_size + self.z_conv_size
            self.prior_mlp = GaussianMLP(given, model.context_size, self.z_utt_size, depth)
            self.posterior_mlp = GaussianMLP(
                h_enc_size + given, model.context_size, self.z_utt_size, 2, system.posterior_batch_norm
            )
        self.bag_of_words = (
            layers.BagOfWords(latent_size, model.decoder_size, vocabulary_size)
            if system.bag_of_words_weight > 0.0
            else None
        )
        if self.z_conv_size:
            self.conversation_encoder = layers.ConversationEncoder(
                h_enc_size, model.conversation_encoder_size, model.conversation_encoder_layers
            )
            self.conversation_posterior_mlp = GaussianMLP(
                self.conversation_encoder.output_size,
                model.context_size,
                self.z_conv_size,
                2,
                system.posterior_batch_norm,
            )
            num_layers, size = self.context.state_shape
            self.context_from_z_conv = Linear(self.z_conv_size, num_layers * size)

    def inference_parameters(self) -> list[nn.Parameter]:
        """Those of q(z_utt | ...) and q(z_conv | ...), f_conv included; f_enc serves the context, too."""
        names = ("posterior_mlp", "conversation_encoder", "conversation_posterior_mlp")
        return [p for name in names if hasattr(self, name) for p in getattr(self, name).parameters()]

    # --- utterances and context ---

    def encode(self, batch: Batch) -> Tensor:
        """h_enc of every utterance (Eq. 3, 15), [rows, size]."""
        encoded: Tensor = self.encoder(batch)
        return encoded

    def with_drops(self, h_enc: Tensor, batch: Batch, noise: Noise) -> Tensor:
        """h_enc as the context RNN reads it: with utterance drop while training (section 3.5)."""
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

    def context_start(self, count: int, z_conv: Tensor | None = None) -> Tensor:
        """h_cxt_0: MLP(z_conv) (under Eq. 15), zeros without z_conv; [batch, layers, size]."""
        if z_conv is None:
            return torch.zeros(count, *self.context.state_shape, device=self.device, dtype=self.dtype)
        start = torch.tanh(at_least_float32(self.context_from_z_conv(z_conv)))
        return start.unflatten(-1, self.context.state_shape)

    def context_after(self, h_enc: Tensor, batch: Batch, z_conv: Tensor | None = None) -> Tensor:
        """h_cxt after each conversation's last turn (Eq. 4), [batch, layers, size]."""
        start = self.context_start(batch.num_conversations, z_conv)
        return self.context.after(joined(h_enc, rows_of(z_conv, batch)), start, batch)

    def context_step(self, said: Batch, state: Tensor, z_conv: Tensor | None = None) -> Tensor:
        """h_cxt after one more utterance of each conversation (Eq. 4), [batch, layers, size]."""
        return self.context.step(joined(self.encode(said), z_conv), state)

    def h_cxt(self, state: Tensor) -> Tensor:
        """The top layer, [batch, size]."""
        return state[:, -1]

    # --- z_conv, the latent variable of a conversation ---

    def conversation_prior(self, like: Tensor) -> DiagonalGaussian:
        """p(z_conv) = N(0, I) (Eq. 16), shaped as ``like``."""
        return DiagonalGaussian.standard(like)

    def conversation_posterior(self, h_enc: Tensor, batch: Batch) -> DiagonalGaussian:
        """q(z_conv | x_1, ..., x_n) (Eq. 20-23), [batch, latent]; computed once for all copies."""
        h_conv = self.conversation_encoder(h_enc[:: batch.samples], batch.once)
        posterior: DiagonalGaussian = self.conversation_posterior_mlp(h_conv)
        return DiagonalGaussian(*(value.repeat_interleave(batch.samples, dim=0) for value in posterior))

    def draw_z_conv(
        self, h_enc: Tensor, batch: Batch, eps: Tensor, *, from_prior: bool = False
    ) -> Tensor | None:
        """z_conv ~ q(z_conv | x_1, ..., x_t) of the turns in ``batch``, or p(z_conv); [batch, latent]."""
        if not self.z_conv_size:
            return None
        if from_prior:
            return self.conversation_prior(eps).sample(eps)
        return self.conversation_posterior(h_enc, batch).sample(eps)

    def conversation_noise(self, batch: Batch, noise: Noise, like: Tensor) -> Tensor:
        """Standard normal for z_conv, [batch, latent], keyed by conversation and draw of z_conv."""
        draw = batch.sample // batch.utterance_draws
        return noise.normal("z_conv", batch.index, draw, size=self.z_conv_size, dtype=like.dtype)

    # --- z_utt, the latent variable of an utterance ---

    def utterance_prior(self, h_cxt: Tensor, z_conv: Tensor | None = None) -> DiagonalGaussian:
        """p(z_utt_t | x_<t [, z_conv]) (Eq. 5-7; 17-19), [..., latent]."""
        prior: DiagonalGaussian = self.prior_mlp(joined(h_cxt, z_conv))
        return prior

    def utterance_posterior(
        self, h_enc: Tensor, h_cxt: Tensor, z_conv: Tensor | None = None
    ) -> DiagonalGaussian:
        """q(z_utt_t | x_<=t [, z_conv]) (Eq. 9-11; 24-25), [..., latent]; ``h_enc`` is of x_t itself."""
        posterior: DiagonalGaussian = self.posterior_mlp(joined(h_enc, h_cxt, z_conv))
        return posterior

    def draw_z_utt(self, h_cxt: Tensor, eps: Tensor, z_conv: Tensor | None = None) -> Tensor | None:
        """z_utt ~ p(z_utt_t | x_<t [, z_conv]) (Eq. 5; 17) by standard normal ``eps``, [..., latent]."""
        return self.utterance_prior(h_cxt, z_conv).sample(eps) if self.z_utt_size else None

    def utterance_noise(self, batch: Batch, noise: Noise, like: Tensor) -> Tensor:
        """Standard normal for z_utt, [rows, latent], keyed by conversation, draw and turn."""
        of = batch.conversation
        return noise.normal(
            "z_utt", batch.index[of], batch.sample[of], batch.turn, size=self.z_utt_size, dtype=like.dtype
        )

    # --- words ---

    def decoder_start(
        self, h_cxt: Tensor, z_utt: Tensor | None = None, z_conv: Tensor | None = None
    ) -> Tensor:
        """The decoder's initial state (Eq. 8, under Eq. 15); from latents alone for Eq. 13."""
        return self.decoder.start(joined(h_cxt if self.system.decoder_sees_context else None, z_utt, z_conv))

    def logits(self, word_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the decoder."""
        return self.decoder.logits(word_ids, state)

    def word_errors(self, start: Tensor, batch: Batch, noise: Noise) -> Tensor:
        """-log p of every scored word under teacher forcing, with word drop while training; [words]."""
        input_ids = batch.input_ids
        if self.training:
            input_ids = layers.drop_words(
                batch,
                self.system.word_drop,
                noise,
                shared=self.reading.shares_drops_in_batch,
                sos=self.reading.drops_sos,
            )
        return self.errors(self.decoder.output, self.decoder(start, input_ids, batch), batch)

    # --- all of it ---

    def score(
        self,
        batch: Batch,
        h_enc: Tensor,
        noise: Noise,
        draw: Draw = draw_posterior,
        divergence: Divergence = analytic_kl,
    ) -> ModelOutput:
        """Eq. 2 given h_enc [rows, size]: with Eq. 3-4 (HRED: exact), 5-11 (VHRED) or 14-25 (VHCR)."""
        dropped = self.with_drops(h_enc, batch, noise)

        z_conv = posterior_conv = kl_conv = None
        if self.z_conv_size:
            posterior_conv = self.conversation_posterior(
                dropped if self.reading.conversation_encoder_sees_drops else h_enc, batch
            )
            prior_conv = self.conversation_prior(posterior_conv.mu)
            z_conv = draw(posterior_conv, prior_conv, self.conversation_noise(batch, noise, h_enc))
            kl_conv = divergence(posterior_conv, prior_conv, z_conv).sum(-1)
        z_rows = rows_of(z_conv, batch)

        start = self.context_start(batch.num_conversations, z_conv)
        if self.training and self.reading.shuffles_context_starts:
            start = layers.shuffled_starts(start, batch, noise)
        h_cxt = self.context(joined(dropped, z_rows), start, batch)

        z_utt = prior = posterior = kl_utt = bag = None
        if self.z_utt_size:
            prior = self.utterance_prior(h_cxt, z_rows)
            posterior = self.utterance_posterior(h_enc, h_cxt, z_rows)
            z_utt = draw(posterior, prior, self.utterance_noise(batch, noise, h_cxt))
            kl_utt = divergence(posterior, prior, z_utt).sum(-1)
        if self.bag_of_words is not None:
            bag = self.bag_of_words(joined(z_utt, z_rows), batch)

        errors = self.word_errors(self.decoder_start(h_cxt, z_utt, z_rows), batch, noise)
        latents = Latents(h_cxt, z_utt, z_conv, prior, posterior, posterior_conv)
        return self.collect(batch, errors, latents, kl_utt, kl_conv, bag)


def joined(*sources: Tensor | None) -> Tensor:
    """Those that are there, concatenated: [..., size] each."""
    there = [source for source in sources if source is not None]
    return there[0] if len(there) == 1 else torch.cat(there, dim=-1)


def rows_of(z_conv: Tensor | None, batch: Batch) -> Tensor | None:
    """z_conv [batch, latent] beside each of its conversation's utterances, [rows, latent]."""
    return None if z_conv is None else z_conv[batch.conversation]
