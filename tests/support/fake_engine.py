"""An engine that answers with what a test says is on it, and remembers what was asked of it. No container ever runs."""

from __future__ import annotations

import json
import re
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class FakeEngine:
    """Containers, volumes and images as the engine's API lists them; `changes` are the requests that change things."""

    socket: Path
    containers: list[dict[str, Any]] = field(default_factory=list)
    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What leads Docker's clients here."""
        return {"DOCKER_HOST": f"unix://{self.socket}"}

    def volume(self, name: str, **labels: str) -> None:
        """Put a volume on the engine."""
        self.volumes[name] = {"Name": name, "Driver": "local", "Labels": labels, "Options": None, "Mountpoint": "/x"}

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """The status and the document for one request."""
        parts, query = urlsplit(path), parse_qs(urlsplit(path).query)
        words = unquote(re.sub(r"^/v1\.\d+", "", parts.path))
        if method not in {"GET", "HEAD"}:
            self.changes.append(f"{method} {words}")
        labels = json.loads(query.get("filters", ["{}"])[0]).get("label", [])
        for pattern, reply in self._replies(labels, body).items():
            match = re.fullmatch(pattern, f"{method.replace('HEAD', 'GET')} {words}")
            if match:
                return reply(*match.groups())
        return 404, {"message": f"there is no {path}"}

    def _replies(self, labels: list[str], body: dict[str, Any]) -> dict[str, Callable[..., tuple[int, Any]]]:
        version = {"ApiVersion": "1.43", "MinAPIVersion": "1.12", "Version": "24.0.0", "Os": "linux"}
        return {
            "GET /_ping": lambda: (200, "OK"),
            "GET /version": lambda: (200, version),
            "GET /info": lambda: (200, {"ID": "fake", "ServerVersion": "24.0.0", "OSType": "linux"}),
            "GET /containers/json": lambda: (200, [entry for entry in self.containers if carries(entry, labels)]),
            "GET /volumes": lambda: (
                200,
                {"Volumes": [entry for entry in self.volumes.values() if carries(entry, labels)]},
            ),
            "GET /networks": lambda: (200, []),
            "GET /images/json": lambda: (200, self.images),
            "POST /volumes/create": lambda: self._create(body["Name"], body.get("Labels") or {}),
            "GET /volumes/(.+)": lambda name: (200, self.volumes[name]) if name in self.volumes else (404, {}),
            "DELETE /volumes/(.+)": lambda name: (204, None) if self.volumes.pop(name, None) else (404, {}),
        }

    def _create(self, name: str, labels: dict[str, str]) -> tuple[int, Any]:
        if name not in self.volumes:  # the engine keeps the one that is there
            self.volume(name, **labels)
        return 201, self.volumes[name]


def carries(entry: dict[str, Any], labels: list[str]) -> bool:
    """Tell whether an entry has all labels, each given as NAME=VALUE."""
    return all((entry.get("Labels") or {}).get(name) == value for name, value in (label.split("=") for label in labels))


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    engine: FakeEngine


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        status, document = self.server.engine.answer(self.command, self.path, body)
        content = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - the names that the library looks for

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def fake_engine() -> Iterator[FakeEngine]:
    """An engine behind a socket of its own; its path is short, as those of sockets must be."""
    with tempfile.TemporaryDirectory(prefix="goud") as folder:
        engine = FakeEngine(Path(folder, "engine.sock"))
        with _Server(str(engine.socket), _Handler) as server:
            server.engine = engine
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            yield engine
            server.shutdown()
            thread.join()
