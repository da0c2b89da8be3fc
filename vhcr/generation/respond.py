"""What a model says next: contexts -> responses, turn by turn, whatever the model.

A ``Responder`` holds all that decides what a model says. It reads a context (``read``), or begins a
conversation from z_conv alone (``begin``); then ``next_turn`` draws z_utt from its prior and decodes an
utterance, which itself becomes context (``advance``). All draws are keyed by conversation, sample and
turn, so a response depends neither on its batch nor on how many turns are generated after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vhcr.batch import Batch, Ints, pack
from vhcr.errors import ParameterError
from vhcr.generation.decode import OnWords, WordModel, decode
from vhcr.generation.likeliest import WordDecoder
from vhcr.generation.limits import MAX_LATENT, MAX_LATENT_SCALE
from vhcr.models import ConversationModel, HierarchicalModel, Noise
from vhcr.params import GenerationParams

MAX_CONTEXT_WORDS = 2**15  # words of contexts read at once: memory stays bounded however long they are


@dataclass(frozen=True)
class ConversationState:
    """Conversations so far, as a model remembers them; [batch, ...], in the order of their batch."""

    context: Tensor  # [batch, ...]: the model's own state
    z_conv: Tensor | None  # [batch, latent]
    index: Tensor  # [batch] int64: key of a conversation's draws
    sample: Tensor  # [batch] int64: and of this rendering of it
    turn: Tensor  # [batch] int64: number of the turn that comes next


class Turn(NamedTuple):
    """One generated utterance per conversation."""

    token_ids: list[list[int]]  # [batch][words], EOS included
    log_probs: Tensor | None  # [batch]: log p(x_t | h_cxt_t, z_utt_t, z_conv), in nats
    z_utt: Tensor | None  # [batch, latent]


class Continuation(NamedTuple):
    """Several turns generated one after the other; None where a model has no such latent."""

    token_ids: list[list[list[int]]]  # [conversations][turns][words], EOS included
    log_probs: Tensor | None  # [conversations, turns], in nats
    z_conv: Tensor | None  # [conversations, latent]
    z_utt: Tensor | None  # [conversations, turns, latent]


@dataclass(frozen=True)
class Responder:
    """A model with all that decides what it says.

    ``latent_scale`` multiplies the standard deviation of every latent drawn: 1 samples as the authors do,
    0 takes the means. ``on_words`` is told of every word as it comes (``decode``).

    Raises:
        ParameterError: ``latent_scale`` is not from 0 to ``MAX_LATENT_SCALE``.
    """

    model: ConversationModel
    params: GenerationParams
    noise: Noise
    latent_scale: float = 1.0
    want_log_probs: bool = True
    on_words: OnWords | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.latent_scale <= MAX_LATENT_SCALE:  # so written, it refuses what is no number too
            raise ParameterError(
                f"latent_scale = {self.latent_scale!r}: must be from 0 to {MAX_LATENT_SCALE:g}"
            )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its parameters."""
        return self.model.dtype

    @cached_property
    def decoder(self) -> WordModel:
        """The model's decoder, as decoding wants it."""
        return WordDecoder(self.model) if isinstance(self.model, HierarchicalModel) else self.model

    def z_conv_noise(self, index: Tensor, sample: Tensor) -> Tensor:
        """What z_conv is drawn with, [batch, latent]: the very draws that scoring makes from this noise."""
        size = self.model.z_conv_size
        return self.latent_scale * self.noise.normal("z_conv", index, sample, size=size, dtype=self.dtype)

    @torch.inference_mode()
    def read(self, batch: Batch, z_conv: Tensor | None = None) -> ConversationState:
        """Read the conversations of ``batch``; z_conv ~ q(z_conv | these turns) or its prior, by the params.

        A given ``z_conv`` [batch, latent] is used instead.

        Raises:
            ParameterError: ``z_conv`` is given to a model that has none, is of another size, or holds a
                number beyond ``MAX_LATENT``.
        """
        batch = batch.to(self.device)
        h_enc = self.model.encode(batch)
        if z_conv is None:
            z_conv = self.model.draw_z_conv(
                h_enc,
                batch,
                self.z_conv_noise(batch.index, batch.sample),
                from_prior=self.params.z_conv_from == "prior",
            )
        else:
            z_conv = self._checked(z_conv, batch.num_conversations)
        return ConversationState(
            context=self.model.context_after(h_enc, batch, z_conv),
            z_conv=z_conv,
            index=batch.index,
            sample=batch.sample,
            turn=batch.turn[batch.last_row] + 1,
        )

    @torch.inference_mode()
    def begin(self, index: Tensor, sample: Tensor, z_conv: Tensor | None = None) -> ConversationState:
        """Conversations in which nothing has been said; z_conv from its prior (Eq. 16) unless given.

        Raises:
            ParameterError: the model never learnt to say a first utterance (reading ``release``), or
                ``z_conv`` is given to a model that has none, is of another size, or holds a number beyond
                ``MAX_LATENT``.
        """
        if not self.model.reading.scores_first_utterance:
            raise ParameterError(
                "this model cannot begin a conversation: it was trained in the reading "
                f"{self.model.system.reading!r}, where the first utterance is read but never generated; "
                "give it an opening"
            )
        index, sample = index.to(self.device), sample.to(self.device)
        if z_conv is not None:
            z_conv = self._checked(z_conv, len(index))
        elif self.model.z_conv_size:
            z_conv = self.z_conv_noise(index, sample)
        start = self.model.context_start(len(index), z_conv)
        return ConversationState(start, z_conv, index, sample, torch.zeros_like(index))

    @torch.inference_mode()
    def next_turn(self, state: ConversationState) -> Turn:
        """The next utterance of each conversation: z_utt ~ p(z_utt | what was said), then decoding."""
        keys = (state.index, state.sample, state.turn)
        eps = self.noise.normal("z_utt", *keys, size=self.model.z_utt_size, dtype=self.dtype)
        h_cxt = self.model.h_cxt(state.context)
        z_utt = self.model.draw_z_utt(h_cxt, self.latent_scale * eps, state.z_conv)
        start = self.model.decoder_start(h_cxt, z_utt, state.z_conv)
        token_ids, log_probs = decode(
            self.decoder,
            start,
            self.params,
            self.noise,
            *keys,
            want_log_probs=self.want_log_probs,
            on_words=self.on_words,
        )
        return Turn(token_ids, log_probs, z_utt)

    @torch.inference_mode()
    def advance(self, state: ConversationState, token_ids: Sequence[Sequence[int]]) -> ConversationState:
        """The conversations with one more utterance each, said by whomever; z_conv stays."""
        said = pack([[np.asarray(ids)] for ids in token_ids], range(len(token_ids))).to(self.device)
        context = self.model.context_step(said, state.context, state.z_conv)
        return replace(state, context=context, turn=state.turn + 1)

    def generate(self, state: ConversationState, num_turns: int) -> Continuation:
        """``num_turns`` utterances, each generated with the ones before it as context.

        Raises:
            ParameterError: ``num_turns`` is not positive.
        """
        if num_turns < 1:
            raise ParameterError(f"{num_turns} turns were asked for; at least 1 can be generated")
        turns = [self.next_turn(state)]
        while len(turns) < num_turns:
            state = self.advance(state, turns[-1].token_ids)
            turns.append(self.next_turn(state))
        log_probs = [turn.log_probs for turn in turns if turn.log_probs is not None]
        z_utt = [turn.z_utt for turn in turns if turn.z_utt is not None]
        return Continuation(
            [list(said) for said in zip(*(turn.token_ids for turn in turns), strict=True)],
            torch.stack(log_probs, dim=1) if log_probs else None,
            state.z_conv,
            torch.stack(z_utt, dim=1) if z_utt else None,
        )

    def respond(
        self,
        contexts: Sequence[Sequence[Ints]],
        num_turns: int = 1,
        *,
        index: Sequence[int] | None = None,
        samples: int = 1,
        z_conv: Tensor | None = None,
        at_once: int = 512,
    ) -> Continuation:
        """``samples`` continuations of each context, ``num_turns`` long, in the order of ``contexts``.

        Continuation ``i * samples + k`` is the ``k``-th of context ``i``. A context is a list of utterances,
        each an array of token ids ending with EOS; an empty one begins a conversation. ``index`` (default:
        0, 1, ...) names the contexts for good: their draws are keyed by it, so contexts of one name share
        their noise. A given ``z_conv`` [contexts, latent] is used instead of a drawn one. ``at_once``
        continuations are computed together; it changes no result.

        Raises:
            ParameterError: ``num_turns`` or ``samples`` is not positive; or as ``read`` and ``begin``.
            DataError: a context has an empty utterance.
        """
        if samples < 1:
            raise ParameterError(f"{samples} samples were asked for; at least 1 can be generated")
        names = torch.arange(len(contexts)) if index is None else torch.tensor(index, dtype=torch.int64)
        if z_conv is not None:
            z_conv = self._checked(z_conv, len(contexts))
        # Longest first, the order in which ``pack`` lays a batch out.
        order = sorted(range(len(contexts)), key=lambda place: -len(contexts[place]))
        parts = []
        for places in _answered_together(contexts, order, samples, at_once):
            key = names[places]
            given = None if z_conv is None else z_conv[places].repeat_interleave(samples, dim=0)
            if contexts[places[0]]:
                batch = pack([contexts[place] for place in places], key.tolist(), samples)
                state = self.read(batch, given)
            else:
                sample = torch.arange(samples).repeat(len(places))
                state = self.begin(key.repeat_interleave(samples), sample, given)
            parts.append(self.generate(state, num_turns))
        back = torch.tensor(order, dtype=torch.int64).argsort()
        copies = torch.arange(samples)
        return _reordered(_joined(parts), (samples * back[:, None] + copies).flatten())

    def _checked(self, z_conv: Tensor, count: int) -> Tensor:
        size = self.model.z_conv_size
        if size == 0:
            raise ParameterError(
                f"{self.model.system.architecture!r} has no z_conv, so none can be given to it"
            )
        if z_conv.shape != (count, size):
            raise ParameterError(f"z_conv has shape {tuple(z_conv.shape)}; this needs ({count}, {size})")
        outside = ~(z_conv.abs() <= MAX_LATENT)
        if bool(outside.any()):
            raise ParameterError(
                f"z_conv holds {float(z_conv[outside][0])!r}: its numbers must be from {-MAX_LATENT:g} to "
                f"{MAX_LATENT:g}"
            )
        return z_conv.to(device=self.device, dtype=self.dtype)


def _answered_together(
    contexts: Sequence[Sequence[Ints]], order: Sequence[int], samples: int, at_once: int
) -> Iterator[list[int]]:
    """The places of ``order`` in groups that memory holds; of a group all contexts are empty, or none is."""
    group: list[int] = []
    read = 0
    for place in order:
        words = samples * sum(map(len, contexts[place]))
        full = (len(group) + 1) * samples > at_once or read + words > MAX_CONTEXT_WORDS
        if group and (full or bool(contexts[place]) != bool(contexts[group[0]])):
            yield group
            group, read = [], 0
        group.append(place)
        read += words
    if group:
        yield group


def _reordered(continuation: Continuation, order: Tensor) -> Continuation:
    """The conversations at the places ``order``."""
    return Continuation(
        [continuation.token_ids[place] for place in order.tolist()],
        *(None if value is None else value[order.to(value.device)] for value in continuation[1:]),
    )


def _joined(parts: Sequence[Continuation]) -> Continuation:
    """Continuations of several batches as one."""

    def together(values: Sequence[Tensor | None]) -> Tensor | None:
        present = [value for value in values if value is not None]
        return torch.cat(present) if present else None

    return Continuation(
        [said for part in parts for said in part.token_ids],
        together([part.log_probs for part in parts]),
        together([part.z_conv for part in parts]),
        together([part.z_utt for part in parts]),
    )
