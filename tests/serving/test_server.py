"""``vhcr serve``: the answers of the model over HTTP, and refusals that say why."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from tests.generation.runs import trained_run
from vhcr.commands.options import DEFAULTS
from vhcr.loopback import open_socket, uvicorn_config
from vhcr.params import GenerationParams
from vhcr.serving.answer import Answerer
from vhcr.serving.server import MAX_BODY, create_app
from vhcr.training.run import TrainedRun

ASKED = {"strategy": "sample", "temperature": 0.9, "num_turns": 2, "seed": 4}


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    run = TrainedRun.load(trained_run(tmp_path_factory.mktemp("run")))
    return Answerer.of(run, GenerationParams(**DEFAULTS))


@pytest.fixture(scope="module")
def client(answerer: Answerer) -> Iterator[httpx.Client]:
    listener = open_socket(0)
    server = uvicorn.Server(uvicorn_config(create_app(answerer)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        yield client
    server.should_exit = True
    thread.join(timeout=60)
    listener.close()


def test_it_answers_as_the_model_does(client: httpx.Client, answerer: Answerer) -> None:
    contexts: list[list[str]] = [["hello how are you ?"], []]
    body = {"inputs": [{"context": context} for context in contexts], "params": ASKED}
    answer = client.post("/invocations", json=body)
    assert answer.status_code == 200, answer.text
    made = [one.model_dump(exclude_none=True) for one in answerer.answer(contexts, ASKED)]
    assert answer.json() == {"predictions": made}
    assert client.get("/health").text == "ok"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"inputs": [{"context": ["hello"]}], "params": {"strategy": "smaple"}}, "strategy = 'smaple'"),
        ({"inputs": [{"context": ["hello"]}], "params": {"temprature": 1.0}}, "temprature: unknown"),
        ({"inputs": [{"context": ["hello"]}], "params": {"num_turns": 1000}}, "num_turns = 1000"),
        ({"inputs": [{"context": ["hello"]}], "params": {"z_conv": [1e39] * 3}}, "z_conv.0 = 1e+39"),
        ({"inputs": [{"context": [""]}]}, "there is no word in ''"),
        ({"inputs": [{"context": "hello"}]}, "inputs.0.context"),
        ({"inputs": [{"context": [None]}]}, "inputs.0.context.0"),
        ({"inputs": [{"contxt": ["hello"]}]}, "inputs.0.cont"),
        ({"inputs": []}, "inputs"),
        ({"questions": []}, "inputs"),
        ([], "valid dictionary"),
        (b"{not json", "JSON"),
        (b"\xff", "pars"),
        (b"[" * 100_000, "pars"),
        (rb'{"inputs": [{"context": ["\ud800"]}]}', "context 0, turn 0"),
        (b'{"inputs": [{"context": ["hello"]}], "params": {"temperature": NaN}}', "temperature"),
    ],
)
def test_what_it_cannot_answer_is_a_400_that_says_why(client: httpx.Client, body: Any, said: str) -> None:
    kind = {"Content-Type": "application/json"}
    given = {"content": body, "headers": kind} if isinstance(body, bytes) else {"json": body}
    answer = client.post("/invocations", **given)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["message"]
    assert "Traceback" not in answer.text


def test_other_sites_and_too_much_are_refused(client: httpx.Client) -> None:
    """A page anywhere could ask through a browser of this machine; its origin, or its Host, gives it away."""
    body = {"inputs": [{"context": ["hello"]}]}
    for headers in ({"Origin": "https://example.org"}, {"Host": "example.org"}):
        assert client.post("/invocations", json=body, headers=headers).status_code == 403
    assert (
        client.post("/invocations", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 403
    )
    large = client.post(
        "/invocations", content=b" " * (MAX_BODY + 1), headers={"Content-Type": "application/json"}
    )
    assert large.status_code == 403
