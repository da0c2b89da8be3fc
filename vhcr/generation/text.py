"""Text -> token ids, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vhcr.batch import Ints
from vhcr.errors import ParameterError
from vhcr.tokenisation.specials import EOS, UNK
from vhcr.tokenisation.tokeniser import detokenise, tokenise_all
from vhcr.tokenisation.vocabulary import Vocabulary


def to_ids(text: str, vocabulary: Vocabulary, max_words: int) -> Ints:
    """The token ids of one utterance, EOS included, cut to ``max_words`` as the training data were.

    Raises:
        ParameterError: there is no word in ``text``, or it holds what is no character.
    """
    return to_ids_all([text], vocabulary, max_words)[0]


def to_ids_all(
    texts: Sequence[str], vocabulary: Vocabulary, max_words: int, names: Sequence[str] | None = None
) -> list[Ints]:
    """``to_ids`` of many utterances, in the time of a few; ``names`` say in a complaint which it is about.

    Raises:
        ParameterError: as ``to_ids``, of the first text that is wrong.
    """
    where = [""] * len(texts) if names is None else [f"{name}: " for name in names]
    for name, text in zip(where, texts, strict=True):
        try:
            text.encode("utf-8")
        except (
            UnicodeEncodeError
        ):  # a stray byte of an argument, or half a surrogate pair, which JSON can spell
            raise ParameterError(f"{name}{text!r} cannot be written as UTF-8") from None
    found = []
    for name, text, words in zip(where, texts, tokenise_all(texts, vocabulary.rules), strict=True):
        if not words:
            raise ParameterError(f"{name}there is no word in {text!r}")
        ids = vocabulary.encode(words[: max_words - 1], end=True)
        found.append(np.asarray(ids, dtype=np.int64))
    return found


def remarks(texts: Sequence[str], heard: Iterable[Ints]) -> list[str]:
    """A sentence for each text of which ``heard`` says that a model hears ``<unk>`` and nothing else."""
    return [
        f"no word of {text!r} is in the vocabulary: the model hears <unk> alone"
        for text, ids in zip(texts, heard, strict=True)
        if set(ids.tolist()) - {EOS} == {UNK}
    ]


def to_text(token_ids: Sequence[int], vocabulary: Vocabulary) -> str:
    """Token ids as people write them."""
    return detokenise(vocabulary.decode(token_ids), vocabulary.rules)
