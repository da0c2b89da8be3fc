"""The plain implementation that speed is measured against: VHCR as such models are usually written.

Utterances padded to a fixed number of words, conversations padded to the longest of the batch, a GRU cell
stepped word by word, logits for every padded position, log-softmax and gather, float32. It shares nothing
with ``vhcr.models`` but the parameters it is given, and reaches the same loss (``tests/test_benchmarks.py``).

Two degrees of plainness: ``pad_turns`` runs encoder and decoder over padded turns too, as code over
[batch, turns, tokens] does; without it only real utterances are run, each padded to 30 words, as in programs
that fold turns into the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from vhcr.models import HierarchicalModel
from vhcr.token_files import Conversations
from vhcr.tokenisation.specials import EOS, PAD, SOS

MAX_WORDS = 30


@dataclass(frozen=True)
class PaddedBatch:
    """Conversations padded to one shape; what lies in padding never matters."""

    token_ids: Tensor  # [batch, turns, tokens] int64
    num_words: Tensor  # [batch, turns] int64, 0 where the turn is padding
    num_turns: Tensor  # [batch] int64

    @classmethod
    def of(cls, data: Conversations, chosen: list[int], max_words: int = MAX_WORDS) -> PaddedBatch:
        """The conversations ``chosen``, word by word."""
        conversations = [data.utterances(index) for index in chosen]
        turns = max(map(len, conversations))
        token_ids = torch.full((len(chosen), turns, max_words), PAD)
        num_words = torch.zeros(len(chosen), turns, dtype=torch.int64)
        for row, utterances in enumerate(conversations):
            for turn, words in enumerate(utterances):
                token_ids[row, turn, : len(words)] = torch.from_numpy(words)
                num_words[row, turn] = len(words)
        return cls(token_ids, num_words, torch.tensor([len(c) for c in conversations]))

    def to(self, device: torch.device | str) -> PaddedBatch:
        """The same batch on ``device``."""
        return PaddedBatch(self.token_ids.to(device), self.num_words.to(device), self.num_turns.to(device))


def _mlp(input_size: int, hidden_size: int, num_layers: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise([input_size] + [hidden_size] * num_layers):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers)


class Gaussian(nn.Module):
    """Mean and variance from an MLP."""

    def __init__(self, input_size: int, hidden_size: int, latent_size: int) -> None:
        super().__init__()
        self.mlp = _mlp(input_size, hidden_size, 2)
        self.mu = nn.Linear(hidden_size, latent_size)
        self.var = nn.Linear(hidden_size, latent_size)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, var), each [..., latent]."""
        hidden = self.mlp(inputs)
        return self.mu(hidden), functional.softplus(self.var(hidden)) + 1e-8


def _kl(mu: Tensor, var: Tensor, prior_mu: Tensor, prior_var: Tensor) -> Tensor:
    terms = (prior_var / var).log() + (var + (mu - prior_mu) ** 2) / prior_var - 1.0
    return 0.5 * terms.sum(-1)


class Baseline(nn.Module):
    """VHCR with one layer everywhere, in the paper's reading."""

    def __init__(self, fast: HierarchicalModel, *, pad_turns: bool = True) -> None:
        super().__init__()
        size = fast.sizes
        words, latents = fast.vocabulary_size, size.z_utt_size + size.z_conv_size
        sentence, context = 2 * size.encoder_size, size.context_size
        self.sizes = size
        self.pad_turns = pad_turns
        self.utterance_drop = fast.system.utterance_drop
        self.embedding = nn.Embedding(words, size.embedding_size)
        self.encoder_ahead = nn.GRUCell(size.embedding_size, size.encoder_size)
        self.encoder_back = nn.GRUCell(size.embedding_size, size.encoder_size)
        self.context = nn.GRUCell(sentence + size.z_conv_size, context)
        self.context_start = nn.Linear(size.z_conv_size, context)
        self.conversation_ahead = nn.GRUCell(sentence, size.conversation_encoder_size)
        self.conversation_back = nn.GRUCell(sentence, size.conversation_encoder_size)
        self.posterior_conv = Gaussian(2 * size.conversation_encoder_size, context, size.z_conv_size)
        self.prior_utt = Gaussian(context + size.z_conv_size, context, size.z_utt_size)
        self.posterior_utt = Gaussian(sentence + context + size.z_conv_size, context, size.z_utt_size)
        self.decoder_start = nn.Linear(context + latents, size.decoder_size)
        self.decoder = nn.GRUCell(size.embedding_size, size.decoder_size)
        self.output = nn.Linear(size.decoder_size, words)
        self.h_unk = nn.Parameter(torch.zeros(sentence))
        self.load(fast)

    def load(self, fast: HierarchicalModel) -> None:
        """Take the parameters of ``fast``."""
        given = fast.state_dict()
        own: dict[str, Tensor] = {"embedding.weight": given["embedding.weight"]}
        own["h_unk"] = given.get("h_unk", torch.zeros_like(self.h_unk))
        cells = {
            "encoder_ahead": "encoder.rnn.forwards.0",
            "encoder_back": "encoder.rnn.backwards.0",
            "context": "context.rnn.layers.0",
            "conversation_ahead": "conversation_encoder.rnn.forwards.0",
            "conversation_back": "conversation_encoder.rnn.backwards.0",
            "decoder": "decoder.rnn.layers.0",
        }
        for name, source in cells.items():
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                own[f"{name}.{part}"] = given[f"{source}.{part}"]
        linears = {
            "context_start": "context_from_z_conv",
            "decoder_start": "decoder.from_sources",
            "output": "decoder.output.linear",
        }
        for name, source in (
            ("posterior_conv", "conversation_posterior_mlp"),
            ("prior_utt", "prior_mlp"),
            ("posterior_utt", "posterior_mlp"),
        ):
            linears |= {f"{name}.mlp.0": f"{source}.layers.0", f"{name}.mlp.2": f"{source}.layers.1"}
            linears |= {f"{name}.{head}": f"{source}.{head}" for head in ("mu", "var")}
        for name, source in linears.items():
            for part in ("weight", "bias"):
                own[f"{name}.{part}"] = given[f"{source}.{part}"]
        self.load_state_dict(own)

    @staticmethod
    def run(cell: nn.GRUCell, inputs: Tensor, start: Tensor, lengths: Tensor) -> list[Tensor]:
        """Step ``cell`` over [sequences, steps, input]; a sequence that has ended keeps its state."""
        state, states = start, []
        for step in range(inputs.shape[1]):
            state = torch.where((lengths > step)[:, None], cell(inputs[:, step], state), state)
            states.append(state)
        return states

    @staticmethod
    def run_back(cell: nn.GRUCell, inputs: Tensor, start: Tensor, lengths: Tensor) -> Tensor:
        """The final state of ``cell`` stepped from each sequence's last item to its first."""
        state = start
        for step in reversed(range(inputs.shape[1])):
            state = torch.where((lengths > step)[:, None], cell(inputs[:, step], state), state)
        return state

    def encode(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """[utterances, tokens] -> h_enc [utterances, size]."""
        embedded = self.embedding(token_ids)
        start = embedded.new_zeros(len(token_ids), self.sizes.encoder_size)
        ahead = self.run(self.encoder_ahead, embedded, start, lengths)[-1]
        return torch.cat([ahead, self.run_back(self.encoder_back, embedded, start, lengths)], dim=1)

    def forward(self, batch: PaddedBatch, *, sample: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """(reconstruction error, kl_utt, kl_conv), each [batch], in nats.

        Latents are drawn from the posterior, or set to its mean without ``sample``.
        """

        def draw(mu: Tensor, var: Tensor) -> Tensor:
            return mu + var.sqrt() * torch.randn_like(mu) if sample else mu

        size, turns = self.sizes, batch.token_ids.shape[1]
        real = batch.num_words > 0
        token_ids, lengths = batch.token_ids.flatten(0, 1), batch.num_words.flatten()
        rows = torch.arange(len(lengths), device=lengths.device)
        if not self.pad_turns:
            rows = real.flatten().nonzero().squeeze(1)
        token_ids, lengths = token_ids[rows], lengths[rows]
        encoded = self.encode(token_ids, lengths)
        h_enc = encoded.new_zeros(real.numel(), encoded.shape[1]).index_copy(0, rows, encoded)
        h_enc = h_enc.unflatten(0, real.shape)  # [batch, turns, size]

        start = h_enc.new_zeros(len(h_enc), size.conversation_encoder_size)
        ahead = self.run(self.conversation_ahead, h_enc, start, batch.num_turns)[-1]
        back = self.run_back(self.conversation_back, h_enc, start, batch.num_turns)
        mu, var = self.posterior_conv(torch.cat([ahead, back], dim=1))
        kl_conv = _kl(mu, var, torch.zeros_like(mu), torch.ones_like(var))
        z_conv = draw(mu, var)

        heard = h_enc
        if self.training and self.utterance_drop > 0.0:
            coin = torch.rand(real.shape, device=h_enc.device)
            heard = torch.where((coin < self.utterance_drop)[..., None], self.h_unk, h_enc)
        first = torch.tanh(self.context_start(z_conv))
        z_turns = z_conv[:, None].expand(-1, turns, -1)
        inputs = torch.cat([heard, z_turns], dim=2)
        states = self.run(self.context, inputs, first, batch.num_turns)
        h_cxt = torch.stack([first, *states[:-1]], dim=1)

        prior_mu, prior_var = self.prior_utt(torch.cat([h_cxt, z_turns], dim=2))
        mu, var = self.posterior_utt(torch.cat([h_enc, h_cxt, z_turns], dim=2))
        kl_utt = (_kl(mu, var, prior_mu, prior_var) * real).sum(1)
        z_utt = draw(mu, var)

        state = torch.tanh(self.decoder_start(torch.cat([h_cxt, z_utt, z_turns], dim=2)))
        before = functional.pad(token_ids[:, :-1], (1, 0), value=SOS)
        decoded = self.run(self.decoder, self.embedding(before), state.flatten(0, 1)[rows], lengths)
        log_probs = functional.log_softmax(self.output(torch.stack(decoded, dim=1)), dim=2)
        errors = -log_probs.gather(2, token_ids[..., None]).squeeze(2)
        mask = torch.arange(token_ids.shape[1], device=errors.device) < lengths[:, None]
        per_row = errors.new_zeros(real.numel()).index_copy(0, rows, (errors * mask).sum(1))
        return per_row.unflatten(0, real.shape).sum(1), kl_utt, kl_conv

    def loss(self, batch: PaddedBatch, kl_weight: float, *, sample: bool = True) -> Tensor:
        """Nats per word (Eq. 12, sign turned)."""
        errors, kl_utt, kl_conv = self(batch, sample=sample)
        return (errors.sum() + kl_weight * (kl_utt.sum() + kl_conv.sum())) / batch.num_words.sum()

    def train_step(self, optimiser: torch.optim.Optimizer, batch: PaddedBatch, kl_weight: float) -> Tensor:
        """One update, gradients clipped at norm 1."""
        loss = self.loss(batch, kl_weight)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        optimiser.step()
        return loss.detach()

    @torch.no_grad()
    def respond(self, batch: PaddedBatch) -> list[list[int]]:
        """Greedy responses to the contexts in ``batch``: 30 steps for all, cut at EOS afterwards.

        z_conv and z_utt are the means of q(z_conv | context) and of the prior.
        """
        return self.next_turn(self.read(batch))

    @torch.no_grad()
    def read(self, batch: PaddedBatch) -> Tensor:
        """The decoder's states [batch, size] before the responses to the contexts in ``batch``."""
        size, real = self.sizes, batch.num_words > 0
        h_enc = self.encode(batch.token_ids.flatten(0, 1), batch.num_words.flatten())
        h_enc = h_enc.unflatten(0, real.shape)
        start = h_enc.new_zeros(len(h_enc), size.conversation_encoder_size)
        ahead = self.run(self.conversation_ahead, h_enc, start, batch.num_turns)[-1]
        back = self.run_back(self.conversation_back, h_enc, start, batch.num_turns)
        z_conv, _ = self.posterior_conv(torch.cat([ahead, back], dim=1))
        inputs = torch.cat([h_enc, z_conv[:, None].expand(-1, real.shape[1], -1)], dim=2)
        first = torch.tanh(self.context_start(z_conv))
        h_cxt = self.run(self.context, inputs, first, batch.num_turns)[-1]
        z_utt, _ = self.prior_utt(torch.cat([h_cxt, z_conv], dim=1))
        return torch.tanh(self.decoder_start(torch.cat([h_cxt, z_utt, z_conv], dim=1)))

    @torch.no_grad()
    def next_turn(self, state: Tensor) -> list[list[int]]:
        """Greedy utterances from the decoder's states [batch, size]."""
        words = torch.full((len(state),), SOS, device=state.device)
        said = []
        for _ in range(MAX_WORDS):
            state = self.decoder(self.embedding(words), state)
            log_probs = functional.log_softmax(self.output(state), dim=1)
            log_probs[:, [PAD, SOS]] = -torch.inf
            words = log_probs.argmax(1)
            said.append(words)
        responses = torch.stack(said, dim=1)
        responses[:, -1] = EOS
        return [ids[: ids.index(EOS) + 1] for ids in responses.tolist()]
