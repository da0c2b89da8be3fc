"""Text -> token ids that a model can hear, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vhcr.batch import Ints
from vhcr.errors import ParameterError
from vhcr.tokenisation.tokeniser import detokenise, tokenise
from vhcr.tokenisation.vocabulary import Vocabulary


def hear(text: str, vocabulary: Vocabulary, max_words: int) -> Ints:
    """The token ids of one utterance, EOS included, cut to ``max_words`` as the training data were.

    Raises:
        ParameterError: there is no word in ``text``, or it holds what is no character.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a stray byte of an argument, or half a surrogate pair, which JSON can spell
        raise ParameterError(f"{text!r} cannot be written as UTF-8") from None
    words = tokenise(text)
    if not words:
        raise ParameterError(f"there is no word in {text!r}")
    return np.asarray(vocabulary.encode(words[: max_words - 1], end=True), dtype=np.int64)


def tell(token_ids: Sequence[int], vocabulary: Vocabulary) -> str:
    """Token ids as people write them."""
    return detokenise(vocabulary.decode(token_ids))
