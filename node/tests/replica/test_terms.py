"""A node's own term, and what the log says of it: an answer counts for what was asked after the term began."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.sequencer import Sequencer, State, Term
from goud_node.replica import steps
from goud_node.replica.duties import Duties
from goud_node.replica.queue import Queue
from goud_node.replica.types import Hooks
from goud_node.store.memory import MemoryStore

from .test_steps import GENESIS, Told, core_on


@pytest.fixture
async def duties() -> Duties:
    core = core_on(EmbeddedKv(MemoryStore()), Told())
    await steps.join(core)
    return Duties(core, Queue(8, 1 << 20), Hooks())


async def elected(duties: Duties) -> Term:
    """As `_lead` does it."""
    assert duties.core.epoch is not None
    term = await duties.core.sequencer.campaign(duties.core.epoch, 60)
    assert term is not None
    cast("Any", duties)._term, cast("Any", duties)._term_since = term, time.monotonic()
    return term


async def follow(duties: Duties) -> None:
    await cast("Any", duties)._follow()


@pytest.mark.parametrize("before", ["nobody led", "another one led"])
async def test_what_was_asked_before_the_election_does_not_end_the_term(
    duties: Duties, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    log, epoch = duties.core.sequencer, duties.core.epoch
    assert epoch is not None
    other = Sequencer(cast("Any", log)._kv, GENESIS.chain_id, "n2")
    former = await other.campaign(epoch, 60) if before == "another one led" else None
    read, (asked, answered) = log.state, (asyncio.Event(), asyncio.Event())

    async def slow() -> State:
        state = await read()
        asked.set()
        await answered.wait()
        return state

    monkeypatch.setattr(log, "state", slow)
    following = asyncio.create_task(follow(duties))
    await asked.wait()
    if former is not None:
        await other.resign(former)
    await elected(duties)
    answered.set()
    await following
    assert not duties.ending
    await follow(duties)
    assert not duties.ending, "the log knows the term by now"


@pytest.mark.parametrize("after", ["nobody leads", "another one leads"])
async def test_what_is_asked_in_the_term_ends_one_that_the_log_does_not_know(duties: Duties, after: str) -> None:
    """The lease may live on although the leader's key is gone."""
    log, epoch = duties.core.sequencer, duties.core.epoch
    assert epoch is not None
    await elected(duties)
    leader = (await log.state()).leader
    assert leader is not None
    await log.remove_leader(leader)
    if after == "another one leads":
        assert await Sequencer(cast("Any", log)._kv, GENESIS.chain_id, "n2").campaign(epoch, 60) is not None
    await follow(duties)
    assert duties.ending
