"""The process: it stops when told, within its time, and what it acknowledged is there when it comes back."""

from __future__ import annotations

import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from goud_node.chain import genesis as genesis_document
from goud_node.chain.inspect import inspect
from goud_node.settings import Settings

from .support import MakeSettings, environment, run, serving

pytestmark = pytest.mark.programs


@contextmanager
def session(url: str, api_key: str | None = None) -> Iterator[httpx.Client]:
    """A client with a token."""
    with httpx.Client(base_url=url, timeout=15, trust_env=False) as http:
        key = api_key or http.post("/api/accounts").json()["api_key"]
        token = http.post("/api/sessions", json={"api_key": key}).json()["token"]
        http.headers.update({"Authorization": f"Bearer {token}", "X-Test-Key": key})
        yield http


def store(http: httpx.Client, number: int) -> httpx.Response:
    return http.post("/api/collections", json={"label": str(number), "payload": number})


def test_sigterm_ends_it_in_order(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(drain_delay_seconds=0.6)
    with serving(settings, tmp_path / "log") as node, session(node.url) as http:
        acknowledged = [store(http, number).json()["collection_id"] for number in range(5)]
        key = http.headers["X-Test-Key"]
        began = time.monotonic()
        node.terminate()
        time.sleep(0.2)
        red = httpx.get(f"{node.url}/readyz", trust_env=False)
        assert (red.status_code, red.json()["failed"]) == (503, ["draining"])
        during = store(http, 6)
        assert during.status_code == 201, "a node that drains still takes what arrives"
        acknowledged.append(during.json()["collection_id"])
        assert node.process.wait(15) == 0
        assert time.monotonic() - began < 10
        assert "stopped in" in node.log.read_text()
    report = inspect(settings.data_dir, genesis_document.load(settings.genesis_file))
    assert report.ok, report.problem
    assert report.collections == 6
    with serving(settings, tmp_path / "log2") as node, session(node.url, key) as http:
        for number in acknowledged:
            assert http.get(f"/api/collections/{number}").status_code == 200


def test_sigkill_loses_nothing_acknowledged(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    acknowledged: list[str] = []
    with serving(settings, tmp_path / "log") as node, session(node.url) as http:
        key = http.headers["X-Test-Key"]

        def write() -> None:
            number = 0
            while True:
                number += 1
                try:
                    acknowledged.append(store(http, number).json()["collection_id"])
                except httpx.TransportError:
                    return

        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(1.0)
        node.kill()
        writer.join(30)
    assert len(acknowledged) > 10
    with serving(settings, tmp_path / "log2") as node, session(node.url, key) as http:
        missing = [name for name in acknowledged if http.get(f"/api/collections/{name}").status_code != 200]
        assert missing == []


def test_an_open_stream_does_not_hold_up_the_end(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    with serving(settings, tmp_path / "log") as node, session(node.url) as http:
        token = http.headers["Authorization"].removeprefix("Bearer ")
        with connect(f"{node.url.replace('http', 'ws')}/api/events?token={token}", proxy=None) as stream:
            stream.recv(timeout=5)
            began = time.monotonic()
            node.terminate()
            assert node.process.wait(15) == 0
            assert time.monotonic() - began < 8


UNFINISHED = {
    "a head": b"POST /peer/submissions HTTP/1.1\r\nHost: x\r\n",
    "no body": b"POST /peer/submissions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
    "half a body": b"POST /api/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
    "a chunk": b"POST /operator/drain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "too large a body": b"POST /api/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\nhalf",
}


def test_requests_that_never_end_do_not_hold_up_the_end(make_settings: MakeSettings, tmp_path: Path) -> None:
    with serving(make_settings(), tmp_path / "log") as node, ExitStack() as stack:
        for url in (node.url, node.peer_url):
            for start in UNFINISHED.values():
                host, _, port = url.removeprefix("http://").partition(":")
                stream = stack.enter_context(socket.create_connection((host, int(port))))
                stream.sendall(start)
        time.sleep(0.3)
        began = time.monotonic()
        node.terminate()
        assert node.process.wait(15) == 0
        assert time.monotonic() - began < 10
        log = node.log.read_text()
    assert "stopped in" in log
    assert "Traceback" not in log


def test_secrets_are_made_once_and_private(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    paths = [settings.jwt_secret_path, settings.session_secret_path]
    with serving(settings, tmp_path / "log"):
        first = [path.read_bytes() for path in paths]
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600, 0o600]
    assert first[0] != first[1]
    with serving(settings, tmp_path / "log2"):
        assert [path.read_bytes() for path in paths] == first


def test_the_operator_commands(
    make_settings: MakeSettings,
    run_node: Callable[[Settings], AbstractContextManager[Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = make_settings()
    with run_node(settings) as live:
        variables = environment(settings, GOUD_PEER_PORT=live.peer_url.rsplit(":", 1)[1])

        def admin(*arguments: str) -> tuple[int, str, str]:
            return run(monkeypatch, capsys, "admin", *arguments, **variables)

        code, out, _ = admin("status")
        assert code == 0
        assert "proposer" in out
        code, out, _ = admin("checkpoint", "create", "--id", "one", "--json")
        assert code == 0
        assert '"seconds"' in out
        assert (settings.checkpoints_dir / "one" / "CURRENT").is_file()
        assert "one" in admin("checkpoint", "list")[1]
        assert admin("checkpoint", "release", "one")[0] == 0
        assert not (settings.checkpoints_dir / "one").exists()
        code, _, err = admin("checkpoint", "release", "one")
        assert (code, "no checkpoint one" in err) == (12, True)
        assert admin("drain")[0] == 0
        assert live.node.replica.status.draining
        assert admin("undrain")[0] == 0
        code, _, err = admin("hand-over")
        assert (code, "one validator" in err) == (12, True)
        assert admin("start-epoch", "--yes")[0] == 0
        epoch = live.node.replica.status.epoch
    code, _, err = run(monkeypatch, capsys, "admin", "status", **variables)
    assert (code, "does not answer" in err) == (12, True)
    assert epoch in (None, 2)
