"""Words from a decoder state: greedy, beam search, sampling; batched, each sequence as if it were alone.

All strategies share these rules:

- ``<pad>`` and ``<sos>`` are never emitted. ``<unk>`` is, unless ``unknown_words`` is "never": the model
  gives it the probability of all rare words together, and hiding it hands that mass to common ones.
- An utterance ends with EOS. ``max_words`` counts it, as the data do: the last word that fits is EOS,
  whatever the model would rather say, so a generated utterance is one that training could have seen.
- Ties go to the lower word id (in a beam: to the better hypothesis first).
- ``log_probs`` are the model's own, over its whole vocabulary and with nothing masked, at temperature 1:
  scoring the same words by teacher forcing gives the same number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from vhcr.errors import ParameterError
from vhcr.models.kernels.projection import MAX_LOGITS
from vhcr.models.noise import Noise
from vhcr.params import GenerationParams
from vhcr.tokenisation.specials import EOS, PAD, SOS, UNK

NEVER = (PAD, SOS)

MIN_TEMPERATURE = 1e-20  # the likeliest word alone long before; logits divided by less overflow float32
MAX_LENGTH_FACTOR = 1e300  # of words ** length_penalty, which is a float


# Told of words as they come: the sequences that got one more each, and these words' ids.
OnWords = Callable[[list[int], list[int]], None]


class WordModel(Protocol):
    """What decoding needs: ``layers.Decoder``, or anything that says what comes next."""

    vocabulary_size: int

    def logits(self, word_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """([sequences], state [sequences, ...]) -> (unnormalised log p of the next word, new state).

        The first is a new tensor [sequences, vocab]: decoding writes over it.
        """
        ...


@runtime_checkable
class WordSearch(WordModel, Protocol):
    """A word model that finds the likeliest word without saying how likely the others are."""

    def likeliest(self, word_ids: Tensor, state: Tensor, never: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """([sequences], state) -> (the likeliest next word but those of ``never``, new state).

        Of equals the first. It bounds its memory by itself.
        """
        ...


class Decoded(NamedTuple):
    """One utterance per sequence."""

    token_ids: list[list[int]]  # each ends with EOS
    log_probs: Tensor | None  # [sequences], log p of all its words in nats; None where it was not asked for

    def scores(self, length_penalty: float) -> Tensor:
        """log p / words ** length_penalty, [sequences]: what a beam search maximises; EOS is a word.

        Raises:
            ValueError: the log-probabilities were not asked for.
        """
        if self.log_probs is None:
            raise ValueError("these utterances were decoded without their log-probabilities")
        words = torch.tensor([len(ids) for ids in self.token_ids]).to(self.log_probs)
        return self.log_probs / words**length_penalty


@torch.inference_mode()
def decode(
    decoder: WordModel,
    start: Tensor,
    params: GenerationParams,
    noise: Noise,
    *keys: Tensor,
    want_log_probs: bool = True,
    on_words: OnWords | None = None,
) -> Decoded:
    """Utterances from decoder states ``start`` [sequences, ...], by the strategy of ``params``.

    Sampling draws its words with ``noise``, keyed by ``keys`` (each [sequences]: conversation, sample, turn)
    and the word's position, so an utterance does not depend on its batch. Greedy search is faster without
    log-probabilities. Memory is bounded by taking so many sequences at a time as ``MAX_LOGITS`` allows.
    ``on_words`` is told of every word as it comes; of a beam's when the search is over.

    Raises:
        ParameterError: a decoder's vocabulary holds nothing but special tokens that may not be emitted, or a
            parameter of the strategy makes numbers that no float holds.
    """
    _refuse_overflow(params)
    if decoder.vocabulary_size <= EOS:
        raise ParameterError(f"a vocabulary of {decoder.vocabulary_size} tokens holds nothing to say")
    width = params.beam_size if params.strategy == "beam" else 1
    at_once = max(1, MAX_LOGITS // (width * decoder.vocabulary_size))
    if params.strategy == "greedy" and not want_log_probs and isinstance(decoder, WordSearch):
        at_once = max(1, len(start))  # it holds no logits
    parts = []
    for first in range(0, max(1, len(start)), at_once):
        here = slice(first, first + at_once)
        told = on_words and partial(_shifted, on_words, first)
        if params.strategy == "beam":
            parts.append(beam(decoder, start[here], params))
            if told:
                for row, ids in enumerate(parts[-1].token_ids):
                    for word in ids:
                        told([row], [word])
        elif params.strategy == "sample":
            own = (key[here] for key in keys)
            parts.append(sample(decoder, start[here], params, noise, *own, on_words=told))
        else:
            parts.append(greedy(decoder, start[here], params, want_log_probs=want_log_probs, on_words=told))
    log_probs = [part.log_probs for part in parts if part.log_probs is not None]
    return Decoded(
        [ids for part in parts for ids in part.token_ids],
        torch.cat(log_probs) if len(log_probs) == len(parts) else None,
    )


def _shifted(on_words: OnWords, first: int, rows: list[int], words: list[int]) -> None:
    on_words([first + row for row in rows], words)


def _refuse_overflow(params: GenerationParams) -> None:
    if params.strategy == "sample" and params.temperature < MIN_TEMPERATURE:
        raise ParameterError(
            f"temperature = {params.temperature!r}: must be at least {MIN_TEMPERATURE:g}; strategy 'greedy' "
            "says the likeliest words"
        )
    most = math.log(MAX_LENGTH_FACTOR) / math.log(params.max_words)
    if params.strategy == "beam" and params.length_penalty > most:
        raise ParameterError(
            f"length_penalty = {params.length_penalty!r}: must be at most {most:.0f} for utterances of "
            f"{params.max_words} words"
        )


def forbidden(params: GenerationParams) -> tuple[int, ...]:
    """The words that are never emitted."""
    return NEVER if params.unknown_words == "allow" else (*NEVER, UNK)


def _forbid(scores: Tensor, params: GenerationParams) -> None:
    """Words that are never emitted get the score of the impossible, in place."""
    for word in forbidden(params):
        scores[..., word] = -torch.inf


def _log_softmax(logits: Tensor) -> Tensor:
    """log p of every word, in float32 at least: sums of bfloat16 would be off by whole nats."""
    return functional.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _no_log_prob(start: Tensor, *shape: int) -> Tensor:
    """log p of nothing said yet, in the precision of ``_log_softmax``."""
    return start.new_zeros(shape, dtype=torch.promote_types(start.dtype, torch.float32))


class _Utterances:
    """Utterances that grow word by word and leave the computation when they end."""

    def __init__(self, start: Tensor, max_words: int, on_words: OnWords | None = None) -> None:
        self._on_words = on_words
        self._ids = torch.full((len(start), max_words), EOS, device=start.device)
        self._num_words = torch.zeros(len(start), dtype=torch.int64, device=start.device)
        self.alive = torch.arange(len(start), device=start.device)  # which sequences still grow
        self.words = torch.full_like(self.alive, SOS)  # [alive]: the last word of each
        self.state = start  # [alive, ...]

    def add(self, words: Tensor, state: Tensor) -> None:
        """One more word for each that is alive; those that got EOS end here."""
        self._ids[self.alive, self._num_words[self.alive]] = words
        self._num_words[self.alive] += 1
        if self._on_words is not None:
            self._on_words(self.alive.tolist(), words.tolist())
        going_on = (words != EOS).nonzero().squeeze(1)
        if len(going_on) < len(words):
            self.alive, words, state = self.alive[going_on], words[going_on], state[going_on]
        self.words, self.state = words, state

    def token_ids(self) -> list[list[int]]:
        """The words of each."""
        lengths = self._num_words.tolist()
        return [ids[:length] for ids, length in zip(self._ids.tolist(), lengths, strict=True)]


@torch.inference_mode()
def greedy(
    decoder: WordModel,
    start: Tensor,
    params: GenerationParams,
    *,
    want_log_probs: bool = True,
    on_words: OnWords | None = None,
) -> Decoded:
    """At each step the likeliest word."""
    utterances = _Utterances(start, params.max_words, on_words)
    total = _no_log_prob(start, len(start)) if want_log_probs else None
    for step in range(params.max_words):
        if len(utterances.alive) == 0:
            break
        last = step == params.max_words - 1
        if total is None and last:
            words, state = torch.full_like(utterances.words, EOS), utterances.state
        elif total is None and isinstance(decoder, WordSearch):
            words, state = decoder.likeliest(utterances.words, utterances.state, forbidden(params))
        else:
            logits, state = decoder.logits(utterances.words, utterances.state)
            if total is not None:
                logits = _log_softmax(logits)
            if last:
                words = torch.full_like(utterances.words, EOS)
                best = logits[:, EOS]
            else:
                _forbid(logits, params)
                best, words = logits.max(dim=-1)  # the first of equals
            if total is not None:
                total[utterances.alive] += best.to(total)
        utterances.add(words, state)
    return Decoded(utterances.token_ids(), total)


@torch.inference_mode()
def sample(
    decoder: WordModel,
    start: Tensor,
    params: GenerationParams,
    noise: Noise,
    *keys: Tensor,
    on_words: OnWords | None = None,
) -> Decoded:
    """At each step a word drawn from ``word_distribution``, by inverting its cumulative sum."""
    utterances = _Utterances(start, params.max_words, on_words)
    total = _no_log_prob(start, len(start))
    for step in range(params.max_words):
        alive = utterances.alive
        if len(alive) == 0:
            break
        logits, state = decoder.logits(utterances.words, utterances.state)
        if step == params.max_words - 1:
            words = torch.full_like(alive, EOS)
        else:
            position = torch.full_like(alive, step)
            uniform = noise.uniform("word", *(key[alive] for key in keys), position)
            words = draw(word_distribution(logits, params), uniform)
        log_probs = _log_softmax(logits)
        total[alive] += log_probs.gather(1, words.unsqueeze(1)).squeeze(1).to(total)
        utterances.add(words, state)
    return Decoded(utterances.token_ids(), total)


def word_distribution(logits: Tensor, params: GenerationParams) -> Tensor:
    """What sampling draws from, [sequences, vocab]: temperature, then top-k, then top-p.

    p is proportional to exp(logits / temperature). Of that the ``top_k`` likeliest words stay (0: all), and
    of these, renormalised, the fewest likeliest whose mass reaches ``top_p`` (Holtzman et al., 2020); the
    rest becomes zero.
    """
    scores = logits / params.temperature
    _forbid(scores, params)
    if 0 < params.top_k < scores.shape[1]:
        _, kept = top(scores, params.top_k)
        filtered = torch.full_like(scores, -torch.inf)
        scores = filtered.scatter(1, kept, scores.gather(1, kept))
    probabilities = torch.softmax(scores, dim=-1)
    if params.top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1, dtype=torch.float64) - ordered
        # The likeliest word stays whatever top_p is: nothing comes before it.
        ordered = torch.where(before < params.top_p, ordered, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(1, order, ordered)
        probabilities /= probabilities.sum(-1, keepdim=True)
    return probabilities


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The word whose stretch of the cumulative sum holds ``uniform``: [sequences, vocab], [sequences] -> ids.

    A word of probability zero has no stretch and is never drawn.
    """
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # A uniform draw so near 1 that it rounds to 1 would fall off the end.
    at = torch.minimum(uniform.unsqueeze(1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, at, right=True).squeeze(1)


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, falling, and where they stand; equals in order of position.

    ``torch.topk`` says nothing about which of several equals it takes, so rows where that matters are sorted.
    """
    values, places = scores.topk(min(k + 1, scores.shape[1]), dim=-1)
    torn = (values[:, k:] == values[:, k - 1 : k]).any(-1).nonzero().squeeze(1)
    values, places = values[:, :k], places[:, :k]
    if len(torn):
        ordered, order = scores[torn].sort(dim=-1, descending=True, stable=True)
        values[torn], places[torn] = ordered[:, :k], order[:, :k]
    places, order = places.sort(dim=-1)
    values, ranks = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    return values, places.gather(1, ranks)


class _Finished:
    """The best finished hypothesis of each sequence, and how many there have been."""

    def __init__(self, num_sequences: int, length_penalty: float) -> None:
        self.token_ids: list[list[int]] = [[] for _ in range(num_sequences)]
        self.log_probs = [-float("inf")] * num_sequences
        self._scores = [-float("inf")] * num_sequences
        self._length_penalty = length_penalty

    def add(
        self, sequences: Sequence[int], token_ids: Sequence[list[int]], log_probs: Sequence[float]
    ) -> None:
        """Hypotheses that end with EOS; of equal scores the one that finished first stays."""
        for sequence, ids, log_prob in zip(sequences, token_ids, log_probs, strict=True):
            score = log_prob / len(ids) ** self._length_penalty
            if score > self._scores[sequence]:
                self._scores[sequence] = score
                self.token_ids[sequence], self.log_probs[sequence] = ids, log_prob


@torch.inference_mode()
def beam(decoder: WordModel, start: Tensor, params: GenerationParams) -> Decoded:
    """The best finished hypothesis by log p / words ** length_penalty, of a search ``beam_size`` wide.

    At each step the hypotheses of a sequence are extended by every word. Those among the best ``beam_size``
    that end with EOS are kept as finished; the best ``beam_size`` of the rest live on. A sequence is done
    when ``beam_size`` of its hypotheses have finished. So a beam of one is greedy search.
    """
    width, vocabulary = params.beam_size, decoder.vocabulary_size
    device = start.device
    finished = _Finished(len(start), params.length_penalty)
    sequence = torch.arange(len(start), device=device)  # [groups]: a group is what lives of one sequence
    num_finished = torch.zeros_like(sequence)
    total = _no_log_prob(start, len(start), 1)  # [groups, live]: log p of each hypothesis; -inf fills up
    said = torch.empty(len(start), 1, 0, dtype=torch.int64, device=device)  # [groups, live, words so far]
    words = torch.full((len(start),), SOS, device=device)
    state = start
    for step in range(params.max_words):
        if len(sequence) == 0:
            break
        live = total.shape[1]
        logits, state = decoder.logits(words, state)
        scores = _log_softmax(logits).unflatten(0, (-1, live))
        if step == params.max_words - 1:
            value = scores[:, :, EOS] + total
            parent = torch.arange(live, device=device).expand_as(value)
            word = torch.full_like(parent, EOS)
        else:
            _forbid(scores, params)
            scores += total.unsqueeze(-1)
            value, place = top(scores.flatten(1), min(2 * width, live * vocabulary))
            parent, word = place // vocabulary, place % vocabulary
        ends = (word == EOS) & (value > -torch.inf)
        ends[:, width:] = False
        group, rank = ends.nonzero(as_tuple=True)
        if len(group):
            ended = torch.cat([said[group, parent[group, rank]], word[group, rank].unsqueeze(1)], dim=1)
            finished.add(sequence[group].tolist(), ended.tolist(), value[group, rank].tolist())
            num_finished += ends.sum(-1)
        # Of 2 * width extensions at most width end, one per hypothesis: the rest fill the beam again.
        order = (word == EOS).sort(dim=-1, stable=True).indices[:, :width]
        value = value.gather(1, order).masked_fill(word.gather(1, order) == EOS, -torch.inf)
        parent, word = parent.gather(1, order), word.gather(1, order)
        going_on = ((num_finished < width) & (value[:, 0] > -torch.inf)).nonzero().squeeze(1)
        parent, word, total = parent[going_on], word[going_on], value[going_on]
        hypothesis = (going_on.unsqueeze(1) * live + parent).flatten()
        state = state[hypothesis]
        said = torch.cat([said.flatten(0, 1)[hypothesis], word.reshape(-1, 1)], dim=1).unflatten(
            0, parent.shape
        )
        sequence, num_finished, words = sequence[going_on], num_finished[going_on], word.flatten()
    return Decoded(finished.token_ids, torch.tensor(finished.log_probs, dtype=total.dtype, device=device))
