"""Epoch, leader and leases: who comes late, or holds an old reading, changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.kv import Compare, KeyValue, Operation, Txn
from goud_node.agreement.sequencer import Sequencer, State
from goud_node.chain.ledger import Epoch
from goud_node.errors import OutcomeUnknown, Unavailable
from goud_node.store.memory import MemoryStore

from .test_sequencer import EPOCH, GENESIS, after, begin


class Leases(EmbeddedKv):
    """Remembers the leases that were granted and not given back; may lose every transaction, or its answer."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.held: set[int] = set()
        self.losing: Literal["nothing", "requests", "answers"] = "nothing"

    async def grant(self, ttl: int) -> int:
        lease = await super().grant(ttl)
        self.held.add(lease)
        return lease

    async def revoke(self, lease: int) -> None:
        self.held.discard(lease)
        await super().revoke(lease)

    async def txn(self, compares: Sequence[Compare], then: Sequence[Operation]) -> Txn:
        if self.losing == "requests":
            raise OutcomeUnknown("the request was lost")
        outcome = await super().txn(compares, then)
        if self.losing == "answers":
            raise OutcomeUnknown("the answer was lost")
        return outcome


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
    kv.losing = "requests"
    assert await log.campaign(EPOCH, 60) is None
    assert kv.held == set()


@pytest.mark.parametrize("losing", ["requests", "answers"])
@pytest.mark.parametrize("leading", ["n1", "n2"])
async def test_a_campaign_without_an_answer_takes_no_other_term_for_its_own(
    leading: str, losing: Literal["requests", "answers"]
) -> None:
    """Also not one of the same name: of this node's former life, whose lease nobody renews."""
    kv = Leases()
    log = Sequencer(kv, GENESIS.chain_id, "n1")
    await log.begin_epoch(EPOCH, State(None, None, None))
    term = await Sequencer(kv, GENESIS.chain_id, leading).campaign(EPOCH, 60)
    assert term is not None
    kv.losing = losing
    assert await log.campaign(EPOCH, 60) is None
    assert kv.held == {term.lease}


async def test_a_campaign_that_was_won_without_an_answer_leads_on_its_own_lease() -> None:
    kv = Leases()
    log = Sequencer(kv, GENESIS.chain_id, "n1")
    await log.begin_epoch(EPOCH, State(None, None, None))
    kv.losing = "answers"
    term = await log.campaign(EPOCH, 60)
    kv.losing = "nothing"
    assert term is not None
    assert kv.held == {term.lease}
    block = after(GENESIS.block(), "one")
    assert await log.commit(term, block) == block.encode()


@pytest.mark.parametrize("lost", [False, True])
async def test_nobody_leads_in_an_epoch_that_is_not_the_log_s(lost: bool) -> None:
    kv = Leases()
    log = Sequencer(kv, GENESIS.chain_id, "n1")
    if not lost:
        await log.begin_epoch(EPOCH, State(None, None, None))
    assert await log.campaign(Epoch(9, 0, GENESIS.block().hash), 60) is None
    assert (await log.state()).leader is None
    assert kv.held == set()


class Mute(EmbeddedKv):
    """Takes writes, and does not answer reads."""

    mute = False

    async def range(
        self, start: bytes, end: bytes | None = None, limit: int = 0, *, keys_only: bool = False
    ) -> list[KeyValue]:
        if self.mute:
            raise Unavailable("no etcd member answers")
        return await super().range(start, end, limit, keys_only=keys_only)


async def test_a_block_that_is_refused_may_have_been_ordered_before() -> None:
    """Its first answer was lost, say: as long as nobody tells what holds the height, that is not known."""
    kv = Mute(MemoryStore())
    log = Sequencer(kv, GENESIS.chain_id, "n1")
    await log.begin_epoch(EPOCH, State(None, None, None))
    term = await log.campaign(EPOCH, 60)
    assert term is not None
    block = after(GENESIS.block(), "one")
    await log.commit(term, block)
    kv.mute = True
    with pytest.raises(OutcomeUnknown):
        await log.commit(term, block)
    kv.mute = False
    assert await log.commit(term, block) == block.encode()


async def test_no_epoch_begins_over_a_block_that_was_ordered_since_the_log_was_read() -> None:
    _, log, term = await begin()
    before, block = await log.state(), after(GENESIS.block(), "one")
    await log.commit(term, block)
    with pytest.raises(Unavailable, match="moved on"):
        await log.begin_epoch(Epoch(2, 0, GENESIS.block().hash), before)
    assert (await log.state()).epoch == EPOCH
    assert (await log.tail(1, 1)).blocks == [block.encode()]


async def test_an_epoch_begins_after_any_number_of_others() -> None:
    _, log, _ = await begin()
    for number in (2, 3, 4):
        await log.begin_epoch(Epoch(number, 0, GENESIS.block().hash), await log.state())
        epoch = (await log.state()).epoch
        assert epoch is not None
        assert epoch.number == number


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
