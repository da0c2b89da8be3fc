"""What the page's server answers, to whom, and what it never says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import uvicorn

from tests.explore.example import atlas
from vhcr.explore.atlas import Atlas
from vhcr.explore.server import create_app
from vhcr.loopback import open_socket, uvicorn_config
from vhcr.params import GenerationParams

TOKEN = "secret-of-this-start"
GENERATION = GenerationParams(
    strategy="greedy",
    max_words=8,
    unknown_words="allow",
    beam_size=3,
    length_penalty=1.0,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    z_conv_from="posterior",
)
DIALS = GENERATION.model_dump()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return atlas(tmp_path_factory.mktemp("explored"))


@pytest.fixture(scope="module")
def client(made: Atlas) -> Iterator[httpx.Client]:
    listener = open_socket(0)
    site = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn_config(create_app(made, GENERATION, TOKEN, [made.run])))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    at = f"{site}/{TOKEN}"
    with httpx.Client(base_url=at, headers={"Origin": site}, timeout=60, trust_env=False) as client:
        yield client
    server.should_exit = True
    thread.join(timeout=60)
    listener.close()


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_the_map_has_a_place_and_a_colour_for_every_point(client: httpx.Client, made: Atlas) -> None:
    for level in ("conversation", "utterance"):
        shown = client.get(f"/map/{level}").json()
        count = len(made.points[level].z)
        assert len(shown["x"]) == len(shown["y"]) == count
        assert {len(column.get("codes", column.get("values"))) for column in shown["columns"].values()} == {
            count
        }
        assert "kind (label)" in shown["columns"]
    about = client.get("/about").json()
    assert [topic["size"] for topic in about["topics"]] == sorted(
        (topic["size"] for topic in about["topics"]), reverse=True
    )
    assert about["runs"][0]["name"] == "invented/vhcr-ud/0"


def test_a_point_shows_its_conversation_and_its_neighbours(client: httpx.Client, made: Atlas) -> None:
    point = client.get("/point/conversation/3").json()
    assert [turn["text"] for turn in point["turns"]] == list(made.corpus.texts[3])
    for turn in point["turns"]:
        assert len(turn["words"]) == len(turn["with_z"]) == len(turn["without_z"])
        assert turn["words"][-1] == "<eos>"
    assert len(point["neighbours"]) == 10
    assert 3 not in [near["place"] for near in point["neighbours"]]
    found = client.get("/search/conversation", params={"q": "PRINTER"}).json()
    assert found == [number for number in range(24) if number % 2 == 0]
    chosen = client.post("/selection/conversation", json={"places": found}).json()
    assert chosen["count"] == 12
    assert "printer" in chosen["words"][:4]


@pytest.mark.parametrize("way", ["point", "middle", "path"])
@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
def test_what_is_generated_grows_word_by_word_into_what_was_made(
    client: httpx.Client, way: str, strategy: str
) -> None:
    asked = {
        "way": way,
        "start": 0,
        "end": 5,
        "count": 3,
        "turns": 2,
        "dials": {**DIALS, "strategy": strategy},
    }
    got = events(client.post("/generate", json=asked))
    done = got[-1]["done"]
    grown: dict[tuple[int, int], str] = {}
    for event in got[:-1]:
        for row, turn, text in event["words"]:
            assert text.startswith(grown.get((row, turn), ""))
            grown[row, turn] = text
    assert len(done) == 3
    assert grown == {(row, turn): text for row, turns in enumerate(done) for turn, text in enumerate(turns)}
    assert events(client.post("/generate", json=asked))[-1] == got[-1]


def test_a_held_z_conv_stays_and_another_is_inferred_anew(client: httpx.Client, made: Atlas) -> None:
    first = events(client.post("/talk", json={"context": ["hello"], "dials": DIALS}))[-1]
    assert len(first["z_conv"]) == made.run.model.z_conv_size
    said = ["hello", "hi ? fine", "the printer is broken"]
    held = events(client.post("/talk", json={"context": said, "dials": DIALS, "z_conv": first["z_conv"]}))[-1]
    assert held["z_conv"] == pytest.approx(first["z_conv"])
    anew = events(client.post("/talk", json={"run": 1, "context": said, "dials": DIALS}))[-1]
    assert anew["z_conv"] != pytest.approx(first["z_conv"])
    begun = events(client.post("/talk", json={"context": [], "dials": DIALS}))[-1]
    assert len(begun["done"][0]) == 1


def test_unknown_words_alone_get_a_remark(client: httpx.Client) -> None:
    def remarks(*context: str) -> list[str]:
        answer = client.post("/talk", json={"context": context, "dials": DIALS})
        return list(events(answer)[-1]["remarks"])

    assert remarks("hello") == remarks() == remarks("zzyzx", "hello") == []
    assert "no word of 'zzyzx' is in the vocabulary" in remarks("hello", "fine", "zzyzx")[0]


def test_two_at_once_get_what_each_gets_alone(client: httpx.Client) -> None:
    def ask(number: int) -> dict[str, Any]:
        dials = {**DIALS, "strategy": "sample", "seed": number % 4}
        return events(client.post("/talk", json={"context": ["hello how are you"], "dials": dials}))[-1]

    alone = [ask(number) for number in range(4)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(16)))
    assert together == alone * 4


BODY = {"context": ["hello"], "dials": DIALS}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/talk", {**BODY, "run": 2}),
        ("/talk", {**BODY, "run": -1}),
        ("/talk", {**BODY, "context": ["—"]}),
        ("/talk", {**BODY, "context": ["hello"] * 201}),
        ("/talk", {**BODY, "context": ["a" * 1001]}),
        ("/talk", {**BODY, "context": "hello"}),
        ("/talk", {**BODY, "context": ["\ud800"]}),
        ("/talk", {**BODY, "z_conv": [0.0]}),
        ("/talk", {**BODY, "z_conv": [1e30] * 3}),
        ("/talk", {**BODY, "folder": "/etc"}),
        ("/talk", {**BODY, "dials": {**DIALS, "max_words": 10**9}}),
        ("/talk", {**BODY, "dials": {**DIALS, "beam_size": 1000}}),
        ("/talk", {**BODY, "dials": {**DIALS, "temperature": -1}}),
        ("/talk", {**BODY, "dials": {**DIALS, "seed": 2**80}}),
        ("/talk", []),
        ("/generate", {"way": "point", "start": 24, "dials": DIALS}),
        ("/generate", {"way": "path", "start": 0, "dials": DIALS}),
        ("/generate", {"way": "path", "start": 0, "end": -3, "dials": DIALS}),
        ("/generate", {"way": "point", "start": 0, "turns": 1000, "dials": DIALS}),
        ("/selection/conversation", {"places": [24]}),
        ("/selection/conversation", {"places": []}),
        ("/selection/galaxy", {"places": [1]}),
    ],
)
def test_what_cannot_be_asked_is_refused(client: httpx.Client, made: Atlas, path: str, body: Any) -> None:
    answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert str(made.run.folder) not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/point/conversation/24", 404),
        ("/point/conversation/-1", 404),
        ("/point/conversation/x", 422),
        ("/point/conversation/99999999999999999999", 404),
        ("/point/..%2f..%2fetc/passwd", 404),
        ("/map/conversation?projection=umap", 422),
        ("/map/turn", 422),
        ("/search/conversation", 422),
        ("/search/conversation?q=" + "a" * 201, 422),
        ("/texts/conversation?at=1,-2", 422),
        ("/texts/conversation?at=" + ",".join(["1"] * 101), 422),
        ("/../assets/..%2fserver.py", 404),
        ("/docs", 404),
    ],
)
def test_what_is_not_there_is_said_with_4xx(client: httpx.Client, path: str, code: int) -> None:
    assert client.get(path).status_code == code


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Content-Type": "text/plain"}, 403),
        ({"Content-Length": str(2**21)}, 403),
    ],
)
def test_other_sites_are_refused(client: httpx.Client, headers: dict[str, str], code: int) -> None:
    sent = {"Content-Type": "application/json", **headers}
    body = json.dumps(BODY) if "Content-Length" not in headers else b" " * 2**21
    assert client.post("/talk", content=body, headers=sent).status_code == code


def test_nobody_gets_in_without_the_secret(client: httpx.Client, made: Atlas) -> None:
    site = str(client.base_url).removesuffix(f"/{TOKEN}/")
    for path in ("/", "/wrong/", "/wrong/about", "/wrong/map/conversation", f"/{TOKEN}x/about", "/é/about"):
        assert client.get(f"{site}{path}").status_code == 404, path
    assert client.post(f"{site}/wrong/talk", json=BODY).status_code == 404
    for path in ("/", "/about", "/map/conversation", "/point/conversation/0"):
        answer = client.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert str(made.run.folder) not in answer.text
        assert "server" not in answer.headers
