"""A run over HTTP on loopback, with nothing but the core dependencies.

Requests and answers are those of ``mlflow models serve`` (docs/mlflow.md), so that a client of one talks to
the other.
"""

from __future__ import annotations

import threading
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from vhcr import loopback
from vhcr.errors import ParameterError
from vhcr.serving.answer import MAX_CONTEXTS, Answerer

MAX_BODY = 2**22  # bytes of a request, as of the MLflow model
MAX_SECONDS = 60.0  # for an answer, as MLflow's server
AT_ONCE = 2  # requests that the model answers; others wait their turn


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid")

    context: list[str]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    inputs: Annotated[list[_Input], Field(min_length=1, max_length=MAX_CONTEXTS)]
    params: dict[str, Any] = {}


def create_app(answerer: Answerer) -> FastAPI:
    """``POST /invocations``, ``GET /health``; what cannot be answered is a 400 whose ``message`` says why."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    at_once = threading.BoundedSemaphore(AT_ONCE)

    @app.get("/health")
    def health() -> Response:
        return PlainTextResponse("ok")

    @app.post("/invocations")
    def invocations(asked: _Asked) -> Response:
        with at_once:
            made = answerer.answer([one.context for one in asked.inputs], asked.params, MAX_SECONDS)
        return JSONResponse({"predictions": [answer.model_dump(exclude_none=True) for answer in made]})

    loopback.guard(app, MAX_BODY, pages_only=False)

    @app.exception_handler(ParameterError)
    @app.exception_handler(RequestValidationError)
    @app.exception_handler(HTTPException)
    def refused(_: Request, error: Exception) -> Response:
        told, status = str(error), 400
        if isinstance(error, RequestValidationError):
            told = loopback.complaint(error)
        elif isinstance(error, HTTPException):  # no such address, or a body that is no JSON
            told, status = error.detail, error.status_code
        message = told.encode("utf-8", "backslashreplace").decode()
        return JSONResponse({"message": message}, status_code=status)

    return app
