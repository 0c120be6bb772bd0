"""A node's own term, and what the log says of it: an answer counts for what was asked after the term began."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.sequencer import Sequencer, State, Term
from goud_node.chain.keys import SigningKey
from goud_node.chain.rules import LATEST_MS
from goud_node.errors import Unavailable
from goud_node.replica import steps
from goud_node.replica.core import Core
from goud_node.replica.duties import Duties
from goud_node.replica.queue import Queue, Submission
from goud_node.replica.types import Hooks
from goud_node.store.memory import MemoryStore

from .actors import ENTRIES
from .test_steps import CLOCK_MS, GENESIS, Told, core_on


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


def _clock_after_the_year_9999(core: Core) -> None:
    core.options = replace(core.options, alone=True)  # with others, a majority's clocks would refuse it before
    core.clock = lambda: LATEST_MS + 1


def _key_that_is_not_the_validators(core: Core) -> None:
    core.key = SigningKey.generate()


def _name_that_is_no_validators(core: Core) -> None:
    core.node_id = "stranger"


@pytest.mark.parametrize(
    "fault", [_clock_after_the_year_9999, _key_that_is_not_the_validators, _name_that_is_no_validators]
)
async def test_a_block_that_its_own_proposer_refuses_is_never_ordered(
    duties: Duties, fault: Callable[[Core], None]
) -> None:
    """Ordered, it would halt every node. Whoever waits is told the reason, and the node goes on once it is mended."""
    core, loop = duties.core, asyncio.get_running_loop()
    core.clock = lambda: CLOCK_MS
    key, node_id = core.key, core.node_id
    term = await elected(duties)
    renewal = asyncio.ensure_future(asyncio.Event().wait())
    fault(core)
    submission = Submission(ENTRIES[0].raw, ENTRIES[0].transaction, loop.create_future())
    duties.queue.put(submission)
    assert not await cast("Any", duties)._attempt(lambda: cast("Any", duties)._propose(term), renewal)
    state = await core.sequencer.state()
    assert state.head is not None
    assert state.head.height == 0
    with pytest.raises(Unavailable, match="own rules refuse") as caught:
        await submission.result
    assert caught.value.code == "block-refused"
    core.key, core.node_id, core.clock = key, node_id, lambda: CLOCK_MS
    duties.queue.put(Submission(ENTRIES[0].raw, ENTRIES[0].transaction, loop.create_future()))
    assert await cast("Any", duties)._attempt(lambda: cast("Any", duties)._propose(term), renewal)
    assert core.ledger.height == 1
    renewal.cancel()
