"""Skipped: what of a raw corpus was not taken, counted rather than passed over in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

NUM_EXAMPLES = 5
TWICE = "conversation id used twice"

Unit = Literal["utterance", "conversation"]


@dataclass
class Skipped:
    """How many records were left out, by reason and by what they held, and where the first few stand.

    ``where`` names the file, relative to the raw corpus, and the line or id: "movie_lines.txt:12". A record
    is malformed, an utterance or a whole conversation; or it is no part of a conversation at all (the
    message of a messenger that somebody joined), and is noted without being a fault.
    """

    counts: Counter[str] = field(default_factory=Counter)
    units: Counter[Unit] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, where: str, unit: Unit = "utterance") -> None:
        """Count one malformed record that was left out for ``reason``."""
        self.counts[reason] += 1
        self.units[unit] += 1
        self._remember(reason, where)

    def note(self, reason: str, where: str) -> None:
        """Count something that is not a turn of a conversation, or was read in another way than written."""
        self.noted[reason] += 1
        self._remember(reason, where)

    def add_many(self, reason: str, count: int, examples: Sequence[str], unit: Unit) -> None:
        """Count ``count`` malformed records, some of them ``examples``."""
        self.counts[reason] += count
        self.units[unit] += count
        for where in examples:
            self._remember(reason, where)

    def add_all(self, other: Skipped) -> None:
        """Count what another part of the corpus, which comes after, had left out."""
        self.counts += other.counts
        self.units += other.units
        self.noted += other.noted
        for reason, examples in other.examples.items():
            for where in examples:
                self._remember(reason, where)

    def reasons(self) -> str:
        """The commonest reasons, for a message; nothing where nothing was left out."""
        found = "; ".join(f"{count} x {reason}" for reason, count in self.counts.most_common(3))
        return f" (skipped: {found})" if found else ""

    def _remember(self, reason: str, where: str) -> None:
        examples = self.examples.setdefault(reason, [])
        if len(examples) < NUM_EXAMPLES:
            examples.append(where)

    @property
    def total(self) -> int:
        """Number of malformed records, for any reason."""
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, Any]:
        """For the metrics of the tokenise stage."""
        return {
            "records": self.total,
            "conversations": self.units["conversation"],
            "utterances": self.units["utterance"],
            "by_reason": dict(sorted(self.counts.items())),
            "noted": dict(sorted(self.noted.items())),
            "examples": dict(sorted(self.examples.items())),
        }

    def share(self, utterances: int, conversations: int) -> float:
        """The larger of two shares: of utterances, and of conversations, that were malformed.

        The arguments are the numbers that could be read. A line that holds a whole conversation weighs as
        one of those, not as one of its utterances.
        """
        shares = []
        for unit, read in (("utterance", utterances), ("conversation", conversations)):
            lost = self.units[unit]  # type: ignore[index]
            shares.append(lost / (lost + read) if lost else 0.0)
        return max(shares)
