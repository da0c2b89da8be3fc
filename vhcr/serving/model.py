"""The MLflow model, from code: this file is copied into every registered version and run to load it.

Beside it lie the run (safetensors, JSON and text; nothing is unpickled) and the code it was made with.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model

from vhcr.errors import VhcrError
from vhcr.files import read_object
from vhcr.params import GenerationParams, parse
from vhcr.serving.answer import Answerer, AnswerParams
from vhcr.training.run import TrainedRun

MAX_BODY = 2**22  # bytes of a request
MAX_DEPTH = 20  # of its JSON
RUN = "run"  # the artifact that holds the run
GENERATION = "generation.json"


class ConversationModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow has no types
    """Answers conversations: a table with a column ``context`` in, one with ``response`` and more out."""

    def load_context(self, context: Any) -> None:
        """Read the run that lies with the model."""
        folder = Path(context.artifacts[RUN])
        values = read_object(folder / GENERATION)
        generation = parse(GenerationParams, values, where="generation", origin=str(folder / GENERATION))
        self.answerer = Answerer.of(TrainedRun.load(folder), generation)
        _refuse_unknown_params()
        _refuse_nulls()
        if "mlflow.pyfunc.scoring_server" in sys.modules:  # `mlflow models serve`
            _answer_plainly()

    def predict(
        self,
        context: Any,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """One row per context; see ``vhcr.serving.answer``. A request that cannot be answered is a 400."""
        contexts = [_as_list(value) for value in model_input["context"]]
        try:
            answers = self.answerer.answer(
                contexts, {k: _as_list(v) for k, v in (params or {}).items()}, _request_seconds()
            )
        except VhcrError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return pd.DataFrame([answer.model_dump(exclude_none=True) for answer in answers])


def _as_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _request_seconds() -> float:
    """How long MLflow's server lets somebody wait; then it answers 504, and nobody wants the answer."""
    from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT

    return float(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())


def _answer_plainly() -> None:
    """The server takes JSON of a bounded size and depth, and no refusal tells of our files.

    MLflow's own answered JSON nested 1,000 deep by 500, and bad bodies with a traceback; whoever hung up
    before the end of a body left another in the log.
    """
    import mlflow.pyfunc.scoring_server as server
    from fastapi.responses import Response
    from starlette.requests import ClientDisconnect

    answer = server.invocations
    if hasattr(answer, "is_plain"):
        return

    @functools.wraps(answer)
    def plain(data: bytes, content_type: str | None, *others: Any) -> Any:
        kind = (content_type or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return server.InvocationsResponse("only application/json is taken", 415, "text/plain")
        if len(data) > MAX_BODY:
            return server.InvocationsResponse(f"at most {MAX_BODY} bytes are taken", 413, "text/plain")
        try:
            text = data.decode("utf-8")
            if _depth(text) > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} deep")
            if not isinstance(json.loads(text), dict):
                raise ValueError("no object")
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(f"the body is not valid JSON: {error}") from None
        try:
            return answer(data, content_type, *others)
        except MlflowException as error:
            error.json_kwargs.clear()  # its traceback
            raise

    plain.is_plain = True  # type: ignore[attr-defined]
    server.invocations = plain
    catch = server._async_catch_mlflow_exception

    def catch_all(handler: Any) -> Any:
        @functools.wraps(handler)
        async def handled(*args: Any, **named: Any) -> Any:
            try:
                return await handler(*args, **named)
            except ClientDisconnect:
                return Response(status_code=400)  # which nobody hears

        return catch(handled)

    server._async_catch_mlflow_exception = catch_all


def _depth(text: str) -> int:
    """How deep brackets are nested, those within texts counted too."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[{\]}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _refuse_unknown_params() -> None:
    """A misspelt parameter of a request is an error.

    MLflow drops what the signature does not name before a model sees it, with a line in the server's log, so
    that ``temprature`` would be answered at the default temperature. There is no setting for it; its check of
    parameters is therefore preceded by ours, for models with this signature alone.
    """
    check = mlflow.pyfunc._enforce_params_schema
    if hasattr(check, "refuses_unknown"):
        return

    @functools.wraps(check)
    def strict(params: Any, schema: Any) -> Any:
        names = set() if schema is None else {spec.name for spec in schema.params}
        if isinstance(params, dict) and names == set(AnswerParams.model_fields) and not names >= set(params):
            unknown = ", ".join(sorted(map(str, set(params) - names)))
            raise MlflowException.invalid_parameter_value(
                f"{unknown}: unknown parameter; known are {', '.join(sorted(names))}"
            )
        return check(params, schema)

    strict.refuses_unknown = True  # type: ignore[attr-defined]
    mlflow.pyfunc._enforce_params_schema = strict


def _refuse_nulls() -> None:
    """A null utterance is an error, and so is a request without contexts.

    MLflow makes texts of whatever an array of texts holds before a model sees it: a null became the word
    "None", and was answered. So ours precedes its check of inputs, for models with this signature.
    """
    check = mlflow.pyfunc._enforce_schema
    if hasattr(check, "refuses_nulls"):
        return

    @functools.wraps(check)
    def strict(data: Any, schema: Any, *others: Any, **named: Any) -> Any:
        if schema is not None and schema.input_names() == ["context"]:
            contexts = (
                data["context"] if isinstance(data, pd.DataFrame | dict) and "context" in data else data
            )
            if isinstance(contexts, list | np.ndarray | pd.DataFrame | pd.Series) and len(contexts) == 0:
                raise MlflowException.invalid_parameter_value("no contexts in this request")
            for place, context in enumerate(contexts if isinstance(contexts, list | pd.Series) else []):
                for turn, text in enumerate(context if isinstance(context, list | np.ndarray) else []):
                    if not isinstance(text, str):
                        raise MlflowException.invalid_parameter_value(
                            f"context {place}, turn {turn}: {text!r:.60} is no text"
                        )
        return check(data, schema, *others, **named)

    strict.refuses_nulls = True  # type: ignore[attr-defined]
    mlflow.pyfunc._enforce_schema = strict


set_model(ConversationModel())
