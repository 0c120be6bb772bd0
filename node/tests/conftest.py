"""Real nodes for the tests of the outer layers: RocksDB in a temporary directory, real sockets on loopback."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import pytest
from hypothesis import settings

from goud_node.chain import genesis as genesis_document
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.chain.volume import initialize_volume
from goud_node.service import identity
from goud_node.service.lifecycle import start, stop
from goud_node.service.listeners import address, bind
from goud_node.service.node import Node, build
from goud_node.settings import Settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

T = TypeVar("T")


def pytest_collection_finish() -> None:
    """Closing a database collects garbage, and a test process full of modules pays for all of them each time."""
    gc.collect()
    gc.freeze()


class MakeSettings(Protocol):
    def __call__(self, node_id: str = "node1", **overrides: Any) -> Settings: ...


def write_node(directory: Path, node_id: str = "node1", **overrides: Any) -> Settings:
    """Key, genesis document and initialised data directory of a one-validator chain."""
    directory.mkdir(parents=True, exist_ok=True)
    key = SigningKey.generate()
    key.save(directory / "node.key")
    genesis = Genesis("test", 1_700_000_000_000, (Validator(node_id, key.public),))
    genesis_document.dump(genesis, directory / "genesis.json")
    initialize_volume(directory / "data", genesis)
    given: dict[str, Any] = {
        "node_id": node_id,
        "data_dir": directory / "data",
        "data_must_be_mount": False,
        "genesis_file": directory / "genesis.json",
        "node_key_file": directory / "node.key",
        "http_port": 0,
        "peer_port": 0,
        "drain_delay_seconds": 0.0,
        "min_height_wait_seconds": 0.2,
        "volume_refresh_seconds": 0.0,
    }
    return Settings(**(given | overrides))


@dataclass
class Live:
    """A node that runs in a thread of its own, reached as clients reach it."""

    node: Node
    loop: asyncio.AbstractEventLoop
    url: str
    peer_url: str

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the node's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=15, trust_env=False)


@contextmanager
def living(settings: Settings, role: str = "proposer") -> Iterator[Live]:
    """Run a node until the block ends, which begins when it has its role; a failure of the node fails the block."""
    ready = threading.Event()
    found: list[Live] = []
    failure: list[BaseException] = []
    end: list[asyncio.Event] = []

    async def run() -> None:
        with bind("127.0.0.1", 0, "GOUD_HTTP_PORT") as http, bind("127.0.0.1", 0, "GOUD_PEER_PORT") as peer:
            node = build(settings, identity.load(settings))
            try:
                parts = start(node, http, peer)
                end.append(asyncio.Event())
                url, peer_url = f"http://{address(http)}", f"http://{address(peer)}"
                found.append(Live(node, asyncio.get_running_loop(), url, peer_url))
                ready.set()
                await end[0].wait()
                await stop(node, parts)
            finally:
                await node.close()

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001  # handed to the test's thread, which raises it
            failure.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=main)
    thread.start()
    try:
        ready.wait(30)
        if not found:
            raise failure[0]
        wait_for(lambda: found[0].node.replica.status.role == role)
        yield found[0]
    finally:
        if found:
            found[0].loop.call_soon_threadsafe(end[0].set)
        thread.join(30)
    if failure:
        raise failure[0]


def wait_for(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own GOUD_ variables must not reach a test."""
    for name in [name for name in os.environ if name.startswith("GOUD_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    def make(node_id: str = "node1", **overrides: Any) -> Settings:
        return write_node(tmp_path / node_id, node_id, **overrides)

    return make


@pytest.fixture
def run_node() -> Callable[[Settings], AbstractContextManager[Live]]:
    return living


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One node for a whole module."""
    with living(write_node(tmp_path_factory.mktemp("node"))) as running:
        yield running
