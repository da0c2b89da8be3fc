"""An anchor from outside of the family: a causal Transformer over the conversation so far.

The decoder of Vaswani et al. (2017) alone, each layer normalised before it (Radford et al., 2019), with
rotary positions (Su et al., 2021). Its input is what the decoders of the family hear, the word before each
and SOS at the start of every utterance, which tells the turns apart; it attends to all before it, the turns
before included. No latent, so its NLL is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vhcr.batch import Batch
from vhcr.errors import ParameterError
from vhcr.models.conversation_model import ConversationModel, Latents, ModelOutput
from vhcr.models.gaussian import Divergence, Draw, analytic_kl, draw_posterior
from vhcr.models.kernels.precision import at_least_float32
from vhcr.models.kernels.projection import OutputLayer
from vhcr.models.noise import Noise
from vhcr.params import ModelParams, SystemParams

HEAD_SIZE = 32  # at least; the more heads, the better they can tell what they look for
LONGEST_WAVE = 10_000.0  # of the rotations, in words over 2 pi

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Block(nn.Module):
    """One layer: attention, then a network of each word alone, both added to what they hear."""

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(size)
        self.to_heads = nn.Linear(size, 3 * size)
        self.from_heads = nn.Linear(size, size)
        self.network_norm = nn.LayerNorm(size)
        self.network = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def heads(self, x: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of words at their places: [..., size], [...] -> 3 x [..., heads, head]."""
        q, k, v = self.to_heads(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        return rotate(q, place), rotate(k, place), v

    def add(self, x: Tensor, heard: Tensor) -> Tensor:
        """``x`` and what its heads heard, [..., size] and [..., heads, head] -> [..., size]."""
        x = x + self.from_heads(heard.flatten(-2))
        added: Tensor = x + self.network(self.network_norm(x))
        return added


def rotate(x: Tensor, place: Tensor) -> Tensor:
    """Pairs of numbers turned by angles that grow with the place, so that products tell distances apart.

    [..., heads, head], [...] -> [..., heads, head]
    """
    half = x.shape[-1] // 2
    dtype = torch.promote_types(x.dtype, torch.float32)
    speed = LONGEST_WAVE ** (-torch.arange(half, device=x.device, dtype=dtype) / half)
    angle = place[..., None, None].to(dtype) * speed
    a, b = x[..., :half], x[..., half:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Transformer(ConversationModel):
    """p(word | all words before it in the conversation); sizes from ``decoder_size`` and numbers of layers.

    It is as deep as the recurrent networks that a word goes through in HRED (encoder, context, decoder).

    A state is what its layers keep of every word heard, [sequences, words, 1 + 2 layers size]: 1 where there
    is a word, then keys and values. Sequences of other lengths have zeros in between.

    Raises:
        ParameterError: ``decoder_size`` is odd.
    """

    def __init__(self, model: ModelParams, system: SystemParams, vocabulary_size: int) -> None:
        super().__init__(model, system, vocabulary_size)
        self.size = model.decoder_size
        if self.size % 2:
            raise ParameterError(
                f"decoder_size = {self.size}: a Transformer turns pairs of numbers, and needs an even size"
            )
        fitting = (n for n in range(self.size // HEAD_SIZE, 1, -1) if self.size % (2 * n) == 0)
        self.num_heads = next(fitting, 1)
        depth = model.encoder_layers + model.context_layers + model.decoder_layers
        self.embedding = nn.Embedding(vocabulary_size, model.embedding_size)
        self.from_words = nn.Linear(model.embedding_size, self.size)
        self.blocks = nn.ModuleList(Block(self.size, self.num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(self.size)
        self.output = OutputLayer(self.size, vocabulary_size)

    def encode(self, batch: Batch) -> Tensor:
        """The first layer's input, [words, size]."""
        encoded: Tensor = self.from_words(self.embedding(batch.input_ids))
        return encoded

    def score(
        self,
        batch: Batch,
        h_enc: Tensor,
        noise: Noise,  # noqa: ARG002
        draw: Draw = draw_posterior,  # noqa: ARG002
        divergence: Divergence = analytic_kl,  # noqa: ARG002
    ) -> ModelOutput:
        """p(x_t | x_<t) for all words at once; the error is exact. Attention alone pads conversations."""
        place = batch.word_place()
        length = int(place.max()) + 1
        slot = batch.conversation[batch.word_row] * length + place

        def attend(_: int, *heads: Tensor) -> Tensor:
            grids = [x.new_zeros(batch.num_conversations * length, self.size) for x in heads]
            q, k, v = (
                grid.index_copy(0, slot, x.flatten(-2))
                .view(batch.num_conversations, length, self.num_heads, -1)
                .transpose(1, 2)
                for grid, x in zip(grids, heads, strict=True)
            )
            heard = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return heard.transpose(1, 2).reshape(-1, self.num_heads, heard.shape[-1]).index_select(0, slot)

        hidden = self._through(h_enc, place, attend)
        h_cxt = hidden[: batch.num_rows][batch.row_rank]  # at SOS: before the turn has said a word
        return self.collect(batch, self.errors(self.output, hidden, batch), Latents(h_cxt))

    def context_start(self, count: int, z_conv: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Nothing, [batch, 0, ...]."""
        return torch.zeros(
            count, 0, 1 + 2 * len(self.blocks) * self.size, device=self.device, dtype=self.dtype
        )

    def context_after(self, h_enc: Tensor, batch: Batch, z_conv: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Every word of each conversation, one turn after the other."""
        return self._heard(batch, self.context_start(batch.num_conversations), batch.conversation)

    def context_step(self, said: Batch, state: Tensor, z_conv: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """And those of one more utterance."""
        return self._heard(said, state, said.conversation)

    def logits(self, word_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One word: ([sequences], state) -> (log p of the next up to a constant, the state with it)."""
        there = torch.ones_like(word_ids, dtype=torch.bool)
        hidden, state = self._extend(word_ids[:, None], there[:, None], state)
        logits: Tensor = self.output.linear(hidden[:, 0])
        return logits, state

    def _through(self, x: Tensor, place: Tensor, attend: Attention) -> Tensor:
        """All layers: [..., size] at their places [...] -> what the output layer sees, [..., size]."""
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            x = block.add(x, attend(number, *block.heads(x, place)))
        hidden: Tensor = self.norm(x)
        return at_least_float32(hidden)

    def _heard(self, batch: Batch, state: Tensor, sequence: Tensor) -> Tensor:
        """``state`` with the words of ``batch``, whose rows are of these sequences."""
        place = batch.word_place()
        at = (sequence[batch.word_row], place)
        words = place.new_zeros(len(state), int(place.max()) + 1)
        there = torch.zeros_like(words, dtype=torch.bool)
        return self._extend(
            words.index_put(at, batch.input_ids), there.index_put(at, there.new_ones(())), state
        )[1]

    def _extend(self, word_ids: Tensor, there: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """More words [sequences, more], not all ``there`` -> (what the output layer sees of each, state)."""
        before, more = state.shape[1], word_ids.shape[1]
        flags = torch.cat([state[..., 0] > 0, there], dim=1)
        place = (flags.cumsum(1) - 1)[:, before:].clamp_min(0)
        order = torch.arange(before + more, device=state.device)
        # A word that is not there hears itself, lest it hear nothing: nobody hears it.
        seen = (flags[:, None, :] | (order == order[before:, None])) & (order <= order[before:, None])
        kept = [there[..., None].to(state)]

        def attend(number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            kept.extend((k.flatten(-2).to(state), v.flatten(-2).to(state)))
            first = 1 + 2 * number * self.size
            past = state[..., first : first + 2 * self.size].to(q).unflatten(-1, (2, self.num_heads, -1))
            keys, values = (
                torch.cat([old, new], dim=1).transpose(1, 2)
                for old, new in zip(past.unbind(2), (k, v), strict=True)
            )
            heard = functional.scaled_dot_product_attention(
                q.transpose(1, 2), keys, values, attn_mask=seen[:, None]
            )
            return heard.transpose(1, 2)

        x = self.from_words(self.embedding(word_ids))
        hidden = self._through(x, place, attend)
        return hidden, torch.cat([state, torch.cat(kept, dim=-1)], dim=1)
