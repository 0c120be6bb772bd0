"""The peer interface of a real node: nothing unsigned is read, and the operator's calls do what they say."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
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
from goud_node.peer import client, server, signing
from goud_node.peer.signing import MAX_REQUEST_BYTES
from goud_node.peer.tokens import ANSWER_HEADER, Signer, Verifier
from goud_node.replica import steps
from goud_node.settings import Settings
from goud_node.store import RocksStore

from .support import Caller, Live

ROUTES = [
    ("GET", "/peer/status"),
    ("GET", "/peer/blocks?start=1&limit=1"),
    ("GET", "/peer/proof"),
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
        challenge = caller.once("POST", target).json()["challenge"]
        token = caller.signer.request("node1", "POST", target, b"", challenge)[0]
        assert caller("POST", target, token=token).json()["draining"] is True
        caller.http.close()
    with run_node(settings) as second:
        caller = Caller(second)
        again = caller("POST", target, token=token)
        assert (again.status_code, again.json()["reason"]) == (401, "restarted")
        assert second.node.replica.status.draining is False
        caller.http.close()


def test_what_operates_a_node_repeats_its_challenge(live: Live, caller: Caller) -> None:
    before = refusals(live, "challenge")
    for method, target in ROUTES:
        answer = caller.once(method, target)
        changes = method != "GET" and target.startswith("/operator/")
        assert answer.json()["reason"] == "challenge" if changes else answer.status_code != 401, target
        assert ANSWER_HEADER in answer.headers
    assert live.node.replica.status.draining is False
    assert refusals(live, "challenge") == before, "nothing to look into"


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
    token = caller.token("POST", "/peer/submissions", b"x")
    answer = caller("POST", "/peer/submissions", body, token=token)
    assert answer.status_code == 413
    assert ANSWER_HEADER in answer.headers
    again = caller("POST", "/peer/submissions", b"x", token=token)
    assert again.json()["reason"] == "replayed", "it was answered that nothing is taken"


def refused_before_the_body(live: Live, token: str) -> object:
    """Why a request is refused whose body has begun and never ends."""
    connection = http.client.HTTPConnection(live.peer_url.removeprefix("http://"), timeout=5)
    connection.putrequest("POST", "/peer/submissions")
    connection.putheader("Content-Length", "100000")
    if token:
        connection.putheader("Authorization", f"Bearer {token}")
    connection.endheaders(b"x" * 1000)
    with contextlib.closing(connection):
        answer = connection.getresponse()
        assert answer.status == 401
        return json.loads(answer.read())["reason"]


def test_who_is_refused_for_the_headers_is_refused_before_the_body(live: Live, caller: Caller) -> None:
    target = "/peer/submissions"
    stranger = Signer(SigningKey.generate(), "node9").request("node1", "POST", target, b"x")[0]
    late = Signer(live.node.identity.key, "node1", lambda: time.time() - 3600).request("node1", "POST", target, b"x")[0]
    used = caller.token("POST", target, b"x")
    assert caller("POST", target, b"x", token=used).status_code == 422
    for reason, token in (("unsigned", ""), ("malformed", "x"), ("unknown", stranger), ("expired", late)):
        assert refused_before_the_body(live, token) == reason
    assert refused_before_the_body(live, used) == "replayed"


def test_unfinished_bodies_have_a_bound_together(live: Live, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "MOST_UNFINISHED_BYTES", 100_000)
    body = bytes(300_000)
    token, request_id = caller.signer.request("node1", "POST", "/peer/submissions", body)
    answer = caller("POST", "/peer/submissions", body, token=token)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    verifier = Verifier("node1", live.node.identity.keys)
    verifier.answer(answer.headers[ANSWER_HEADER], "node1", request_id, 503, answer.content)
    assert caller("POST", "/peer/submissions", b"x", token=token).json()["reason"] == "replayed"
    assert caller("POST", "/peer/submissions", b"x").status_code == 422


@contextmanager
def unfinished_bodies(live: Live, tokens: Sequence[str]) -> Iterator[None]:
    """Requests of those tokens, of which 50,000 bytes have come."""
    with ExitStack() as stack:
        for token in tokens:
            connection = stack.enter_context(
                closing(http.client.HTTPConnection(live.peer_url.removeprefix("http://"), timeout=10))
            )
            connection.putrequest("POST", "/peer/submissions")
            connection.putheader("Content-Length", "1000000")
            connection.putheader("Authorization", f"Bearer {token}")
            connection.endheaders(bytes(50_000))
        time.sleep(0.5)
        yield


def refusals(live: Live, reason: str) -> float:
    return float(live.node.metrics.peer_refused.labels(reason)._value.get())


def test_a_token_opens_one_body(live: Live, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "MOST_UNFINISHED_BYTES", 400_000)
    before = refusals(live, "replayed")
    with unfinished_bodies(live, [caller.token("POST", "/peer/submissions", b"x")] * 8):
        assert refusals(live, "replayed") == before + 7
        assert caller("POST", "/peer/submissions", bytes(300_000)).status_code == 422


def test_no_caller_fills_the_room_of_all(
    live: Live, caller: Caller, operator_key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "MOST_UNFINISHED_BYTES_OF_ONE", 200_000)
    before, body = refusals(live, "crowded"), bytes(300_000)
    operator = Caller(live, operator_key, "operator")
    with unfinished_bodies(live, [caller.token("POST", "/peer/submissions", b"x") for _ in range(4)]):
        assert caller("POST", "/peer/submissions", body).status_code == 503
        assert refusals(live, "crowded") > before
        monkeypatch.setattr(signing, "MOST_UNFINISHED_BYTES_OF_ONE", 320_000)
        assert operator("POST", "/peer/submissions", body).status_code == 422
    operator.http.close()


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


class FullLedger:
    """Blocks of 400 bytes with the certificates of so many validators."""

    certified_height = 512

    def __init__(self, validators: int) -> None:
        self._certificate = Certificate(1, bytes(32), {f"validator-{i:04}": bytes(64) for i in range(validators)})

    def raw_block(self, _height: int) -> bytes:
        return bytes(400)

    def certificate(self, _height: int) -> Certificate:
        return self._certificate


@pytest.mark.parametrize("validators", [3, 150, 200, 1000])
def test_an_answer_with_the_certificates_of_many_validators_is_one_that_is_read(validators: int) -> None:
    answer = server._encode_blocks(FullLedger(validators), 1, 512, Epoch(1, 0, bytes(32)))  # type: ignore[arg-type]  # all of it that is used
    assert 0 < len(answer) <= client._FETCH.most_bytes


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
        assert caller("GET", "/peer/proof").status_code == 200, "that the chain has begun holds for every epoch"
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    deadline = time.monotonic() + 10
    while caller("GET", f"/peer/blocks?start={height}&limit=1").status_code != 200:
        assert time.monotonic() < deadline, "the node did not join again"
        time.sleep(0.02)
