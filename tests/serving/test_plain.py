"""What the served model says to a bad body: MLflow's own server told tracebacks, or answered 500."""

from __future__ import annotations

import asyncio
import importlib

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import scoring_server
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array
from starlette.requests import ClientDisconnect

from vhcr.serving.model import MAX_BODY, MAX_DEPTH, _answer_plainly, _refuse_nulls

JSON = "application/json"
pyfunc = importlib.import_module("mlflow.pyfunc")  # mlflow.pyfunc may be a proxy of it


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """The server's answer to a body, as ours lets it through."""

    def own(data: bytes, *_: object) -> object:
        if b"bad" in data:
            raise MlflowException("refused", INVALID_PARAMETER_VALUE, stack_trace="/home/somebody/model.py")
        return scoring_server.InvocationsResponse("{}", 200, JSON)

    monkeypatch.setattr(scoring_server, "invocations", own)
    catch = scoring_server._async_catch_mlflow_exception
    monkeypatch.setattr(scoring_server, "_async_catch_mlflow_exception", catch)
    _answer_plainly()
    _answer_plainly()  # a second model in the same process
    return lambda data, kind=JSON: scoring_server.invocations(data, kind, None, None)


def test_json_passes(answer) -> None:  # type: ignore[no-untyped-def]
    deepest = b'{"inputs": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert answer(deepest).status == 200
    assert answer(b"{}", "application/json; charset=utf-8").status == 200


@pytest.mark.parametrize("kind", ["text/csv", "text/plain", "application/vnd.apache.parquet", "", None])
def test_other_bodies_are_refused(answer, kind: str | None) -> None:  # type: ignore[no-untyped-def]
    assert answer(b"a,b", kind).status == 415


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"5", b"{", b"\xff", b"[" * 1000, b'{"inputs": ' + b"[" * 100_000]
)
def test_what_is_no_json_object_is_refused(answer, body: bytes) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MlflowException, match="not valid JSON") as refused:
        answer(body)
    assert refused.value.get_http_status_code() == 400


def test_a_long_body_is_refused_and_no_refusal_has_a_traceback(answer) -> None:  # type: ignore[no-untyped-def]
    assert answer(b" " * (MAX_BODY + 1)).status == 413
    with pytest.raises(MlflowException, match="refused") as refused:
        answer(b'{"inputs": "bad"}')
    assert "somebody" not in refused.value.serialize_as_json()


def test_who_hangs_up_within_a_body_leaves_no_traceback(answer) -> None:  # type: ignore[no-untyped-def]
    async def handler() -> None:
        raise ClientDisconnect

    response = asyncio.run(scoring_server._async_catch_mlflow_exception(handler)())
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("contexts", "said"),
    [
        ([["hello", None]], "context 0, turn 1: None is no text"),
        ([["hello"], [5]], "context 1, turn 0: 5 is no text"),
        ([], "no contexts in this request"),
    ],
)
def test_a_null_utterance_is_no_word(monkeypatch: pytest.MonkeyPatch, contexts: list, said: str) -> None:
    """MLflow made the word "None" of it, and the model answered; no contexts at all got one answer."""
    schema = Schema([ColSpec(Array(DataType.string), "context")])
    monkeypatch.setattr(pyfunc, "_enforce_schema", lambda data, *_: data)
    _refuse_nulls()
    good = pd.DataFrame({"context": [["hello"]]})
    assert pyfunc._enforce_schema(good, schema) is good
    with pytest.raises(MlflowException, match=said):
        pyfunc._enforce_schema(pd.DataFrame({"context": contexts}), schema)
