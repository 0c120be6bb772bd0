"""Three replicas put back to an earlier moment, on a log that lived on or was lost: they agree and go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from goud_node.agreement.kv import Delete, Kv, prefix_end
from goud_node.agreement.sequencer import Sequencer
from goud_node.replica import epochs
from goud_node.replica.epochs import Outcome
from goud_node.replica.types import Options
from goud_node.store.memory import MemoryStore

from .trio import NAMES, Trio, account

EARLY = 6


@pytest.fixture
async def trio(connect: Callable[[], Kv]) -> AsyncIterator[Trio]:
    """Running, with a chain of EARLY blocks."""
    trio = Trio(connect, Options(tail_length=4, maintain_interval=0.2))
    await serving(trio, 1)
    await write(trio, range(EARLY))
    yield trio
    await trio.close()


async def serving(trio: Trio, epoch: int) -> None:
    for name in NAMES:
        trio.start(name)
    await trio.until(lambda: trio.proposer() and all(trio.replica(name).status.synced for name in NAMES))
    assert {trio.replica(name).status.epoch for name in NAMES} == {epoch}


async def write(trio: Trio, numbers: range) -> None:
    for number in numbers:
        await trio.replica(NAMES[number % 3]).submit(account(f"restore-{number}"))
    await trio.until(trio.agreed)


def backup(trio: Trio) -> dict[str, MemoryStore]:
    return {name: trio.members[name].store.copy() for name in NAMES}


async def restore(trio: Trio, stores: dict[str, MemoryStore]) -> None:
    """Every node is stopped, and every volume is what it was."""
    for name in NAMES:
        if trio.members[name].running:
            await trio.kill(name)
        if name in stores:
            trio.members[name].store = stores[name]


async def settled(trio: Trio, *, if_needed: bool, lost: bool = False) -> Outcome:
    """What the operator's command does, beside stopped nodes."""
    kv, ledger = trio.connect(), trio.ledger_of("node1")
    log = Sequencer(kv, trio.genesis.chain_id, "node1")
    if lost:
        everything = f"/goud/{trio.genesis.chain_id}/".encode()
        await kv.txn([], [Delete(everything, prefix_end(everything))])

    async def nobody_leads() -> bool:
        return (await log.state()).leader is None

    await eventually(nobody_leads)  # they were killed a moment ago
    outcome = await epochs.resume(ledger, log, "node1", if_needed=if_needed)
    await kv.close()
    return outcome


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(400):
        if await condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not happen in time")


def height(trio: Trio) -> int:
    return trio.members["node1"].ledger.height


async def test_the_tail_is_taken_and_nothing_is_lost(trio: Trio) -> None:
    early = backup(trio)
    await write(trio, range(EARLY, EARLY + 3))
    await restore(trio, early)
    outcome = await settled(trio, if_needed=True)
    assert (outcome.action, outcome.survey.relation) == ("continued", "continues")
    await serving(trio, 1)
    assert height(trio) == EARLY + 3
    await write(trio, range(EARLY + 3, EARLY + 6))


async def test_a_tail_with_a_gap_is_left_behind(trio: Trio) -> None:
    early = backup(trio)
    await write(trio, range(EARLY, EARLY + 20))
    kv = trio.connect()
    log = Sequencer(kv, trio.genesis.chain_id, "node1")

    async def trimmed() -> bool:
        return not (await log.tail(EARLY + 1, 1)).blocks

    await eventually(trimmed)
    await kv.close()
    await restore(trio, early)
    outcome = await settled(trio, if_needed=True)
    assert (outcome.action, outcome.survey.relation) == ("started", "gap")
    await serving(trio, 2)
    assert height(trio) == EARLY
    await write(trio, range(EARLY, EARLY + 3))


async def test_a_lost_log_begins_at_the_restored_tip(trio: Trio) -> None:
    early = backup(trio)
    await write(trio, range(EARLY, EARLY + 3))
    await restore(trio, early | {"node3": MemoryStore()})
    outcome = await settled(trio, if_needed=True, lost=True)
    assert (outcome.action, outcome.survey.relation) == ("started", "empty")
    await serving(trio, 2)
    await trio.until(trio.agreed)
    assert height(trio) == EARLY
    await write(trio, range(EARLY, EARLY + 3))


async def test_an_earlier_moment_on_purpose_and_a_node_that_was_left_behind(trio: Trio) -> None:
    early = backup(trio)
    await write(trio, range(EARLY, EARLY + 3))
    del early["node3"]
    await restore(trio, early)
    outcome = await settled(trio, if_needed=False)
    assert (outcome.action, outcome.survey.relation, outcome.left_behind) == ("started", "continues", 3)
    for name in NAMES:
        trio.start(name)
    await trio.until(lambda: trio.proposer() and trio.replica("node3").status.halted)
    for number in range(5):
        await trio.replica("node1").submit(account(f"instead-{number}"))
    await trio.until(lambda: "not the one of epoch 2" in str(trio.replica("node3").status.halted))
    assert trio.replica("node3").status.epoch is None
    assert trio.members["node3"].ledger.height == EARLY + 3
