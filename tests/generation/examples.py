"""What the tests of generation share: parameters, a model with known probabilities, a naive decoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tests.models.examples import params
from vhcr.models import ConversationModel
from vhcr.params import GenerationParams
from vhcr.tokenisation.specials import EOS, PAD, SOS, SPECIALS

A, B, C, D = range(len(SPECIALS), len(SPECIALS) + 4)
VOCABULARY = len(SPECIALS) + 4


def generation(**changes: object) -> GenerationParams:
    """Greedy decoding of at most 8 words, with ``changes``."""
    usual = params().corpus("toy").generation.model_dump()
    return GenerationParams.model_validate({**usual, "beam_size": 4, "max_words": 8, **changes})


class Table:
    """A word model that is a table: after words w_1 ... w_n (whatever came before them) comes p(w).

    ``rows`` maps what was said so far to the probabilities of the next word; what is not given has
    probability zero, and what was said is cut to its end until a row fits. The state is what was said.
    """

    vocabulary_size = VOCABULARY

    def __init__(self, rows: Mapping[tuple[int, ...], Mapping[int, float]], longest: int = 8) -> None:
        self.rows = rows
        self.longest = longest
        self.sizes: list[int] = []  # how many sequences each call computed

    def start(self, sequences: int) -> Tensor:
        return torch.full((sequences, self.longest), PAD, dtype=torch.float64)

    def logits(self, word_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes.append(len(word_ids))
        state = torch.cat([state[:, 1:], word_ids.unsqueeze(1).double()], dim=1)
        probabilities = torch.zeros(len(word_ids), VOCABULARY, dtype=torch.float64)
        for row, said in enumerate(state.long().tolist()):
            words = tuple(word for word in said if word not in (PAD, SOS))
            while words not in self.rows:
                words = words[1:]
            for word, probability in self.rows[words].items():
                probabilities[row, word] = probability
        return probabilities.log(), state


@torch.no_grad()
def naive_greedy(model: ConversationModel, start: Tensor, max_words: int) -> tuple[list[int], float]:
    """One sequence, one word at a time, with log-softmax at each step; ``start`` is of it alone."""
    said: list[int] = []
    state, word, total = start.unsqueeze(0), SOS, 0.0
    while len(said) < max_words:
        logits, state = model.logits(torch.tensor([word]), state)
        log_probs = logits.log_softmax(-1)
        allowed = [w for w in range(model.vocabulary_size) if w not in (PAD, SOS)]
        if len(said) == max_words - 1:
            allowed = [EOS]
        word = max(allowed, key=lambda w: float(log_probs[0, w]))
        total += float(log_probs[0, word])
        said.append(word)
        if word == EOS:
            break
    return said, total


def all_utterances(table: Table, max_words: int) -> dict[tuple[int, ...], float]:
    """log p of every utterance that ends within ``max_words``, by asking the table for one word at a time."""
    found: dict[tuple[int, ...], float] = {}

    def extend(said: tuple[int, ...], log_p: float, state: Tensor, word: int) -> None:
        logits, state = table.logits(torch.tensor([word]), state)
        for following in (EOS, A, B, C, D):
            value = log_p + float(logits[0, following])
            if value == -float("inf"):
                continue
            if following == EOS:
                found[(*said, EOS)] = value
            elif len(said) + 2 <= max_words:
                extend((*said, following), value, state, following)

    extend((), 0.0, table.start(1), SOS)
    return found
