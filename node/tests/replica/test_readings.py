"""Two loops of one node read the log at once, and the answers may come in any order."""

from __future__ import annotations

from itertools import permutations

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.sequencer import Sequencer, State
from goud_node.replica import steps
from goud_node.replica.core import Core
from goud_node.store.memory import MemoryStore

from .test_steps import GENESIS, Told, chain, core_on

LENGTH = 3


async def states_of(core: Core, kv: EmbeddedKv) -> list[State]:
    """What the log said: before an election, after it, after each block, and after the next election."""
    assert core.epoch is not None
    other = Sequencer(kv, GENESIS.chain_id, "n2")
    found = [await other.state()]
    term = await other.campaign(core.epoch, 60)
    assert term is not None
    found.append(await other.state())
    for block, _ in chain(LENGTH):
        await other.commit(term, block)
        found.append(await other.state())
    await other.resign(term)
    assert await Sequencer(kv, GENESIS.chain_id, "n3").campaign(core.epoch, 60) is not None
    return [*found, await other.state()]


@pytest.mark.parametrize("order", list(permutations(range(1, LENGTH + 3), 3)))
async def test_a_reading_that_arrives_late_takes_nothing_back(order: tuple[int, ...]) -> None:
    kv = EmbeddedKv(MemoryStore())
    core = core_on(kv, Told())
    await steps.join(core)
    states = await states_of(core, kv)
    before = core.readings
    for number in order:
        core.observe(states[number], before)
    newest = states[max(order)]
    assert (core.head, core.leader) == (newest.head, newest.leader)


async def test_a_reading_that_was_asked_for_later_counts_whatever_it_says() -> None:
    """A log that lost blocks must be seen, not hidden."""
    kv = EmbeddedKv(MemoryStore())
    core = core_on(kv, Told())
    await steps.join(core)
    states = await states_of(core, kv)
    core.observe(states[-1], core.readings)
    core.observe(states[0], core.readings)
    assert (core.head, core.leader) == (states[0].head, states[0].leader)
