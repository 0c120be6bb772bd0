"""A receipt of the proposer counts when this node's own chain confirms it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from goud_node.chain.ledger import Epoch, Receipt
from goud_node.chain.transactions import decode
from goud_node.errors import OutcomeUnknown, Unavailable
from goud_node.replica import steps
from goud_node.replica.types import Options

from .trio import NAMES, Shared, Trio, account


@pytest.mark.parametrize(
    "lie",
    [
        lambda true: replace(true, index=true.index + 1),
        lambda true: replace(true, height=true.height - 1),
        lambda true: replace(true, height=0),
        lambda true: replace(true, height=-5),
    ],
    ids=["another place", "the block before", "genesis", "below genesis"],
)
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_false_receipt_is_no_acknowledgement(
    monkeypatch: pytest.MonkeyPatch,
    lie: Any,
    ordered: bool,  # a parameter of the test
) -> None:
    trio = Trio(Shared(), Options(submit_deadline=2.0))
    for name in NAMES:
        trio.start(name)
    try:
        await trio.until(trio.proposer)
        first = await trio.replica(NAMES[0]).submit(account("first"))
        await trio.until(trio.agreed)
        follower = next(member for member in trio.members.values() if member.name != trio.proposer())
        honest: Any = follower.peers

        class Liar:
            fetch, heights, clocks = honest.fetch, honest.heights, honest.clocks

            async def forward(self, leader: str, transaction: bytes) -> Receipt:
                true = await honest.forward(leader, transaction) if ordered else first
                await trio.until(trio.agreed)
                false: Receipt = lie(true)
                return false

        assert follower.replica is not None
        monkeypatch.setattr(follower.replica._core, "peers", Liar())
        if ordered:
            true = await follower.replica.submit(account("lied-about"))
            block = follower.ledger.block(true.height)
            assert block is not None
            assert block.transactions[true.index] == account("lied-about")
        else:
            with pytest.raises(OutcomeUnknown):
                await follower.replica.submit(account("lied-about"))
    finally:
        await trio.close()


async def never(_height: int) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("lie", "refused"),
    [
        (lambda true: true, False),
        (lambda true: replace(true, index=true.index + 1), True),
        (lambda true: replace(true, index=true.index - 1), True),
        (lambda true: replace(true, height=true.height - 1), True),
        (lambda true: replace(true, height=true.height + 1), True),
        (lambda true: replace(true, block_hash=bytes(32)), True),
        (lambda true: replace(true, transaction_id="any text \u2603"), False),
    ],
    ids=["none", "the next place", "the place before", "the block before", "the next block", "the hash", "the id"],
)
async def test_a_follower_that_lags_believes_the_log(monkeypatch: pytest.MonkeyPatch, lie: Any, refused: bool) -> None:
    """The log tells the place and the id of the write, too: a receipt that names another place is none."""
    trio = Trio(Shared(), Options(submit_deadline=5.0))
    for name in NAMES:
        trio.start(name)
    try:
        await trio.until(trio.proposer)
        follower = next(member for member in trio.members.values() if member.name != trio.proposer())
        assert follower.replica is not None
        monkeypatch.setattr("goud_node.replica.replica._CATCH_UP_SECONDS", 0.1)
        monkeypatch.setattr(follower.replica._events, "reached", never)
        honest = follower.replica._core.peers.forward

        async def forward(leader: str, transaction: bytes) -> Receipt:
            true = await honest(leader, transaction)
            false: Receipt = lie(true)
            return false

        monkeypatch.setattr(follower.replica._core.peers, "forward", forward)
        core, follow = follower.replica._core, steps.follow
        monkeypatch.setattr(steps, "follow", lambda other: nothing() if other is core else follow(other))
        if refused:
            with pytest.raises(OutcomeUnknown):
                await follower.replica.submit(account("not-here-yet"), budget=1.0)
        receipt = None if refused else await follower.replica.submit(account("not-here-yet"))
        monkeypatch.setattr(steps, "follow", follow)
        await trio.until(trio.agreed)
        assert receipt in {None, follower.ledger.admissible(decode(account("not-here-yet")))}
    finally:
        await trio.close()


async def nothing() -> int:
    return 0


async def test_an_epoch_drops_no_block_that_was_ordered_meanwhile() -> None:
    """The log moves on between the reading and the transaction, or has moved on beyond this node's own tip."""
    trio = Trio(Shared(), Options(submit_deadline=5.0))
    for name in NAMES:
        trio.start(name)
    try:
        await trio.until(trio.proposer)
        await trio.replica(NAMES[0]).submit(account("first"))
        await trio.until(trio.agreed)
        member = trio.members[NAMES[0]]
        assert member.replica is not None
        sequencer = member.replica._core.sequencer
        before = await sequencer.state()
        tip = member.ledger.tip
        receipt = await trio.replica(NAMES[0]).submit(account("meanwhile"))
        with pytest.raises(Unavailable, match="moved on"):
            await sequencer.begin_epoch(Epoch(2, tip.height, tip.hash), before)
        after = await sequencer.state()
        assert after.epoch == before.epoch
        assert after.head is not None
        assert after.head.height == receipt.height
    finally:
        await trio.close()
