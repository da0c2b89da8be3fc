"""A flow that a person starts by hand: what was typed wrong is said on a line, not by a traceback."""

import contextlib
import sys
from collections.abc import Iterator

import pydantic
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from vhcr.errors import VhcrError


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End the program with a line for each thing that is wrong, which names the argument at fault."""
    if PREFECT_API_URL.value():
        with get_client(sync_client=True) as client:
            if (trouble := client.api_healthcheck()) is not None:
                sys.exit(
                    f"error: Prefect's server at {client.api_url} does not answer: {trouble}. Start it (make "
                    "prefect), or unset PREFECT_API_URL: then the flow runs without one"
                )
    try:
        yield
    except pydantic.ValidationError as error:
        wrong = [(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors()]
        # What does not fit together is nobody's alone: it has no place.
        sys.exit("\n".join("error: " + ": ".join(filter(None, each)) for each in wrong))
    except VhcrError as error:
        sys.exit(f"error: {error}")
