"""The pieces all three models share: f_enc, f_cxt, f_conv, f_dec, word drop and utterance drop."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vhcr.batch import Batch
from vhcr.models.kernels.precision import Linear, at_least_float32
from vhcr.models.kernels.projection import OutputLayer
from vhcr.models.kernels.recurrent import GRU, BidirectionalGRU, distinct
from vhcr.models.noise import Noise
from vhcr.tokenisation.specials import UNK


class UtteranceEncoder(nn.Module):
    """h_enc_t = f_enc(x_t) (Eq. 3, 15): a bidirectional GRU; both final states, concatenated."""

    def __init__(self, embedding: nn.Embedding, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self._shared = (embedding,)  # in a tuple: registered once, by the model, not again here
        self.rnn = BidirectionalGRU(embedding.embedding_dim, hidden_size, num_layers)
        self.output_size = 2 * hidden_size

    def forward(self, batch: Batch) -> Tensor:
        """Every utterance of the batch, EOS included: [rows, output]."""
        words, index = distinct(batch.token_ids)
        embedded = self._shared[0](words)
        by_length = self.rnn(embedded, batch.step_sizes, batch.reversed_word, batch.last_word, index)
        return by_length[batch.row_rank]


class ContextRNN(nn.Module):
    """h_cxt_t = f_cxt(h_cxt_{t-1}, h_enc_{t-1} [, z_conv]) (Eq. 4, and the h_cxt line under Eq. 15).

    A state is [sequences, layers, size]; the top layer is what the rest of the model sees.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.rnn = GRU(input_size, hidden_size, num_layers)
        self.output_size = hidden_size
        self.state_shape = self.rnn.state_shape

    def forward(self, inputs: Tensor, start: Tensor, batch: Batch) -> Tensor:
        """h_cxt before each utterance, [rows, size].

        ``inputs`` [rows, input] are the utterances' vectors (with z_conv beside them in VHCR), ``start``
        [batch, layers, size] the state before the first turn.
        """
        first = start[:, -1]
        if batch.max_turns == 1:
            return first
        later = self.rnn(inputs[batch.previous_row], start, batch.turn_sizes[1:])
        return torch.cat([first, later[:, -1]])

    def after(self, inputs: Tensor, start: Tensor, batch: Batch) -> Tensor:
        """The state after each conversation's last turn, [batch, layers, size]: where generation goes on."""
        return self.rnn(inputs, start, batch.turn_sizes)[batch.last_row]

    def step(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The state after one more utterance: [batch, input] and its state -> [batch, layers, size]."""
        return self.rnn.step(inputs, state)


class ConversationEncoder(nn.Module):
    """h_conv = f_conv(h_enc_1, ..., h_enc_n) (Eq. 21): a bidirectional GRU over utterance vectors."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.rnn = BidirectionalGRU(input_size, hidden_size, num_layers)
        self.output_size = 2 * hidden_size

    def forward(self, h_enc: Tensor, batch: Batch) -> Tensor:
        """[rows, input] -> [batch, output]."""
        return self.rnn(h_enc, batch.turn_sizes, batch.reversed_row, batch.last_row)


class Decoder(nn.Module):
    """p(x_t | ...) = f_dec(x | h_cxt_t, z_utt_t, z_conv) (Eq. 8; Eq. 13 without h_cxt).

    The sources set the GRU's initial state, tanh(W [sources]), and are heard through it alone; with
    ``every_step`` a linear map of that state is added to the hidden state before the output layer at every
    word, too (a skip connection, as in Dieng et al., 2019).

    A state is [sequences, layers, hidden]. With ``every_step`` it has one more entry after the layers, what
    is added, which stays as it is from word to word: so whoever reorders states, as a beam does, takes it
    along.
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        source_size: int,
        hidden_size: int,
        num_layers: int,
        vocabulary_size: int,
        *,
        every_step: bool = False,
    ) -> None:
        super().__init__()
        self._shared = (embedding,)  # in a tuple: registered once, by the model, not again here
        self.rnn = GRU(embedding.embedding_dim, hidden_size, num_layers)
        self.from_sources = Linear(source_size, num_layers * hidden_size)
        self.output = OutputLayer(hidden_size, vocabulary_size)
        # Without a bias: the output layer has one.
        self.skip = nn.Linear(num_layers * hidden_size, hidden_size, bias=False) if every_step else None
        self.vocabulary_size = vocabulary_size

    def start(self, *sources: Tensor) -> Tensor:
        """The initial state given the sources, each [sequences, size]."""
        state = torch.tanh(at_least_float32(self.from_sources(torch.cat(sources, dim=-1))))
        layers = state.unflatten(-1, self.rnn.state_shape)
        if self.skip is None:
            return layers
        return torch.cat([layers, at_least_float32(self.skip(state)).unsqueeze(1)], dim=1)

    def forward(self, start: Tensor, input_ids: Tensor, batch: Batch) -> Tensor:
        """What the output layer sees under teacher forcing, [words, hidden]; ``start`` is of each row."""
        words, index = distinct(input_ids)
        layers = start if self.skip is None else start[:, :-1]
        hidden = self.rnn(self._shared[0](words), layers[batch.row_order], batch.step_sizes, index)[:, -1]
        return hidden if self.skip is None else hidden + start[:, -1].index_select(0, batch.word_row)

    def advance(self, embedded: Tensor, state: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One word: (its vector, state) -> (what the output layer sees [sequences, hidden], new state).

        With ``index`` [sequences] the word of sequence i is ``embedded[index[i]]``.
        """
        if self.skip is None:
            state = self.rnn.step(embedded, state, index)
            return state[:, -1], state
        layers = self.rnn.step(embedded, state[:, :-1], index)
        added = state[:, -1:]
        return layers[:, -1] + added[:, 0], torch.cat([layers, added], dim=1)

    def logits(self, word_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """As ``step``, with log p up to a constant per sequence: enough to find the likeliest word."""
        hidden, state = self.advance(self._shared[0](word_ids), state)
        return self.output.linear(hidden), state

    def step(self, word_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One word: ([sequences], state) -> (log p [sequences, vocab] of the next word, new state)."""
        hidden, state = self.advance(self._shared[0](word_ids), state)
        return self.output.log_probs(hidden), state


class BagOfWords(nn.Module):
    """The auxiliary loss of Zhao et al. (2017): predict an utterance's words, in no order, from latents.

    -sum over words of log softmax(MLP(z))[word], in nats. EOS is left out: it stands in every utterance.
    """

    def __init__(self, latent_size: int, hidden_size: int, vocabulary_size: int) -> None:
        super().__init__()
        self.hidden = Linear(latent_size, hidden_size)
        self.output = Linear(hidden_size, vocabulary_size)

    def forward(self, latent: Tensor, batch: Batch) -> Tensor:
        """[rows, latent] -> [rows]."""
        logits = self.output(torch.tanh(at_least_float32(self.hidden(latent))))
        log_probs = functional.log_softmax(at_least_float32(logits), dim=-1)
        inner = torch.ones_like(batch.word_row, dtype=torch.bool)
        inner[batch.last_word] = False
        rows, words = batch.word_row[inner], batch.token_ids[inner]
        return log_probs.new_zeros(batch.num_rows).index_add(0, rows, -log_probs[rows, words])


def drop_words(batch: Batch, probability: float, noise: Noise, *, shared: bool, sos: bool = False) -> Tensor:
    """The decoder's input ids with words replaced by UNK (section 3.3), [words].

    SOS stays, unless ``sos``: the paper replaces conditioned-on word tokens. ``shared`` draws one coin per
    position for the whole batch, as the authors' program did.
    """
    if probability == 0.0:
        return batch.input_ids
    row = batch.word_row
    keys = [batch.index[batch.conversation[row]], batch.turn[row]]
    if shared:
        keys = [torch.zeros_like(row), torch.zeros_like(row)]
    coin = noise.uniform("word drop", *keys, batch.word_step)
    dropped = coin < probability
    if not sos:
        dropped &= batch.word_step > 0
    return torch.where(dropped, UNK, batch.input_ids)


def drop_utterances(
    h_enc: Tensor, h_unk: Tensor, batch: Batch, probability: float, noise: Noise, *, shared: bool
) -> Tensor:
    """Utterance vectors with some replaced by the learnt ``h_unk`` (section 3.5), [rows, size]; a new tensor.

    ``shared`` draws one coin per turn for the whole batch, as the authors' program did.
    """
    if probability == 0.0:
        return h_enc
    key = torch.zeros_like(batch.turn) if shared else batch.index[batch.conversation]
    coin = noise.uniform("utterance drop", key, batch.turn)
    return torch.where((coin < probability).unsqueeze(-1), h_unk, h_enc)


def shuffled_starts(start: Tensor, batch: Batch, noise: Noise) -> Tensor:
    """States before the first turn, [batch, layers, size], in an order that is not that of the batch.

    A batch stands in order of length; this is some order that has nothing to do with it, as that of the
    authors' loader had not.
    """
    return start[noise.uniform("context start", batch.index).argsort()]
