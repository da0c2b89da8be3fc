"""The likeliest word, found by products of 8-bit integers and proven in float32.

Greedy search needs of all logits only the largest. Products of 8-bit integers run several times as fast as
those of float32 where the processor has instructions for them (VNNI), and they say of each word how large its
logit can be at most. Only the words that can still be the likeliest are then computed in float32: 1 to
13 of 20,000. This is the search for the largest inner product with a bound, not an approximation.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from vhcr.models import HierarchicalModel
from vhcr.models.kernels.projection import MAX_LOGITS
from vhcr.models.kernels.recurrent import distinct

BLOCK = 128  # words whose largest bound is looked at before their own
LIKELY_BLOCKS = 4  # among which a first guess is made
LARGEST = 127  # of the 8-bit integers: -127 ... 127
MIN_WEIGHTS = 2**20  # of an output layer; below that the search takes longer than the product it saves
MIN_SEQUENCES = 16  # at the first step: rounding all weights takes as long as some 60 words in float32
MAX_CANDIDATES = 32  # for each sequence, on average; where more could win, all words are computed
UNIT = 2.0**-24  # float32 rounds by this at most, relatively


class WordDecoder:
    """A model's decoder word by word: what sequences have in common is computed once.

    What it keeps of the weights is made again when they have changed.
    """

    def __init__(self, model: HierarchicalModel) -> None:
        self._embedding, self._decoder = model.embedding, model.decoder
        self.vocabulary_size = model.vocabulary_size
        self._search: tuple[tuple[int, ...], LikeliestWord] | None = None

    def logits(self, word_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """([sequences], state) -> (log p [sequences, vocab] up to a constant of each sequence, new state)."""
        hidden, state = self._advance(word_ids, state)
        return self._decoder.output.linear(hidden), state

    def likeliest(self, word_ids: Tensor, state: Tensor, never: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """([sequences], state) -> (the likeliest next word of each but those of ``never``, new state).

        Of equals the first. Memory is bounded by ``MAX_LOGITS``, however many sequences there are.
        """
        hidden, state = self._advance(word_ids, state)
        search = self._searcher(len(word_ids), never)
        parts = []
        for some in hidden.split(max(1, MAX_LOGITS // self.vocabulary_size)):
            words = None if search is None else search(some)
            if words is None:
                logits = self._decoder.output.linear(some)
                logits[:, list(never)] = -torch.inf
                words = logits.max(dim=-1).indices
            parts.append(words)
        return torch.cat(parts), state

    def _advance(self, word_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        words, index = distinct(word_ids)
        return self._decoder.advance(self._embedding(words), state, index)

    def _searcher(self, sequences: int, never: tuple[int, ...]) -> LikeliestWord | None:
        layer = self._decoder.output.linear
        weights = (layer.weight, layer.bias)
        if not LikeliestWord.suits(layer) or any(weight.is_inference() for weight in weights):
            return None  # the latter do not tell when they are changed
        made_of = (*(number for w in weights for number in (w.data_ptr(), w._version)), *never)
        if self._search is None or self._search[0] != made_of:
            if sequences < MIN_SEQUENCES:
                return None
            self._search = made_of, LikeliestWord(layer, never)
        return self._search[1]


class LikeliestWord:
    """argmax of W h + b over all words but those of ``never``, in float32.

    With w = s q + e and h = t p + d, where q and p are vectors of small integers, a word's logit is
    s t q.p + b + w.d + e.(t p): by Cauchy and Schwarz it exceeds s t q.p + b by |w| |d| + |e| |t p| at most.
    What float32 may round away is added, both here and in the logits themselves.
    """

    def __init__(self, layer: nn.Linear, never: tuple[int, ...]) -> None:
        words, size = layer.weight.shape
        self._weight = layer.weight.detach()
        self._bias = layer.bias.detach()
        padded = -(-words // BLOCK) * BLOCK
        self._integers = torch.zeros(padded, size, dtype=torch.int8)
        self._scale = torch.zeros(padded)  # s
        self._norm, self._error = torch.zeros(padded), torch.zeros(padded)  # |w|, |e|
        self._offset = torch.full((padded,), -torch.inf)  # b
        self._offset[:words] = self._bias + 4.0 * UNIT * self._bias.abs()
        self._offset[list(never)] = -torch.inf  # so they are no candidates
        for first in range(0, words, BLOCK):
            here = slice(first, first + BLOCK)
            weight = self._weight[here]
            scale = _scale(weight.abs().amax(1))
            integers = (weight / scale[:, None]).round_()
            self._integers[here][: len(weight)] = integers
            self._scale[here][: len(weight)] = scale
            self._norm[here][: len(weight)] = weight.norm(dim=1)
            self._error[here][: len(weight)] = integers.mul_(scale[:, None]).sub_(weight).norm(dim=1)

    @staticmethod
    def suits(layer: nn.Linear) -> bool:
        """Whether searching ``layer`` is exact and faster than computing it."""
        weight = layer.weight
        large = weight.numel() >= MIN_WEIGHTS and weight.dtype == torch.float32 and not weight.is_cuda
        return large and layer.bias is not None and integer_products()

    def __call__(self, hidden: Tensor) -> Tensor | None:
        """[sequences, hidden] -> ids [sequences], of equals the first; None where that would take longer."""
        sequences, size = hidden.shape
        largest = hidden.abs().max()
        if not bool(largest.isfinite()):
            return None
        scale = _scale(largest)
        integers = (hidden / scale).round_()
        rounded = integers * scale
        length = hidden.norm(dim=1).max()
        off, length_rounded = (hidden - rounded).norm(dim=1).max(), rounded.norm(dim=1).max()
        # A sum of n products may be off by n roundings; 16 more are those made here. The norms themselves
        # may be off by a thousandth at most.
        rounding = (size + 16) * UNIT * length
        radius = 1.001 * (self._norm * (off + rounding) + self._error * length_rounded)
        step, offset = self._scale * scale, self._offset + radius

        products = torch._int_mm(integers.to(torch.int8), self._integers.t())
        blocks = products.unflatten(1, (-1, BLOCK))
        bounds = torch.empty(blocks.shape[:2])  # of the words of a block at most
        rows = max(1, 2**17 // products.shape[1])  # few at a time, that stay in the cache
        for first in range(0, sequences, rows):
            here = slice(first, first + rows)
            upper = torch.mul(products[here], step).add_(offset)
            torch.amax(upper.unflatten(1, (-1, BLOCK)), 2, out=bounds[here])

        steps, offsets, radii = (of.unflatten(0, (-1, BLOCK)) for of in (step, offset, radius))

        def within(row: Tensor, block: Tensor) -> Tensor:
            return blocks[row, block] * steps[block] + offsets[block]

        # The likeliest word's logit is no less than that of any word, so of a good guess. Not the largest
        # bound: a word with large weights has a large one everywhere.
        every = torch.arange(sequences)
        likely = bounds.topk(min(LIKELY_BLOCKS, bounds.shape[1]), dim=1).indices
        middle = (within(every[:, None], likely) - radii[likely]).flatten(1).argmax(1)
        guess = likely.gather(1, middle[:, None] // BLOCK).squeeze(1) * BLOCK + middle % BLOCK
        least = self._logits(hidden, guess)
        row, block = (bounds >= least[:, None]).nonzero(as_tuple=True)
        if len(row) > MAX_CANDIDATES * sequences:
            return None
        place, word = (within(row, block) >= least[row, None]).nonzero(as_tuple=True)
        row, word = row[place], block[place] * BLOCK + word
        if len(row) > MAX_CANDIDATES * sequences:
            return None
        logits = self._logits(hidden.index_select(0, row), word)
        best = torch.full((sequences,), -torch.inf).scatter_reduce_(0, row, logits, "amax")
        is_best = logits == best[row]
        none = len(self._weight)
        found = torch.full((sequences,), none).scatter_reduce_(0, row[is_best], word[is_best], "amin")
        return found if bool((found < none).all()) else None

    def _logits(self, hidden: Tensor, word: Tensor) -> Tensor:
        """The logit of one word for each state, in float32."""
        return self._weight.index_select(0, word).mul_(hidden).sum(1).add_(self._bias[word])


def _scale(largest: Tensor) -> Tensor:
    """What one unit of the integers is worth, so that none exceeds ``LARGEST``."""
    return (largest / LARGEST).clamp_(min=torch.finfo(torch.float32).tiny)


@cache
def integer_products() -> bool:
    """Whether this processor multiplies 8-bit integers fast, and adds them up without overflow.

    Processors without VNNI add pairs up in 16 bits, where large ones are cut off.
    """
    fast = getattr(torch.cpu, "_is_vnni_supported", None)
    if fast is None or not fast():
        return False
    signs = torch.tensor([1, -1]).repeat(96)
    a = (LARGEST * torch.stack([signs, signs.abs()])).to(torch.int8)
    b = (LARGEST * torch.stack([signs, signs.abs(), -signs])).to(torch.int8)
    return torch.equal(torch._int_mm(a, b.t()).long(), a.long() @ b.long().t())
