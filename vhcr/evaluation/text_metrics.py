"""Properties of responses beyond the paper: overlap with the reference, diversity, length, repetition.

All take word lists, lower-case, without EOS. Sums run over all responses before a ratio is taken
(a corpus-level, micro average), so that an empty response weighs nothing and divides nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from vhcr.evaluation.records import TextScore

Words = Sequence[str]


def bleu(references: Sequence[Words], responses: Sequence[Words]) -> float | None:
    """Corpus BLEU-4 (Papineni et al., 2002) by sacrebleu, in points of 0 to 100.

    One reference a response; exponential smoothing; words taken as they are ("tokenize none").
    Empty responses count, through the brevity penalty. Null without a pair.
    """
    _check(references, responses)
    if not references:
        return None
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize="none", force=True)  # force: do not warn that the text is tokenised already
    score = metric.corpus_score([" ".join(r) for r in responses], [[" ".join(r) for r in references]])
    return float(score.score)


def distinct(responses: Sequence[Words], order: int) -> float | None:
    """Distinct-n (Li et al., 2016): different n-grams / n-grams, over all responses. Null without one.

    Falls with the number of responses, so compare systems on the same contexts only.
    """
    counts = _ngram_counts(responses, order)
    total = counts.total()
    return len(counts) / total if total else None


def distinct_responses(groups: Sequence[Sequence[Words]]) -> float | None:
    """Different responses / responses, of several responses to one context; the mean over contexts.

    1 / group size where all are alike, 1 where none is. ``groups`` holds the responses to each context; null
    without a response.
    """
    shares = [len({tuple(words) for words in group}) / len(group) for group in groups if group]
    return math.fsum(shares) / len(shares) if shares else None


def entropy(responses: Sequence[Words], order: int = 1) -> float | None:
    """Entropy of the responses' n-gram distribution, -sum p log p, in nats. Null without an n-gram.

    The plug-in estimate: biased downwards, the more so the fewer the words.
    """
    counts = _ngram_counts(responses, order)
    total = counts.total()
    if not total:
        return None
    return math.fsum(-count / total * math.log(count / total) for count in counts.values())


def length_ratio(references: Sequence[Words], responses: Sequence[Words]) -> float | None:
    """Words of all responses / words of all references. Null when the references have none."""
    _check(references, responses)
    words = sum(map(len, references))
    return sum(map(len, responses)) / words if words else None


def repetition(responses: Sequence[Words], order: int = 2) -> float | None:
    """Share of a response's n-grams that it has said before: 1 - different / all, summed over responses.

    The seq-rep-n of Welleck et al. (2020) with n = 2, since responses are short. Null without an n-gram.
    """
    total = different = 0
    for words in responses:
        grams = list(_ngrams(words, order))
        total += len(grams)
        different += len(set(grams))
    return 1 - different / total if total else None


def text_metrics(references: Sequence[Words], responses: Sequence[Words]) -> TextScore:
    """All of the above."""
    return TextScore(
        bleu=bleu(references, responses),
        distinct_1=distinct(responses, 1),
        distinct_2=distinct(responses, 2),
        entropy=entropy(responses),
        length_ratio=length_ratio(references, responses),
        repetition=repetition(responses),
    )


def _ngrams(words: Words, order: int) -> Iterable[tuple[str, ...]]:
    if order < 1:
        raise ValueError(f"n-grams of order {order}")
    return zip(*(words[start:] for start in range(order)), strict=False)


def _ngram_counts(responses: Sequence[Words], order: int) -> Counter[tuple[str, ...]]:
    counts: Counter[tuple[str, ...]] = Counter()
    for words in responses:
        counts.update(_ngrams(words, order))
    return counts


def _check(references: Sequence[Words], responses: Sequence[Words]) -> None:
    if len(references) != len(responses):
        raise ValueError(f"{len(references)} references, but {len(responses)} responses")
