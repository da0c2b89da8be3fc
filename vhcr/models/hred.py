"""HRED (Serban et al., 2016): utterance encoder, context RNN, decoder; no latent variable."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vhcr.batch import Batch
from vhcr.models import layers
from vhcr.models.conversation_model import ConversationModel, Latents, ModelOutput
from vhcr.models.gaussian import Divergence, Draw, analytic_kl, draw_posterior
from vhcr.models.noise import Noise
from vhcr.params import ModelParams, SystemParams


class HRED(ConversationModel):
    """p(x_t | x_<t) = f_dec(x | h_cxt_t)."""

    def __init__(self, model: ModelParams, system: SystemParams, vocabulary_size: int) -> None:
        super().__init__(model, system, vocabulary_size)
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
            self.h_unk = nn.Parameter(torch.randn(self.encoder.output_size) * self.reading.h_unk_deviation)
        else:
            self.register_parameter("h_unk", None)

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

    def context_after(self, h_enc: Tensor, batch: Batch, *z_conv: Tensor) -> Tensor:
        """h_cxt after each conversation's last turn (Eq. 4), [batch, layers, size]."""
        start = self.context_start(z_conv[0] if z_conv else h_enc[: batch.num_conversations])
        inputs = torch.cat([h_enc, *(z[batch.conversation] for z in z_conv)], dim=-1)
        return self.context.after(inputs, start, batch)

    def context_step(self, said: Batch, state: Tensor, *z_conv: Tensor) -> Tensor:
        """h_cxt after one more utterance of each conversation (Eq. 4), [batch, layers, size]."""
        return self.context.step(torch.cat([self.encode(said), *z_conv], dim=-1), state)

    def h_cxt(self, state: Tensor) -> Tensor:
        """The top layer, [batch, size]."""
        return state[:, -1]

    def logits(self, word_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the decoder."""
        return self.decoder.logits(word_ids, state)

    def decoder_start(self, h_cxt: Tensor, *latents: Tensor) -> Tensor:
        """The decoder's initial state from h_cxt and latents; from latents alone for Eq. 13."""
        sources = (h_cxt, *latents) if self.system.decoder_sees_context else latents
        return self.decoder.start(*sources)

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
