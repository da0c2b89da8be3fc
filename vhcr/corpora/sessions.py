"""An endless chat as conversations: a long silence ends one and begins the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from vhcr.conversation import Conversation


def sessions(conversation: Conversation, gap_minutes: float | None) -> Iterator[Conversation]:
    """The conversation, broken wherever more than ``gap_minutes`` pass between two of its utterances.

    The pieces are called "<id>#1", "<id>#2", ...; one that breaks nowhere keeps its name. Their group is
    that of the whole, or its id. An utterance without a time breaks nothing.
    """
    breaks = []
    last: float | None = None
    for turn, utterance in enumerate(conversation.utterances):
        if utterance.time is None:
            continue
        if gap_minutes is not None and last is not None and utterance.time - last > 60 * gap_minutes:
            breaks.append(turn)
        last = utterance.time
    if not breaks:
        yield conversation
        return
    group = conversation.group or conversation.id
    edges = [0, *breaks, len(conversation.utterances)]
    for number, (first, end) in enumerate(pairwise(edges), start=1):
        yield replace(
            conversation,
            id=f"{conversation.id}#{number}",
            utterances=conversation.utterances[first:end],
            group=group,
        )
