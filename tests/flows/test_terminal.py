"""A flow that a person starts by hand."""

from __future__ import annotations

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import terminal
from tests.processes import free_port


def test_a_server_that_does_not_answer_is_one_line() -> None:
    """It was a page of traceback."""
    port = free_port()
    said = rf"Prefect's server at .*{port}/api/? does not answer"
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}),
        pytest.raises(SystemExit, match=said) as ended,
        terminal.plain_errors(),
    ):
        raise AssertionError("the flow was begun")
    assert "\n" not in str(ended.value)
