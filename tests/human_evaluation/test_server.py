"""What the server answers, to whom, and what it never says."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from tests.human_evaluation.studies import make_study
from vhcr import loopback
from vhcr.errors import ParameterError
from vhcr.human_evaluation.server import create_app
from vhcr.human_evaluation.study import Study
from vhcr.loopback import open_socket, uvicorn_config

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


@pytest.fixture
def client(study: Study) -> Iterator[httpx.Client]:
    """A client of a real server, which says that it is the server's own page."""
    listener = open_socket(0)
    site = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn_config(create_app(study)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with httpx.Client(base_url=site, headers={"Origin": site}, timeout=60, trust_env=False) as client:
        yield client
    server.should_exit = True
    thread.join(timeout=60)
    listener.close()
    assert not thread.is_alive()


def page(study: Study, name: str = "anna") -> str:
    return f"/r/{study.invite(name)}/"


def ballot(client: httpx.Client, at: str, choice: str = "left", **changes: object) -> dict[str, object]:
    pair = client.get(f"{at}pair").json()["pair"]
    return {"item": pair["item"], "choice": choice, "revision": pair["revision"], **changes}


def test_a_vote_is_stored_and_the_next_pair_comes_back(client: httpx.Client, study: Study) -> None:
    at = page(study)
    first = ballot(client, at)
    answer = client.post(f"{at}votes", json=first)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["choice"], body["revision"]) == ("stored", "left", 1)
    assert body["next"]["voted"] == [first["item"]]
    assert body["next"]["left"] == 5
    assert body["next"]["pair"]["item"] != first["item"]
    assert len(study.votes()) == 1
    again = client.post(f"{at}votes", json={**first, "choice": "right"})
    assert (again.status_code, again.json()["status"], again.json()["choice"]) == (409, "already", "left")
    seen = client.get(f"{at}pairs/{first['item']}").json()
    assert (seen["choice"], seen["revision"]) == ("left", 1)
    assert len(study.votes()) == 1


def test_nobody_gets_in_without_a_link(client: httpx.Client, study: Study) -> None:
    study.invite("anna")
    for path in ("/r/anna/", "/r//", f"/r/{'0' * 32}/pair", f"/r/{'0' * 32}/", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 404, path
    start = client.get("/")
    assert start.status_code == 200
    assert "Ask for your link" in start.text
    vote = {"item": study.items()[0].item, "choice": "left", "revision": 0}
    assert client.post(f"/r/{'0' * 32}/votes", json=vote).status_code == 404


def test_one_rater_cannot_look_at_or_vote_on_anothers_pair(client: httpx.Client, study: Study) -> None:
    anna, ben = page(study), page(study, "ben")
    mine = ballot(client, anna)
    assert client.get(f"{ben}pairs/{mine['item']}").status_code == 404
    answer = client.post(f"{ben}votes", json=mine)
    assert (answer.status_code, answer.json()["status"]) == (404, "unknown")
    assert study.votes() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},  # another program's page on this machine
        {"Origin": ""},
        {"Content-Type": "text/plain"},  # what a form or a simple request of another site could send
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Host": "evil.example"},  # a name that was made to point here
        {"Host": "127.0.0.1.evil.example:8417", "Origin": "http://127.0.0.1.evil.example:8417"},
        {"padded": "yes"},
    ],
)
def test_votes_of_other_sites_are_refused(
    client: httpx.Client, study: Study, headers: dict[str, str]
) -> None:
    at = page(study)
    content = json.dumps(ballot(client, at)).ljust(2000 if "padded" in headers else 0)
    answer = client.post(f"{at}votes", content=content, headers={**JSON, **headers})
    assert answer.status_code == 403
    assert study.votes() == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"item": "\\ud800", "choice": "left", "revision": 0}',
        b'{"item": "0123456789abcdef", "choice": "left", "revision": NaN}',
        b'{"item": "0123456789abcdef", "choice": "left", "revision": 1e999}',
        b'{"\\ud800": 1}',
        b"null",
        b"[" * 1000,
        b"\xff",
    ],
)
def test_what_is_no_ballot_is_refused_and_never_an_error_of_ours(
    client: httpx.Client, study: Study, body: bytes
) -> None:
    """FastAPI repeats the input in its refusal; NaN and half a character made that a 500."""
    answer = client.post(f"{page(study)}votes", content=body, headers=JSON)
    assert answer.status_code in (400, 422), answer.text


def test_a_request_that_is_never_whole_is_hung_up_on(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty slow connections stayed open for as long as they liked."""
    monkeypatch.setattr(loopback, "REQUEST_SECONDS", 0.2)
    listener = open_socket(0)
    server = uvicorn.Server(uvicorn_config(create_app(study)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    here = listener.getsockname()
    silent, half, slow = (socket.create_connection(here, timeout=30) for _ in range(3))
    whole = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{here[1]}\r\n\r\n".encode()
    try:
        half.sendall(whole[:-2])
        slow.sendall(whole.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"))
        for line in (silent, half, slow):
            with line, contextlib.suppress(ConnectionResetError):
                while line.recv(65536):  # what was answered, then the end
                    pass
        with socket.create_connection(here, timeout=30) as line:
            line.sendall(whole)
            assert line.recv(65536).startswith(b"HTTP/1.1 200")
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        listener.close()


def test_reading_needs_a_loopback_name_too(client: httpx.Client, study: Study) -> None:
    at = page(study)
    assert client.get(f"{at}pair", headers={"Host": "evil.example"}).status_code == 403
    tunnelled = {"Host": "localhost:9000", "Origin": "http://localhost:9000"}
    assert client.get(f"{at}pair", headers=tunnelled).status_code == 200
    sent = client.post(f"{at}votes", json=ballot(client, at), headers=tunnelled)
    assert sent.status_code == 200


@pytest.mark.parametrize(
    "changes", [{"choice": "win"}, {"revision": -1}, {"item": "../etc"}, {"rater": "ben"}, {"revision": None}]
)
def test_what_is_no_vote_is_refused(client: httpx.Client, study: Study, changes: dict[str, object]) -> None:
    at = page(study)
    answer = client.post(f"{at}votes", json=ballot(client, at, **changes))
    assert answer.status_code == 422
    assert study.votes() == []


def test_every_answer_keeps_to_itself(client: httpx.Client, study: Study) -> None:
    at = page(study)
    for answer in (
        client.get(at),
        client.get(f"{at}pair"),
        client.get("/assets/page.js"),
        client.get("/none"),
    ):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in answer.headers
        assert "server" not in answer.headers


def test_left_and_right_is_all_that_is_said_of_two_responses(client: httpx.Client, study: Study) -> None:
    at = page(study)
    state = client.get(f"{at}pair").json()
    assert list(state) == ["rater", "voted", "left", "pair"]
    assert list(state["pair"]) == ["item", "context", "left", "right", "choice", "revision"]
    assert state["pair"]["choice"] is None


def test_a_study_that_cannot_be_reached_is_said_and_nothing_lost(client: httpx.Client, study: Study) -> None:
    at = page(study)
    vote = ballot(client, at)
    away = study.path.with_suffix(".away")
    study.path.rename(away)
    answer = client.post(f"{at}votes", json=vote)
    assert answer.status_code == 503
    assert str(study.path) not in answer.text
    away.rename(study.path)
    assert client.post(f"{at}votes", json=vote).status_code == 200


def test_the_socket_is_on_loopback_and_a_taken_port_is_named() -> None:
    with open_socket(0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(ParameterError, match=f"port {port} cannot be opened: .*choose another --port"):
            open_socket(port)
        with socket.create_connection((host, port), timeout=10):
            pass
