"""A server on loopback that passes on what another one answers, and breaks the connection in the middle of a body."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Cut = Callable[[str, bytes], int | None]
"""By path and body of an answer, how many of its bytes are sent before the connection breaks; None: all."""

CUTS: dict[str, Callable[[bytes], int]] = {
    "first": lambda _: 0,
    "middle": lambda body: len(body) // 2,
    "last": lambda body: len(body) - 1,
}
"""How much of a body is sent."""

_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}


class Cutter:
    """`cut` decides about every answer to a GET; `cuts` are the paths whose answers were cut, in order.

    With a `pause`, the rest of what is cut follows byte by byte, so many seconds after each other.
    """

    def __init__(self) -> None:
        self.cut: Cut = lambda *_: None
        self.cuts: list[str] = []
        self.requests = 0
        self.pause = 0.0

    @contextmanager
    def serving(self, upstream: str) -> Iterator[str]:
        """The URL to use instead of `upstream`."""
        methods = {f"do_{verb}": _Handler.pass_on for verb in ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH")}
        handler = type("Handler", (_Handler,), {"cutter": self, "upstream": urlsplit(upstream).netloc, **methods})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cutter: Cutter
    upstream: str

    def pass_on(self) -> None:
        self.cutter.requests += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        part = self.cutter.cut(self.path, content) if self.command == "GET" and answer.status < 300 else None
        if part is not None:
            self.cutter.cuts.append(self.path)
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(content[:part])
        if part is not None and self.cutter.pause:
            self._drip(content[part:])

    def _drip(self, content: bytes) -> None:
        with suppress(OSError):
            for number in content:
                time.sleep(self.cutter.pause)
                self.wfile.write(bytes([number]))

    def log_message(self, *_: object) -> None:
        """Nobody reads a log."""
