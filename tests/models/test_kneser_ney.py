"""The n-gram model against a library, by hand, and as the distribution that it must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.models.examples import VOCABULARY, conversations, network, packed
from vhcr.models import KneserNey, Noise
from vhcr.models.kneser_ney import BEGINNING, NOTHING, ORDER, estimated_discounts
from vhcr.tokenisation.specials import EOS, PAD, SOS

TRAIN = packed(conversations([3, 1, 4, 2, 5, 1, 3, 2] * 4, seed=3, max_words=6))
TEST = packed(conversations([4, 2, 1, 3], seed=11, max_words=6))


def counted(**arguments: object) -> KneserNey:
    model = network("kneser-ney")
    assert isinstance(model, KneserNey)
    model.count([TRAIN], **arguments)  # type: ignore[arg-type]
    return model


def test_as_a_library_has_it() -> None:
    """NLTK's has one discount for all counts and no uniform distribution at the bottom."""
    from nltk.lm import KneserNeyInterpolated

    model = counted(discounts=[(0.0, 0.0, 0.0)] + [(0.3, 0.3, 0.3)] * (ORDER - 1))
    streams = torch.cat([model.encode(TRAIN), TRAIN.token_ids[:, None]], dim=1).tolist()
    text = [[str(word) for word in stream if word != NOTHING] for stream in streams]
    grams = [tuple(stream[-length:]) for stream in text for length in range(1, len(stream) + 1)]
    theirs = KneserNeyInterpolated(ORDER, discount=0.3)
    # Of a history that begins a conversation, and is short, theirs makes a division by zero.
    theirs.fit([grams], [word for stream in text for word in stream])
    histories = model.encode(TEST)
    full = histories[(histories != NOTHING).all(1)]
    ours = model.distribution(full)
    seen = TRAIN.token_ids.unique().tolist()
    for row, history in zip(ours.tolist()[:6], full.tolist()[:6], strict=True):
        expected = [theirs.score(str(word), [str(before) for before in history]) for word in seen]
        assert [row[word] for word in seen] == pytest.approx(expected, rel=1e-6)


def test_a_distribution_and_the_same_word_by_word() -> None:
    model = counted()
    histories = model.encode(TEST)
    every = model.distribution(histories)
    torch.testing.assert_close(every.sum(1), torch.ones(len(every), dtype=torch.float64), rtol=0, atol=1e-12)
    assert (every > 0).all()
    for word in range(VOCABULARY):
        targets = torch.full((len(histories),), word)
        torch.testing.assert_close(model.probabilities(histories, targets), every[:, word])


def test_the_words_before_over_the_turn_and_none_before_a_conversation() -> None:
    batch = packed([[[4, 5, EOS], [6, EOS]], [[7, EOS]]])
    histories = network("kneser-ney").encode(batch)
    found = {
        (int(batch.conversation[row]), int(batch.turn[row]), int(step)): histories[word].tolist()
        for word, (row, step) in enumerate(zip(batch.word_row, batch.word_step, strict=True))
    }
    assert found == {
        (0, 0, 0): [NOTHING, NOTHING, BEGINNING, SOS],
        (0, 0, 1): [NOTHING, BEGINNING, SOS, 4],
        (0, 0, 2): [BEGINNING, SOS, 4, 5],
        (0, 1, 0): [SOS, 4, 5, SOS],
        (0, 1, 1): [4, 5, SOS, 6],
        (1, 0, 0): [NOTHING, NOTHING, BEGINNING, SOS],
        (1, 0, 1): [NOTHING, BEGINNING, SOS, 7],
    }


def test_probabilities_by_hand() -> None:
    """Two conversations, "4" and "5 5": the first words, unigrams by what they follow."""
    model = network("kneser-ney")
    assert isinstance(model, KneserNey)
    model.count([packed([[[4, EOS]], [[5, 5, EOS]]])], [(0.5, 0.5, 0.5)] * ORDER)
    # a(4) = 1 (after SOS), a(5) = 2 (after SOS and 5), a(EOS) = 2 (after 4 and 5), of 5; three words.
    unigram = {4: 0.1, 5: 0.3, EOS: 0.3}
    bottom = 1.5 / 5 / VOCABULARY
    # After SOS come 4 and 5, each after one word before it, the beginning; after that, each once.
    expected = {}
    for word, below in unigram.items():
        p = (0.25 if word != EOS else 0.0) + 0.5 * (below + bottom)
        expected[word] = (0.25 if word != EOS else 0.0) + 0.5 * p
    history = torch.tensor([[NOTHING, NOTHING, BEGINNING, SOS]])
    found = model.distribution(history)[0]
    assert {word: float(found[word]) for word in expected} == pytest.approx(expected, rel=1e-6)
    assert float(found[PAD]) == pytest.approx(0.25 * bottom, rel=1e-6)


def test_discounts_by_hand() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [8, 4, 2, 1, 3])
    # y = 8 / (8 + 8); 1 - 2y 4/8, 2 - 3y 2/4, 3 - 4y 1/2
    assert estimated_discounts(counts) == pytest.approx((0.5, 1.25, 2.0))
    assert estimated_discounts(np.array([1, 2, 3])) == (0.5, 1.0, 1.5)


def test_a_longer_history_predicts_what_it_has_seen() -> None:
    lesson = packed([[[4, 5, 6, 7, EOS], [8, EOS]], [[9, 5, 6, 10, EOS], [4, EOS]]] * 20)
    model = network("kneser-ney")
    assert isinstance(model, KneserNey)
    model.count([lesson])
    output = model(lesson, Noise(0))
    first = output.reconstruction_error[:, 0].sum() / output.num_words[:, 0].sum()
    assert float(first) < 0.4  # which opening it is, log 2 in five words, and no more than discounts
    assert (output.word_errors[lesson.word_step > 1] < 0.25).all()
