"""Names of peers that nobody answers, that move, and that have several addresses."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from goud_node.errors import Unavailable
from goud_node.peer.addresses import Addresses, ByAddress
from goud_node.peer.client import PeerClient
from goud_node.peer.directory import Peer

from .support import Live
from .test_client import NODE1, NODE2, account, client_of

SILENT = 40
"""More names than the event loop's own resolver has threads."""


class Names:
    """A name server. A name without an entry stays unanswered until the test ends."""

    def __init__(self) -> None:
        self.entries: dict[str, list[str] | None] = {}
        self.ended = threading.Event()
        self.asked: list[str] = []

    def getaddrinfo(self, name: str | bytes, port: int | None, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        host = name.decode() if isinstance(name, bytes) else name
        self.asked.append(host)
        addresses = self.entries.get(host)
        if addresses is None:
            self.ended.wait(30)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0)) for address in addresses]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.ended.set()


@pytest.fixture
def known_here(live: Live) -> Iterator[Callable[[str], PeerClient]]:
    """Makes node2's client of the real node under another name; the node knows node2's key meanwhile."""
    verifier = live.node.peer_api.state.context.verifier
    verifier._keys["node2"] = NODE2.public

    def client(host: str) -> PeerClient:
        url = live.peer_url.replace("127.0.0.1", host)
        client = client_of({"node1": Peer("node1", url, live.node.identity.key.public)})
        client._chain_id = live.node.identity.genesis.chain_id
        return client

    yield client
    del verifier._keys["node2"]


async def test_a_living_peer_is_reached_while_other_names_stay_unanswered(
    names: Names, known_here: Callable[[str], PeerClient]
) -> None:
    names.entries["living"] = ["127.0.0.1"]
    silent = client_of(
        {
            f"node{number}": Peer(f"node{number}", f"http://silent{number}:9000", NODE1.public)
            for number in range(SILENT)
        }
    )
    client = known_here("living")
    assert await silent.heights() == {}
    assert set(await client.heights()) == {"node1"}
    assert (await client.forward("node1", account())).height > 0
    await silent.heights()
    assert all(names.asked.count(f"silent{number}") == 1 for number in range(SILENT)), "one lookup for each at a time"
    await silent.close()
    await client.close()


async def test_what_was_resolved_is_used_although_the_name_is_gone(
    names: Names, known_here: Callable[[str], PeerClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goud_node.peer.addresses._FRESH_SECONDS", 0.0)
    names.entries["living"] = ["127.0.0.1"]
    client = known_here("living")
    assert set(await client.heights()) == {"node1"}
    gone: list[list[str] | None] = [[], None]  # refused, and unanswered
    for entries in gone:
        names.entries["living"] = entries
        assert set(await client.heights()) == {"node1"}
    await client.close()


async def test_a_peer_that_moved_is_found(names: Names, known_here: Callable[[str], PeerClient]) -> None:
    names.entries["moving"] = ["127.0.0.2"]
    client = known_here("moving")
    assert await client.heights() == {}
    names.entries["moving"] = ["127.0.0.1"]
    for _ in range(20):
        if await client.heights():
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the peer was not found where its name leads")
    await client.close()


@pytest.mark.parametrize("addresses", [["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"]])
async def test_a_peer_is_reached_at_any_of_its_addresses(
    names: Names, known_here: Callable[[str], PeerClient], addresses: list[str]
) -> None:
    names.entries["several"] = addresses
    client = known_here("several")
    assert set(await client.heights()) == {"node1"}
    assert (await client.forward("node1", account())).height > 0
    await client.close()


@pytest.mark.parametrize("entries", [[], None], ids=["refused", "unanswered"])
async def test_a_write_to_a_name_that_is_not_resolved_did_not_happen(names: Names, entries: list[str] | None) -> None:
    if entries is not None:
        names.entries["nobody"] = entries
    client = client_of({"node1": Peer("node1", "http://nobody:9000", NODE1.public)})
    with pytest.raises(Unavailable, match="cannot be reached"):
        await client.forward("node1", account())
    await client.close()


async def test_a_machine_without_a_thread_to_spare_costs_one_lookup(
    names: Names, known_here: Callable[[str], PeerClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    names.entries["peer"] = ["127.0.0.1"]
    client = known_here("peer")

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert await client.heights() == {}
        with pytest.raises(Unavailable, match="cannot be reached"):
            await client.forward("node1", account())
    assert set(await client.heights()) == {"node1"}
    await client.close()


async def test_the_host_keeps_its_name_in_the_request(names: Names) -> None:
    names.entries["node1"] = ["127.0.0.1"]
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200)

    transport = ByAddress(httpx.MockTransport(answer), Addresses())
    async with httpx.AsyncClient(transport=transport) as client:
        await client.post("https://node1:9000/peer/submissions?a=b", content=b"body")
    (request,) = requests
    assert str(request.url) == "https://127.0.0.1:9000/peer/submissions?a=b"
    assert request.headers["Host"] == "node1:9000"
    assert request.extensions["sni_hostname"] == "node1"
    assert request.content == b"body"
