"""Words <-> ids. Needs pyarrow and the standard library only, since bare workers train with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vhcr.errors import DataError
from vhcr.files import digest, write_parquet, write_text
from vhcr.tokenisation.rules import PAPER, Rules
from vhcr.tokenisation.specials import EOS, PAD, SOS, SPECIALS, UNK

SCHEMA = pa.schema([("id", pa.int32()), ("word", pa.string()), ("count", pa.int64())])


class Vocabulary:
    """The words a model knows: the four specials, then by falling count, ties in code point order.

    ``counts`` are those of the training split; of <unk>, the words that are not in the vocabulary; of <eos>,
    the utterances; 0 for the rest. A vocabulary read from vocabulary.txt has none. ``rules`` are those by
    which text became its words: whoever encodes text with it takes the same. They are no part of its files.

    Raises:
        DataError: the specials are not where they belong, or a word is empty, repeated or holds white space.
    """

    def __init__(
        self,
        words: Sequence[str],
        counts: Sequence[int] | None = None,
        *,
        origin: str = "",
        rules: Rules = PAPER,
    ) -> None:
        self.rules = rules
        where = f"{origin}: " if origin else ""
        self.words = tuple(words)
        self.counts = None if counts is None else tuple(counts)
        if self.words[:4] != SPECIALS:
            raise DataError(f"{where}a vocabulary begins with {SPECIALS}, not {self.words[:4]}")
        if self.counts is not None and len(self.counts) != len(self.words):
            raise DataError(f"{where}{len(self.words)} words, but {len(self.counts)} counts")
        self._ids = {word: id for id, word in enumerate(self.words)}
        for id, word in enumerate(self.words):
            if not isinstance(word, str) or word.split() != [word]:
                raise DataError(f"{where}word {id} is {word!r}; words are not empty and hold no white space")
            if self._ids[word] != id:
                raise DataError(f"{where}word {word!r} stands twice, as {id} and {self._ids[word]}")

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        *,
        size: int,
        min_count: int = 1,
        num_utterances: int = 0,
        num_words: int | None = None,
    ) -> Vocabulary:
        """The ``size`` - 4 most frequent words counted at least ``min_count`` times.

        ``num_words`` is the sum of all counts, where ``counts`` lacks the rarest.
        """
        ranked = sorted(
            (item for item in counts.items() if item[1] >= min_count), key=lambda item: (-item[1], item[0])
        )
        kept = ranked[: size - len(SPECIALS)]
        total = sum(counts.values()) if num_words is None else num_words
        unknown = total - sum(count for _, count in kept)
        return cls(
            [*SPECIALS, *(word for word, _ in kept)],
            [0, unknown, 0, num_utterances, *(count for _, count in kept)],
        )

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    __hash__ = None  # type: ignore[assignment]  # compared by content; ``hash`` names that content

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the words in their order; counts do not matter to a model."""
        return digest("\n".join(self.words))

    def encode(self, words: Iterable[str], *, end: bool = False) -> list[int]:
        """Ids of ``words``, UNK for those not known; with ``end``, EOS after them."""
        ids = [self._ids.get(word, UNK) for word in words]
        return [*ids, EOS] if end else ids

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words of ``ids`` up to the first EOS; PAD and SOS are left out.

        Raises:
            DataError: an id lies outside the vocabulary.
        """
        words = []
        for id in ids:
            if id == EOS:
                break
            if not 0 <= id < len(self.words):
                raise DataError(f"id {id} lies outside a vocabulary of {len(self.words)} words")
            if id not in (PAD, SOS):
                words.append(self.words[id])
        return words

    def save(self, path: Path) -> None:
        """Write vocabulary.parquet (id, word, count) or, by its suffix, vocabulary.txt (one word a line)."""
        if path.suffix == ".parquet":
            counts = self.counts if self.counts is not None else (0,) * len(self.words)
            columns = {"id": range(len(self.words)), "word": self.words, "count": counts}
            write_parquet(path, columns, SCHEMA)
        else:
            write_text(path, "".join(f"{word}\n" for word in self.words))

    @classmethod
    def load(cls, path: Path, rules: Rules = PAPER) -> Vocabulary:
        """Read what ``save`` wrote; ``rules`` are those that its owner keeps beside it.

        Raises:
            DataError: the file is missing, damaged, or not a vocabulary.
        """
        try:
            if path.suffix != ".parquet":
                lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
                return cls(lines, origin=str(path), rules=rules)
            table = pq.read_table(path, partitioning=None, page_checksum_verification=True)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a vocabulary: {error}") from None
        if table.schema.names != SCHEMA.names:
            raise DataError(f"{path}: not a vocabulary: its columns are {table.schema.names}")
        if table["id"].to_pylist() != list(range(table.num_rows)):
            raise DataError(f"{path}: ids are not 0 to {table.num_rows - 1} in order")
        return cls(table["word"].to_pylist(), table["count"].to_pylist(), origin=str(path), rules=rules)
