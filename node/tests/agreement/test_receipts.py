"""A receipt of the proposer counts when this node's own chain confirms it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from goud_node.chain.ledger import Receipt
from goud_node.errors import OutcomeUnknown
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
