"""Servers for the people at this machine: on loopback only; a page's takes requests of the page itself.

There are no cookies: who may see something is known by a token in the address of their page, which no other
site and no other user of the machine can know.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from vhcr.errors import ParameterError

ADDRESS = "127.0.0.1"
NAMES = frozenset({ADDRESS, "localhost"})  # what a Host header may name; a tunnel may change the port
REQUEST_SECONDS = 10.0  # a page sends its request at once
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # the address is what a reader is known by
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def guard(app: FastAPI, max_body: int, pages_only: bool = True) -> None:
    """Refuse what does not come from the page itself, or is longer than ``max_body`` bytes, with 403.

    Without ``pages_only`` programs that are no browser may ask, too; they name no origin.
    What does not fit a route's record is refused with 422 in plain text: FastAPI's own answer repeats the
    input, and where that holds NaN or half a character it cannot be written.
    """

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return PlainTextResponse(complaint(error).encode("utf-8", "backslashreplace"), status_code=422)

    @app.middleware("http")
    async def guarded(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        why = _refusal(request, max_body, pages_only)
        response = await answer(request) if why is None else PlainTextResponse(why, status_code=403)
        response.headers.update(HEADERS)
        return response


def complaint(error: RequestValidationError) -> str:
    """The first thing that is wrong with a request, without the input."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"


def _refusal(request: Request, max_body: int, pages_only: bool) -> str | None:
    """Why a request is not answered: another site's script, or a name that another site made point here."""
    host = request.headers.get("host", "")
    if host.rsplit(":", 1)[0] not in NAMES:
        return "this server answers to 127.0.0.1 and localhost only"
    if request.method in {"GET", "HEAD"}:
        return None
    origin = request.headers.get("origin")
    if origin != f"http://{host}" and (pages_only or origin is not None):
        return "this is taken from the page of this server only"
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return "only JSON is taken"
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > max_body:
        return f"at most {max_body} bytes are taken"
    return None


def open_socket(port: int) -> socket.socket:
    """A listening socket on loopback; port 0 takes a free one.

    Raises:
        ParameterError: the port is taken or not permitted.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ParameterError(
            f"port {port} cannot be opened: {error.strerror}; choose another --port"
        ) from None
    return listener


def uvicorn_config(app: FastAPI) -> uvicorn.Config:
    """How an application is run. No access log: the addresses are secrets."""
    return uvicorn.Config(
        app,
        http=Impatient,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
    )


class Impatient(H11Protocol):
    """Closes a connection on which a request has not become whole for ``REQUEST_SECONDS``, or twice that."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look."""
        super().connection_made(transport)
        self._looks = 0
        self.loop.call_later(REQUEST_SECONDS, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        cycle = self.cycle
        begun = cycle is not None and cycle.response_complete and self.timeout_keep_alive_task is None
        waits = cycle is None or (cycle.more_body and not cycle.response_complete) or begun
        self._looks = self._looks + 1 if waits else 0
        if self._looks > 1:
            self.transport.abort()
        else:
            self.loop.call_later(REQUEST_SECONDS, self._look)


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve until interrupted."""
    with contextlib.suppress(KeyboardInterrupt), listener:
        uvicorn.Server(uvicorn_config(app)).run(sockets=[listener])
