"""Epoch, leader and leases: who comes late, or holds an old reading, changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.kv import Compare, Operation, Txn
from goud_node.agreement.sequencer import Sequencer, State
from goud_node.chain.ledger import Epoch
from goud_node.errors import OutcomeUnknown, Unavailable
from goud_node.store.memory import MemoryStore

from .test_sequencer import EPOCH, GENESIS, after, begin


class Leases(EmbeddedKv):
    """Remembers the leases that were granted and not given back; may lose every transaction on its way."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.held: set[int] = set()
        self.losing = False

    async def grant(self, ttl: int) -> int:
        lease = await super().grant(ttl)
        self.held.add(lease)
        return lease

    async def revoke(self, lease: int) -> None:
        self.held.discard(lease)
        await super().revoke(lease)

    async def txn(self, compares: Sequence[Compare], then: Sequence[Operation]) -> Txn:
        if self.losing:
            raise OutcomeUnknown("the request was lost")
        return await super().txn(compares, then)


async def test_a_lost_campaign_keeps_no_lease() -> None:
    kv = Leases()
    first, second = (Sequencer(kv, GENESIS.chain_id, name) for name in ("n1", "n2"))
    await first.begin_epoch(EPOCH, State(None, None, None))
    term = await first.campaign(EPOCH, 60)
    assert term is not None
    assert await second.campaign(EPOCH, 60) is None
    assert kv.held == {term.lease}


async def test_a_campaign_whose_request_was_lost_keeps_no_lease() -> None:
    """It may arrive yet: on a lease that has ended it makes nobody a leader who does not know of it."""
    kv = Leases()
    log = Sequencer(kv, GENESIS.chain_id, "n1")
    await log.begin_epoch(EPOCH, State(None, None, None))
    kv.losing = True
    assert await log.campaign(EPOCH, 60) is None
    assert kv.held == set()


async def test_an_epoch_begins_in_place_of_the_one_that_was_read_only() -> None:
    _, log, _ = await begin()
    second = Epoch(2, 0, GENESIS.block().hash)
    before = await log.state()
    await log.begin_epoch(second, before)
    with pytest.raises(Unavailable, match="another epoch stands"):
        await log.begin_epoch(Epoch(3, 0, GENESIS.block().hash), before)
    assert (await log.state()).epoch == second


async def test_only_the_leader_that_was_read_is_removed() -> None:
    _, log, _ = await begin()
    leader = (await log.state()).leader
    assert leader is not None
    await log.remove_leader(replace(leader, create_revision=leader.create_revision - 1))
    assert (await log.state()).leader == leader
    await log.remove_leader(leader)
    assert (await log.state()).leader is None


async def test_no_block_is_put_back_over_one_that_is_there() -> None:
    _, log, term = await begin()
    block = after(GENESIS.block(), "one")
    await log.commit(term, block)
    assert not await log.republish(EPOCH, after(GENESIS.block(), "rival"))
    assert (await log.tail(1, 1)).blocks == [block.encode()]
