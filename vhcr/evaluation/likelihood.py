"""Section 4.2: the bound of Eq. 2 on a test split, and the tighter importance-weighted bound.

Every number is per conversation until the very end, so that differences between systems can be resampled
over conversations. Noise is keyed by conversation: batch size and order change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vhcr.batch import Conversations
from vhcr.models import HRED, Noise
from vhcr.models.gaussian import sampled_kl
from vhcr.models.objective import elbo

Floats = NDArray[np.float64]

# Words in flight in one pass of the importance-weighted bound, copies counted: bounds its memory.
MAX_WORDS = 8192


@dataclass(frozen=True)
class Scores:
    """One number per conversation of a split, in the split's order, in nats; zero where there is no turn."""

    num_words: Floats  # [conversations]: words scored, EOS and UNK counted
    reconstruction_error: Floats  # [conversations]
    kl_utt: Floats  # [conversations]
    kl_conv: Floats  # [conversations]
    error_by_turn: Floats  # [conversations, turns]: reconstruction error + kl_utt of each turn
    words_by_turn: Floats  # [conversations, turns]

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

    def nll_per_word_by_turn(self) -> list[float | None]:
        """Reconstruction error + kl_utt per word of each turn; kl_conv belongs to no turn and is left out.

        None where a turn is never scored (the first, in the ``release`` reading).
        """
        words = np.sum(self.words_by_turn, axis=0)
        errors = np.sum(self.error_by_turn, axis=0)
        return [float(e / w) if w > 0 else None for e, w in zip(errors, words, strict=True)]


def score(model: HRED, data: Conversations, batch_conversations: int, seed: int) -> Scores:
    """The one-sample bound of Eq. 2 for every conversation; exact for HRED.

    ``model`` is in evaluation mode.
    """
    device = next(model.parameters()).device
    total, turns = len(data), int(data.num_turns.max())
    columns = {name: np.zeros(total) for name in ("num_words", "reconstruction_error", "kl_utt", "kl_conv")}
    error_by_turn = np.zeros((total, turns))
    words_by_turn = np.zeros((total, turns))
    with torch.inference_mode():
        for batch in data.batches(batch_conversations):
            output = model(batch.to(device), Noise(seed))
            rows = batch.index.numpy()
            by_turn = (output.reconstruction_error + output.kl_utt).double().cpu().numpy()
            words = output.num_words.double().cpu().numpy()
            columns["num_words"][rows] = words.sum(1)
            columns["reconstruction_error"][rows] = output.reconstruction_error.double().sum(1).cpu().numpy()
            columns["kl_utt"][rows] = output.kl_utt.double().sum(1).cpu().numpy()
            columns["kl_conv"][rows] = output.kl_conv.double().cpu().numpy()
            error_by_turn[rows, : batch.max_turns] = by_turn
            words_by_turn[rows, : batch.max_turns] = words
    return Scores(**columns, error_by_turn=error_by_turn, words_by_turn=words_by_turn)


def log_weights(
    model: HRED,
    data: Conversations,
    chosen: Sequence[int],
    num_samples: int,
    seed: int,
    max_words: int = MAX_WORDS,
) -> Floats:
    """log p(c, z_k) - log q(z_k | c) for ``num_samples`` draws of each, [chosen, samples].

    Draws and conversations are taken many at a time, as many as ``max_words`` allows; utterances are encoded
    once for all draws.
    """
    device = next(model.parameters()).device
    result = np.zeros((len(chosen), num_samples))
    place = {int(index): row for row, index in enumerate(chosen)}
    with torch.inference_mode():
        for group in _groups(data, chosen, num_samples, max_words):
            base = data.batch(group)
            h_enc = model.encode(base.to(device))
            at_once = max(1, min(num_samples, max_words // max(1, int(base.num_words.sum()))))
            for first in range(0, num_samples, at_once):
                count = min(at_once, num_samples - first)
                batch = data.batch(group, count, first).to(device)
                output = model.score(
                    batch, h_enc.repeat_interleave(count, dim=0), Noise(seed), divergence=sampled_kl
                )
                rows = [place[int(index)] for index in batch.index.tolist()]
                result[rows, batch.sample.cpu().numpy()] = elbo(output).double().cpu().numpy()
    return result


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


def importance_weighted_nll(weights: Floats, num_samples: int) -> Floats:
    """-log of the mean weight of the first ``num_samples`` draws, per conversation (Burda et al., 2016).

    An upper bound on -log p(c) in expectation, which tightens with more samples: the log is taken per
    conversation, so it does not depend on how conversations were batched. ``weights`` is [conversations,
    samples] from ``log_weights``; the result is [conversations], in nats.
    """
    first = weights[:, :num_samples]
    top = first.max(axis=1)
    mean = np.exp(first - top[:, None]).mean(axis=1)
    result: Floats = -(top + np.log(mean))
    return result
