"""An oracle: the eight systems again, naively, from the paper's equations alone.

One conversation, one utterance, one word at a time; no batching, no packing, no shared code with
``vhcr.models`` but the noise (the same draws, asked for one at a time). It reads parameters by the names of
the fast model's state, and gradients come from autograd through these loops. Where the paper is silent it
follows the authors' program, as REFERENCE facts say: final states of both directions as h_enc, tanh in
MLPs and in initial states, decoder conditioned through its initial state. Where a system's decoder is
conditioned at every step, its output layer sees the hidden state plus a linear map of the initial one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vhcr.models.noise import Noise
from vhcr.params import ModelParams, SystemParams

UNK, SOS, EOS = 1, 2, 3


@dataclass
class Score:
    """One conversation, in nats: one value per turn, and one for z_conv."""

    reconstruction_error: list[Tensor] = field(default_factory=list)
    kl_utt: list[Tensor] = field(default_factory=list)
    bag_of_words_error: list[Tensor] = field(default_factory=list)
    num_words: list[int] = field(default_factory=list)
    word_errors: list[list[Tensor]] = field(default_factory=list)
    kl_conv: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))


def key(value: int) -> Tensor:
    """One integer as a key of the noise."""
    return torch.tensor([value])


class Reference:
    """p(c) and its bound by the equations, for parameters ``weights`` named as in the fast model."""

    def __init__(
        self,
        weights: dict[str, Tensor],
        model: ModelParams,
        system: SystemParams,
        noise: Noise,
        *,
        training: bool,
    ) -> None:
        self.weights = weights
        self.model = model
        self.system = system
        self.noise = noise
        self.training = training
        self.release = system.reading == "release"

    # --- networks, one vector at a time ---

    def linear(self, name: str, x: Tensor) -> Tensor:
        """W x + b."""
        return self.weights[f"{name}.weight"] @ x + self.weights[f"{name}.bias"]

    def cell(self, name: str, x: Tensor, h: Tensor) -> Tensor:
        """One GRU update.

        r = sigmoid(W_r x + b_r + U_r h + c_r), u likewise, n = tanh(W_n x + b_n + r (U_n h + c_n)),
        h' = u h + (1 - u) n.
        """
        size = h.shape[0]
        rows = {"r": slice(0, size), "u": slice(size, 2 * size), "n": slice(2 * size, 3 * size)}

        def from_input(gate: str) -> Tensor:
            return (
                self.weights[f"{name}.weight_ih"][rows[gate]] @ x
                + self.weights[f"{name}.bias_ih"][rows[gate]]
            )

        def from_state(gate: str) -> Tensor:
            return (
                self.weights[f"{name}.weight_hh"][rows[gate]] @ h
                + self.weights[f"{name}.bias_hh"][rows[gate]]
            )

        r = 1.0 / (1.0 + torch.exp(-(from_input("r") + from_state("r"))))
        u = 1.0 / (1.0 + torch.exp(-(from_input("u") + from_state("u"))))
        n = torch.tanh(from_input("n") + r * from_state("n"))
        return u * h + (1.0 - u) * n

    def stack(self, name: str, x: Tensor, state: list[Tensor]) -> list[Tensor]:
        """One step of stacked GRU layers: each layer's input is the layer below."""
        new = []
        for layer, h in enumerate(state):
            x = self.cell(f"{name}.layers.{layer}", x, h)
            new.append(x)
        return new

    def both_ways(self, name: str, inputs: list[Tensor], size: int, layers: int) -> Tensor:
        """A bidirectional GRU: the last state of each direction in the top layer."""
        ahead: list[Tensor] = []
        back: list[Tensor] = []
        for layer in range(layers):
            ahead, back = [], []
            h = torch.zeros(size, dtype=torch.float64)
            for x in inputs:
                h = self.cell(f"{name}.forwards.{layer}", x, h)
                ahead.append(h)
            h = torch.zeros(size, dtype=torch.float64)
            for x in reversed(inputs):
                h = self.cell(f"{name}.backwards.{layer}", x, h)
                back.insert(0, h)
            inputs = [torch.cat([a, b]) for a, b in zip(ahead, back, strict=True)]
        return torch.cat([ahead[-1], back[0]])

    def gaussian(self, name: str, x: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """mu and the variance sigma (Eq. 6-7 and their like): tanh layers, then a head for each."""
        for layer in range(depth):
            x = torch.tanh(self.linear(f"{name}.layers.{layer}", x))
        # 1e-8 keeps a variance from being zero, which has no density.
        variance = torch.log(1.0 + torch.exp(self.linear(f"{name}.var", x))) + 1e-8
        return self.linear(f"{name}.mu", x), variance

    def initial(self, name: str, x: Tensor, size: int, layers: int) -> list[Tensor]:
        """tanh(W x + b) as one state per layer."""
        state = torch.tanh(self.linear(name, x))
        return [state[layer * size : (layer + 1) * size] for layer in range(layers)]

    # --- the paper ---

    @staticmethod
    def kl(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
        """KL(q || p) of two diagonal Gaussians, dimension by dimension."""
        total = torch.zeros((), dtype=torch.float64)
        for mu_q, var_q, mu_p, var_p in zip(*q, *p, strict=True):
            total = total + 0.5 * (
                torch.log(var_p) - torch.log(var_q) + (var_q + (mu_q - mu_p) ** 2) / var_p - 1.0
            )
        return total

    def words_in(self, utterance: list[int], index: int, turn: int) -> list[int]:
        """What the decoder hears: SOS, then each word but the last, some of them UNK (section 3.3)."""
        inputs = [SOS]
        if (
            self.training and self.release and self.word_dropped(0, 0, 0)
        ):  # the program's coins fall on SOS, too
            inputs = [UNK]
        for position, word in enumerate(utterance[:-1], start=1):
            dropped = False
            if self.training:
                # The authors' program tosses one coin per position for the whole batch.
                who = (0, 0) if self.release else (index, turn)
                dropped = self.word_dropped(*who, position)
            inputs.append(UNK if dropped else word)
        return inputs

    def word_dropped(self, index: int, turn: int, position: int) -> bool:
        """Whether the coin of this word falls so."""
        coin = self.noise.uniform("word drop", key(index), key(turn), key(position))
        return float(coin) < self.system.word_drop

    def heard(self, h_enc: Tensor, index: int, turn: int) -> Tensor:
        """h_enc, or h_unk with probability p while training (section 3.5)."""
        if not self.training or self.system.utterance_drop == 0.0:
            return h_enc
        coin = self.noise.uniform("utterance drop", key(0 if self.release else index), key(turn))
        return self.weights["h_unk"] if float(coin) < self.system.utterance_drop else h_enc

    def encoded(self, utterances: list[list[int]], index: int) -> tuple[list[Tensor], list[Tensor]]:
        """h_enc of each utterance (Eq. 3, 15), and what is heard of it."""
        words = [[self.weights["embedding.weight"][word] for word in utterance] for utterance in utterances]
        size, layers = self.model.encoder_size, self.model.encoder_layers
        h_enc = [self.both_ways("encoder.rnn", utterance, size, layers) for utterance in words]
        return h_enc, [self.heard(h, index, turn) for turn, h in enumerate(h_enc)]

    def infer_z_conv(
        self, h_enc: list[Tensor], heard: list[Tensor], index: int, sample: int = 0
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """z_conv and the mu and variance that it was drawn with (Eq. 20-23)."""
        model = self.model
        h_conv = self.both_ways(
            "conversation_encoder.rnn",
            heard if self.release else h_enc,  # the authors' program lets f_conv hear the dropped vectors
            model.conversation_encoder_size,
            model.conversation_encoder_layers,
        )
        mu, var = self.gaussian("conversation_posterior_mlp", h_conv, 2)
        eps = self.noise.normal(
            "z_conv", key(index), key(sample), size=model.z_conv_size, dtype=torch.float64
        )[0]
        return mu + torch.sqrt(var) * eps, (mu, var)

    def conversation(
        self,
        utterances: list[list[int]],
        index: int,
        sample: int = 0,
        start: tuple[list[list[int]], int] | None = None,
    ) -> Score:
        """Eq. 2 for one conversation, named ``index`` in the noise.

        ``start`` is the conversation, and its name, whose z_conv starts f_cxt, where it is not its own.
        """
        model, system = self.model, self.system
        has_z_utt = system.architecture in ("vhred", "vhcr")
        has_z_conv = system.architecture == "vhcr"
        embedding = self.weights["embedding.weight"]
        score = Score()
        h_enc, heard = self.encoded(utterances, index)

        z_conv = torch.zeros(0, dtype=torch.float64)
        h_cxt = [torch.zeros(model.context_size, dtype=torch.float64)] * model.context_layers
        if has_z_conv:
            z_conv, (mu, var) = self.infer_z_conv(h_enc, heard, index, sample)
            score.kl_conv = self.kl((mu, var), (torch.zeros_like(mu), torch.ones_like(var)))  # Eq. 16
            starts = z_conv if start is None else self.infer_z_conv(*self.encoded(*start), start[1])[0]
            h_cxt = self.initial(
                "context_from_z_conv", starts, model.context_size, model.context_layers
            )  # under Eq. 15, t = 0

        for turn, words in enumerate(utterances):
            if turn > 0:  # Eq. 4; under Eq. 15, t > 0
                h_cxt = self.stack("context.rnn", torch.cat([heard[turn - 1], z_conv]), h_cxt)
            scored = turn > 0 or not self.release  # Eq. 14; the program only conditions on the first
            top = h_cxt[-1]
            z_utt = torch.zeros(0, dtype=torch.float64)
            kl_utt = torch.zeros((), dtype=torch.float64)
            if has_z_utt:
                depth = 1 if has_z_conv and self.release else 2
                prior = self.gaussian("prior_mlp", torch.cat([top, z_conv]), depth)  # Eq. 5-7, 17-19
                posterior = self.gaussian(
                    "posterior_mlp", torch.cat([h_enc[turn], top, z_conv]), 2
                )  # Eq. 9-11, 24-25
                eps = self.noise.normal(
                    "z_utt", key(index), key(sample), key(turn), size=model.z_utt_size, dtype=torch.float64
                )[0]
                z_utt = posterior[0] + torch.sqrt(posterior[1]) * eps
                kl_utt = self.kl(posterior, prior)

            # Eq. 8; Eq. 13 without h_cxt
            sources = [z_utt, z_conv]
            if system.decoder_sees_context:
                sources.insert(0, top)
            state = self.initial(
                "decoder.from_sources", torch.cat(sources), model.decoder_size, model.decoder_layers
            )
            skip = torch.zeros(model.decoder_size, dtype=torch.float64)
            if system.decoder_conditioning == "every_step":
                skip = self.weights["decoder.skip.weight"] @ torch.cat(state)
            errors = []
            for heard_word, word in zip(self.words_in(words, index, turn), words, strict=True):
                state = self.stack("decoder.rnn", embedding[heard_word], state)
                logits = self.linear("decoder.output.linear", state[-1] + skip)
                errors.append(torch.log(torch.exp(logits).sum()) - logits[word])

            bag = torch.zeros((), dtype=torch.float64)
            if system.bag_of_words_weight > 0.0:  # Zhao et al. (2017): all words but EOS, from latents
                hidden = torch.tanh(self.linear("bag_of_words.hidden", torch.cat([z_utt, z_conv])))
                logits = self.linear("bag_of_words.output", hidden)
                for word in words[:-1]:
                    bag = bag + torch.log(torch.exp(logits).sum()) - logits[word]

            zero = torch.zeros((), dtype=torch.float64)
            score.word_errors.append(errors if scored else [zero] * len(words))
            score.reconstruction_error.append(sum(errors, zero) if scored else zero)
            score.kl_utt.append(kl_utt if scored else zero)
            score.bag_of_words_error.append(bag if scored else zero)
            score.num_words.append(len(words) if scored else 0)
        return score

    def loss(self, scores: list[Score], kl_weight: float) -> Tensor:
        """Eq. 12 with its sign turned, plus the bag-of-words loss, per scored word."""
        total = torch.zeros((), dtype=torch.float64)
        words = 0
        for score in scores:
            total = total + kl_weight * score.kl_conv
            for turn in range(len(score.num_words)):
                total = total + score.reconstruction_error[turn] + kl_weight * score.kl_utt[turn]
                total = total + self.system.bag_of_words_weight * score.bag_of_words_error[turn]
                words += score.num_words[turn]
        return total / words
