"""Text in and out of a model."""

from __future__ import annotations

import pytest

from tests.generation.runs import VOCABULARY
from vhcr.errors import ParameterError
from vhcr.generation.text import to_ids, to_text
from vhcr.tokenisation.specials import EOS, UNK


def test_what_is_heard_can_be_told() -> None:
    text = "i'm fine, thanks! don't."
    ids = to_ids(text, VOCABULARY, 30)
    assert ids[-1] == EOS
    assert UNK not in ids
    assert to_text(ids.tolist(), VOCABULARY) == text


def test_unknown_words_are_heard_as_unk_and_told_as_such() -> None:
    assert (
        to_text(to_ids("The SCANNER is broken", VOCABULARY, 30).tolist(), VOCABULARY) == "the <unk> is broken"
    )


def test_long_utterances_are_cut_as_the_training_data_are() -> None:
    """``max_words`` counts EOS: four words, three of them said."""
    ids = to_ids("how are you ? fine", VOCABULARY, 4)
    assert len(ids) == 4
    assert to_text(ids.tolist(), VOCABULARY) == "how are you"


def test_text_without_words_is_refused() -> None:
    for text in ("", "   ", "—"):
        with pytest.raises(ParameterError, match="no word in"):
            to_ids(text, VOCABULARY, 30)


def test_what_no_file_could_hold_is_refused() -> None:
    """Half a surrogate pair, as JSON can spell it, was heard as an unknown word; printing it failed."""
    with pytest.raises(ParameterError, match=r"'hello \\ud800' cannot be written as UTF-8"):
        to_ids("hello \ud800", VOCABULARY, 30)
