"""Following and catching up when peers, or the log itself, say something else than this node's chain."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import pytest

from goud_node import clock
from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.kv import Delete
from goud_node.agreement.sequencer import Sequencer
from goud_node.chain.block import Block, build
from goud_node.chain.certificate import Certificate, countersign
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Epoch, Ledger, Receipt
from goud_node.errors import ConflictingBlock, EpochMismatch, InvalidBlock, StoreError, Unavailable
from goud_node.replica import lead, steps
from goud_node.replica.clocks import Reading
from goud_node.replica.core import Core
from goud_node.replica.types import Served
from goud_node.store.base import Batch
from goud_node.store.memory import MemoryStore

from .actors import ENTRIES

T = TypeVar("T")
KEYS = {name: SigningKey.from_seed(hashlib.sha256(name.encode()).digest()) for name in ("n1", "n2", "n3")}
GENESIS = Genesis("steps", 0, tuple(Validator(name, key.public) for name, key in KEYS.items()))


CLOCK_MS = 1000
FIRST = Epoch(1, 0, GENESIS.block().hash)


class Told:
    """Peers that say what they were told to say: `pairs` as far as asked for, in `epoch`; or `answer` as it is."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Block, Certificate]] = []
        self.tips: dict[str, int] = {}
        self.proofs: dict[str, Served] = {}
        self.epoch: Epoch | None = FIRST
        self.answer: Served | None = None
        self.asked = 0
        self.shows_when_asked: dict[str, Reading] = {}
        self.shown = {name: Reading(CLOCK_MS, clock.running()) for name in KEYS}
        self.asked_often = asyncio.Event()

    async def fetch(self, start: int, limit: int, epoch: Epoch) -> Served | None:
        del epoch
        self.asked += 1
        if self.asked == 20:
            self.asked_often.set()
        if self.answer is not None:
            return self.answer
        pairs = [pair for pair in self.pairs if start <= pair[0].height][:limit]
        return Served("n2", self.epoch, pairs) if pairs else None

    async def proof(self, node: str) -> Served | None:
        return self.proofs.get(node)

    async def forward(self, leader: str, transaction: bytes) -> Receipt:
        raise NotImplementedError

    async def heights(self) -> Mapping[str, int]:
        self.shown |= self.shows_when_asked
        return self.tips

    def clocks(self) -> Mapping[str, Reading]:
        return self.shown


async def at_once(write: Callable[[], T]) -> T:
    return write()


def core_on(kv: EmbeddedKv, peers: Told, name: str = "n1", store: MemoryStore | None = None) -> Core:
    ledger = Ledger(store or MemoryStore(), GENESIS)
    log = Sequencer(kv, GENESIS.chain_id, name)
    return Core(ledger, log, peers, KEYS[name], name, True, lambda: CLOCK_MS, at_once)


def chain(length: int, proposer: str = "n2") -> list[tuple[Block, Certificate]]:
    pairs: list[tuple[Block, Certificate]] = []
    tip = GENESIS.block().header
    for number in range(length):
        raws = [ENTRIES[number].raw]
        block = build(tip, raws, proposer=proposer, key=KEYS[proposer], timestamp_ms=1)
        signatures = {name: countersign(key, block.hash) for name, key in KEYS.items() if name != "n1"}
        pairs.append((block, Certificate(block.height, block.hash, signatures)))
        tip = block.header
    return pairs


async def joined() -> tuple[Core, Told, EmbeddedKv]:
    kv, peers = EmbeddedKv(MemoryStore()), Told()
    core = core_on(kv, peers)
    await steps.join(core)
    return core, peers, kv


async def test_certified_blocks_are_taken_from_peers() -> None:
    core, peers, _ = await joined()
    peers.pairs = chain(3)
    assert await steps.catch_up(core) == 3
    assert (core.ledger.height, core.ledger.certified_height) == (3, 3)


async def test_nobody_has_them_is_no_reason_to_stop() -> None:
    core, _, _ = await joined()
    with pytest.raises(Unavailable):
        await steps.catch_up(core)


async def test_a_lying_peer_is_not_believed_and_not_feared() -> None:
    core, peers, _ = await joined()
    (block, certificate), second = chain(2)
    lies: list[list[tuple[Block, Certificate]]] = [
        [(block, replace(certificate, signatures={"n2": certificate.signatures["n2"]}))],
        [(block, second[1])],
        [(replace(block, transactions=(ENTRIES[5].raw,)), certificate)],
        [second],
    ]
    for lie in lies:
        peers.pairs = lie
        with pytest.raises(Unavailable):
            await steps.catch_up(core)
        assert core.ledger.height == 0
    peers.pairs = [(block, certificate)]
    assert await steps.catch_up(core) == 1


async def test_a_certified_other_history_stops_the_node() -> None:
    core, peers, _ = await joined()
    await core.append([chain(1, "n3")[0][0]])
    peers.pairs = chain(2)[1:]
    with pytest.raises(ConflictingBlock):
        await steps.catch_up(core)


async def test_a_block_of_the_log_that_breaks_the_rules_stops_the_node() -> None:
    core, _, kv = await joined()
    other = Sequencer(kv, GENESIS.chain_id, "n2")
    assert core.epoch is not None
    term = await other.campaign(core.epoch, 60)
    assert term is not None
    forged = build(GENESIS.block().header, [ENTRIES[0].raw], proposer="n2", key=KEYS["n3"], timestamp_ms=1)
    await other.commit(term, forged)
    with pytest.raises(InvalidBlock):
        await steps.follow(core)
    assert core.ledger.height == 0


async def test_a_log_that_lost_blocks_stops_the_node() -> None:
    core, _, _ = await joined()
    await core.append([chain(1)[0][0]])
    with pytest.raises(ConflictingBlock):
        await steps.follow(core)


async def test_a_log_that_ends_at_another_block_than_this_node_s_tip_stops_it() -> None:
    core, _, kv = await joined()
    assert core.epoch is not None
    other = Sequencer(kv, GENESIS.chain_id, "n2")
    term = await other.campaign(core.epoch, 60)
    assert term is not None
    await other.commit(term, chain(1)[0][0])
    await core.append([chain(1, "n3")[0][0]])
    with pytest.raises(ConflictingBlock, match="another block 1"):
        await steps.follow(core)


async def test_an_epoch_that_was_not_joined_is_not_followed() -> None:
    core, _, kv = await joined()
    other = Sequencer(kv, GENESIS.chain_id, "n2")
    second = Epoch(2, 0, GENESIS.block().hash)
    await other.begin_epoch(second, await other.state())
    term = await other.campaign(second, 60)
    assert term is not None
    await other.commit(term, chain(1)[0][0])
    with pytest.raises(EpochMismatch):
        await steps.follow(core)
    assert core.ledger.height == 0
    assert core.epoch is None


async def test_an_empty_log_is_begun_only_by_a_new_chain() -> None:
    core, peers, kv = await joined()
    await kv.txn([], [Delete(b"/", b"0")])
    store = MemoryStore()
    old = core_on(kv, peers, store=store)
    await old.append([chain(1)[0][0]])
    with pytest.raises(EpochMismatch, match="start-epoch"):
        await steps.join(old)
    with pytest.raises(EpochMismatch, match="start-epoch"):
        await steps.join(core)  # at genesis, but it took part in an epoch before
    fresh = core_on(kv, peers, "n2")
    peers.tips = {"n1": 1}
    with pytest.raises(EpochMismatch, match="n1 says that it holds 1"):
        await steps.join(fresh)
    new = await steps.start_epoch(old)
    assert (new.number, new.base_height) == (1, 1)
    await steps.join(old)
    await steps.join(fresh)
    assert await steps.follow(fresh) == 1, "the uncertified block at the base is in the log again"


@pytest.mark.parametrize(
    ("mine", "reason"),
    [(Epoch(9, 0, GENESIS.block().hash), "epoch 9"), (Epoch(1, 0, bytes(32)), "replaced")],
)
async def test_an_epoch_that_the_log_does_not_know_is_refused(mine: Epoch, reason: str) -> None:
    core, _, _ = await joined()
    core.ledger.set_epoch(mine)
    with pytest.raises(EpochMismatch, match=reason):
        await steps.join(core)


async def test_a_leader_of_a_previous_life_is_removed_at_once() -> None:
    core, peers, kv = await joined()
    assert await lead.campaign(core) is not None
    again = core_on(kv, peers)
    await steps.join(again)
    await steps.follow(again)
    assert again.leader is None
    assert await lead.campaign(again) is not None


async def test_forged_signatures_make_no_certificate() -> None:
    core, _, kv = await joined()
    block = chain(1)[0][0]
    await core.append([block])
    assert core.epoch is not None
    for name in ("n2", "n3"):
        await Sequencer(kv, GENESIS.chain_id, name).countersign(core.epoch, {1: bytes(64)}, 0)
    assert await steps.certify(core) == 0
    await steps.publish_signatures(core)
    assert await steps.certify(core) == 0
    honest = Sequencer(kv, GENESIS.chain_id, "n2")
    await honest.countersign(core.epoch, {1: countersign(KEYS["n2"], block.hash)}, 0)
    assert await steps.certify(core) == 1
    assert core.ledger.certified_height == 1


class SaysItFailed(MemoryStore):
    """A write reaches the disk, and its sync is said to have failed: once."""

    fails = False

    def write(self, batch: Batch) -> None:
        super().write(batch)
        if self.fails:
            self.fails = False
            raise StoreError("fsync failed")


async def test_events_go_on_after_a_write_that_was_said_to_fail() -> None:
    store = SaysItFailed()
    core = core_on(EmbeddedKv(MemoryStore()), Told(), store=store)
    published: list[int] = []
    core.publish = lambda block: published.append(block.height)
    blocks = [block for block, _ in chain(3)]
    store.fails = True
    with pytest.raises(StoreError):
        await core.append(blocks[:1])
    assert core.ledger.height == 1
    await core.append(blocks[1:2])
    await core.append(blocks[2:])
    assert published == [1, 2, 3]
