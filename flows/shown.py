"""What people are shown of a flow: artifacts and links, and errors in plain words."""

import contextlib
import logging
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


class Plainly(logging.Filter):
    """An error of ours says all in its message; Prefect adds a page of where in the code it was raised.

    A run that was cancelled ended so, too, since its command had been stopped.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record passes; of an error of ours, without the traceback."""
        if record.exc_info and isinstance(record.exc_info[1], VhcrError):
            record.exc_info = None
        return True


for name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(name).addFilter(Plainly())
