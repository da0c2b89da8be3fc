"""Embedding metrics of section 4.3: Average, Extrema and Greedy, in both definitions in use.

Both compare a response with its reference word by word through word vectors w, where only words that
have a vector are seen. With cos the cosine, R the known words of the reference and S those of the response:

- Average: cos(sum of w over R, sum of w over S).
- Extrema: cos of the vectors that keep, per dimension, the value farthest from zero (on a tie, the
  positive one).
- Greedy from R to S: mean over r in R of max over s in S of cos(w_r, w_s).

The definitions differ in what they do with Greedy and with unknown words:

- ``release`` (the program released with the paper; Table 3): Greedy from R to S only; a pair is dropped
  when R or S is empty.
- ``serban`` (the script of Serban et al., 2017, on which others report): Greedy is the mean of both
  directions, and a best match below 0 counts 0; an empty S scores 0; an empty R is dropped by Average
  and Extrema and scores 0 in Greedy.

Scores are dimensionless, larger is better, between -1 and 1 (serban Greedy between 0 and 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from vhcr.evaluation.records import EmbeddingScore
from vhcr.word_vectors import SPECIAL_WORDS, WordVectors

Definition = Literal["release", "serban"]
DEFINITIONS: tuple[Definition, ...] = get_args(Definition)

_CHUNK = 256  # pairs at once: at 30 words and 300 dimensions some 9 MB a side, which stays in the cache


class EmbeddingScores(NamedTuple):
    """One score a pair, each [pairs] float64; NaN where the definition drops the pair."""

    average: NDArray[np.float64]
    extrema: NDArray[np.float64]
    greedy: NDArray[np.float64]


def embedding_scores(
    references: Sequence[Sequence[str]],
    responses: Sequence[Sequence[str]],
    vectors: WordVectors,
    definition: Definition = "release",
) -> EmbeddingScores:
    """Average, Extrema and Greedy of each pair (section 4.3), by the named definition.

    References and responses are word lists of equal number, without EOS; special words are ignored.

    Raises:
        ValueError: the numbers of references and responses differ, or the definition is unknown.
    """
    if len(references) != len(responses):
        raise ValueError(f"{len(references)} references, but {len(responses)} responses")
    if definition not in DEFINITIONS:
        raise ValueError(f"unknown definition {definition!r}; known: {', '.join(DEFINITIONS)}")
    scores = np.full((3, len(references)), np.nan)
    reference_ids = [_known_ids(words, vectors) for words in references]
    response_ids = [_known_ids(words, vectors) for words in responses]
    # Pairs of like length share a chunk, so that little of it is padding; the order does not show.
    lengths = [max(len(r), len(s)) for r, s in zip(reference_ids, response_ids, strict=True)]
    order = np.argsort(np.asarray(lengths), kind="stable")
    for start in range(0, len(order), _CHUNK):
        rows = order[start : start + _CHUNK]
        scores[:, rows] = _chunk_scores(
            [reference_ids[i] for i in rows], [response_ids[i] for i in rows], vectors.vectors, definition
        )
    return EmbeddingScores(*scores)


def n_turn_summary(scores: EmbeddingScores, turns: Sequence[int]) -> EmbeddingScore:
    """The numbers of Table 3: per turn the mean over kept pairs, then the mean over turns.

    ``turns`` says which generated turn (0, 1, ...) each pair belongs to. A metric without a single kept
    pair in some turn is None. ``num_dropped`` counts pairs that any of the three metrics leaves out.
    """
    position = np.asarray(turns)
    if len(position) != len(scores.average):
        raise ValueError(f"{len(scores.average)} scored pairs, but {len(position)} turns")
    means: list[float | None] = []
    by_turn: list[tuple[float | None, ...]] = []
    for values in scores:
        per_turn = tuple(_mean_of_kept(values[position == turn]) for turn in np.unique(position))
        defined = [value for value in per_turn if value is not None]
        means.append(float(np.mean(defined)) if defined and len(defined) == len(per_turn) else None)
        by_turn.append(per_turn)
    dropped = int(np.isnan(np.stack(scores)).any(axis=0).sum())
    return EmbeddingScore(
        average=means[0],
        average_by_turn=by_turn[0],
        extrema=means[1],
        extrema_by_turn=by_turn[1],
        greedy=means[2],
        greedy_by_turn=by_turn[2],
        num_pairs=len(position) - dropped,
        num_dropped=dropped,
    )


def embedding_diversity(groups: Sequence[Sequence[Sequence[str]]], vectors: WordVectors) -> float | None:
    """1 - mean cosine between the Average vectors of two responses to one context; the mean over contexts.

    ``groups`` holds, per context, several sampled responses (word lists). 0: all alike in content.
    Responses without a known word are left out; a context with fewer than two others counts nothing;
    null when no context is left.
    """
    per_context = []
    for responses in groups:
        ids = [known for words in responses if (known := _known_ids(words, vectors))]
        if len(ids) < 2:
            continue
        means = np.stack([vectors.vectors[known].astype(np.float64).sum(axis=0) for known in ids])
        unit = _unit(means)
        total = float(np.square(unit.sum(axis=0)).sum() - np.square(unit).sum())
        per_context.append(1.0 - total / (len(ids) * (len(ids) - 1)))
    return float(np.mean(per_context)) if per_context else None


def _known_ids(words: Sequence[str], vectors: WordVectors) -> list[int]:
    """Rows of the words that have a vector; words without one, and special words, are passed over."""
    index = vectors.index
    return [index[word] for word in words if word in index and word not in SPECIAL_WORDS]


def _gather(
    ids: list[list[int]], vectors: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Padded vectors [pairs, words, dimensions], zero in padding, and the mask [pairs, words]."""
    lengths = np.asarray([len(row) for row in ids])
    mask = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]
    gathered = np.zeros((*mask.shape, vectors.shape[1]), dtype=np.float32)
    gathered[mask] = vectors[[i for row in ids for i in row]]
    return gathered, mask


def _unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rows scaled to length 1; a zero row stays zero, so that its cosine with anything is 0."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _cosine(left: NDArray[np.floating], right: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.einsum("pd,pd->p", _unit(left.astype(np.float64)), _unit(right.astype(np.float64)))


def _extrema(gathered: NDArray[np.float32]) -> NDArray[np.float32]:
    """Per dimension the value farthest from zero; zeros of padding never win over a real word's."""
    high, low = gathered.max(axis=1), gathered.min(axis=1)
    result: NDArray[np.float32] = np.where(-low > high, low, high)
    return result


def _chunk_scores(
    references: list[list[int]],
    responses: list[list[int]],
    vectors: NDArray[np.float32],
    definition: Definition,
) -> NDArray[np.float64]:
    """[3, pairs]: Average, Extrema, Greedy; NaN where dropped."""
    left, left_mask = _gather(references, vectors)
    right, right_mask = _gather(responses, vectors)
    average = _cosine(left.sum(axis=1), right.sum(axis=1))
    extrema = _cosine(_extrema(left), _extrema(right))
    similarity = _unit(left) @ _unit(right).transpose(0, 2, 1)  # [pairs, reference words, response words]
    forward = _greedy(similarity, left_mask, right_mask)
    no_reference, no_response = ~left_mask.any(axis=1), ~right_mask.any(axis=1)
    if definition == "release":
        scores = np.stack([average, extrema, forward])
        scores[:, no_reference | no_response] = np.nan
        return scores
    similarity = np.maximum(similarity, 0.0)  # that script's best match starts from a zero vector
    backward = _greedy(similarity.transpose(0, 2, 1), right_mask, left_mask)
    both_ways = (_greedy(similarity, left_mask, right_mask) + backward) / 2
    scores = np.stack([average, extrema, both_ways])
    scores[:, no_reference | no_response] = 0.0
    scores[:2, no_reference] = np.nan
    return scores


def _greedy(
    similarity: NDArray[np.float32], rows: NDArray[np.bool_], columns: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Mean over real rows of the largest similarity among real columns; 0 where there is neither."""
    best = np.where(columns[:, None, :], similarity, -np.inf).max(axis=2)
    matched = np.logical_and(rows, columns.any(axis=1, keepdims=True))
    best = np.where(matched, best, 0.0)
    return best.sum(axis=1, dtype=np.float64) / np.maximum(rows.sum(axis=1), 1)


def _mean_of_kept(values: NDArray[np.float64]) -> float | None:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else None
