"""A real HTTP server on loopback that misbehaves on request."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """One address: what it holds, and what goes wrong there."""

    body: bytes = b""
    etag: str | None = '"v1"'
    last_modified: str | None = None
    ranges: bool = True
    name_length: bool = True
    statuses: list[int] = field(default_factory=list)  # answered first, one a request
    cuts: list[int] = field(default_factory=list)  # bytes sent before the line is cut, one a request
    redirect: str | None = None
    encoding: str | None = None


class Server:
    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []

    def add(self, path: str, body: bytes = b"", **settings: object) -> str:
        self.pages[path] = Page(body, **settings)
        return self.root + path

    def headers(self, name: str) -> list[str | None]:
        """The value of one header in each request so far."""
        return [headers.get(name) for _, headers in self.requests]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    corner: Server

    def do_GET(self) -> None:
        self.corner.requests.append((self.path, dict(self.headers)))
        page = self.corner.pages.get(self.path)
        self.close_connection = True
        if page is None:
            return self._status(404)
        if page.statuses:
            return self._status(page.statuses.pop(0))
        if page.redirect is not None:
            return self._status(302, {"Location": page.redirect})
        headers = {"Connection": "close"}
        if page.etag:
            headers["ETag"] = page.etag
        if page.last_modified:
            headers["Last-Modified"] = page.last_modified
        if page.encoding:
            headers["Content-Encoding"] = page.encoding
        status, body = 200, page.body
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if wanted and page.ranges and condition in (None, page.etag, page.last_modified):
            start = int(wanted[1])
            if start >= len(body):
                return self._status(416, {"Content-Range": f"bytes */{len(body)}"})
            status, body = 206, body[start:]
            headers["Content-Range"] = f"bytes {start}-{len(page.body) - 1}/{len(page.body)}"
        if page.name_length:
            headers["Content-Length"] = str(len(body))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: page.cuts.pop(0)] if page.cuts else body)
        return None

    def _status(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", "Connection": "close", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        corner = Server(http.server_address[1])
        handler.corner = corner
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield corner
        finally:
            http.shutdown()
            thread.join()
