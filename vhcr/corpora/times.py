"""When something was said: dates and times as exports and tables write them."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any, Literal

from vhcr.errors import CorpusError

logger = logging.getLogger(__name__)

DateOrder = Literal["dmy", "mdy", "ymd"]

# 31.12.21, 23:59:59; 12/31/2021 11:59 PM; 2021-12-31 23.59
WRITTEN = re.compile(
    r"(?P<a>\d{1,4})[./-](?P<b>\d{1,2})[./-](?P<c>\d{1,4})\.?"
    r"(?:,?\s+|T)(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2}))?"
    r"(?:\s*(?P<half>[ap])\.?\s?m\.?)?",
    re.IGNORECASE,
)
MILLISECONDS_FROM = 1e11  # seconds reach it in the year 5138


def time_of(value: Any, order: DateOrder | None = None) -> float | None:
    """Seconds since 1970 of a date, a number of seconds or milliseconds, or a text; None if it is no time.

    A time without a zone is read as UTC: only differences matter. ``order`` says how 3/4/21 is meant; dates
    that begin with the year need none.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
    if isinstance(value, str):
        text = value.strip()
        written = WRITTEN.fullmatch(text)
        if written is not None and (order is not None or len(written["a"]) == 4):
            return of_match(written, order or "ymd")
        try:
            return time_of(datetime.fromisoformat(text))
        except ValueError:
            pass
        try:
            value = float(text)
        except ValueError:
            return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    if not math.isfinite(seconds):
        return None
    return seconds / 1000 if abs(seconds) >= MILLISECONDS_FROM else seconds


def of_match(written: re.Match[str], order: DateOrder) -> float | None:
    """Seconds since 1970 of a match of ``WRITTEN``; None where there is no such day or hour."""
    numbers = [int(written[name]) for name in "abc"]
    if len(written["a"]) == 4:
        order = "ymd"
    year, month, day = (numbers[order.index(letter)] for letter in "ymd")
    if year < 100:
        year += 2000
    hour = int(written["hour"])
    if written["half"]:
        hour = hour % 12 + (12 if written["half"].lower() == "p" else 0)
    try:
        found = datetime(
            year, month, day, hour, int(written["minute"]), int(written["second"] or 0), tzinfo=UTC
        )
    except ValueError:
        return None
    return found.timestamp()


def order_of(dates: Iterable[re.Match[str]], named: DateOrder | None, where: str) -> DateOrder:
    """The order of day, month and year in which all ``dates`` are days; ``named`` where that is given.

    Where several are possible, the one in which time runs forward, then day before month, and that is said.

    Raises:
        CorpusError: no order makes all of them days.
    """
    if named is not None:
        return named
    possible: dict[DateOrder, list[float]] = {"dmy": [], "mdy": [], "ymd": []}
    some = False
    for written in dates:
        some = True
        for order in tuple(possible):
            if (found := of_match(written, order)) is None:
                del possible[order]
            else:
                possible[order].append(found)
        if not possible:
            raise CorpusError(
                f"{where}: {written[0]!r} is no date in an order that fits the dates before it; "
                "say source.date_order: dmy, mdy or ymd"
            )
    if not some:
        return "ymd"
    backward = {order: sum(b < a for a, b in pairwise(times)) for order, times in possible.items()}
    best = min(possible, key=lambda order: (backward[order], tuple(possible).index(order)))
    rivals = [order for order in possible if order != best and backward[order] == backward[best]]
    if any(possible[order] != possible[best] for order in rivals):
        logger.warning(
            "%s: dates are read as %s, but could be %s; source.date_order says which",
            where, best, " or ".join(rivals),
        )  # fmt: skip
    return best
