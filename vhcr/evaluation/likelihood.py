"""Section 4.2: the bound of Eq. 2 on a test split, and the tighter importance-weighted bound.

Every number is per conversation until the very end, so that differences between systems can be resampled
over conversations. Noise is keyed by conversation: batch size and order change nothing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vhcr.batch import Batch
from vhcr.evaluation.records import METRIC_VERSION, ByPlace, LengthBin, Likelihood
from vhcr.models import ConversationModel, ModelOutput, Noise
from vhcr.models.gaussian import sampled_kl
from vhcr.models.kernels.precision import products_in
from vhcr.params import EvaluationParams
from vhcr.token_files import Conversations

Floats = NDArray[np.float64]

# Words in flight in one pass of the importance-weighted bound, copies counted: bounds its memory.
MAX_WORDS = 8192
LENGTH_BIN = 5  # words of utterance length that share an entry
PRECISION_CONVERSATIONS = 400  # on which short products are held against those of float32
BOUND_SAMPLES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # points of the convergence plot, up to K


@dataclass(frozen=True)
class Scores:
    """One number per conversation of a split, in the split's order, in nats; zero where there is no turn."""

    num_words: Floats  # [conversations]: words scored, EOS and UNK counted
    reconstruction_error: Floats  # [conversations]
    kl_utt: Floats  # [conversations]
    kl_conv: Floats  # [conversations]
    error_by_turn: Floats  # [conversations, turns]: reconstruction error + kl_utt of each turn
    words_by_turn: Floats  # [conversations, turns]
    kl_by_turn: Floats  # [turns]: kl_utt, over the split
    # Over the utterances of each length, EOS counted, [longest + 1]; kl_conv belongs to none of them.
    utterances_by_length: Floats
    reconstruction_by_length: Floats
    kl_by_length: Floats
    # Over the words at each position of their utterance, [longest].
    words_by_position: Floats
    reconstruction_by_position: Floats

    @property
    def nll(self) -> Floats:
        """The bound on -log p(c): reconstruction error + KL, [conversations]."""
        return self.reconstruction_error + self.kl_utt + self.kl_conv

    def per_word(self) -> dict[str, float]:
        """Table 1 and 2: totals over the split divided by its scored words."""
        words = max(self.num_words.sum(), 1.0)
        return {
            "nll_per_word": float(self.nll.sum() / words),
            "reconstruction_per_word": float(self.reconstruction_error.sum() / words),
            "kl_per_word": float((self.kl_utt + self.kl_conv).sum() / words),
            "kl_conv_per_word": float(self.kl_conv.sum() / words),
            "kl_utt_per_word": float(self.kl_utt.sum() / words),
        }

    def nll_per_word_by_turn(self) -> ByPlace:
        """Reconstruction error + kl_utt per word of each turn; kl_conv belongs to no turn and is left out.

        None where a turn is never scored (the first, in the ``release`` reading).
        """
        return ratios(self.error_by_turn.sum(0), self.words_by_turn.sum(0))

    def kl_per_word_by_turn(self) -> ByPlace:
        """kl_utt per word of each turn."""
        return ratios(self.kl_by_turn, self.words_by_turn.sum(0))

    def reconstruction_by_word_position(self) -> ByPlace:
        """-log p of a word given z and the words before it, by its position in the utterance, in nats."""
        return ratios(self.reconstruction_by_position, self.words_by_position)

    def by_utterance_length(self, width: int = LENGTH_BIN) -> tuple[LengthBin, ...]:
        """The bound per word for utterances of 1 to ``width`` words, EOS counted, of the next ``width``, ...

        kl_conv belongs to no utterance and is left out. Lengths that do not occur have no entry.
        """
        entries: list[LengthBin] = []
        for first in range(1, len(self.utterances_by_length), width):
            here = slice(first, first + width)
            lengths = np.arange(len(self.utterances_by_length))[here]
            words = float((self.utterances_by_length[here] * lengths).sum())
            if words == 0:
                continue
            reconstruction, kl = (
                float(sums[here].sum() / words) for sums in (self.reconstruction_by_length, self.kl_by_length)
            )
            entries.append(
                LengthBin(
                    first=first,
                    last=first + width - 1,
                    num_utterances=int(self.utterances_by_length[here].sum()),
                    num_words=int(words),
                    nll_per_word=reconstruction + kl,
                    kl_utt_per_word=kl,
                    perplexity=perplexity(reconstruction + kl),
                )
            )
        return tuple(entries)


def perplexity(nats_per_word: float) -> float | None:
    """exp(nats); None beyond what a float holds (709), as of a model that has hardly been trained."""
    return math.exp(nats_per_word) if nats_per_word < math.log(sys.float_info.max) else None


def ratios(sums: Floats, counts: Floats) -> ByPlace:
    """Sums / counts, None where nothing was counted."""
    return tuple(float(s / n) if n > 0 else None for s, n in zip(sums, counts, strict=True))


def score(
    model: ConversationModel,
    data: Conversations,
    batch_conversations: int,
    seed: int,
    limit: int | None = None,
) -> Scores:
    """The one-sample bound of Eq. 2 for every conversation (or the first ``limit``); exact for HRED.

    ``model`` is in evaluation mode.
    """
    device = next(model.parameters()).device
    total, turns = min(limit or len(data), len(data)), int(data.num_turns.max())
    columns = {name: np.zeros(total) for name in ("num_words", "reconstruction_error", "kl_utt", "kl_conv")}
    error_by_turn, words_by_turn = np.zeros((2, total, turns))
    kl_by_turn = np.zeros(turns)
    of_length, of_position = np.zeros((3, 1)), np.zeros((2, 1))
    with torch.inference_mode():
        for cpu_batch in data.batches(batch_conversations, limit):
            batch = cpu_batch.to(device)
            output = model(batch, Noise(seed))
            rows = cpu_batch.index.numpy()
            reconstruction, kl_utt, words = (
                value.double().cpu().numpy()
                for value in (output.reconstruction_error, output.kl_utt, output.num_words)
            )
            columns["num_words"][rows] = words.sum(1)
            columns["reconstruction_error"][rows] = reconstruction.sum(1)
            columns["kl_utt"][rows] = kl_utt.sum(1)
            columns["kl_conv"][rows] = output.kl_conv.double().cpu().numpy()
            error_by_turn[rows, : batch.max_turns] = reconstruction + kl_utt
            words_by_turn[rows, : batch.max_turns] = words
            kl_by_turn[: batch.max_turns] += kl_utt.sum(0)
            lengths = words.astype(np.int64).ravel()
            parts = (np.ones(lengths.size), reconstruction.ravel(), kl_utt.ravel())
            of_length = added(of_length, np.stack([np.bincount(lengths, part) for part in parts]))
            of_position = added(of_position, by_position(model, batch, output))
    of_length[:, 0] = 0.0  # turns that are not there, or not scored
    return Scores(
        **columns,
        error_by_turn=error_by_turn,
        words_by_turn=words_by_turn,
        kl_by_turn=kl_by_turn,
        utterances_by_length=of_length[0],
        reconstruction_by_length=of_length[1],
        kl_by_length=of_length[2],
        words_by_position=of_position[0],
        reconstruction_by_position=of_position[1],
    )


def by_position(model: ConversationModel, batch: Batch, output: ModelOutput) -> Floats:
    """Number and -log p of the scored words at each position of their utterance, [2, longest]."""
    scored = model.scored_rows(batch)[batch.word_row].double()
    position = batch.word_step.cpu().numpy()
    parts = (scored, output.word_errors)
    return np.stack([np.bincount(position, part.double().cpu().numpy()) for part in parts])


def added(sums: Floats, more: Floats) -> Floats:
    """The sum of two arrays [..., size], the shorter one as if it went on with zeros."""
    size = max(sums.shape[-1], more.shape[-1])
    total = np.zeros((*sums.shape[:-1], size))
    total[..., : sums.shape[-1]] += sums
    total[..., : more.shape[-1]] += more
    return total


def importance_subset(num_conversations: int, limit: int, seed: int) -> NDArray[np.int64]:
    """Which of a split's conversations the importance-weighted bound is of: ``limit`` at most, in order.

    A larger subset of the same seed holds every smaller one.
    """
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(num_conversations)
    return np.sort(order[:limit])


@dataclass(frozen=True)
class LogWeights:
    """log p - log q of draws of the latents of ``chosen`` conversations, in nats (from ``log_weights``).

    Draws that follow one another share z_conv, ``utterance_draws`` of them at a time.
    """

    conversation: Floats  # [chosen, draws]: log p(z_conv) - log q(z_conv | c), zero where there is none
    utterances: Floats  # [chosen, draws, turns]: log p(x_t, z_utt_t | x_<t, z_conv) - log q(z_utt_t | ...)
    utterance_draws: int


def log_weights(
    model: ConversationModel,
    data: Conversations,
    chosen: Sequence[int],
    num_samples: int,
    seed: int,
    utterance_draws: int = 1,
    max_words: int = MAX_WORDS,
) -> LogWeights:
    """Weights of ``num_samples`` draws for each conversation, ``utterance_draws`` of z_utt to one of z_conv.

    Draws and conversations are taken many at a time, as many as ``max_words`` allows; utterances are encoded
    once for all draws.
    """
    device = next(model.parameters()).device
    of_conversation = np.zeros((len(chosen), num_samples))
    of_utterances = np.zeros((len(chosen), num_samples, int(data.num_turns[np.asarray(chosen)].max())))
    place = {int(index): row for row, index in enumerate(chosen)}
    with torch.inference_mode():
        for group in _groups(data, chosen, num_samples, max_words):
            base = data.batch(group)
            h_enc = model.encode(base.to(device))
            at_once = max(1, min(num_samples, max_words // max(1, int(base.num_words.sum()))))
            for first in range(0, num_samples, at_once):
                count = min(at_once, num_samples - first)
                batch = replace(data.batch(group, count, first), utterance_draws=utterance_draws).to(device)
                output = model.score(
                    batch, h_enc.repeat_interleave(count, dim=0), Noise(seed), divergence=sampled_kl
                )
                rows = [place[int(index)] for index in batch.index.tolist()]
                draws = batch.sample.cpu().numpy()
                errors = (output.reconstruction_error + output.kl_utt).double().cpu().numpy()
                of_conversation[rows, draws] = -output.kl_conv.double().cpu().numpy()
                of_utterances[rows, draws, : batch.max_turns] = -errors
    return LogWeights(of_conversation, of_utterances, utterance_draws)


def _groups(
    data: Conversations, chosen: Sequence[int], num_samples: int, max_words: int
) -> Iterator[NDArray[np.int64]]:
    """Conversations of like length together, as many as fit with all their draws (at least one)."""
    words = data.words_per_conversation[np.asarray(chosen)]
    order = np.argsort(words, kind="stable")
    group: list[int] = []
    total = 0
    for position in order:
        size = int(words[position]) * num_samples
        if group and total + size > max_words:
            yield np.asarray(group, dtype=np.int64)
            group, total = [], 0
        group.append(int(chosen[position]))
        total += size
    if group:
        yield np.asarray(group, dtype=np.int64)


def importance_weighted_nll(weights: LogWeights, num_samples: int) -> Floats:
    """-log of the mean weight of the first ``num_samples`` draws, per conversation, in nats: [conversations].

    An upper bound on -log p(c) in expectation, which tightens with more samples (Burda et al., 2016). The log
    is taken per conversation, so it does not depend on how conversations were batched.

    Where several draws share a z_conv, the mean over them is taken turn by turn: given z_conv each turn has a
    z_utt of its own and what was said before is known, so p(c) is the mean over z_conv of a product over
    turns of means over z_utt. That counts each turn's draws in all combinations with the other turns'. Draws
    at the end that make no whole group of those that share a z_conv are left out.
    """
    within = min(weights.utterance_draws, num_samples)
    outer = num_samples // within
    first = slice(outer * within)
    chosen, _, turns = weights.utterances.shape
    by_turn = log_mean_exp(weights.utterances[:, first].reshape(chosen, outer, within, turns), axis=2)
    result: Floats = -log_mean_exp(weights.conversation[:, first][:, ::within] + by_turn.sum(2), axis=1)
    return result


def log_mean_exp(values: Floats, axis: int) -> Floats:
    """log of the mean of exp(``values``) along ``axis``, which neither overflows nor underflows."""
    top = values.max(axis=axis, keepdims=True)
    result: Floats = np.squeeze(top, axis) + np.log(np.exp(values - top).mean(axis=axis))
    return result


def precision_error(
    model: ConversationModel, test: Conversations, scores: Scores, params: EvaluationParams
) -> float:
    """What short products change of the bound: short less float32, nats per word, on the first test
    conversations."""
    exact = score(model, test, params.batch_conversations, params.seed, PRECISION_CONVERSATIONS)
    difference = scores.nll[: len(exact.nll)].sum() - exact.nll.sum()
    return float(difference / max(exact.num_words.sum(), 1.0))


class PerConversation(NamedTuple):
    """conversations.parquet: what each test conversation adds, in nats; [conversations] each."""

    conversation_id: list[str]
    num_words: NDArray[np.int64]
    nll: Floats
    reconstruction_error: Floats
    kl_conv: Floats
    kl_utt: Floats
    importance_weighted_nll: list[float | None]  # None outside of the subset that the tighter bound is of


def likelihood(
    model: ConversationModel, test: Conversations, params: EvaluationParams
) -> tuple[Likelihood, PerConversation]:
    """Section 4.2: the numbers of Tables 1 and 2, and what each conversation adds to them.

    Of an exact model the importance-weighted bound is the NLL, on the same subset, so that the two pair.
    """
    device = next(model.parameters()).device
    with products_in(params.precision, device):
        scores = score(model, test, params.batch_conversations, params.seed)
    exact = not model.z_utt_size
    chosen = importance_subset(len(test), params.importance_conversations, params.seed)
    words = max(float(scores.num_words[chosen].sum()), 1.0)
    subset_nll = float(scores.nll[chosen].sum() / words)
    if exact:
        bounds, tightest = {1: subset_nll}, scores.nll[chosen]
    else:
        with products_in(params.precision, device):
            weights = log_weights(model, test, chosen.tolist(), params.importance_samples, params.seed)
        points = [k for k in BOUND_SAMPLES if k < params.importance_samples] + [params.importance_samples]
        found = {k: importance_weighted_nll(weights, k) for k in points}
        bounds, tightest = {k: float(b.sum() / words) for k, b in found.items()}, found[points[-1]]
    column: list[float | None] = [None] * len(test)
    for index, value in zip(chosen.tolist(), tightest.tolist(), strict=True):
        column[index] = value
    per_word = scores.per_word()
    record = Likelihood(
        metric_version=METRIC_VERSION,
        num_conversations=len(test),
        num_words=int(scores.num_words.sum()),
        nll_per_word=per_word["nll_per_word"],
        reconstruction_per_word=per_word["reconstruction_per_word"],
        kl_per_word=per_word["kl_per_word"],
        kl_conv_per_word=per_word["kl_conv_per_word"],
        kl_utt_per_word=per_word["kl_utt_per_word"],
        bound_is_exact=exact,
        nll_by_turn=scores.nll_per_word_by_turn(),
        kl_utt_by_turn=scores.kl_per_word_by_turn(),
        by_utterance_length=scores.by_utterance_length(),
        reconstruction_by_word_position=scores.reconstruction_by_word_position(),
        perplexity=perplexity(per_word["nll_per_word"]),
        importance_bound_num_conversations=len(chosen),
        importance_bound_subset_nll_per_word=subset_nll,
        importance_weighted_nll_per_word=bounds,
        precision_error_per_word=(
            None if params.precision == "float32" else precision_error(model, test, scores, params)
        ),
    )
    columns = PerConversation(
        list(test.ids),
        scores.num_words.astype(np.int64),
        scores.nll,
        scores.reconstruction_error,
        scores.kl_conv,
        scores.kl_utt,
        column,
    )
    return record, columns
