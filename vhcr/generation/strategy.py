"""Which parameters are of one decoding strategy alone: to any other they would silently mean nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vhcr.errors import ParameterError

OF_ONE_STRATEGY = {
    "temperature": "sample",
    "top_k": "sample",
    "top_p": "sample",
    "beam_size": "beam",
    "length_penalty": "beam",
}


def implied_strategy(names: Iterable[str]) -> str | None:
    """The strategy that the first of these parameters to be of one alone is of."""
    return next((OF_ONE_STRATEGY[name] for name in names if name in OF_ONE_STRATEGY), None)


def refuse_unused(asked: Mapping[str, Any], strategy: str) -> None:
    """What was asked for must be used.

    Raises:
        ParameterError: ``asked`` holds a parameter of another strategy than ``strategy``.
    """
    for name, value in asked.items():
        its = OF_ONE_STRATEGY.get(name, strategy)
        if its != strategy:
            raise ParameterError(
                f"{name} = {value!r} means nothing to strategy {strategy!r}: it is of {its!r}"
            )
