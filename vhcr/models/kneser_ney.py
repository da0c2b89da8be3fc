"""An anchor from outside of the family: counts of the last words, interpolated modified Kneser-Ney.

Chen and Goodman (1999), with the discounts of their equation 17, over the conversation as one stream: its
words are the word before each and SOS at the start of every utterance, as the decoders of the family hear
them, so that a count reaches back over a turn. With k words h before it

    p_k(w | h) = (a(h w) - D_k(a(h w))) / sum_v a(h v) + backoff(h) p_{k-1}(w | h without its oldest word),

where a is the count for the longest h, and for all others in how many words h w was seen to follow. No
history is older than a conversation, so what begins one is counted as it is. Below all stands 1 / |V|.

Nothing is learnt by gradients: ``count`` makes the tables, once. What they hold of k words is numbered by
sorted keys, (number of the k - 1 nearest words) * |V| + oldest word, so that a lookup is a binary search.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vhcr.batch import Batch, Ints
from vhcr.models.conversation_model import ConversationModel, Latents, ModelOutput
from vhcr.models.gaussian import Divergence, Draw, analytic_kl, draw_posterior
from vhcr.models.noise import Noise
from vhcr.params import ModelParams, SystemParams
from vhcr.tokenisation.specials import PAD

ORDER = 5  # words of the longest gram, the predicted one included
NOTHING = -1  # where a history has no further word
BEGINNING = PAD  # the word before the first of a conversation
Discounts = Sequence[tuple[float, float, float]]  # of counts of 1, 2 and more, by length of history


class KneserNey(ConversationModel):
    """p(word | the ``ORDER`` - 1 words before it); exact, without latents. Every word has some probability.

    A state is the last ``ORDER`` - 1 words, [sequences, ORDER - 1], the newest last; in the precision of the
    model, as decoding expects of states.
    """

    def __init__(self, model: ModelParams, system: SystemParams, vocabulary_size: int) -> None:
        super().__init__(model, system, vocabulary_size)
        for length in range(ORDER):
            self._table(f"history_{length}", torch.zeros(0, dtype=torch.int64))
            self._table(f"gram_{length}", torch.zeros(0, dtype=torch.int64))
            self._table(f"discounted_{length}", torch.zeros(0, dtype=torch.float64))
            self._table(f"backoff_{length}", torch.zeros(0, dtype=torch.float64))

    def _table(self, name: str, values: Tensor) -> None:
        if values.is_floating_point():
            setattr(self, name, nn.Parameter(values, requires_grad=False))
        else:
            self.register_buffer(name, values)

    def make_room(self, tensors: Mapping[str, Tensor]) -> None:
        """Tables of as many entries as those to be loaded."""
        for name, own in self.state_dict().items():
            if name in tensors:
                self._table(name, own.new_zeros(tensors[name].shape))

    # --- counting ---

    def count(self, batches: Iterable[Batch], discounts: Discounts | None = None) -> None:
        """Make the tables of what stands in ``batches``; ``discounts`` by length of history, or estimated."""
        streams = [(self.encode(batch), batch.token_ids) for batch in batches]
        words = torch.cat([history for history, _ in streams]).numpy()
        target = torch.cat([ids for _, ids in streams]).numpy()
        device = self.device
        size = self.vocabulary_size
        # By length of history: its number at each word that has one so long; and of each the shorter one.
        where = [np.zeros(len(target), dtype=np.int64)]
        shorter: list[Ints] = [np.zeros(0, dtype=np.int64)]
        begins: list[NDArray[np.bool_]] = [np.zeros(1, dtype=bool)]
        for length in range(1, ORDER):
            oldest = words[:, -length]
            there = (oldest != NOTHING) & (where[-1] >= 0)
            keys, number = np.unique(where[-1][there] * size + oldest[there], return_inverse=True)
            where.append(np.full(len(target), -1))
            where[-1][there] = number
            shorter.append(keys // size)
            begins.append(keys % size == BEGINNING)
            self._table(f"history_{length}", torch.from_numpy(keys).to(device))
        followers: Ints = np.zeros(0, dtype=np.int64)  # grams of the length above
        for length in reversed(range(ORDER)):
            there = where[length] >= 0
            keys, counts = np.unique(where[length][there] * size + target[there], return_counts=True)
            history = keys // size
            if length < ORDER - 1:
                longer, word = followers // size, followers % size
                seen = np.searchsorted(keys, shorter[length + 1][longer] * size + word)
                preceded = np.bincount(seen, minlength=len(keys))
                counts = np.where(begins[length][history], counts, preceded)
            followers = keys
            own = estimated_discounts(counts) if discounts is None else discounts[length]
            taken = np.asarray((0.0, *own))[np.minimum(counts, 3)]
            size_of_table = max(1, len(shorter[length]))
            total = np.bincount(history, counts, minlength=size_of_table)
            self._table(f"gram_{length}", torch.from_numpy(keys).to(device))
            for name, values in (
                ("discounted", (counts - taken) / total[history]),
                ("backoff", np.bincount(history, taken, minlength=size_of_table) / total),
            ):
                self._table(f"{name}_{length}", torch.from_numpy(values).to(device))

    # --- p(word | history) ---

    def histories(self, words: Tensor) -> list[Tensor]:
        """Numbers of the last 0, 1, ... words of histories [..., ORDER - 1]; -1 where they were not seen."""
        numbers = [torch.zeros_like(words[..., 0])]
        for length in range(1, ORDER):
            oldest = words[..., -length]
            found = self._find(f"history_{length}", numbers[-1] * self.vocabulary_size + oldest)
            numbers.append(torch.where((numbers[-1] >= 0) & (oldest != NOTHING), found, -1))
        return numbers

    def _find(self, name: str, keys: Tensor) -> Tensor:
        """The places of ``keys`` in a sorted table, -1 where they are not in it."""
        table: Tensor = getattr(self, name)
        place = torch.searchsorted(table, keys).clamp_max(len(table) - 1)
        return torch.where(table[place] == keys, place, -1)

    def probabilities(self, words: Tensor, targets: Tensor) -> Tensor:
        """p(target | history) in float64: [..., ORDER - 1], [...] -> [...]."""
        p = torch.full(targets.shape, 1.0 / self.vocabulary_size, dtype=torch.float64, device=targets.device)
        for length, history in enumerate(self.histories(words)):
            gram = self._find(f"gram_{length}", history * self.vocabulary_size + targets)
            direct = getattr(self, f"discounted_{length}")[gram] * (gram >= 0)
            backoff = getattr(self, f"backoff_{length}")[history]
            p = torch.where(history >= 0, direct + backoff * p, p)
        return p

    def distribution(self, words: Tensor) -> Tensor:
        """p(word | history) of every word, in float64: [sequences, ORDER - 1] -> [sequences, vocab]."""
        size = self.vocabulary_size
        p = torch.full((len(words), size), 1.0 / size, dtype=torch.float64, device=words.device)
        for length, history in enumerate(self.histories(words)):
            seen = history >= 0
            backoff = getattr(self, f"backoff_{length}")[history]
            p = torch.where(seen[:, None], p * backoff[:, None], p)
            keys: Tensor = getattr(self, f"gram_{length}")
            first, last = (torch.searchsorted(keys, (history + more) * size) for more in (0, 1))
            counts = torch.where(seen, last - first, 0)
            sequence = torch.repeat_interleave(counts)
            offset = torch.arange(len(sequence), device=words.device) - (counts.cumsum(0) - counts)[sequence]
            gram = first[sequence] + offset
            direct = getattr(self, f"discounted_{length}")[gram]
            p = p.index_put((sequence, keys[gram] % size), direct, accumulate=True)
        return p

    # --- a model of conversations ---

    def encode(self, batch: Batch) -> Tensor:
        """The history of every word, [words, ORDER - 1] int64, the newest last."""
        place = batch.word_place()
        of = batch.conversation[batch.word_row]
        # Before a conversation: its beginning, and nothing before that.
        grid = place.new_full((batch.num_conversations, ORDER - 1 + int(place.max()) + 1), NOTHING)
        grid[:, ORDER - 2] = BEGINNING
        grid[of, ORDER - 1 + place] = batch.input_ids
        return torch.stack([grid[of, place + 1 + column] for column in range(ORDER - 1)], dim=-1)

    def score(
        self,
        batch: Batch,
        h_enc: Tensor,
        noise: Noise,  # noqa: ARG002
        draw: Draw = draw_posterior,  # noqa: ARG002
        divergence: Divergence = analytic_kl,  # noqa: ARG002
    ) -> ModelOutput:
        """p(x_t | x_<t) for all words at once; the error is exact. It has no h_cxt, [rows, 0]."""
        errors = -self.probabilities(h_enc, batch.token_ids).log() * self.scored_rows(batch)[batch.word_row]
        return self.collect(batch, errors.to(self.dtype), Latents(errors.new_zeros(batch.num_rows, 0)))

    def context_start(self, count: int, z_conv: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The beginning of a conversation, and nothing before it."""
        state = torch.full((count, ORDER - 1), NOTHING, dtype=self.dtype, device=self.device)
        state[:, -1] = BEGINNING
        return state

    def context_after(self, h_enc: Tensor, batch: Batch, z_conv: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The history of each conversation's last word: that word, EOS, is told by the SOS that follows."""
        return h_enc[batch.last_word[batch.row_rank[batch.last_row]]].to(self.dtype)

    def context_step(self, said: Batch, state: Tensor, z_conv: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """And of one more utterance."""
        newest = self.context_after(self.encode(said), said)
        column = torch.arange(ORDER - 1, device=state.device)
        words = said.num_words[:, None]
        older = state.gather(1, (column + words).clamp_max(ORDER - 2))
        return torch.where(column + words < ORDER - 1, older, newest)

    def logits(self, word_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One word: ([sequences], state) -> (log p of the next [sequences, vocab], the state with it)."""
        state = torch.cat([state[:, 1:], word_ids[:, None].to(state)], dim=1)
        return self.distribution(state.long()).log().to(self.dtype), state


def estimated_discounts(counts: Ints) -> tuple[float, float, float]:
    """D_1, D_2, D_3+ (Chen and Goodman, 1999, equation 17) from how many grams have counts of 1 to 4.

    Where one of these numbers is zero, as in little data, or a discount is none: 0.5, 1 and 1.5, as KenLM
    falls back to (Heafield, 2011).
    """
    n1, n2, n3, n4 = (float((counts == times).sum()) for times in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 <= discount <= times for times, discount in enumerate(found, start=1)):
            return found
    return 0.5, 1.0, 1.5
