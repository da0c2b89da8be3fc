"""What only shows results: artifacts and links."""

import contextlib
from collections.abc import Callable, Iterator

import httpx
from prefect.exceptions import PrefectException

from vhcr.errors import VhcrError


@contextlib.contextmanager
def only_shown(log: Callable[[str], None]) -> Iterator[None]:
    """What only shows results decides nothing: that Prefect or MLflow did not answer is said in the log."""
    try:
        yield
    except (httpx.HTTPError, PrefectException, VhcrError) as error:
        log(f"not shown: {error}")
