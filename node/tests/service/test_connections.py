"""What strangers send before anybody knows them: it has bounds, and nobody is left without an end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from goud_node.service import connections
from goud_node.service.connections import MOST_HEAD_BYTES, MOST_HEADER_LINES
from goud_node.service.listeners import Listener, address, bind
from goud_node.settings import Settings

MEGABYTE = 1 << 20
MUCH = 8 * MEGABYTE
"""More than the kernel keeps for a reader that does not read."""
WEBSOCKET = (
    b"GET /api/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@asynccontextmanager
async def serving(app: ASGIApp, settings: Settings) -> AsyncIterator[Connect]:
    sock = bind("127.0.0.1", 0, "GOUD_HTTP_PORT")
    host, _, port = address(sock).rpartition(":")
    listener = Listener(app, sock, settings)
    task = asyncio.create_task(listener.run())
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        return reader, writer

    try:
        yield connect
    finally:
        for writer in writers:
            writer.transport.abort()
        listener.stop()
        await task


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the size of the body, and with the headers' names."""
    request = Request(scope, receive)
    size = len(await request.body())
    await PlainTextResponse(f"{size} {' '.join(request.headers)}")(scope, receive, send)


@pytest.fixture
async def connect(make_settings: Callable[..., Settings]) -> AsyncIterator[Connect]:
    async with serving(echo, make_settings()) as connect:
        yield connect


async def said(reader: asyncio.StreamReader) -> bytes:
    """All that is answered until the end."""
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionError:
            return b"reset"


async def taken(connect: Connect, start: bytes, parts: Iterator[bytes]) -> tuple[int, bytes]:
    """Bytes that were sent before an answer came, of at most `MUCH`; and the answer."""
    reader, writer = await connect()
    writer.write(start)
    size = 0
    answer = asyncio.create_task(said(reader))
    try:
        while size < MUCH and not reader._buffer and not answer.done():  # type: ignore[attr-defined]  # as it comes
            writer.write(part := next(parts))
            await writer.drain()
            await asyncio.sleep(0)
            size += len(part)
    except ConnectionError:
        pass
    return size, await answer


def repeated(part: bytes) -> Iterator[bytes]:
    while True:
        yield part


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", answer)]


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"GET /", b"x" * 4096),
        (b"GET / HTTP/1.1\r\n", b"x" * 4096),
        (b"GET / HTTP/1.1\r\nHost: x\r\nCookie: ", b"x" * 4096),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a:\r\n" * 1024),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"Cookie: " + b"x" * 4000 + b"\r\n"),
        (b"", b"\r\n" * 2048),
        (CHUNKED + b"1;", b"x" * 4096),
        (CHUNKED, b"1;" + b"x" * 4093 + b"\r\na\r\n"),
        (CHUNKED + b"0\r\nTrailer: ", b"x" * 4096),
        (CHUNKED + b"0\r\n", b"a:\r\n" * 1024),
    ],
    ids=[
        "target",
        "name",
        "value",
        "many lines",
        "long lines",
        "empty lines",
        "extension",
        "extensions",
        "trailer",
        "trailers",
    ],
)
async def test_what_has_no_end_is_refused(connect: Connect, start: bytes, part: bytes) -> None:
    size, answer = await taken(connect, start, repeated(part))
    assert statuses(answer) == [431]
    assert b"application/problem+json" in answer
    assert size < MUCH


@pytest.mark.parametrize(("size", "status"), [(MOST_HEAD_BYTES - 200, 200), (MOST_HEAD_BYTES + 1, 431)])
async def test_a_head_has_so_many_bytes(connect: Connect, size: int, status: int) -> None:
    for pieces in (1, 5):
        head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: " + b"x" * size + b"\r\n\r\n"
        reader, writer = await connect()
        step = -(-len(head) // pieces)
        for start in range(0, len(head), step):
            writer.write(head[start : start + step])
            await writer.drain()
            await asyncio.sleep(0.01)
        assert statuses(await said(reader)) == [status]


@pytest.mark.parametrize(("lines", "status"), [(MOST_HEADER_LINES, 200), (MOST_HEADER_LINES + 1, 431)])
async def test_a_head_has_so_many_lines(connect: Connect, lines: int, status: int) -> None:
    reader, writer = await connect()
    writer.write(b"GET / HTTP/1.1\r\nConnection: close\r\n" + b"a: b\r\n" * (lines - 1) + b"\r\n")
    assert statuses(await said(reader)) == [status]


async def test_a_body_in_small_chunks_is_read_and_its_trailers_are_no_headers(connect: Connect) -> None:
    reader, writer = await connect()
    start = b"POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(start + b"1\r\na\r\n" * 100_000 + b"0\r\nAuthorization: Bearer x\r\n\r\n")
    answer = await said(reader)
    assert statuses(answer) == [200]
    assert b"100000 " in answer
    assert b"authorization" not in answer


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["none", "line", "head"])
async def test_who_does_not_finish_the_headers_is_hung_up_on(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    reader, writer = await connect()
    writer.write(start)
    assert statuses(await said(reader)) == ([408] if start else [])


async def test_a_later_request_has_as_much_time(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    reader, writer = await connect()
    for _ in range(3):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"host")
        await asyncio.sleep(0.4)
    writer.write(b"\r\n")
    assert statuses(await said(reader)) == []


async def drip(writer: asyncio.StreamWriter, part: bytes, seconds: float) -> None:
    """Send it again and again, until nobody listens."""
    while not writer.transport.is_closing():
        writer.write(part)
        await asyncio.sleep(seconds)


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(connections, "BODY_BYTES", 1000)


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n", b"x"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n" + b"x" * 5000, b"x"),
        (CHUNKED, b"1\r\na\r\n"),
        (CHUNKED + b"1;", b"x"),
        (CHUNKED + b"0\r\nTrailer: ", b"x"),
    ],
    ids=["sized", "stops half-way", "chunked", "extension", "trailer"],
)
@pytest.mark.usefixtures("hurry")
async def test_who_drips_a_body_is_hung_up_on(connect: Connect, start: bytes, part: bytes) -> None:
    reader, writer = await connect()
    writer.write(start)
    dripping = asyncio.create_task(drip(writer, part, 0.02))
    try:
        answer = await said(reader)
    finally:
        dripping.cancel()
    assert statuses(answer) == [408]
    assert b"request-timeout" in answer


async def test_a_body_that_goes_on_has_the_time_it_needs(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a clock: whatever else the machine does, the time is over when enough has come."""
    monkeypatch.setattr(connections, "BODY_BYTES", 1000)
    accepted: list[connections.Requests] = []
    accept = connections.Requests.connection_made

    def watched(requests: connections.Requests, transport: asyncio.Transport) -> None:
        accepted.append(requests)
        accept(requests, transport)

    monkeypatch.setattr(connections.Requests, "connection_made", watched)
    reader, writer = await connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10000\r\n\r\n")
    for _ in range(9):
        writer.write(b"x" * 1000)
        async with asyncio.timeout(10):
            while not accepted or accepted[0]._body_bytes < 1000:  # noqa: ASYNC110  # nobody tells when
                await asyncio.sleep(0.01)
        accepted[0]._on_slow_body()
    writer.write(b"x" * 1000)
    assert statuses(await said(reader)) == [200]


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"], ids=["sends", "waits for its turn"])
@pytest.mark.usefixtures("hurry")
async def test_nobody_is_blamed_for_what_the_node_does_not_read(
    make_settings: Callable[..., Settings], expect: bytes
) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.7)
        await echo(scope, receive, send)

    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n" % MEGABYTE
    async with serving(slow, make_settings()) as connect:
        reader, writer = await connect()
        writer.write(head + expect + b"\r\n")
        if expect:
            await reader.readuntil(b"100 Continue\r\n\r\n")
        writer.write(b"x" * MEGABYTE)
        assert statuses(await said(reader)) == [200]


@pytest.mark.usefixtures("hurry")
async def test_a_body_that_comes_after_its_answer_has_an_end(make_settings: Callable[..., Settings]) -> None:
    async def hasty(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("no", 403)(scope, receive, send)

    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    async with serving(hasty, make_settings()) as connect:
        reader, writer = await connect()
        writer.write(head % 10_000)
        dripping = asyncio.create_task(drip(writer, b"x", 0.02))
        try:
            await reader.readuntil(b"HTTP/1.1 403")
            assert statuses(await said(reader)) == []
        finally:
            dripping.cancel()
        reader, writer = await connect()
        writer.write(head % 10_000 + b"x" * 10_000 + head % 0)
        await reader.readuntil(b"HTTP/1.1 403")
        await reader.readuntil(b"HTTP/1.1 403")
        reader, writer = await connect()
        writer.write(head % (1 << 40))
        dripping = asyncio.create_task(drip(writer, b"x" * 65536, 0.005))
        try:
            await reader.readuntil(b"HTTP/1.1 403")
            assert statuses(await said(reader)) == []
        finally:
            dripping.cancel()


async def test_a_refusal_does_not_pass_for_the_answer_to_an_earlier_request(
    make_settings: Callable[..., Settings],
) -> None:
    ready = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await ready.wait()
        await echo(scope, receive, send)

    first = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"
    async with serving(slow, make_settings()) as connect:
        for second in (b"\x00\x01\x02", b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 200, b"\r\n" + WEBSOCKET + b"\r\n"):
            ready.clear()
            reader, writer = await connect()
            writer.write(first + second)
            await asyncio.sleep(0.1)
            ready.set()
            answer = await said(reader)
            assert statuses(answer) == [200]
            assert b"connection: close" in answer


async def test_only_so_many_requests_wait_on_a_connection(make_settings: Callable[..., Settings]) -> None:
    ready = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await ready.wait()
        await echo(scope, receive, send)

    async with serving(slow, make_settings()) as connect:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        await asyncio.sleep(0.1)
        ready.set()
        assert statuses(await said(reader)) == [200] * (1 + connections.MOST_WAITING)


async def test_a_body_behind_another_upgrade_is_no_request(connect: Connect) -> None:
    inner = b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n"
    for pause in (0, 0.05):
        reader, writer = await connect()
        writer.write(head % len(inner))
        await asyncio.sleep(pause)
        writer.write(inner)
        assert statuses(await said(reader)) == [200]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"Cookie: " + b"x" * 8200, 431),
        (b"Cookie: " + b"x" * 60_000, 431),
        (b"Content-Length: 5", 400),
        (b"Sec-WebSocket-Version: 12", 400),
    ],
)
async def test_a_websocket_that_is_refused_is_told_so(connect: Connect, line: bytes, status: int) -> None:
    reader, writer = await connect()
    writer.write(WEBSOCKET + line + b"\r\n\r\n")
    assert statuses(await said(reader)) == [status]


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(b"x" * 4 * MUCH)(scope, receive, send)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows with every connection that ends; who takes nothing has half a second."""
    ends: list[object] = []
    lose = connections.Requests.connection_lost

    def watched(requests: connections.Requests, error: Exception | None) -> None:
        ends.append(error)
        lose(requests, error)

    monkeypatch.setattr(connections.Requests, "connection_lost", watched)
    monkeypatch.setattr(connections, "SEND_SECONDS", 0.5)
    return ends


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"], ids=["stays", "closes"])
async def test_an_answer_that_nobody_takes_is_not_kept(
    make_settings: Callable[..., Settings], ends: list[object], count: int, more: bytes
) -> None:
    async with serving(large, make_settings()) as connect:
        _, writer = await connect()
        writer.write((b"GET / HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n") * count)
        async with asyncio.timeout(5):
            while not ends:  # noqa: ASYNC110  # nobody tells when
                await asyncio.sleep(0.01)


@pytest.mark.usefixtures("ends")
async def test_an_answer_that_is_taken_slowly_is_sent_whole(make_settings: Callable[..., Settings]) -> None:
    async with serving(large, make_settings()) as connect:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        size = 0
        async with asyncio.timeout(20):
            while part := await reader.read(MEGABYTE):
                size += len(part)
                await asyncio.sleep(len(part) / MUCH / 4)
        assert size > 4 * MUCH
