"""Text metrics against hand-worked answers, scipy and sacrebleu called in another way."""

from __future__ import annotations

import math

import pytest

from vhcr.evaluation.text_metrics import (
    bleu,
    distinct,
    distinct_responses,
    entropy,
    length_ratio,
    repetition,
    text_metrics,
)

A = ["the", "cat", "sat", "on", "the", "mat"]
B = ["i", "do", "n't", "know", "."]


def test_distinct() -> None:
    # words: 6 + 2 = 8, different: the cat sat on mat = 5; bigrams: 5 + 1, "the cat" twice: 5 different
    assert distinct([A, ["the", "cat"]], 1) == pytest.approx(5 / 8)
    assert distinct([A, ["the", "cat"]], 2) == pytest.approx(5 / 6)
    assert distinct([["one"], []], 2) is None


def test_bigrams_do_not_cross_responses() -> None:
    assert distinct([["a", "b"], ["a", "b"]], 2) == 0.5  # "b a" would make it 2 of 3


def test_entropy() -> None:
    # p(the) = 2/6, four others 1/6: 1/3 ln 3 + 4/6 ln 6
    assert entropy([A]) == pytest.approx(math.log(3) / 3 + 4 * math.log(6) / 6)
    from scipy.stats import entropy as scipy_entropy

    assert entropy([A, B]) == pytest.approx(float(scipy_entropy([2] + [1] * 9)))
    assert entropy([["x"], ["x"]]) == 0.0
    assert entropy([[]]) is None


def test_length_ratio_is_a_ratio_of_sums() -> None:
    assert length_ratio([["a"] * 10, ["a"] * 2], [["a"], ["a"] * 2]) == pytest.approx(3 / 12)
    assert length_ratio([[]], [["a"]]) is None


def test_repetition() -> None:
    # "no no no no": 3 bigrams, 1 different; "a b c": 2 of 2. 1 - 3/5
    assert repetition([["no"] * 4, ["a", "b", "c"]]) == pytest.approx(1 - 3 / 5)
    assert repetition([["a", "b"], ["a", "b"]]) == 0.0, "saying it in two responses is not repeating oneself"
    assert repetition([["a"]]) is None


def test_bleu_by_hand() -> None:
    # response "a b c d x" for reference "a b c d e": precisions 4/5, 3/4, 2/3, 1/2, no brevity penalty
    value = bleu([["a", "b", "c", "d", "e"]], [["a", "b", "c", "d", "x"]])
    assert value == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert bleu([A], [A]) == pytest.approx(100)
    # the first four words only: all precisions 1, brevity penalty exp(1 - 6/4)
    assert bleu([A], [A[:4]]) == pytest.approx(100 * math.exp(1 - 6 / 4))


def test_bleu_agrees_with_sacrebleu_and_survives_empty_responses() -> None:
    import sacrebleu

    references, responses = [A, B, A], [A[:5], [], B]
    expected = sacrebleu.corpus_bleu(
        [" ".join(r) for r in responses], [[" ".join(r) for r in references]], tokenize="none"
    ).score
    assert bleu(references, responses) == pytest.approx(expected)
    written = [["it", "is", "don't", "<number>", "u.s."]]  # which a tokeniser would take apart
    assert bleu([["so", *written[0]]], written) == pytest.approx(100 * math.exp(1 - 6 / 5))
    assert bleu([], []) is None
    assert bleu([A], [[]]) == 0.0


def test_all_together() -> None:
    result = text_metrics([A], [A])
    assert result.model_fields_set == {
        "bleu",
        "distinct_1",
        "distinct_2",
        "entropy",
        "length_ratio",
        "repetition",
    }
    assert result.length_ratio == 1.0


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="2 references, but 1 responses"):
        bleu([A, B], [A])
    with pytest.raises(ValueError, match="order 0"):
        distinct([A], 0)


def test_distinct_responses_by_hand() -> None:
    # Two of three differ; one of one; the empty group counts nothing.
    groups = [[["a"], ["a"], ["b"]], [["c", "d"]], []]
    assert distinct_responses(groups) == pytest.approx((2 / 3 + 1) / 2)
    assert distinct_responses([]) is None
