"""Answers that are not what S3 gives: of a small server that leaves a field out, or a proxy's page in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from threading import Thread
from typing import Any

import pytest

from goud_backup.errors import AccessRefused, TargetError
from goud_backup.targets.s3 import S3Target

PAGE = b"<html><body>refused by the proxy</body></html>"
LIST = b"<ListBucketResult><IsTruncated>%s</IsTruncated><Contents><Key>p/a</Key>%s</Contents>%s</ListBucketResult>"
VERBS: dict[str, Callable[[S3Target], object]] = {
    "put": lambda target: target.put("a", b"1"),
    "get": lambda target: target.get("a"),
    "stat": lambda target: target.stat("a"),
    "list": lambda target: list(islice(target.list("a"), 10_000)),
}


@dataclass
class Server:
    """Gives every request the same answer."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    answers = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(answers.status)
            for name, value in {
                "content-length": str(len(answers.body)),
                "connection": "close",
                **answers.headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answers.body)
            self.close_connection = True

    for method in ("GET", "PUT", "HEAD"):
        setattr(Handler, f"do_{method}", Handler.answer)
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listener.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    yield answers
    listener.shutdown()
    listener.server_close()


@pytest.mark.parametrize(
    ("verb", "answer", "lacks"),
    [
        ("put", Server(), "ETag"),
        ("get", Server(body=PAGE), "ETag"),
        ("stat", Server(headers={"content-length": "3"}), "ETag"),
        ("list", Server(body=LIST % (b"false", b"<Size>1</Size>", b"")), "ETag"),
        ("list", Server(body=LIST % (b"false", b'<ETag>"x"</ETag>', b"")), "Size"),
    ],
)
def test_an_answer_that_lacks_a_field_is_named(server: Server, verb: str, answer: Server, lacks: str) -> None:
    vars(server).update(vars(answer))
    with pytest.raises(TargetError, match=f"answered without {lacks}"):
        VERBS[verb](S3Target("bucket", "p"))


@pytest.mark.parametrize("verb", ["put", "get", "list"])
def test_a_page_that_refuses_is_a_refusal(server: Server, verb: str) -> None:
    server.status, server.body, server.headers = 403, PAGE, {"content-type": "text/html"}
    with pytest.raises(AccessRefused, match="403"):
        VERBS[verb](S3Target("bucket", "p"))


@pytest.mark.parametrize("token", [b"", b"<NextContinuationToken>t</NextContinuationToken>"])
def test_a_list_ends(server: Server, token: bytes) -> None:
    """One that says that it goes on must say where, and go on there."""
    server.body = LIST % (b"true", b'<Size>1</Size><ETag>"x"</ETag>', token)
    with pytest.raises(TargetError, match="version 2 of the list call"):
        VERBS["list"](S3Target("bucket", "p"))
