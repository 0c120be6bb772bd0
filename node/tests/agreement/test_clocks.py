"""Replicas whose clocks are set wrong while they work."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from goud_node.chain.block import build

from .trio import KEYS, NAMES, Shared, Trio, account

YEAR_MS = 365 * 86_400_000


def wall_ms() -> int:
    return int(time.time() * 1000)


@pytest_asyncio.fixture
async def trio() -> AsyncIterator[Trio]:
    made = Trio(Shared())
    for name in NAMES:
        made.start(name)
    await made.until(lambda: made.proposer() is not None)
    yield made
    await made.close()


@pytest.mark.parametrize("offset_ms", [YEAR_MS, -YEAR_MS, 6000])
async def test_the_lead_goes_to_a_right_clock_and_every_block_has_the_true_time(trio: Trio, offset_ms: int) -> None:
    first = trio.proposer()
    assert first is not None
    core = trio.replica(first)._core
    core.clock = lambda: wall_ms() + offset_ms
    receipts = [await trio.replica(name).submit(account(f"from-{name}")) for name in NAMES]
    assert trio.proposer() not in (None, first)
    assert trio.replica(first).status.clock.state == "wrong"
    await trio.until(trio.agreed)
    for receipt in receipts:
        block = trio.members[first].ledger.block(receipt.height)
        assert block is not None
        assert abs(block.header.timestamp_ms - wall_ms()) < 60_000
    core.clock = wall_ms
    assert trio.replica(first).status.clock.state == "right"


async def test_an_idle_proposer_hands_over_too(trio: Trio) -> None:
    first = trio.proposer()
    assert first is not None
    trio.replica(first)._core.clock = lambda: wall_ms() + YEAR_MS
    await trio.until(lambda: trio.proposer() not in (None, first))


async def test_an_ordered_block_of_a_wrong_clock_is_followed_and_signed(trio: Trio) -> None:
    """A proposer of an earlier release does not know the rule; what the log has ordered is final."""
    name = trio.proposer()
    assert name is not None
    replica = trio.replica(name)
    ahead = build(
        trio.members[name].ledger.tip,
        [account("ahead")],
        proposer=name,
        key=KEYS[name],
        timestamp_ms=wall_ms() + YEAR_MS,
    )
    term = replica._duties._term
    assert term is not None
    assert await replica._core.sequencer.commit(term, ahead) == ahead.encode()
    await trio.until(lambda: all(m.ledger.certified_height == ahead.height for m in trio.members.values()))
    receipt = await trio.replica(NAMES[0]).submit(account("later"))
    assert receipt.height == ahead.height + 1
