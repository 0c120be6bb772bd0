"""What a client is told of its write: "it did not happen" is said only of a write that never happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.sequencer import Leader, Sequencer
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.ledger import Epoch, Ledger, Receipt
from goud_node.chain.transactions import CollectionPut, Transaction, claims
from goud_node.errors import (
    ConflictingBlock,
    CoordinationFull,
    Draining,
    GoudError,
    NotLeader,
    OutcomeUnknown,
    Unavailable,
)
from goud_node.replica.clocks import Reading
from goud_node.replica.doubts import Doubts
from goud_node.replica.queue import Queue, Submission
from goud_node.replica.replica import Replica
from goud_node.replica.types import Options, Served
from goud_node.store.memory import MemoryStore

from .actors import ENTRIES, KEYS

RECEIPT = Receipt(1, 0, ENTRIES[0].transaction.account_id, b"h" * 32)
OPTIONS = Options(submit_deadline=0.2, poll_interval=0.005)


@dataclass
class ScriptedPeers:
    """The proposer as a follower meets it: one behaviour for each request, then silence.

    `applied` says whether any request was or will be ordered: what the truth is in the end.
    """

    script: list[str]
    change_leader: Callable[[], None] = lambda: None
    applied: bool = False
    asked: list[str] = field(default_factory=list)
    transaction: bytes = ENTRIES[0].raw

    async def fetch(self, start: int, limit: int, epoch: Epoch) -> Served | None:
        raise NotImplementedError

    async def proof(self, node: str) -> Served | None:
        raise NotImplementedError

    async def heights(self) -> Mapping[str, int]:
        return {}

    def clocks(self) -> Mapping[str, Reading]:
        raise NotImplementedError

    async def forward(self, leader: str, transaction: bytes) -> Receipt:
        assert transaction == self.transaction
        self.asked.append(leader)
        behaviour = self.script.pop(0) if self.script else "silent"
        await asyncio.sleep(0)
        return await cast("Awaitable[Receipt]", getattr(self, f"_{behaviour}")())

    async def _ordered(self) -> Receipt:
        self.applied = True
        return RECEIPT

    async def _ordered_and_lost(self) -> Receipt:
        self.applied = True
        raise OutcomeUnknown("the connection broke")

    async def _ordered_and_silent(self) -> Receipt:
        self.applied = True
        return await self._silent()

    async def _silent(self) -> Receipt:
        await asyncio.sleep(3600)
        raise AssertionError("nobody waits that long")

    async def _deposed_and_ordered(self) -> Receipt:
        self.applied = True
        self.change_leader()
        return await self._silent()

    async def _lost(self) -> Receipt:
        raise OutcomeUnknown("the connection broke")

    async def _refused(self) -> Receipt:
        raise Unavailable("no connection")

    async def _not_leader(self) -> Receipt:
        raise NotLeader("another one leads")

    async def _full(self) -> Receipt:
        raise CoordinationFull("no space")

    async def _draining(self) -> Receipt:
        raise Draining("stopping")


BEHAVIOURS = sorted(name[1:] for name in vars(ScriptedPeers) if name.startswith("_") and not name.startswith("__"))


def replica_of(peers: ScriptedPeers) -> Replica:
    """A follower of node n2 whose loops do not run: only what its clients see is under test."""
    genesis = Genesis("submit", 0, tuple(Validator(name, KEYS[name].public) for name in ("n1", "n2", "n3")))
    store = MemoryStore()
    sequencer = Sequencer(EmbeddedKv(store), genesis.chain_id, "n1")
    replica = Replica(
        Ledger(store, genesis), sequencer, peers, KEYS["n1"], "n1", clock=lambda: 0, validator=True, options=OPTIONS
    )
    core = cast("Any", replica)._core
    core.leader = Leader("n2", 1, 1)

    def change() -> None:
        core.leader = Leader("n3", 2, 2)

    peers.change_leader = change
    cast("Any", replica)._confirm = _confirm
    return replica


async def _confirm(_attempt: object, receipt: Receipt) -> Receipt:
    return receipt  # test_receipts.py is about those that are not


def happens_later(replica: Replica, event: str) -> None:
    """What befalls the node itself while the write is under way."""
    duties = cast("Any", replica)._duties
    if event == "stopped":
        duties.stopped.set()
    elif event == "leaderless":
        cast("Any", replica)._core.leader = None
    elif event == "halted":
        duties.halted = "a conflicting block"
    elif event == "leads_with_a_full_queue":
        duties.leading = True
        cast("Any", replica)._queue = Queue(0, 0)


async def outcome_of(script: list[str], event: str, after: float) -> tuple[ScriptedPeers, GoudError | Receipt]:
    peers = ScriptedPeers(list(script))
    replica = replica_of(peers)
    asyncio.get_running_loop().call_later(after, happens_later, replica, event)
    try:
        return peers, await replica.submit(ENTRIES[0].raw)
    except GoudError as error:
        return peers, error
    finally:
        cast("Any", replica)._executor.shutdown()


@settings(deadline=None)
@given(
    script=st.lists(st.sampled_from(BEHAVIOURS), max_size=4),
    event=st.sampled_from(["nothing", "stopped", "halted", "leads_with_a_full_queue"]),
    after=st.sampled_from([0.0, 0.01, 0.03]),
)
@example(script=["ordered_and_silent"], event="nothing", after=0.0)
@example(script=["ordered_and_lost", "full"], event="nothing", after=0.0)
@example(script=["ordered_and_lost", "refused"], event="stopped", after=0.01)
@example(script=["ordered_and_lost", "refused"], event="halted", after=0.01)
@example(script=["ordered_and_lost", "refused"], event="leads_with_a_full_queue", after=0.01)
@example(script=["deposed_and_ordered", "full"], event="nothing", after=0.0)
def test_a_write_that_was_refused_never_happens(script: list[str], event: str, after: float) -> None:
    peers, outcome = asyncio.run(outcome_of(script, event, after))
    if peers.applied:
        assert isinstance(outcome, Receipt | OutcomeUnknown), f"{outcome!r} after {script}, and it is in the chain"


@pytest.mark.parametrize("behaviour", ["refused", "not_leader", "draining", "full"])
async def test_a_definite_refusal_leaves_no_doubt(behaviour: str) -> None:
    # Nobody is asked at the deadline, whose answer would then be missing.
    _, outcome = await outcome_of([behaviour] * 1000, "leaderless", 0.02)
    assert isinstance(outcome, Unavailable)


COLLECTION = CollectionPut("c1", "a", "key", b"f" * 32, b"label", b"payload", 1)
REPEATS: list[tuple[Transaction, Transaction]] = [
    (ENTRIES[0].transaction, ENTRIES[0].transaction),
    (ENTRIES[0].transaction, replace(ENTRIES[0].transaction, created_ms=77)),
    (COLLECTION, replace(COLLECTION, collection_id="c2", payload=b"sealed anew", created_ms=77)),
    (COLLECTION, replace(COLLECTION, idempotency_key="another key", created_ms=77)),
]
"""A write, and one that claims the same: every request of a client makes new bytes."""


@pytest.mark.parametrize("event", ["stopped", "halted", "leads_with_a_full_queue"])
@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize(("first", "repeat"), REPEATS)
async def test_a_repeat_of_a_write_whose_block_may_be_ordered_is_not_refused(
    event: str, first: Transaction, repeat: Transaction, *, forward: bool
) -> None:
    """The first request waits for its block; the second comes to a node that takes nothing any more."""
    replica = replica_of(ScriptedPeers([]))
    cast("Any", replica)._core.unsure_claims = claims(first)
    happens_later(replica, event)
    try:
        with pytest.raises(OutcomeUnknown):
            await replica.submit(repeat.encode(), forward=forward)
        with pytest.raises(Unavailable):
            await replica.submit(ENTRIES[1].raw, forward=forward)
    finally:
        cast("Any", replica)._executor.shutdown()


@pytest.mark.parametrize("event", ["stopped", "halted", "leads_with_a_full_queue", "leaderless"])
@pytest.mark.parametrize("when", ["while the first one waits", "after the first one's deadline"])
@pytest.mark.parametrize(("first", "repeat"), REPEATS)
async def test_a_repeat_of_a_write_that_has_left_is_not_refused(
    event: str, when: str, first: Transaction, repeat: Transaction
) -> None:
    """The proposer has the first one and does not answer: it may be ordered whatever becomes of the repeat."""
    replica = replica_of(ScriptedPeers([], transaction=first.encode()))
    try:
        waiting = asyncio.create_task(replica.submit(first.encode()))
        await asyncio.sleep(0.01)
        if when == "after the first one's deadline":
            await asyncio.wait({waiting})
        happens_later(replica, event)
        assert replica.is_in_doubt(repeat.encode())
        with pytest.raises(OutcomeUnknown):
            await replica.submit(repeat.encode(), budget=0.05)
        with pytest.raises(Unavailable):
            await replica.submit(ENTRIES[1].raw, budget=0.05)
        with pytest.raises(OutcomeUnknown):
            await waiting
    finally:
        cast("Any", replica)._executor.shutdown()


async def test_a_receipt_ends_the_doubt_of_every_try() -> None:
    replica = replica_of(ScriptedPeers(["ordered_and_lost"]))
    inner = cast("Any", replica)
    try:
        with pytest.raises(OutcomeUnknown):
            await replica.submit(ENTRIES[0].raw)
        cast("Any", inner._core.peers).script = ["ordered"]
        assert await replica.submit(ENTRIES[0].raw) == RECEIPT
        assert not replica.is_in_doubt(ENTRIES[0].raw)
    finally:
        inner._executor.shutdown()


async def test_the_doubts_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goud_node.replica.doubts._MOST_CLAIMS", 4)
    doubts = Doubts()
    for entry in ENTRIES[:3]:
        doubts.leave(claims(entry.transaction))
    assert [doubts.cover(claims(entry.transaction)) for entry in ENTRIES[:3]] == [False, True, True]


@asynccontextmanager
async def leading() -> AsyncIterator[tuple[Replica, Ledger, ThreadPoolExecutor]]:
    """A proposer on its own, at height 1, and the thread that writes for it."""
    genesis = Genesis("submit", 0, (Validator("n1", KEYS["n1"].public),))
    store, writer = MemoryStore(), ThreadPoolExecutor(1)
    ledger = Ledger(store, genesis)
    sequencer = Sequencer(EmbeddedKv(store, executor=writer), genesis.chain_id, "n1")
    options = replace(OPTIONS, alone=True)
    replica = Replica(
        ledger,
        sequencer,
        ScriptedPeers([]),
        KEYS["n1"],
        "n1",
        clock=lambda: 0,
        validator=True,
        options=options,
        executor=writer,
    )
    running = asyncio.create_task(replica.run())
    try:
        await replica.submit(ENTRIES[0].raw, budget=10)
        yield replica, ledger, writer
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        writer.shutdown()


@pytest.mark.parametrize("forward", [True, False])
async def test_a_deadline_that_passes_while_the_block_is_chosen_leaves_a_doubt(*, forward: bool) -> None:
    """The disk is slow, so the write is in nobody's answer yet, and in the block that will be ordered."""
    released = threading.Event()
    async with leading() as (replica, ledger, writer):
        writer.submit(released.wait)
        try:
            with pytest.raises(OutcomeUnknown):
                await replica.submit(ENTRIES[1].raw, forward=forward)
        finally:
            released.set()
        assert (await replica.submit(ENTRIES[1].raw, budget=10)).height == 2
        assert ledger.height == 2, "the first try was ordered, and the same bytes are applied once"


async def test_a_node_that_halts_while_a_block_is_chosen_does_not_order_it() -> None:
    released = threading.Event()
    async with leading() as (replica, ledger, writer):
        writer.submit(released.wait)
        try:
            write = asyncio.create_task(replica.submit(ENTRIES[1].raw, budget=10))
            async with asyncio.timeout(10):
                while claims(ENTRIES[1].transaction) != cast("Any", replica)._core.unsure_claims:  # noqa: ASYNC110  # nobody tells when
                    await asyncio.sleep(0.01)
            cast("Any", replica)._duties._halt(ConflictingBlock("another block"))
            with pytest.raises(OutcomeUnknown):
                await write
        finally:
            released.set()
        await asyncio.to_thread(writer.submit(lambda: None).result)
        await asyncio.sleep(0.2)
        assert ledger.height == 1


@pytest.mark.parametrize("height", [-5, 0, 1, 10**18])
@pytest.mark.parametrize("within", [0.2, 1.0])
async def test_a_receipt_that_nothing_bears_out_leaves_a_doubt(
    monkeypatch: pytest.MonkeyPatch, height: int, within: float
) -> None:
    """Neither this node nor the log holds the block: the write may be in the chain, and may be the proposer's lie."""
    monkeypatch.setattr("goud_node.replica.replica._CATCH_UP_SECONDS", 0.3)
    peers = ScriptedPeers(["ordered"])
    monkeypatch.setattr(peers, "_ordered", lambda: _answered(replace(RECEIPT, height=height)))
    replica = replica_of(peers)
    monkeypatch.delattr(replica, "_confirm")
    try:
        with pytest.raises(OutcomeUnknown):
            await replica.submit(ENTRIES[0].raw, budget=within)
    finally:
        cast("Any", replica)._executor.shutdown()


async def _answered(receipt: Receipt) -> Receipt:
    return receipt


async def test_a_forward_follows_the_leader_when_it_changes() -> None:
    peers, outcome = await outcome_of(["deposed_and_ordered", "ordered"], "nothing", 0.0)
    assert outcome == RECEIPT
    assert peers.asked == ["n2", "n3"]


async def test_a_term_that_ends_without_an_answer_leaves_a_doubt() -> None:
    """This node led, and its proposal may have been ordered: what it is told afterwards is no refusal."""
    replica = replica_of(ScriptedPeers([]))
    inner = cast("Any", replica)
    inner._duties.leading = True
    try:
        write = asyncio.create_task(replica.submit(ENTRIES[0].raw))
        await asyncio.sleep(0)
        inner._duties.leading, inner._core.leader = False, None
        inner._queue.release(claims(ENTRIES[0].transaction))
        with pytest.raises(OutcomeUnknown):
            await write
    finally:
        inner._executor.shutdown()


@pytest.mark.parametrize("how", ["release", "fail"])
@pytest.mark.parametrize(("first", "repeat"), REPEATS)
async def test_a_queue_that_is_emptied_tells_whose_outcome_is_unknown(
    how: str, first: Transaction, repeat: Transaction
) -> None:
    queue, loop = Queue(8, 1 << 20), asyncio.get_running_loop()
    waiting = [Submission(write.encode(), write, loop.create_future()) for write in (repeat, ENTRIES[1].transaction)]
    for submission in waiting:
        queue.put(submission)
    unsure = claims(first)
    if how == "release":
        queue.release(unsure)
    else:
        queue.fail(Unavailable("the log is full"), unsure)
    assert isinstance(waiting[0].result.exception(), OutcomeUnknown)
    if how == "release":
        assert waiting[1].result.result() is None
    else:
        assert isinstance(waiting[1].result.exception(), Unavailable)
    assert len(queue) == 0
