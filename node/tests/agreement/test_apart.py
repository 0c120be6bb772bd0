"""What one node, one peer or one repeat may not do to the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from goud_node.agreement.sequencer import Sequencer, State
from goud_node.chain.block import Block, build
from goud_node.chain.certificate import Certificate
from goud_node.chain.ledger import Epoch, Ledger, Receipt
from goud_node.chain.transactions import AccountCreate, CollectionPut, Transaction, decode, same_request
from goud_node.errors import OutcomeUnknown
from goud_node.replica.epochs import ProposerRuns
from goud_node.replica.types import Options, Served
from goud_node.store.memory import MemoryStore

from .trio import KEYS, NAMES, DirectPeers, Member, Shared, Trio, account


@pytest.fixture
async def trio() -> AsyncIterator[Trio]:
    trio = Trio(Shared(), Options(submit_deadline=3.5))
    for name in NAMES:
        trio.start(name)
    await trio.until(trio.proposer)
    await trio.replica(proposer_of(trio)).submit(account("owner"))
    await trio.until(trio.agreed)
    yield trio
    await trio.close()


def proposer_of(trio: Trio) -> str:
    name = trio.proposer()
    assert name is not None
    return name


def followers_of(trio: Trio) -> list[str]:
    return [name for name in NAMES if name != proposer_of(trio)]


async def test_no_epoch_is_begun_beside_a_leader_by_a_node_that_stands_apart(trio: Trio) -> None:
    """It would drop what a running majority has acknowledged."""
    apart = followers_of(trio)[0]
    await trio.kill(apart)
    store = MemoryStore()
    ledger = Ledger(store, trio.genesis)
    ledger.append([build(ledger.tip, [account("drill")], proposer=apart, key=KEYS[apart], timestamp_ms=5)])
    trio.members[apart].store = store
    trio.start(apart)
    await trio.until(trio.proposer)
    await trio.replica(proposer_of(trio)).submit(account("alice"))
    await trio.until(lambda: trio.replica(apart).status.halted)
    sequencer = trio.replica(apart)._core.sequencer
    before = await sequencer.state()
    with pytest.raises(ProposerRuns, match=proposer_of(trio)):
        await trio.replica(apart).start_epoch()
    after = await sequencer.state()
    assert (after.epoch, after.head) == (before.epoch, before.head)


async def test_a_node_that_stands_apart_begins_one_when_nobody_leads(trio: Trio) -> None:
    for name in NAMES:
        await trio.kill(name)
    trio.connect = Shared()  # the log was lost
    trio.start(NAMES[0])
    await trio.until(lambda: trio.replica(NAMES[0]).status.halted)
    assert await trio.replica(NAMES[0]).start_epoch() == 2
    await trio.until(lambda: trio.replica(NAMES[0]).status.epoch == 2)


async def test_a_node_whose_tip_is_another_base_stays_apart() -> None:
    """It holds no block of the epoch, so only the base itself tells the two histories apart."""
    trio = Trio(Shared())
    mine, others = (
        build(trio.genesis.block().header, [account(label)], proposer="node1", key=KEYS["node1"], timestamp_ms=1)
        for label in ("mine", "theirs")
    )
    store = MemoryStore()
    Ledger(store, trio.genesis).append([mine])
    log = Sequencer(trio.connect(), trio.genesis.chain_id, "node2")
    await log.begin_epoch(Epoch(1, 1, others.hash), State(None, None, None))
    trio.members["node1"] = Member("node1", store, Ledger(store, trio.genesis))
    trio.start("node1")
    try:
        await trio.until(lambda: trio.replica("node1").status.halted)
        assert "began on another block" in str(trio.replica("node1").status.halted)
        assert trio.replica("node1").status.epoch is None
    finally:
        await trio.close()


def put(number: int, **changes: str) -> bytes:
    owner, key = changes.get("owner", "owner"), changes.get("key", "key")
    content = changes.get("content", "same").encode().ljust(32)
    return CollectionPut(f"c{number}", owner, key, content, b"label", bytes([number]) * 9, 1).encode()


async def lagging(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> str:
    """A follower whose disk takes no more blocks."""
    name = followers_of(trio)[0]

    async def busy(_blocks: Sequence[Block], _certificates: Sequence[Certificate] = ()) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("goud_node.replica.replica._CATCH_UP_SECONDS", 0.1)
    monkeypatch.setattr(trio.replica(name)._core, "append", busy)
    return name


async def test_a_repeat_through_a_node_that_lags_has_the_first_ones_place(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load balancer repeats a write at another node, which seals it anew: other bytes under the same key."""
    name = await lagging(trio, monkeypatch)
    first = await trio.replica(proposer_of(trio)).submit(put(1))
    assert await trio.replica(name).submit(put(2)) == first


@pytest.mark.parametrize("other", [{"key": "another"}, {"content": "another"}, {"owner": "somebody"}], ids=str)
async def test_the_place_of_another_write_is_none(
    trio: Trio, monkeypatch: pytest.MonkeyPatch, other: dict[str, str]
) -> None:
    await trio.replica(proposer_of(trio)).submit(account("somebody"))
    elsewhere = await trio.replica(proposer_of(trio)).submit(put(1, **other))
    name = await lagging(trio, monkeypatch)

    async def forward(_leader: str, _transaction: bytes) -> Receipt:
        return elsewhere

    core = trio.replica(name)._core
    monkeypatch.setattr(core.peers, "forward", forward)
    monkeypatch.setattr(core.ledger, "admissible", lambda _transaction: None)
    monkeypatch.setattr(trio.replica(name)._events, "reached", lambda _height: asyncio.Event().wait())
    monkeypatch.setattr(type(core.ledger), "height", 0)
    with pytest.raises(OutcomeUnknown):
        await trio.replica(name).submit(put(2), budget=1.0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (put(1), put(2), True),
        (put(1), put(1, key="x"), False),
        (put(1), put(1, content="x"), False),
        (put(1), put(1, owner="x"), False),
        (account("a"), account("a"), True),
        (account("a"), account("b"), False),
        (account("a"), put(1), False),
        (put(1), account("a"), False),
        (account("a"), AccountCreate("a", bytes(32), bytes(32), 1).encode(), False),
    ],
)
def test_what_repeats_a_request(one: bytes, other: bytes, same: bool) -> None:
    pair: tuple[Transaction, Transaction] = decode(one), decode(other)
    assert same_request(*pair) is same


async def test_a_peer_that_hangs_holds_up_no_signature(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three validators are left; each needs the other's signature, and both ask the one that hangs."""
    hung, late = followers_of(trio)
    await trio.kill(hung)

    async def hang(_peers: DirectPeers, _start: int, _limit: int, _epoch: Epoch) -> Served | None:
        asked.set()
        await asyncio.sleep(60)
        return None

    asked = asyncio.Event()
    monkeypatch.setattr(DirectPeers, "fetch", hang)
    sequencer, resumed = trio.replica(late)._core.sequencer, asyncio.Event()
    publish = sequencer.countersign

    async def pausing(*arguments: object) -> bool:
        await resumed.wait()
        return await publish(*arguments)  # type: ignore[arg-type]  # passed on as they come

    monkeypatch.setattr(sequencer, "countersign", pausing)
    replica, ledger = trio.replica(proposer_of(trio)), trio.members[proposer_of(trio)].ledger
    await replica.submit(account("first"))
    await asyncio.wait_for(asked.wait(), 10)
    resumed.set()
    began = time.monotonic()
    for number in range(10):
        await replica.submit(account(f"later-{number}"))
    await trio.until(lambda: ledger.certified_height == ledger.height)
    assert time.monotonic() - began < 5, "nobody waits for what the peer does not answer"
