"""The peer interface of a real node: nothing unsigned is read, and the operator's calls do what they say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from goud_node.chain import encoding
from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Epoch
from goud_node.chain.transactions import AccountCreate
from goud_node.errors import Unavailable
from goud_node.peer.signing import MAX_REQUEST_BYTES
from goud_node.peer.tokens import ANSWER_HEADER, Verifier
from goud_node.replica import steps
from goud_node.settings import Settings
from goud_node.store import RocksStore

from .support import Caller, Live

ROUTES = [
    ("GET", "/peer/status"),
    ("GET", "/peer/blocks?start=1&limit=1"),
    ("POST", "/peer/submissions"),
    ("GET", "/operator/status"),
    ("GET", "/operator/checkpoints"),
    ("POST", "/operator/checkpoints"),
    ("DELETE", "/operator/checkpoints/x"),
    ("POST", "/operator/drain"),
    ("POST", "/operator/undrain"),
    ("POST", "/operator/hand-over"),
    ("POST", "/operator/start-epoch"),
    ("GET", "/nothing"),
]


def grow(live: Live, count: int = 1) -> int:
    """Submit `count` accounts; the height of the last one."""
    height = 0
    for _ in range(count):
        name = f"a{time.perf_counter_ns()}"
        transaction = AccountCreate(name, name.encode().ljust(32, b"\0"), bytes(16), 1).encode()
        height = live.call(live.node.replica.submit(transaction)).height
    deadline = time.monotonic() + 10
    while live.node.ledger.certified_height < height:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return height


@pytest.mark.parametrize(("method", "target"), ROUTES)
def test_nothing_unsigned_is_read(live: Live, method: str, target: str) -> None:
    with httpx.Client(base_url=live.peer_url, trust_env=False) as http:
        answer = http.request(method, target)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] == "unsigned"
    assert live.node.replica.status.draining is False


def test_a_replayed_request_is_refused_and_counted(live: Live, caller: Caller) -> None:
    token = caller.token("GET", "/peer/status")
    assert caller("GET", "/peer/status", token=token).status_code == 200
    again = caller("GET", "/peer/status", token=token)
    assert (again.status_code, again.json()["reason"]) == (401, "replayed")
    text = live.node.metrics.exposition("")[0].decode()
    assert 'goud_peer_refused_total{reason="replayed"}' in text


def test_a_recorded_request_is_refused_after_a_restart(
    make_settings: Callable[[], Settings], run_node: Callable[[Settings], AbstractContextManager[Live]]
) -> None:
    settings, target = make_settings(), "/operator/drain"
    with run_node(settings) as first:
        caller = Caller(first)
        token = caller.token("POST", target)
        assert caller("POST", target, token=token).json()["draining"] is True
        caller.http.close()
    with run_node(settings) as second:
        caller = Caller(second)
        again = caller("POST", target, token=token)
        assert (again.status_code, again.json()["reason"]) == (401, "restarted")
        assert second.node.replica.status.draining is False
        caller.http.close()


def test_a_stranger_is_refused(live: Live) -> None:
    stranger = Caller(live, SigningKey.generate())
    answer = stranger("POST", "/operator/drain")
    stranger.http.close()
    assert (answer.status_code, answer.json()["reason"]) == (401, "forged")
    assert live.node.replica.status.draining is False


@pytest.fixture
def operator_key(live: Live) -> Iterator[SigningKey]:
    """node2 and the operator, known to the node for as long as the test runs."""
    key = SigningKey.generate()
    known = live.node.peer_api.state.context.verifier._keys
    known.update({"node2": key.public, "operator": key.public})
    yield key
    del known["node2"], known["operator"]


def test_a_peer_may_not_operate_the_node_but_the_operator_may(live: Live, operator_key: SigningKey) -> None:
    peer, operator = (Caller(live, operator_key, issuer) for issuer in ("node2", "operator"))
    assert peer("GET", "/peer/status").status_code == 200
    for method, target in ROUTES:
        if target.startswith("/operator"):
            answer = peer(method, target)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), target
    assert live.node.replica.status.draining is False
    assert operator("GET", "/operator/status").status_code == 200
    for caller in (peer, operator):
        caller.http.close()


def test_answers_are_signed(live: Live, caller: Caller) -> None:
    token, request_id = caller.signer.request("node1", "GET", "/peer/status", b"")
    answer = caller("GET", "/peer/status", token=token)
    verifier = Verifier("node1", live.node.identity.keys)
    verifier.answer(answer.headers[ANSWER_HEADER], "node1", request_id, 200, answer.content)
    problem = caller("GET", "/nothing")
    assert problem.status_code == 404
    assert ANSWER_HEADER in problem.headers


def test_an_oversize_body_is_not_taken(caller: Caller) -> None:
    body = bytes(MAX_REQUEST_BYTES + 1)
    assert caller("POST", "/peer/submissions", body).status_code == 413


def test_blocks_come_with_their_certificates(live: Live, caller: Caller) -> None:
    height = grow(live, 3)
    answer = caller("GET", f"/peer/blocks?start={height - 1}&limit=10")
    rows = encoding.decode(answer.content)
    assert [Block.decode(raw).height for raw, _ in rows] == [height - 1, height]
    for raw, certificate in rows:
        decoded = Certificate.decode(certificate)
        decoded.verify(live.node.identity.genesis)
        assert decoded.block_hash == Block.decode(raw).hash
    assert encoding.decode(caller("GET", f"/peer/blocks?start={height + 1}&limit=10").content) == []


def test_blocks_are_served_of_the_epoch_that_is_asked_for(live: Live, caller: Caller) -> None:
    height = grow(live)
    epoch = live.node.ledger.epoch
    assert epoch is not None
    query = f"/peer/blocks?start={height}&limit=1"
    named, rows = encoding.decode(caller("GET", f"{query}&epoch={epoch.encode().hex()}").content)
    assert (named, rows) == (epoch.encode(), encoding.decode(caller("GET", query).content))
    later = Epoch(epoch.number + 1, epoch.base_height, epoch.base_hash)
    for other in (later.encode().hex(), "", "zz"):
        answer = caller("GET", f"{query}&epoch={other}")
        assert (answer.status_code, answer.json()["code"]) == (409, "other-epoch")


@pytest.mark.parametrize("query", ["start=0&limit=1", "start=1&limit=0", "start=1&limit=100000", "limit=1", "start=x"])
def test_wrong_ranges_are_problems(caller: Caller, query: str) -> None:
    answer = caller("GET", f"/peer/blocks?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")


def test_a_malformed_transaction_is_refused(caller: Caller) -> None:
    answer = caller("POST", "/peer/submissions", b"\xff")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-transaction")


def test_drain_and_undrain(live: Live, caller: Caller) -> None:
    assert caller("POST", "/operator/drain").json()["draining"] is True
    try:
        assert httpx.get(f"{live.url}/readyz", trust_env=False).json()["failed"] == ["draining"]
    finally:
        assert caller("POST", "/operator/undrain").json()["draining"] is False
    assert httpx.get(f"{live.url}/readyz", trust_env=False).status_code == 200


def test_a_single_node_cannot_hand_over(live: Live, caller: Caller) -> None:
    answer = caller("POST", "/operator/hand-over")
    assert (answer.status_code, answer.json()["code"]) == (409, "single-node")
    assert live.node.replica.status.role == "proposer"


def create(caller: Caller, **body: object) -> httpx.Response:
    return caller("POST", "/operator/checkpoints", json.dumps(body).encode())


def released(caller: Caller, name: str) -> int:
    return caller("DELETE", f"/operator/checkpoints/{name}").status_code


def test_a_checkpoint_holds_what_it_says(live: Live, caller: Caller) -> None:
    grow(live, 2)
    made: dict[str, Any] = create(caller, id="first", ttl_seconds=60).json()
    path = live.node.settings.checkpoints_dir / "first"
    assert made["path"] == str(path)
    assert made["tip_hash"] == live.node.ledger.tip.hash.hex()
    assert made["height"] == live.node.ledger.height
    assert time.time() < made["expires"] <= time.time() + 60
    assert made["files"] == {entry.name: entry.stat().st_size for entry in path.iterdir()}
    assert [entry["id"] for entry in caller("GET", "/operator/checkpoints").json()["checkpoints"]] == ["first"]
    taken = create(caller, id="first")
    assert (taken.status_code, "exists already" in taken.json()["detail"]) == (409, True)
    store = RocksStore.open(path, read_only=True)
    store.close()
    assert released(caller, "first") == 204
    assert not path.exists()
    assert released(caller, "first") == 404


def test_a_checkpoint_under_load_names_its_own_height(live: Live, caller: Caller) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            grow(live)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            made = create(caller, id=f"load{number}").json()
            block = live.node.ledger.block(made["height"])
            assert block is not None
            assert block.hash.hex() == made["tip_hash"]
            assert released(caller, f"load{number}") == 204
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("body", [{"id": "../x"}, {"id": ""}, {"ttl_seconds": 0}, {"ttl": 5}, {"ttl_seconds": 1e9}])
def test_bad_checkpoint_requests(live: Live, caller: Caller, body: dict[str, object]) -> None:
    assert create(caller, **body).json()["code"] == "invalid-request"
    assert not list(live.node.settings.checkpoints_dir.glob("*"))


def test_an_expired_checkpoint_is_swept(live: Live, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    made = create(caller, ttl_seconds=0.05).json()
    time.sleep(0.1)
    monkeypatch.setattr("goud_node.peer.checkpoints._SWEEP_SECONDS", 0.01)

    async def sweep_briefly() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(live.node.checkpoints.sweep_forever(), 0.3)

    live.call(sweep_briefly())
    assert not (live.node.settings.checkpoints_dir / made["id"]).exists()


def test_a_node_outside_the_common_epoch_serves_no_blocks(
    live: Live, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    height = grow(live)
    core = live.node.replica._core

    async def apart(_: object) -> None:
        raise Unavailable("the log cannot be read")

    with monkeypatch.context() as outside:
        outside.setattr(steps, "join", apart)  # or the node is back with its next look at the log
        core.epoch = None
        answer = caller("GET", f"/peer/blocks?start={height}&limit=1")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    deadline = time.monotonic() + 10
    while caller("GET", f"/peer/blocks?start={height}&limit=1").status_code != 200:
        assert time.monotonic() < deadline, "the node did not join again"
        time.sleep(0.02)
