"""By which rules text becomes words: what a trained run must remember to hear as it was taught."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Segmenter = Literal["none", "characters", "chinese", "japanese", "thai"]


@dataclass(frozen=True)
class Rules:
    """The dials of ``tokenisation`` that the tokeniser obeys, ``segmenter: auto`` decided.

    The defaults are those of the published corpora.
    """

    strip_html: bool = False
    symbols: bool = False
    segmenter: Segmenter = "none"

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> Rules:
        """What ``as_dict`` gave; the defaults where an earlier version gave nothing."""
        return cls(**values) if values else cls()


PAPER = Rules()
