"""The peer client against a real node, and against peers that lie."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import httpx
import pytest
import pytest_asyncio

from goud_node import clock, errors
from goud_node.chain import encoding
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Epoch
from goud_node.chain.transactions import AccountCreate
from goud_node.errors import GoudError, IdempotencyConflict, InvalidTransaction, NotLeader, OutcomeUnknown, Unavailable
from goud_node.peer.client import PeerClient
from goud_node.peer.directory import Peer
from goud_node.peer.tokens import Signer, Verifier

from .support import Live
from .test_server import grow

NODE1 = SigningKey.from_seed(b"\1" * 32)
NODE2 = SigningKey.from_seed(b"\2" * 32)
CHAIN = "goud-test"
EPOCH = Epoch(1, 0, bytes(32))
OTHER_EPOCH = Epoch(2, 1, bytes(32))


def client_of(peers: dict[str, Peer], handler: Callable[[httpx.Request], httpx.Response] | None = None) -> PeerClient:
    keys = {"node1": NODE1.public, "node2": NODE2.public} | {peer.node_id: peer.public_key for peer in peers.values()}
    return PeerClient(
        peers,
        CHAIN,
        Signer(NODE2, "node2"),
        Verifier("node2", keys),
        forward_seconds=2,
        transport=None if handler is None else httpx.MockTransport(handler),
    )


@pytest_asyncio.fixture
async def client(live: Live) -> AsyncIterator[PeerClient]:
    """node2's client of the real node, which knows node2's key for as long as the test runs."""
    node = live.node
    peers = {"node1": Peer("node1", live.peer_url, node.identity.key.public)}
    verifier = node.peer_api.state.context.verifier
    verifier._keys["node2"] = NODE2.public
    made = client_of(peers)
    made._chain_id = node.identity.genesis.chain_id
    yield made
    await made.close()
    del verifier._keys["node2"]


def account(name: str | None = None) -> bytes:
    name = name or f"a{time.perf_counter_ns()}"
    return AccountCreate(name, name.encode().ljust(32, b"\0"), bytes(16), 1).encode()


async def test_blocks_are_fetched_with_certificates(live: Live, client: PeerClient) -> None:
    height = grow(live, 3)
    epoch = live.node.ledger.epoch
    assert epoch is not None
    served = await client.fetch(1, 2, epoch)
    assert served is not None
    assert (served.peer, served.epoch) == ("node1", epoch)
    assert [block.height for block, _ in served.pairs] == [1, 2]
    assert [certificate.height for _, certificate in served.pairs] == [1, 2]
    assert await client.fetch(height + 1, 5, epoch) is None
    with pytest.raises(Unavailable):
        await client.fetch(1, 2, OTHER_EPOCH)


async def test_a_submission_is_forwarded(live: Live, client: PeerClient) -> None:
    receipt = await client.forward("node1", account("forwarded"))
    assert receipt.transaction_id == "forwarded"
    block = live.node.ledger.block(receipt.height)
    assert block is not None
    assert block.hash == receipt.block_hash


async def test_the_leaders_refusal_comes_back_as_itself(client: PeerClient) -> None:
    with pytest.raises(InvalidTransaction):
        await client.forward("node1", b"\xff")
    with pytest.raises(Unavailable, match="not in the peers file"):
        await client.forward("node9", account())


async def test_views_are_live(live: Live, client: PeerClient) -> None:
    (view,) = client.views()
    assert (view.reachable, view.height) == (False, None)
    assert await client.heights() == {"node1": live.node.ledger.height}
    assert view.reachable
    assert view.answered_ms is not None
    assert view.round_trip_ms is not None
    client._peers["node1"] = replace(client._peers["node1"], url="http://127.0.0.1:1")
    assert await client.heights() == {}
    assert view.reachable, "one answer that is missed is no absence"
    await client.heights()
    assert not view.reachable


async def test_a_peer_of_another_chain_does_not_count(client: PeerClient) -> None:
    client._chain_id = "goud-other"
    assert await client.heights() == {}
    assert not client.views()[0].reachable


async def test_nobody_there_is_unavailable() -> None:
    lonely = client_of({"node1": Peer("node1", "http://127.0.0.1:1", NODE1.public)})
    with pytest.raises(Unavailable):
        await lonely.fetch(1, 1, EPOCH)
    with pytest.raises(Unavailable):
        await lonely.forward("node1", account())
    await lonely.close()


Reply = Callable[[httpx.Request], httpx.Response]


def signed(
    status: int, body: bytes, key: SigningKey = NODE1, clock: Callable[[], float] = time.time, **other: object
) -> Reply:
    """A peer's answer, signed by `key` for the request it answers, or for another."""

    verifier = Verifier("node1", {"node2": NODE2.public})

    def reply(request: httpx.Request) -> httpx.Response:
        token = request.headers["authorization"].removeprefix("Bearer ")
        caller = verifier.request(token, request.method, request.url.raw_path.decode())
        verifier.take(caller, request.content)
        request_id = str(other.get("request_id", caller.request_id))
        token = Signer(key, "node1", clock).answer("node2", request_id, status, body)
        return httpx.Response(status, content=body, headers={"goud-answer": token})

    return reply


def refusal(code: str, status: int) -> Reply:
    return signed(status, json.dumps({"code": code, "detail": "because"}).encode())


def breaks(_request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("cut")


REFUSALS = ["future", "expired", "restarted", "replayed", "altered", "unknown", "audience", "overload"]
"""None proves that the write was not taken: whoever is on the way can answer so, or send it once more later."""
RECEIPT = json.dumps({"height": 5, "index": 0, "transaction_id": "a", "block_hash": "00" * 32}).encode()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (refusal("idempotency-conflict", 422), IdempotencyConflict),
        (refusal("already-exists", 409), errors.AlreadyExists),
        (refusal("coordination-full", 503), errors.CoordinationFull),
        (refusal("draining", 503), errors.Draining),
        (refusal("not-leader", 503), NotLeader),
        (refusal("unavailable", 503), Unavailable),
        (refusal("outcome-unknown", 504), OutcomeUnknown),
        (refusal("internal-error", 500), OutcomeUnknown),
        (signed(200, b"not json"), OutcomeUnknown),
        (signed(200, b"{}"), OutcomeUnknown),
        (signed(200, RECEIPT, key=NODE2), OutcomeUnknown),
        (signed(200, RECEIPT, request_id="another"), OutcomeUnknown),
        (lambda _: httpx.Response(200, content=RECEIPT), OutcomeUnknown),
        (lambda _: httpx.Response(401, json={"detail": "no"}), OutcomeUnknown),
        *((signed(401, json.dumps({"reason": why}).encode()), OutcomeUnknown) for why in REFUSALS),
        *((lambda _, why=why: httpx.Response(401, json={"reason": why}), OutcomeUnknown) for why in REFUSALS),
        (breaks, OutcomeUnknown),
    ],
)
async def test_what_a_forwarded_write_may_meet(reply: Reply, expected: type[GoudError]) -> None:
    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, reply)
    with pytest.raises(GoudError) as caught:
        await client.forward("node1", account())
    assert type(caught.value) is expected
    await client.close()


NO_NUMBERS = [True, -1, 1 << 53, 1.5, 1.0, "5", None, [], {}]


@pytest.mark.parametrize("name", ["height", "index"])
@pytest.mark.parametrize("value", NO_NUMBERS)
async def test_a_receipt_that_names_no_place_says_nothing(name: str, value: object) -> None:
    receipt = json.dumps({**json.loads(RECEIPT), name: value}).encode()
    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, signed(200, receipt))
    with pytest.raises(OutcomeUnknown):
        await client.forward("node1", account())
    await client.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in ("height", "certified") for value in NO_NUMBERS]
    + [("epoch", value) for value in NO_NUMBERS if value is not None],
)
async def test_a_status_that_names_no_height_counts_as_no_answer(name: str, value: object) -> None:
    status = json.dumps({**json.loads(status_of(1)), name: value}).encode()
    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, signed(200, status))
    assert await client.heights() == {}
    await client.close()


async def test_a_receipt_that_is_signed_is_believed() -> None:
    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, signed(200, RECEIPT))
    assert (await client.forward("node1", account())).height == 5
    await client.close()


def in_turn(*bodies: bytes) -> Reply:
    replies = iter([signed(200, body) for body in bodies])

    def reply(request: httpx.Request) -> httpx.Response:
        return next(replies)(request)

    return reply


def status_of(epoch: int) -> bytes:
    return json.dumps({"chain_id": CHAIN, "height": 1, "certified": 1, "epoch": epoch}).encode()


def first_row(live: Live) -> list[bytes]:
    """Block 1 with its certificate."""
    grow(live, 1)
    raw, certificate = live.node.ledger.raw_block(1), live.node.ledger.certificate(1)
    assert raw is not None
    assert certificate is not None
    return [raw, certificate.encode()]


async def test_a_lying_peer_is_passed_over(live: Live) -> None:
    row = first_row(live)
    raw, named = row[0], EPOCH.encode()
    lies = [
        b"\xff",
        *(encoding.encode(lie) for lie in (0, [0], [named], [named, 0], [named, [row], 0], [b"x", [row]], {"a": 1})),
        *(
            encoding.encode([named, rows])
            for rows in ([[live.node.ledger.raw_block(0), row[1]]], [[raw]], [[b"x", b"y"]], [row, row], [0])
        ),
        encoding.encode([OTHER_EPOCH.encode(), [row]]),
    ]
    for lie in lies:
        good = encoding.encode([named, [row]])
        client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, in_turn(lie, good))
        with pytest.raises(Unavailable):
            await client.fetch(1, 1, EPOCH)
        served = await client.fetch(1, 1, EPOCH)
        assert served is not None
        assert (served.epoch, served.pairs[0][0].encode()) == (EPOCH, raw)
        await client.close()


async def test_a_peer_of_an_earlier_release_is_judged_by_the_epoch_of_its_status(live: Live) -> None:
    """It names no epoch beside its blocks, so nothing in them counts as a proof of another history."""
    grow(live, 1)
    certificate, raw = live.node.ledger.certificate(1), live.node.ledger.raw_block(1)
    assert certificate is not None
    unnamed = encoding.encode([[raw, certificate.encode()]])
    of_today = in_turn(unnamed, status_of(EPOCH.number))
    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, of_today)
    served = await client.fetch(1, 1, EPOCH)
    assert served is not None
    assert (served.epoch, len(served.pairs)) == (None, 1)
    await client.close()
    left_behind = in_turn(unnamed, status_of(OTHER_EPOCH.number))
    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, left_behind)
    with pytest.raises(Unavailable):
        await client.fetch(1, 1, EPOCH)
    await client.close()


async def test_clocks_come_with_the_status(client: PeerClient) -> None:
    await client.heights()
    reading = client.clocks()["node1"]
    assert reading.clock_ms is not None
    assert abs(reading.clock_ms - time.time() * 1000) < 5000
    assert abs(reading.at - clock.running()) < 5


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_node_with_a_wrong_clock_learns_the_true_time(client: PeerClient, hours: int) -> None:
    """Its requests are refused for their time, so the refusal itself is signed and shows the time."""
    client._signer = Signer(NODE2, "node2", clock=lambda: time.time() + hours * 3600)
    assert await client.heights() == {}
    shown = client.clocks()["node1"].clock_ms
    assert shown is not None
    assert abs(shown - time.time() * 1000) < 5000


def clock_reply(shown: object, seconds: float = 0) -> Reply:
    """A status with this clock, signed by a node whose own clock is `seconds` ahead."""
    body = json.dumps({"chain_id": CHAIN, "height": 1, "certified": 1, "epoch": 1, "clock_ms": shown}).encode()
    return signed(200, body, clock=lambda: time.time() + seconds)


@pytest.mark.parametrize("seconds", [-3600.0, 0.0, 3600.0])
async def test_a_peer_with_a_wrong_clock_can_say_so(seconds: float) -> None:
    shown = int((time.time() + seconds) * 1000)
    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, clock_reply(shown, seconds))
    assert await client.heights() == {"node1": 1}
    assert client.clocks()["node1"].clock_ms == shown
    await client.close()


@pytest.mark.parametrize("shown", [True, -1, 1 << 53, 1.5, "0", [], {}])
async def test_a_clock_that_is_no_time_counts_as_no_answer(shown: object) -> None:
    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, clock_reply(shown))
    assert (await client.heights(), dict(client.clocks())) == ({}, {})
    await client.close()


async def test_a_release_that_does_not_send_its_clock_is_known_as_such() -> None:
    client = client_of({"node1": Peer("node1", "http://node1:9000", NODE1.public)}, signed(200, status_of(1)))
    assert await client.heights() == {"node1": 1}
    assert client.clocks()["node1"].clock_ms is None
    await client.close()


async def test_an_unsigned_refusal_shows_no_clock() -> None:
    unsigned = {"clock_ms": 1, "reason": "future"}
    client = client_of(
        {"node1": Peer("node1", "http://node1:9000", NODE1.public)}, lambda _: httpx.Response(401, json=unsigned)
    )
    assert (await client.heights(), dict(client.clocks())) == ({}, {})
    await client.close()
