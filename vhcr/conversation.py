"""Utterance and Conversation: the records that all rooms share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Utterance:
    """One turn, as raw text. ``labels`` holds what is known of it (the toy corpus: its act).

    ``time`` is in seconds since 1970, where the corpus has times.
    """

    text: str
    speaker: str | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Ordered utterances, as read from a raw corpus.

    ``group`` is what must not straddle splits when one splits by group (Cornell: the movie).
    ``split`` is set where the corpus publishes its own split. ``labels`` holds what is known of the
    whole conversation (the toy corpus: topic and tone); probes ask whether z_conv knows it too.
    """

    id: str
    utterances: tuple[Utterance, ...]
    group: str | None = None
    split: Split | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
