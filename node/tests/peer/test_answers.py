"""Answers that come slowly, without end, or packed: what one peer may cost."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import httpx
import pytest

from goud_node.chain import encoding
from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate
from goud_node.errors import GoudError, OutcomeUnknown, Unavailable
from goud_node.peer import client as client_module
from goud_node.peer.client import PeerClient
from goud_node.peer.directory import Peer
from goud_node.peer.tokens import Signer, Verifier

from .support import Live
from .test_client import EPOCH, NODE1, NODE2, account, client_of, first_row, signed


class Trickle(httpx.AsyncByteStream):
    """A body that comes in parts, with a pause before each."""

    def __init__(self, part: bytes, parts: int, pause: float = 0.0) -> None:
        self.part, self.parts, self.pause, self.sent = part, parts, pause, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.parts):
            await asyncio.sleep(self.pause)
            self.sent += len(self.part)
            yield self.part


REQUESTS: list[Callable[[PeerClient], Awaitable[object]]] = [
    lambda client: client.heights(),
    lambda client: client.fetch(1, 1, EPOCH),
    lambda client: client.proof("node1"),
    lambda client: client.forward("node1", account()),
]


def streaming(stream: Trickle, **headers: str) -> PeerClient:
    reply = httpx.MockTransport(lambda _: httpx.Response(200, stream=stream, headers=headers))
    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)})
    client._transport = reply
    return client


NAMES = ["heights", "fetch", "proof", "forward"]


@pytest.mark.parametrize("request_of", REQUESTS, ids=NAMES)
async def test_an_answer_without_end_is_given_up(request_of: Callable[[PeerClient], Awaitable[object]]) -> None:
    endless = Trickle(bytes(1 << 20), 1 << 20)
    client = streaming(endless)
    with contextlib.suppress(GoudError):
        await request_of(client)
    assert 0 < endless.sent <= 10 << 20
    await client.close()


async def test_an_answer_that_trickles_is_given_up() -> None:
    """Each part comes in time; one peer must not keep the others from being asked again."""
    client = streaming(Trickle(b"x", 10_000, 0.5))
    async with asyncio.timeout(20):
        assert await client.heights() == {}
    await client.close()


async def test_a_peer_that_drips_its_blocks_is_passed_over_and_asked_last(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = replace(client_module._FETCH, idle_seconds=1.0, least_bytes=1000)
    monkeypatch.setattr(client_module, "_FETCH", limits)
    answer = signed(200, encoding.encode([EPOCH.encode(), [first_row(live)]]))
    asked: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        drips = request.url.host == "node3"
        return httpx.Response(200, stream=Trickle(b"x", 10_000, 0.1)) if drips else answer(request)

    client = client_of({name: Peer(name, f"http://{name}:9000", NODE1.public) for name in ("node1", "node3")}, reply)
    async with asyncio.timeout(20):
        for _ in range(6):
            served = await client.fetch(1, 1, EPOCH)
            assert served is not None
            assert served.peer == "node1"
    assert asked.count("node3") == 1
    await client.close()


async def test_blocks_that_go_on_coming_have_the_time_they_need(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_FETCH", replace(client_module._FETCH, idle_seconds=3.0, least_bytes=20))
    monkeypatch.setattr(client_module, "_PART_BYTES", 10)
    answer = signed(200, encoding.encode([EPOCH.encode(), [first_row(live)]]))

    async def slowly(content: bytes) -> AsyncIterator[bytes]:
        for part in range(6):
            await asyncio.sleep(0.7)
            yield content[part * len(content) // 6 : (part + 1) * len(content) // 6]

    def reply(request: httpx.Request) -> httpx.Response:
        whole = answer(request)
        headers = {"goud-answer": whole.headers["goud-answer"]}
        return httpx.Response(200, content=slowly(whole.content), headers=headers)

    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, reply)
    assert await client.fetch(1, 1, EPOCH) is not None
    await client.close()


async def test_a_slow_link_gets_its_blocks_when_no_peer_is_faster(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link of this node is slow, and one peer is behind: who is too slow has nobody who could do better."""
    monkeypatch.setattr(client_module, "_FETCH", replace(client_module._FETCH, idle_seconds=0.5, least_bytes=1 << 18))
    monkeypatch.setattr(client_module, "_PART_BYTES", 10)
    full = signed(200, encoding.encode([EPOCH.encode(), [first_row(live)]]))
    empty, behind = encoding.encode([EPOCH.encode(), []]), Verifier("node3", {"node2": NODE2.public})
    limits: list[int] = []

    async def slowly(content: bytes) -> AsyncIterator[bytes]:
        for part in range(8):
            await asyncio.sleep(0.1)
            yield content[part * len(content) // 8 : (part + 1) * len(content) // 8]

    def reply(request: httpx.Request) -> httpx.Response:
        if request.url.host == "node3":
            bearer = request.headers["authorization"].removeprefix("Bearer ")
            caller = behind.request(bearer, request.method, request.url.raw_path.decode())
            token = Signer(NODE1, "node3").answer("node2", caller.request_id, 200, empty)
            return httpx.Response(200, content=empty, headers={"goud-answer": token})
        limits.append(int(request.url.params["limit"]))
        whole = full(request)
        return httpx.Response(200, content=slowly(whole.content), headers={"goud-answer": whole.headers["goud-answer"]})

    client = client_of({name: Peer(name, f"http://{name}:9000", NODE1.public) for name in ("node1", "node3")}, reply)
    for _ in range(4):
        served = await client.fetch(1, 64, EPOCH)
        assert served is not None
        assert served.peer == "node1"
    assert limits == [64, 16, 16, 4, 4, 1, 1, 1], "fewer blocks, until they fit"
    monkeypatch.undo()
    for _ in range(3):
        await client.fetch(1, 64, EPOCH)
    assert limits[8:] == [1, 2, 4], "and more again"
    await client.close()


async def test_an_answer_of_many_tiny_transactions_is_no_list_of_blocks(caplog: pytest.LogCaptureFixture) -> None:
    """Each would take some fifty bytes more than its own."""
    header = ["c", 1, bytes(32), 1, "n", bytes(32), 0, 1]
    block = encoding.encode([header, [b"x"] * 30_000, b"s" * 64])
    assert Block.decode(block), "alone it is one"
    row = [block, Certificate(1, bytes(32), {}).encode()]
    reply = signed(200, encoding.encode([EPOCH.encode(), [row]]))
    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, reply)
    with pytest.raises(Unavailable):
        await client.fetch(1, 1, EPOCH)
    assert "shorter than any" in caplog.text
    await client.close()


@pytest.mark.parametrize("request_of", REQUESTS, ids=["heights", "fetch", "proof", "forward"])
async def test_an_answer_is_not_unpacked(request_of: Callable[[PeerClient], Awaitable[object]]) -> None:
    packed = Trickle(gzip.compress(bytes(1 << 20)), 1)
    client = streaming(packed, **{"Content-Encoding": "gzip"})
    with contextlib.suppress(GoudError):
        await request_of(client)
    assert packed.sent == 0
    await client.close()


def odd(kind: Exception | dict[str, str]) -> PeerClient:
    """A client of a peer whose answers have these headers, or are what the library raises of them."""

    def reply(_: httpx.Request) -> httpx.Response:
        if isinstance(kind, Exception):
            raise kind
        return httpx.Response(302, headers={name.encode(): value.encode() for name, value in kind.items()})

    return client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, reply)


ODD_TEXT = "\x1b[2J\n2026-11-27 CRITICAL all is lost\x9b\u202e\u2028"
ODD_DETAIL = json.dumps({"detail": ODD_TEXT, "chain_id": ODD_TEXT}).encode()
ODD: list[Exception | dict[str, str]] = [
    *({"Location": place} for place in ("http:a", "http://[", "//a:b", "http://\u2603\u200d.x", "\x01", "x" * 70_000)),
    *(httpx.InvalidURL("x"), httpx.CookieConflict("x"), httpx.StreamClosed(), httpx.DecodingError("x")),
    *(UnicodeError("x"), OverflowError("x"), AttributeError("x"), KeyError("x"), RuntimeError("x")),
]


@pytest.mark.parametrize(
    "kind", ODD, ids=lambda kind: str(kind)[:30] if isinstance(kind, dict) else type(kind).__name__
)
async def test_whatever_an_answer_does_to_the_library_is_that_peers_failure(
    kind: Exception | dict[str, str],
) -> None:
    client = odd(kind)
    assert await client.heights() == {}
    assert await client.proof("node1") is None
    with pytest.raises(Unavailable):
        await client.fetch(1, 1, EPOCH)
    with pytest.raises(OutcomeUnknown):
        await client.forward("node1", account())
    await client.close()


async def test_a_peer_that_cannot_be_read_ends_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    client = odd(httpx.InvalidURL("x"))

    def breaks(*_: object) -> None:
        raise AttributeError

    for _ in range(2):
        watch = asyncio.create_task(client.watch(0.01))
        await asyncio.wait([watch], timeout=0.1)
        assert not watch.done()
        watch.cancel()
        # A defect of our own, met by what one peer says, is not the other peers' either.
        monkeypatch.setattr(client._signer, "request", breaks)
    await client.close()


async def test_nothing_of_an_answer_comes_with_later_requests() -> None:
    """It is not signed before it is read; and what one peer could add would be refused by the others."""
    request_headers: list[httpx.Headers] = []
    more = ("; Path=/", "; Domain=.local; Max-Age=99999999", "; Domain=node1", "")

    def reply(request: httpx.Request) -> httpx.Response:
        request_headers.append(request.headers)
        count = len(request_headers)
        cookies = [("Set-Cookie", f"c{count}-{number}=x{end}") for number, end in enumerate(more)]
        return httpx.Response(200, headers=[*cookies, ("Location", "/other")], content=b"{}")

    client = client_of({name: Peer(name, f"http://{name}:9000", NODE1.public) for name in ("node1", "node3")}, reply)
    for _ in range(3):
        await client.heights()
    assert [names for names in map(set, request_headers) if names != set(request_headers[0])] == []
    assert not any("cookie" in headers for headers in request_headers)
    await client.close()


@pytest.mark.parametrize("reply", [lambda _: httpx.Response(401, content=ODD_TEXT.encode()), signed(503, ODD_DETAIL)])
async def test_no_answer_writes_lines_of_its_own_to_the_log(
    caplog: pytest.LogCaptureFixture, reply: Callable[[httpx.Request], httpx.Response]
) -> None:
    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, reply)
    await client.heights()
    await client.heights()
    await client.proof("node1")
    with pytest.raises(Unavailable):
        await client.fetch(1, 1, EPOCH)
    assert caplog.messages
    assert all(message.isprintable() for message in caplog.messages)
    await client.close()
