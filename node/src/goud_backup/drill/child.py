"""The throw-away node of a drill: a real `goud-node serve` on restored data, that reads and orders nothing."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from goud_backup.drill.signals import held_back
from goud_backup.errors import NodeFailed
from goud_node.chain import genesis as genesis_document
from goud_node.chain.genesis import Genesis
from goud_node.chain.keys import SigningKey
from goud_node.documents import MOST_LISTING, Malformed, read
from goud_node.exchange import reason, request_of, whole

COMMAND: Final = (sys.executable, "-m", "goud_node.cli", "serve")
_START_SECONDS: Final = 120.0
_ANSWER_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 20.0
_ATTEMPTS: Final = 3
_PORT_IN_USE: Final = 10
"""Exit code of the node whose port somebody else took between looking for a free one and binding it."""
_HANDED_ON: Final = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""All that it gets of the environment: no setting of the host's own node, and no credential."""


class Child:
    """The running node: ask it, then stop it."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, url: str, log: Path) -> None:
        self._process = process
        self._name = name
        self._log = log
        self._url = url

    def wait(self) -> None:
        """Until it answers for itself. Raises NodeFailed."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self.ended_with() is not None:
                raise self._failure(f"ended with exit code {self.ended_with()} instead of serving")
            try:
                # Not for long: what answers may be somebody else, on a port that was free a moment ago.
                if self._document("/health", 1.0).get("node_id") == self._name:
                    return
            except (httpx.HTTPError, Malformed):
                pass  # not yet
            time.sleep(0.05)
        raise self._failure(f"did not answer within {_START_SECONDS:g} s")

    def get(self, path: str) -> dict[str, Any]:
        """A document of its public interface. Raises NodeFailed."""
        try:
            return self._document(path, _ANSWER_SECONDS)
        except (httpx.HTTPError, Malformed) as error:
            raise self._failure(f"gave no answer to GET {path} ({reason(error)})") from error

    def stop(self) -> None:
        """Ask it to end, and see it end by itself. Raises NodeFailed."""
        self._process.terminate()
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise self._failure(f"did not end within {_STOP_SECONDS:g} s of SIGTERM") from error
        if code != 0:
            raise self._failure(f"ended with exit code {code} after SIGTERM")

    def ended_with(self) -> int | None:
        return self._process.poll()

    def close(self) -> None:
        """Whatever happened before, no process stays."""
        with held_back():
            self._process.kill()
            self._process.wait()

    def _document(self, path: str, seconds: float) -> dict[str, Any]:
        """Raises Malformed, httpx.HTTPError. A port that was free a moment ago may be anybody's now."""

        async def ask() -> httpx.Response:
            request = request_of("GET", f"{self._url}{path}", httpx.Timeout(seconds, connect=3.0))
            async with httpx.AsyncHTTPTransport(trust_env=False) as transport:
                return await whole(transport, request, MOST_LISTING, seconds)

        # A block's page is the longest.
        return read(asyncio.run(ask()).raise_for_status().content, dict[str, Any], MOST_LISTING)

    def _failure(self, event: str) -> NodeFailed:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        words = " / ".join(line.strip() for line in lines[-3:]) or "nothing"
        return NodeFailed(f"The throw-away node {event}. Its last words: {words[-1000:]}")


@contextmanager
def serving(folder: Path, genesis: Genesis) -> Iterator[Child]:
    """Serve `folder`/data, which nobody else uses, on free ports of loopback. Raises NodeFailed."""
    settings = _settings(folder, genesis)
    with ExitStack() as stack:
        for attempt in range(1, _ATTEMPTS + 1):
            with held_back():
                child = _start(folder, settings)
                stack.callback(child.close)
            try:
                child.wait()
            except NodeFailed:
                if child.ended_with() != _PORT_IN_USE or attempt == _ATTEMPTS:
                    raise
            else:
                break
        yield child


def _settings(folder: Path, genesis: Genesis) -> dict[str, str]:
    # No name and no key of the chain's: even where it could reach the other nodes, it is nobody to them.
    name = f"drill-{secrets.token_hex(8)}"
    key = SigningKey.generate()
    key.save(folder / "node.key")
    genesis_document.dump(genesis, folder / "genesis.json")
    entry = {"node_id": name, "url": "http://127.0.0.1:1", "public_key": key.public.hex()}
    (folder / "peers.json").write_text(json.dumps([entry]), encoding="utf-8")
    return {
        "GOUD_NODE_ID": name,
        "GOUD_STANDALONE": "true",
        "GOUD_GENESIS_FILE": str(folder / "genesis.json"),
        "GOUD_NODE_KEY_FILE": str(folder / "node.key"),
        "GOUD_PEERS_FILE": str(folder / "peers.json"),
        "GOUD_DATA_DIR": str(folder / "data"),
        "GOUD_DATA_MUST_BE_MOUNT": "false",
        "GOUD_HTTP_HOST": "127.0.0.1",
        "GOUD_PEER_HOST": "127.0.0.1",
        "GOUD_DRAIN_DELAY_SECONDS": "0",
    }


def _start(folder: Path, settings: dict[str, str]) -> Child:
    public, peer = _free_ports()
    ports = {"GOUD_HTTP_PORT": str(public), "GOUD_PEER_PORT": str(peer)}
    environment = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    log = folder / "node.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            COMMAND,
            cwd=folder,
            env={**environment, **settings, **ports},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return Child(process, settings["GOUD_NODE_ID"], f"http://127.0.0.1:{public}", log)


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as public, socket.create_server(("127.0.0.1", 0)) as peer:
        return int(public.getsockname()[1]), int(peer.getsockname()[1])
