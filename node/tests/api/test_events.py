"""Events: who may listen, what arrives, and what happens to those who are slow."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close, Frame, Opcode
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from goud_node.api.events import Listener
from goud_node.settings import Settings

from .support import Account, Live

Stream = AbstractContextManager[ClientConnection]


def open_stream(live: Live, query: str = "", **options: Any) -> Stream:
    stream: Stream = connect(f"{live.url.replace('http', 'ws')}/api/events{query}", proxy=None, **options)
    return stream


def receive(stream: ClientConnection) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(stream.recv(timeout=10))
    return event


def by_query(live: Live, token: str) -> Stream:
    return open_stream(live, f"?token={token}")


def by_header(live: Live, token: str) -> Stream:
    return open_stream(live, additional_headers={"Authorization": f"Bearer {token}"})


def by_subprotocol(live: Live, token: str) -> Stream:
    return open_stream(live, subprotocols=[Subprotocol("goud.events"), Subprotocol(f"goud.token.{token}")])


@contextmanager
def by_message(live: Live, token: str) -> Iterator[ClientConnection]:
    with open_stream(live) as stream:
        stream.send(json.dumps({"token": token}))
        yield stream


def test_the_token_is_not_the_chosen_subprotocol(live: Live, account: Account) -> None:
    with by_subprotocol(live, account.token) as stream:
        assert stream.subprotocol == "goud.events"


@pytest.mark.parametrize("way", [by_query, by_header, by_subprotocol, by_message])
def test_blocks_and_own_events_arrive(live: Live, account: Account, way: Callable[[Live, str], Stream]) -> None:
    with way(live, account.token) as stream:
        hello = receive(stream)
        assert (hello["type"], hello["account_id"]) == ("hello", account.account_id)
        stored = account.store("a", 1).json()
        block, own = receive(stream), receive(stream)
    assert (block["type"], block["height"], block["count"]) == ("block", stored["height"], 1)
    assert block["hash"] == stored["block_hash"]
    assert own == {
        "type": "collection.put",
        "collection_id": stored["collection_id"],
        "height": stored["height"],
        "index": stored["index"],
    }


def test_the_events_of_others_stay_theirs(live: Live, new_account: Callable[[], Account]) -> None:
    mine, other = new_account(), new_account()
    with by_query(live, mine.token) as stream:
        receive(stream)
        other.store("b", 2)
        last = mine.store("a", 1).json()["height"]
        seen = [receive(stream) for _ in range(3)]
    assert [event["type"] for event in seen] == ["block", "block", "collection.put"]
    assert seen[-1]["height"] == last


def test_a_wrong_token_is_refused_before_the_upgrade(live: Live) -> None:
    with pytest.raises(InvalidStatus) as caught, by_query(live, "forged"):
        pass
    assert caught.value.response.status_code == 401
    assert caught.value.response.headers["content-type"] == "application/problem+json"
    assert json.loads(bytes(caught.value.response.body or b""))["code"] == "unauthorized"


@pytest.mark.parametrize(
    "message", ["[]", "{}", '{"token": 5}', '{"token": "x"}', '{"token": "\\ud800"}', "not json", "[" * 3000]
)
def test_a_wrong_first_message_closes_the_stream(live: Live, message: str) -> None:
    with open_stream(live) as stream:
        stream.send(message)
        with pytest.raises(ConnectionClosed) as caught:
            stream.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4401


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('{"token": "x", "token": "TOKEN"}', "it names 'token' twice"),
        ('{"token": "TOKEN", "since": 1e400}', "1e400 is larger than any number"),
        ('{"token": "TOKEN", "since": NaN}', "NaN is not a number of JSON"),
        ('{"token": "TOKEN", "%s": 1, "%s": 2}' % (("ä" * 90,) * 2), "it names 'ääää"),
        ("{}", "`token`"),
    ],
    ids=["twice", "infinite", "nan", "long", "missing"],
)
def test_a_first_message_is_read_strictly(live: Live, account: Account, message: str, reason: str) -> None:
    with open_stream(live) as stream:
        stream.send(message.replace("TOKEN", account.token))
        with pytest.raises(ConnectionClosed) as caught:
            stream.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4401
    assert reason in caught.value.rcvd.reason


@pytest.mark.parametrize("message", [b"not json", b'{"token": "x"}', b"{}"])
def test_who_leaves_with_a_wrong_first_message_is_no_error_of_the_node(
    live: Live, caplog: pytest.LogCaptureFixture, message: bytes
) -> None:
    """Anybody can do it, so it must cost no traceback in the log."""
    frames = [Frame(Opcode.TEXT, message), Frame(Opcode.CLOSE, Close(1000, "").serialize())]
    with caplog.at_level(logging.ERROR), open_stream(live) as stream:
        stream.socket.sendall(b"".join(frame.serialize(mask=True) for frame in frames))
        with pytest.raises(ConnectionClosed):
            stream.recv(timeout=10)
        time.sleep(0.2)
    assert [record.getMessage() for record in caplog.records] == []


def test_no_first_message_closes_the_stream(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goud_node.api.events._FIRST_MESSAGE_SECONDS", 0.1)
    with open_stream(live) as stream, pytest.raises(ConnectionClosed) as caught:
        stream.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4401


def test_the_stream_ends_with_its_token(live: Live, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    context = live.node.api.state.context
    principal = context.tokens.verify(account.token)
    monkeypatch.setattr(context, "wall", lambda: principal.expires - 0.2)
    with by_query(live, account.token) as stream:
        receive(stream)
        with pytest.raises(ConnectionClosed) as caught:
            stream.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, "expired" in caught.value.rcvd.reason) == (4401, True)


def test_a_slow_listener_is_dropped_and_memory_stays_bounded() -> None:
    listener = Listener("a", 3)
    for number in range(10):
        listener.offer(str(number))
    assert listener.overrun.is_set()
    assert listener.queue.qsize() == 3


def test_a_dropped_listener_is_told_why(live: Live, account: Account) -> None:
    with by_query(live, account.token) as stream:
        receive(stream)
        (listener,) = live.node.broadcaster._listeners
        live.loop.call_soon_threadsafe(listener.overrun.set)
        with pytest.raises(ConnectionClosed) as caught:
            stream.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, "too slowly" in caught.value.rcvd.reason) == (1013, True)


@pytest.mark.parametrize(
    ("size", "count"), [(100_000, 400), (20_000_000, 1), (50, 10_000)], ids=["many large", "one large", "many small"]
)
def test_who_stops_reading_does_not_keep_a_place(
    make_settings: Callable[..., Settings],
    run_node: Callable[[Settings], AbstractContextManager[Live]],
    size: int,
    count: int,
) -> None:
    with run_node(make_settings(events_send_seconds=0.5)) as live, silent(live):
        wait_for(lambda: bool(live.node.broadcaster._listeners))
        (listener,) = live.node.broadcaster._listeners
        for _ in range(count):
            live.loop.call_soon_threadsafe(listener.offer, "x" * size)
        wait_for(lambda: not live.node.broadcaster._listeners, seconds=8)
        assert "goud_websocket_connections 0.0" in live.node.metrics.exposition("")[0].decode()


@contextmanager
def silent(live: Live) -> Iterator[None]:
    """A client of the stream that never reads."""
    account = Account(live.url)
    host, _, port = live.url.removeprefix("http://").partition(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.sendall(
            b"GET /api/events?token=%s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" % account.token.encode()
        )
        yield
    account.http.close()


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_streams_are_limited_and_counted(live: Live, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    context = live.node.api.state.context
    limited = context.settings.model_copy(update={"events_connections": 1})
    monkeypatch.setattr(context, "settings", limited)
    with by_query(live, account.token) as first:
        receive(first)
        assert "goud_websocket_connections 1.0" in account.http.get("/api/metrics/prometheus").text
        with by_query(live, account.token) as second, pytest.raises(ConnectionClosed) as caught:
            second.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1013


def test_no_account_takes_the_streams_of_all(live: Live, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sessions it has."""
    context = live.node.api.state.context
    for total, share in ((12, 8), (100, 10)):
        monkeypatch.setattr(context, "settings", context.settings.model_copy(update={"events_connections": total}))
        session = account.session()
        with ExitStack() as stack:
            for number in range(share):
                receive(stack.enter_context(by_query(live, (account.token, session)[number % 2])))
            for token in (account.token, session):
                with by_query(live, token) as more, pytest.raises(ConnectionClosed) as caught:
                    more.recv(timeout=10)
                assert caught.value.rcvd is not None
                assert (caught.value.rcvd.code, "account" in caught.value.rcvd.reason) == (1013, True)
            other = Account(live.url)
            receive(stack.enter_context(by_query(live, other.token)))
            other.http.close()
        wait_for(lambda: not live.node.broadcaster._listeners)
