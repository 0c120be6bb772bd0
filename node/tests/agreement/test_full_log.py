"""etcd refuses the transaction that takes its last space for want of space, after it has applied it: reading tells."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.kv import Compare, KeyValue, Operation, Txn
from goud_node.agreement.refusals import HeightTrimmed
from goud_node.agreement.sequencer import Sequencer, State, Term
from goud_node.errors import CoordinationFull, OutcomeUnknown, Unavailable
from goud_node.replica.types import Options
from goud_node.store.memory import MemoryStore

from .test_sequencer import EPOCH, GENESIS, after
from .trio import NAMES, Trio, account


class Brim(EmbeddedKv):
    """Once `fitting` is down to 0 the next transaction is applied and refused, later ones are refused only."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.fitting = 1_000_000
        self.silent = False

    async def txn(self, compares: Sequence[Compare], then: Sequence[Operation]) -> Txn:
        if self.fitting < 0:
            raise CoordinationFull("no space")
        outcome = await super().txn(compares, then)
        self.fitting -= 1
        if self.fitting < 0:
            raise CoordinationFull("no space")
        return outcome

    async def range(
        self, start: bytes, end: bytes | None = None, limit: int = 0, *, keys_only: bool = False
    ) -> list[KeyValue]:
        if self.silent:
            raise Unavailable("no answer")
        return await super().range(start, end, limit, keys_only=keys_only)


def log_on(kv: Brim) -> Sequencer:
    return Sequencer(kv, GENESIS.chain_id, "n1")


async def leading(kv: Brim) -> tuple[Sequencer, Term]:
    log = log_on(kv)
    await log.begin_epoch(EPOCH, State(None, None, None))
    term = await log.campaign(EPOCH, 60)
    assert term is not None
    return log, term


async def test_a_block_that_took_the_last_space_is_ordered() -> None:
    kv = Brim()
    log, term = await leading(kv)
    kv.fitting = 0
    block = after(GENESIS.block(), "one")
    assert await log.commit(term, block) == block.encode()
    with pytest.raises(CoordinationFull):
        await log.commit(term, after(block, "two"))
    assert (await log.tail(2, 1)).blocks == []


async def test_nobody_knows_what_a_full_log_did_while_it_cannot_be_read() -> None:
    kv = Brim()
    log, term = await leading(kv)
    kv.fitting, kv.silent = 0, True
    block = after(GENESIS.block(), "one")
    with pytest.raises(OutcomeUnknown):
        await log.commit(term, block)
    kv.silent = False
    assert await log.commit(term, block) == block.encode()
    kv.silent = True
    with pytest.raises(OutcomeUnknown):
        await log.begin_epoch(EPOCH, State(EPOCH, None, None))


async def test_a_block_that_was_trimmed_meanwhile_is_not_called_refused() -> None:
    kv = Brim()
    log, term = await leading(kv)
    block = after(GENESIS.block(), "one")
    await log.commit(term, block)
    await log.trim(EPOCH, 1)
    with pytest.raises(HeightTrimmed):
        await log.commit(term, block)
    kv.fitting = -1
    with pytest.raises(HeightTrimmed):
        await log.commit(term, block)


async def test_a_lead_that_took_the_last_space_is_known_to_its_winner() -> None:
    kv = Brim()
    log = log_on(kv)
    await log.begin_epoch(EPOCH, State(None, None, None))
    kv.fitting = 0
    term = await log.campaign(EPOCH, 60)
    leader = (await log.state()).leader
    assert term is not None
    assert leader is not None
    assert (leader.lease, leader.create_revision) == (term.lease, term.create_revision)
    await log.resign(term)
    with pytest.raises(CoordinationFull):
        await log.campaign(EPOCH, 60)
    assert (await log.state()).leader is None


async def test_an_epoch_that_took_the_last_space_has_begun() -> None:
    kv = Brim()
    log = log_on(kv)
    kv.fitting = 0
    await log.begin_epoch(EPOCH, State(None, None, None))
    assert (await log.state()).epoch == EPOCH
    kv = Brim()
    log = log_on(kv)
    kv.fitting = -1
    with pytest.raises(CoordinationFull):
        await log.begin_epoch(EPOCH, State(None, None, None))
    assert (await log.state()).epoch is None


async def test_a_write_that_took_the_last_space_is_acknowledged() -> None:
    kv = Brim()
    trio = Trio(lambda: kv, Options(alone=True), validators=NAMES[:1])
    trio.start(NAMES[0])
    await trio.until(lambda: trio.proposer() is not None)
    await trio.until(trio.agreed)
    replica = trio.replica(NAMES[0])
    order = replica._core.sequencer.commit

    async def last(term: object, block: object) -> bytes:
        kv.fitting = 0
        return await order(term, block)  # type: ignore[arg-type]  # passed on as they come

    replica._core.sequencer.commit = last  # type: ignore[method-assign]  # the log of block replica
    receipt = await asyncio.wait_for(replica.submit(account("alice")), 5)
    assert receipt.height == replica.status.height
    await trio.close()
