"""Hostile HTTP to each server: every answer comes, none is of status 500, none tells of our files."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.faults import forked
from tests.faults.outcome import Case
from tests.faults.small import Small, copy
from tests.processes import free_port

AT_ONCE = 100  # requests to one server
SECONDS = 120.0  # for one answer, on a busy machine
STEADY = 1.5  # memory after them, by that before
TEXTS = (
    "",
    "hello",
    "\0",
    "\ud800",
    "ü" * 1000,
    "<script>",
    "' or 1=1",
    "../../etc/passwd",
    "None",
    "\u202e",
)
NUMBERS = (0, -1, 1, 2**31, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"), float("-inf"))
ODD = (None, True, False, [], {}, [[]], [{}], [None], {"a": None})
NESTED = tuple(
    text
    for depth in (1_000, 100_000)
    for text in ("[" * depth, "[" * depth + "]" * depth, '{"inputs":' * depth + "1" + "}" * depth)
)
RAW = (
    b"", b"null", b"5", b'"text"', b"{", b"\xff\xfe", bytes(100), b"a,b\n1,2", b"NaN",
    *(text.encode() for text in NESTED),
)  # fmt: skip
TYPES = (
    "application/json", "application/json; charset=latin-1", "text/csv", "text/plain", "",
    "application/vnd.apache.parquet", "x",
)  # fmt: skip
METHODS = ("POST", "POST", "POST", "POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW")


def a_value(draw: random.Random, depth: int = 0) -> Any:
    """Any JSON value."""
    kind = draw.random()
    if kind < 0.4:
        return draw.choice(TEXTS)
    if kind < 0.6:
        return draw.choice(NUMBERS)
    if kind < 0.8 or depth > 3:
        return draw.choice(ODD)
    if kind < 0.9:
        return [a_value(draw, depth + 1) for _ in range(draw.randint(0, 4))]
    return {draw.choice(("a", "context", "item", "turns")): a_value(draw, depth + 1)}


def served_model(folder: Path) -> tuple[Any, tuple[str, ...]]:
    """What ``mlflow models serve`` runs, from a packed run."""
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server

    from vhcr.params import Params
    from vhcr.serving.package import package

    generation = Params.load(folder / "params.yaml").corpus("toy").generation
    package(folder / "data/trained/toy/vhcr-ud/0", folder / "model", generation=generation, card="")
    app = scoring_server.init(mlflow.pyfunc.load_model(str(folder / "model")))
    return app, ("/invocations", "/invocations", "/invocations", "/ping", "/x")


def run_alone(folder: Path) -> tuple[Any, tuple[str, ...]]:
    """``vhcr serve``."""
    from vhcr.params import Params
    from vhcr.serving.answer import Answerer
    from vhcr.serving.server import create_app
    from vhcr.training.run import TrainedRun

    generation = Params.load(folder / "params.yaml").corpus("toy").generation
    run = TrainedRun.load(folder / "data/trained/toy/vhcr-ud/0")
    return create_app(Answerer.of(run, generation)), ("/invocations", "/invocations", "/health", "/x")


def rating_page(folder: Path) -> tuple[Any, tuple[str, ...]]:
    """The page on which people vote."""
    from tests.human_evaluation.studies import make_study
    from vhcr.human_evaluation.server import create_app

    study = make_study(folder / "study")
    token = study.invite("anna")
    item = study.next_item("page:anna")
    name = item.item if item is not None else "0" * 16

    at = f"/r/{token}"
    paths = (f"{at}/votes", f"{at}/votes", f"{at}/pair", f"{at}/pairs/{name}", "/r/x/votes", "/r/%ff/", "/")
    return create_app(study), paths


def explore_page(folder: Path) -> tuple[Any, tuple[str, ...]]:
    """The map of the latents."""
    from tests.explore.example import atlas
    from vhcr.explore.server import create_app
    from vhcr.params import Params

    generation = Params.load(folder / "params.yaml").corpus("toy").generation
    app = create_app(atlas(folder / "explored"), generation, "token")

    filled = {"{token}": "token", "{level}": "conversation", "{place}": "0", "{name}": "page.css"}
    paths = []
    for path in sorted({route.path for route in app.routes if hasattr(route, "path")}):
        parts = path.split("/")
        paths.append("/".join(filled.get(part, part) for part in parts))
    return app, tuple(paths)


SERVERS = (served_model, run_alone, rating_page, explore_page)


def serve(make: Callable[[Path], Any], folder: Path, port: int) -> None:
    """The server in this process, as the project runs it; what may be asked goes to a file."""
    import uvicorn

    from vhcr.loopback import uvicorn_config

    app, paths = make(folder)
    (folder / "paths.json").write_text(json.dumps(paths))
    config = uvicorn_config(app)
    config.port = port
    uvicorn.Server(config).run()


def case(small: Small, root: Path, draw: random.Random) -> list[Case]:
    """A hundred requests to one server, some of them to connections that are never ended."""
    make = draw.choice(SERVERS)
    folder = copy(small, root / "served")
    port, begun = free_port(), time.monotonic()
    pid = forked.start(folder, lambda: serve(make, folder, port))
    results: list[Case] = []
    try:
        _await(port, pid)
        paths = json.loads((folder / "paths.json").read_text())
        body = _bodies(make)
        before = 0
        for number in range(AT_ONCE):
            results.append(_one(make.__name__, port, draw, paths, body))
            if number == AT_ONCE // 3:
                before = psutil.Process(pid).memory_info().rss
        after = psutil.Process(pid).memory_info().rss
        if after > STEADY * before + 2**27:
            results.append(Case(make.__name__, "failed", f"memory rose from {before} to {after} bytes"))
    except (AssertionError, OSError) as error:
        results.append(Case(make.__name__, "failed", str(error)))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, 15)
    ended = forked.finish(folder, pid, begun, kill_after=time.monotonic() - begun + 10)
    if "Traceback" in ended.output:
        results.append(Case(f"log of {make.__name__}", "failed", ended.output[-1500:]))
    return results


def _bodies(make: Callable[[Path], Any]) -> Callable[[random.Random], Any]:
    """The server's own kind of body."""
    if make is rating_page:
        return _ballot
    if make is explore_page:
        names = ("places", "context", "turns", "samples", "seed", "position", "temperature", "run", "level")
        return lambda draw: {draw.choice(names): a_value(draw) for _ in range(draw.randint(0, 4))}
    return _model_body


def _ballot(draw: random.Random) -> Any:
    usual = {"item": "0" * 16, "choice": "left", "revision": 0}
    return {name: value if draw.random() < 0.6 else a_value(draw) for name, value in usual.items()}


def _model_body(draw: random.Random) -> Any:
    names = (
        "max_words", "beam_size", "num_turns", "num_samples", "seed", "latent_scale", "z_conv", "strategy",
        "temperature", "top_k", "top_p", "return_z_conv", "z_conv_from", "unknown_words", "x",
    )  # fmt: skip
    context = draw.choice((["hello"], [], ["hello", None], a_value(draw)))
    row = draw.choice(([{"context": context}], [context], context, {"context": [context]}))
    asked = {draw.choice(("inputs", "inputs", "dataframe_records", "instances", "x")): row}
    if draw.random() < 0.7:
        asked["params"] = {draw.choice(names): a_value(draw) for _ in range(draw.randint(0, 3))}
    return asked


def _one(
    name: str, port: int, draw: random.Random, paths: list[str], body: Callable[[random.Random], Any]
) -> Case:
    method, path, kind = (
        draw.choice(METHODS),
        draw.choice(paths),
        draw.choice((TYPES[0], TYPES[0], draw.choice(TYPES))),
    )
    data = draw.choice(RAW) if draw.random() < 0.2 else json.dumps(body(draw)).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n"
    if kind:
        head += f"Content-Type: {kind}\r\n"
    length = len(data) if draw.random() < 0.95 else draw.choice((0, -1, len(data) + 5, 10**12))
    head += f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
    what = f"{name}: {method} {path} {kind} {data[:200]!r}"
    complete = length <= len(data)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS if complete else 1) as line:
            line.sendall(head.encode() + data)
            answer = b""
            while len(answer) < 2**20 and (part := line.recv(65536)):
                answer += part
    except TimeoutError:
        return Case(what, "failed", f"no answer in {SECONDS:g} s") if complete else Case(what, "same")
    except OSError:  # it was closed before all was sent, which is a refusal
        return Case(what, "refused")
    status = answer.split(b" ")[1:2]
    if status and status[0] >= b"500":
        return Case(what, "failed", answer[:600].decode(errors="replace"))
    if b"Traceback" in answer or b"site-packages" in answer:
        return Case(what, "failed", f"a traceback: {answer[-600:].decode(errors='replace')}")
    return Case(what, "same" if status and status[0] < b"300" else "refused")


def _await(port: int, pid: int) -> None:
    for _ in range(1200):
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, "the server ended by itself"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError("the server does not listen after two minutes")
