"""The page of a map, served on loopback only: who has its address, which holds a secret, may read and ask.

What a browser receives is the page, the conversations and what is computed from them: no path and no file of
the machine.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import resources
from itertools import chain
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from vhcr import loopback
from vhcr.errors import ParameterError
from vhcr.explore.atlas import LATENT, NUM_NEIGHBOURS, Atlas, Level
from vhcr.explore.points import Floats, Projection, nearest, project
from vhcr.explore.speak import Dials, Event, FromMap, Talk, from_map, streamed, talk
from vhcr.explore.surprise import surprise
from vhcr.explore.topics import distinctive_words
from vhcr.params import GenerationParams
from vhcr.training.run import TrainedRun

MAX_BODY = 2**20  # bytes; a selection of 100,000 points has 700,000
MAX_SELECTED = 200_000
MAX_CATEGORIES = 50  # of a label; with more it is a name, and colours nothing
AT_ONCE = 2  # requests that a model speaks for; others wait their turn
SHORT = 120  # characters of a conversation in a list
ASSETS = {"page.css": "text/css", "page.js": "text/javascript", "map.js": "text/javascript"}


class Selection(BaseModel):
    """Points within a lasso."""

    model_config = ConfigDict(extra="forbid")

    places: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_SELECTED)]


def create_app(
    atlas: Atlas, generation: GenerationParams, token: str, others: Sequence[TrainedRun] = ()
) -> FastAPI:
    """The application: the map of ``atlas``, and talks with its run and with ``others``.

    ``generation`` is how they speak where the page says nothing else; ``token`` stands in every address.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = {name: _asset(name) for name in ("page.html", *ASSETS)}
    runs = (atlas.run, *others)
    at_once = threading.BoundedSemaphore(AT_ONCE)
    lowered = {level: _lowered(atlas, level) for level in atlas.points}
    projecting = threading.Lock()

    def known(given: str) -> None:
        if not secrets.compare_digest(given.encode(), token.encode()):
            raise HTTPException(404)

    def points_of(level: Level) -> Any:
        if level not in atlas.points:
            raise ParameterError(f"this model has no {LATENT[level]}")
        return atlas.points[level]

    @lru_cache
    def drawn(level: Level, projection: Projection) -> bytes:
        plane = project(atlas.points[level].z, projection)
        shown = {
            "x": _rounded(plane[:, 0]),
            "y": _rounded(plane[:, 1]),
            "columns": _columns(atlas, level),
        }
        return json.dumps(shown, separators=(",", ":"), allow_nan=False).encode()

    def events(run: TrainedRun, make: Any, remarked: Sequence[str] = ()) -> StreamingResponse:
        def lines() -> Iterator[bytes]:
            for event in streamed(run, make, at_once, remarked):
                yield _line(event)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    @app.get("/assets/{name}")
    def asset(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404)
        return Response(page[name], media_type=ASSETS[name])

    @app.get("/{token}/")
    def start(token: str) -> Response:
        known(token)
        return HTMLResponse(page["page.html"])

    @app.get("/{token}/about")
    def about(token: str) -> Response:
        known(token)
        dials = Dials(**{**generation.model_dump(), "max_words": min(generation.max_words, 100)})
        return JSONResponse(
            {
                "corpus": atlas.run.info["corpus"],
                "splits": atlas.corpus.splits,
                "levels": list(atlas.points),
                "runs": [_run(run) for run in runs],
                "topics": [
                    {"name": topic.name, "size": topic.size, "words": topic.words, "typical": topic.typical}
                    for topic in atlas.topics
                ],
                "dials": dials.model_dump(mode="json"),
                "conversations": len(atlas.corpus),
            }
        )

    @app.get("/{token}/map/{level}")
    def map_of(token: str, level: Level, projection: Projection = "pca") -> Response:
        known(token)
        points_of(level)
        with projecting:  # what one waits for, a second need not compute again
            return Response(drawn(level, projection), media_type="application/json")

    @app.get("/{token}/point/{level}/{place}")
    def point(token: str, level: Level, place: int) -> Response:
        known(token)
        points = points_of(level)
        if not 0 <= place < len(points.z):
            raise HTTPException(404)
        number = int(points.conversation[place])
        near, far = nearest(points.z, points.z[place : place + 1], NUM_NEIGHBOURS + 1)
        found = surprise(atlas.run.model, atlas.corpus.utterances(number), number)
        turns = zip(
            atlas.corpus.speakers[number], atlas.corpus.texts[number], atlas.corpus.utterances(number),
            *found, strict=True,
        )  # fmt: skip
        words = atlas.run.vocabulary.words
        return JSONResponse(
            {
                "id": atlas.corpus.ids[number],
                "conversation": number,
                "turn": int(points.turn[place]),
                "turns": [
                    {
                        "speaker": speaker,
                        "text": text,
                        "words": [words[word] for word in ids],
                        "with_z": _rounded(np.array(with_z)),
                        "without_z": _rounded(np.array(without_z)),
                    }
                    for speaker, text, ids, with_z, without_z in turns
                ],
                "neighbours": [
                    {"place": other, "text": _short(atlas, level, other), "distance": round(away, 3)}
                    for other, away in zip(near[0].tolist(), far[0].tolist(), strict=True)
                    if other != place
                ][:NUM_NEIGHBOURS],
            }
        )

    @app.get("/{token}/texts/{level}")
    def texts(
        token: str, level: Level, at: Annotated[str, Query(pattern=r"^\d{1,9}(,\d{1,9}){0,99}$")]
    ) -> Response:
        known(token)
        points = points_of(level)
        places = [int(place) for place in at.split(",")]
        return JSONResponse([_short(atlas, level, place) for place in places if place < len(points.z)])

    @app.get("/{token}/search/{level}")
    def search(token: str, level: Level, q: Annotated[str, Query(min_length=1, max_length=200)]) -> Response:
        known(token)
        points_of(level)
        wanted = q.lower()
        return JSONResponse([place for place, text in enumerate(lowered[level]) if wanted in text])

    @app.post("/{token}/selection/{level}")
    def selection(token: str, level: Level, asked: Selection) -> Response:
        known(token)
        points = points_of(level)
        if max(asked.places) >= len(points.z):
            raise ParameterError(f"point {max(asked.places)} is not on the map")
        inside = np.zeros(len(points.z), bool)
        inside[asked.places] = True
        counts = [
            Counter(chain.from_iterable(_words(atlas, level, inside == side))) for side in (True, False)
        ]
        return JSONResponse({"count": int(inside.sum()), "words": distinctive_words(counts)[0]})

    @app.post("/{token}/generate")
    def generate(token: str, asked: FromMap) -> Response:
        known(token)
        points = points_of("conversation")
        return events(atlas.run, from_map(atlas.run, atlas.corpus, points.z, asked))

    @app.post("/{token}/talk")
    def reply(token: str, asked: Talk) -> Response:
        known(token)
        if asked.run >= len(runs):
            raise ParameterError(f"there are {len(runs)} runs to talk with; {asked.run} is none of them")
        return events(runs[asked.run], *talk(runs[asked.run], asked))

    @app.exception_handler(ParameterError)
    def refused(_: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error).encode("utf-8", "backslashreplace"), status_code=422)

    loopback.guard(app, MAX_BODY)
    return app


def address(port: int, token: str) -> str:
    """The page's address."""
    return f"http://{loopback.ADDRESS}:{port}/{token}/"


def _run(run: TrainedRun) -> dict[str, Any]:
    """What the page says of a run, and what it lacks."""
    lacks = [
        name
        for name, size in (("z_conv", run.model.z_conv_size), ("z_utt", run.model.z_utt_size))
        if not size
    ]
    return {
        "name": "/".join(str(run.info[key]) for key in ("corpus", "system", "seed")),
        "architecture": run.params.system.architecture,
        "lacks": lacks,
        "begins": run.model.reading.scores_first_utterance,
    }


def _columns(atlas: Atlas, level: Level) -> dict[str, Any]:
    """What points can be coloured by: categories as codes, numbers as they are."""
    shown: dict[str, Any] = {}
    for name, values in atlas.columns(level).items():
        if name == "topic":
            names = [topic.name for topic in atlas.topics]
            shown[name] = {"names": names, "codes": values}
        elif name == "split" or name.startswith("label_"):
            counts = Counter(value for value in values if value is not None)
            if 0 < len(counts) <= MAX_CATEGORIES:
                names = sorted(counts, key=lambda value: (-counts[value], value))
                code = {value: place for place, value in enumerate(names)}
                codes = [code.get(value, -1) for value in values]
                shown[name.removeprefix("label_") + " (label)" * (name != "split")] = {
                    "names": names, "codes": codes,
                }  # fmt: skip
        else:
            shown[name] = {"values": _rounded(np.array(values, dtype=np.float64))}
    return shown


def _words(atlas: Atlas, level: Level, chosen: Any) -> Iterator[list[str]]:
    """The words of the points where ``chosen`` is true."""
    points = atlas.points[level]
    for place in np.flatnonzero(chosen):
        spoken = atlas.corpus.words[int(points.conversation[place])]
        said = spoken if level == "conversation" else [spoken[int(points.turn[place])]]
        yield [word for words in said for word in words if any(map(str.isalnum, word))]


def _lowered(atlas: Atlas, level: Level) -> list[str]:
    return [atlas.text(level, place).lower() for place in range(len(atlas.points[level].z))]


def _short(atlas: Atlas, level: Level, place: int) -> str:
    text = " / ".join(atlas.text(level, place).split("\n"))
    return text if len(text) <= SHORT else f"{text[:SHORT]}…"


def _rounded(values: Floats) -> list[float]:
    """Four significant digits are more than a pixel or a label shows."""
    return [float(f"{value:.4g}") for value in values.tolist()]


def _line(event: Event) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
