"""The throw-away node of a drill: a real `goud-node serve` on restored data, that reads and orders nothing."""

from __future__ import annotations

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

COMMAND: Final = (sys.executable, "-m", "goud_node.cli", "serve")
_START_SECONDS: Final = 120.0
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
        self._http = httpx.Client(base_url=url, timeout=httpx.Timeout(30.0, connect=3.0), trust_env=False)

    def wait(self) -> None:
        """Until it answers for itself. Raises NodeFailed."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self.ended_with() is not None:
                raise self._failed(f"ended with exit code {self.ended_with()} instead of serving")
            try:
                # Not for long: what answers may be somebody else, on a port that was free a moment ago.
                if self._http.get("/health", timeout=1.0).json()["node_id"] == self._name:
                    return
            except (httpx.HTTPError, ValueError, KeyError, TypeError):
                pass  # not yet
            time.sleep(0.05)
        raise self._failed(f"did not answer within {_START_SECONDS:g} s")

    def get(self, path: str) -> dict[str, Any]:
        """A document of its public interface. Raises NodeFailed."""
        try:
            response = self._http.get(path)
            response.raise_for_status()
            document: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise self._failed(f"gave no answer to GET {path} ({error})") from error
        return document

    def stop(self) -> None:
        """Ask it to end, and see it end by itself. Raises NodeFailed."""
        self._process.terminate()
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise self._failed(f"did not end within {_STOP_SECONDS:g} s of SIGTERM") from error
        if code != 0:
            raise self._failed(f"ended with exit code {code} after SIGTERM")

    def ended_with(self) -> int | None:
        return self._process.poll()

    def close(self) -> None:
        """Whatever happened before, no process stays."""
        with held_back():
            self._http.close()
            self._process.kill()
            self._process.wait()

    def _failed(self, what: str) -> NodeFailed:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = " / ".join(line.strip() for line in lines[-3:]) or "nothing"
        return NodeFailed(f"The throw-away node {what}. Its last words: {said[-1000:]}")


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
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return int(one.getsockname()[1]), int(other.getsockname()[1])
