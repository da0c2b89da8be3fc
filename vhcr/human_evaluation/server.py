"""The page on which people vote, served on loopback only.

A rater is known by the token in the address of their page (/r/<token>/), which no other site and no other
rater can know; there are no cookies, so one browser may hold the pages of several raters. What a browser
receives are the page, the texts of one pair as left and right, and the rater's own votes: never a system's
name, nor anything that was computed from it.
"""

from __future__ import annotations

import logging
import socket
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from vhcr import loopback
from vhcr.errors import StudyError
from vhcr.human_evaluation.study import PAGE, Choice, Shown, Study

log = logging.getLogger(__name__)

MAX_BODY = 1024  # bytes; a vote has about 80
ASSETS = {"page.css": "text/css", "page.js": "text/javascript"}
NO_LINK = (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<title>Your link is needed</title><link rel="icon" href="data:,">'
    '<link rel="stylesheet" href="/assets/page.css">'
    '<div class="frame"><h1>Your own link is needed</h1><p>Each rater votes on a page of their own. '
    "Ask for your link: whoever started this server can print it.</p></div></html>"
)


class Ballot(BaseModel):
    """One vote as the page sends it."""

    model_config = ConfigDict(extra="forbid")

    item: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    choice: Choice
    revision: Annotated[int, Field(ge=0)]  # of the item as it was shown


def create_app(study: Study) -> FastAPI:
    """The application for one study."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = {name: _asset(name) for name in ("page.html", *ASSETS)}

    def known(token: str) -> str:
        rater = study.rater_of(token)
        if rater is None:
            raise HTTPException(404)
        return rater

    def state(rater: str) -> dict[str, Any]:
        pair = study.next_item(rater)
        progress = study.progress(rater)
        return {
            "rater": rater.removeprefix(f"{PAGE}:"),
            "voted": progress.voted,
            "left": progress.left,
            "pair": None if pair is None else _json(pair),
        }

    @app.get("/")
    def start() -> Response:
        return HTMLResponse(NO_LINK)

    @app.get("/assets/{name}")
    def asset(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404)
        return Response(page[name], media_type=ASSETS[name])

    @app.get("/r/{token}/")
    def voting_page(token: str) -> Response:
        if study.rater_of(token) is None:
            return HTMLResponse(NO_LINK, status_code=404)
        return HTMLResponse(page["page.html"])

    @app.get("/r/{token}/pair")
    def next_pair(token: str) -> Response:
        return JSONResponse(state(known(token)))

    @app.get("/r/{token}/pairs/{item}")
    def earlier_pair(token: str, item: str) -> Response:
        pair = study.item(known(token), item)
        if pair is None:
            raise HTTPException(404)
        return JSONResponse(_json(pair))

    @app.post("/r/{token}/votes")
    def vote(token: str, ballot: Ballot) -> Response:
        rater = known(token)
        answer = study.vote(rater, ballot.item, ballot.choice, ballot.revision)
        code = {"stored": 200, "unknown": 404}.get(answer.status, 409)
        return JSONResponse({**answer._asdict(), "next": state(rater)}, status_code=code)

    @app.exception_handler(StudyError)
    def unavailable(_: Request, error: Exception) -> Response:
        log.error("%s", error)
        return PlainTextResponse("the study cannot be read or written", status_code=503)

    loopback.guard(app, MAX_BODY)
    return app


def address(port: int, token: str) -> str:
    """A rater's page."""
    return f"http://{loopback.ADDRESS}:{port}/r/{token}/"


def serve(study: Study, listener: socket.socket) -> None:
    """Serve until interrupted."""
    loopback.serve(create_app(study), listener)


def _json(pair: Shown) -> dict[str, Any]:
    return pair._asdict()


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
