"""What answers without end, in its headers or after them, at once or drop by drop: nobody waits for it, or keeps it."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path
from threading import Thread

import pytest

from goud_backup import choice
from goud_backup.choice import Candidate, Standing, ranking
from goud_backup.drill import child
from goud_backup.drill.child import Child
from goud_backup.errors import NodeFailed, SourceError
from goud_backup.node import NodeClient
from goud_node.documents import MOST_LISTING

from .support import GENESIS, KEYS
from .test_choice import health

OK = b"HTTP/1.1 200 OK\r\n"
MIB = bytes(1024 * 1024)
BOMB = gzip.compress(b" " * 150_000_000 + json.dumps(health("node1")).encode(), 1)
PARTS: dict[str, Callable[[], Iterator[bytes]]] = {
    "a body without end": lambda: chain([OK, b"\r\n"], repeat(MIB)),
    "a body that says that it is long": lambda: chain([OK, b"content-length: 999999999999\r\n\r\n"], repeat(MIB)),
    "chunks without end": lambda: chain([OK, b"transfer-encoding: chunked\r\n\r\n"], repeat(b"5\r\nhello\r\n" * 9000)),
    "a body drop by drop": lambda: chain([OK, b"\r\n"], drops()),
    "chunks drop by drop": lambda: chain([OK, b"transfer-encoding: chunked\r\n\r\n"], drops(b"1\r\n \r\n")),
    "headers without end": lambda: chain([OK], repeat(b"x-more: x\r\n" * 9000)),
    "headers drop by drop": lambda: chain([OK], drops(b"x: x\r\n")),
    "a first line drop by drop": lambda: drops(b"H"),
    "nothing": lambda: drops(b""),
    "a little that unpacks to much": lambda: iter(
        [OK, b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BOMB), BOMB]
    ),
}


def drops(data: bytes = b" ") -> Iterator[bytes]:
    while True:
        yield data
        time.sleep(0.05)


@contextmanager
def sending(parts: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """Sends the parts to each who connects, for half a minute at most; its URL."""
    end = time.monotonic() + 30

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(30)
            connection.recv(9999)
            for part in parts():
                if time.monotonic() > end:
                    return
                connection.sendall(part)

    def accept() -> None:
        with suppress(OSError):
            while True:
                Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    begin = time.monotonic()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 2 * MOST_LISTING + len(MIB)
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begin < seconds


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_a_candidate(parts: Callable[[], Iterator[bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_DEADLINE", 1.0)
    with sending(parts) as url, bounded(10):
        (standing,) = ranking([Candidate("node1", url)])
    assert not standing.fit
    assert "answer" in standing.why
    assert len(standing.why) < 300


@pytest.mark.parametrize("verb", ["wait", "get"])
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_the_node_of_a_drill(
    tmp_path: Path, parts: Callable[[], Iterator[bytes]], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_ANSWER_SECONDS", "_START_SECONDS"):
        monkeypatch.setattr(child, name, 1.0)
    (tmp_path / "log").write_bytes(b"")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with sending(parts) as url:
        node = Child(process, "node1", url, tmp_path / "log")
        try:
            with bounded(10), pytest.raises(NodeFailed, match="answer"):
                node.wait() if verb == "wait" else node.get("/health")
        finally:
            node.close()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], NodeClient]]:
    """Clients of the node at a URL that wait a second for what may take no longer, and read less than else."""
    monkeypatch.setattr("goud_backup.node._MOST_ANSWER", 256 * 1024)
    clients = []

    def client_of(url: str) -> NodeClient:
        clients.append(NodeClient(url, "node1", KEYS["node1"], GENESIS, operator=False))
        real = clients[-1]._answer
        monkeypatch.setattr(clients[-1], "_answer", lambda method, path, body, _: real(method, path, body, 1.0))
        return clients[-1]

    yield client_of
    for made in clients:
        made.close()


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_the_node_of_a_backup(parts: Callable[[], Iterator[bytes]], client: Callable[[str], NodeClient]) -> None:
    with sending(parts) as url:
        node = client(url)
        for call in (node.status, lambda: node.blocks(1), lambda: node.create_checkpoint(60)):
            with bounded(10), pytest.raises(SourceError, match=r"node1 does not answer|refuses|not node1"):
                call()


def test_a_slow_link_that_goes_on_is_waited_for(client: Callable[[str], NodeClient]) -> None:
    size, piece = 256 * 1024, 4 * 1024
    head = OK + b"content-length: %d\r\n\r\n" % size

    def slowly() -> Iterator[bytes]:
        yield head
        for _ in range(size // piece):
            time.sleep(piece / (64 * 1024))
            yield bytes(piece)

    # It came, and only then is it seen that nobody has signed it.
    with sending(slowly) as url, pytest.raises(SourceError, match="is not node1"):
        client(url).status()


@pytest.mark.parametrize(
    "url",
    [
        "http://a..b",
        f"http://{'a' * 70}.b",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:-1",
        "http://exa mple",
        "http://[::1",
        f"http://\u2603{'a' * 300}",
        "http://\ud800",
        "http://",
        "http://\x00",
        "http://127.0.0.1:1/\udcff",
        "http://127.0.0.1:1/\x00",
    ],
)
def test_an_address_that_is_none(url: str, client: Callable[[str], NodeClient]) -> None:
    with pytest.raises(SourceError, match="does not answer"):
        client(url).status()
    (standing,) = ranking([Candidate("node1", url)])
    assert isinstance(standing, Standing)
    assert not standing.fit
    assert standing.why.startswith("does not answer (")


def test_a_refused_connection_is_named() -> None:
    (standing,) = ranking([Candidate("node1", "http://127.0.0.1:9")])
    assert "refused" in standing.why or "Connect call failed" in standing.why
