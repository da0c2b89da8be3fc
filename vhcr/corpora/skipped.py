"""Skipped: the malformed records of a raw corpus, counted rather than passed over in silence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

NUM_EXAMPLES = 5


@dataclass
class Skipped:
    """How many records were left out, by reason, and where the first few of each stand.

    ``where`` names the file, relative to the raw corpus, and the line or id: "movie_lines.txt:12".
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, where: str) -> None:
        """Count one record that was left out for ``reason``."""
        self.counts[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < NUM_EXAMPLES:
            examples.append(where)

    @property
    def total(self) -> int:
        """Number of records left out for any reason."""
        return sum(self.counts.values())
