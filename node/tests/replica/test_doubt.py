"""A proposal whose answer was lost: nothing else is proposed, and no refusal is believed, until its fate is known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.refusals import HeightTrimmed
from goud_node.agreement.sequencer import Sequencer, Term
from goud_node.chain.block import Block
from goud_node.chain.transactions import claims
from goud_node.errors import CoordinationFull, GoudError, NotLeader, OutcomeUnknown, StoreFull, Unavailable
from goud_node.replica import lead
from goud_node.replica.batch import Waiting
from goud_node.replica.core import Core
from goud_node.replica.duties import Duties
from goud_node.replica.queue import Queue, Submission
from goud_node.replica.types import Hooks
from goud_node.store.memory import MemoryStore

from .actors import ENTRIES
from .test_steps import FIRST, GENESIS, Told, core_on

TERM = Term(1, 1, FIRST)
WAITING = cast("list[Waiting]", [ENTRIES[0]])


class Scripted(Sequencer):
    """Answers each commit as the script says: an error, or None for "ordered"."""

    def __init__(self, *script: GoudError | None) -> None:
        super().__init__(EmbeddedKv(MemoryStore()), GENESIS.chain_id, "n1")
        self.script = list(script)

    async def commit(self, term: Term, block: Block) -> bytes:
        assert term == TERM
        error = self.script.pop(0)
        if error is not None:
            raise error
        return block.encode()


def core_with(*script: GoudError | None) -> Core:
    core = core_on(EmbeddedKv(MemoryStore()), Told())
    core.sequencer, core.epoch = Scripted(*script), FIRST
    return core


async def test_a_refusal_after_a_lost_answer_is_no_refusal() -> None:
    core = core_with(OutcomeUnknown("lost"), Unavailable("no member answers"), None)
    with pytest.raises(OutcomeUnknown):
        await lead.propose(core, TERM, WAITING)
    with pytest.raises(OutcomeUnknown, match="may be ordered"):
        await lead.settle(core, TERM)
    assert core.unresolved_block is not None
    assert core.unsure_claims == claims(ENTRIES[0].transaction)
    assert (await lead.settle(core, TERM)).height == 1
    assert core.ledger.height == 1


async def test_a_refusal_without_a_lost_answer_is_final() -> None:
    core = core_with(Unavailable("no member answers"))
    with pytest.raises(Unavailable):
        await lead.propose(core, TERM, WAITING)
    assert core.unresolved_block is None
    assert not core.unsure_claims


async def test_the_fence_ends_a_doubt() -> None:
    core = core_with(OutcomeUnknown("lost"), NotLeader("the term ended"))
    with pytest.raises(OutcomeUnknown):
        await lead.propose(core, TERM, WAITING)
    with pytest.raises(NotLeader):
        await lead.settle(core, TERM)
    assert core.unresolved_block is None
    assert not core.unsure_claims


async def test_nothing_is_proposed_beside_what_is_not_settled() -> None:
    core = core_with(OutcomeUnknown("lost"))
    with pytest.raises(OutcomeUnknown):
        await lead.propose(core, TERM, WAITING)
    first = core.unresolved_block
    with pytest.raises(OutcomeUnknown, match="is not settled"):
        await lead.propose(core, TERM, cast("list[Waiting]", [ENTRIES[1]]))
    assert core.unresolved_block is first


async def test_a_height_that_is_decided_and_trimmed_settles_no_write() -> None:
    """It may be this very block that was ordered, and trimmed since."""
    core = core_with(HeightTrimmed("block 1 is decided and trimmed"))
    with pytest.raises(HeightTrimmed):
        await lead.propose(core, TERM, WAITING)
    assert core.unresolved_block is None, "the same block is not proposed again"
    assert core.unsure_claims == claims(ENTRIES[0].transaction)


async def test_a_block_that_is_ordered_and_not_stored_is_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk refuses it: the log has it all the same, so nobody may be told that nothing happened."""
    core = core_with(None)

    def full(*_: object) -> None:
        raise StoreFull("no space left")

    monkeypatch.setattr(core.ledger, "append", full)
    with pytest.raises(StoreFull):
        await lead.propose(core, TERM, WAITING)
    assert core.unresolved_block is None
    assert core.unsure_claims == claims(ENTRIES[0].transaction)


async def _log_is_full(duties: Any) -> None:
    async def step() -> bool:
        raise CoordinationFull("the log is full")

    await duties._attempt(step, _endless())


async def _term_ends(duties: Any) -> None:
    await duties._end_term(TERM, _endless())


async def _node_halts(duties: Any) -> None:
    duties._halt(StoreFull("a damaged file"))


async def _node_stops(duties: Any) -> None:
    duties.stopped.set()
    await duties.run()


def _endless() -> asyncio.Task[None]:
    return asyncio.ensure_future(asyncio.Event().wait())  # type: ignore[arg-type]  # it never returns


@pytest.mark.parametrize("event", [_log_is_full, _term_ends, _node_halts, _node_stops])
async def test_whatever_empties_the_queue_tells_whose_block_may_be_ordered(
    event: Callable[[Any], Awaitable[None]],
) -> None:
    queue = Queue(8, 1 << 20)
    duties = Duties(core_with(), queue, Hooks())
    waiting = [
        Submission(entry.raw, entry.transaction, asyncio.get_running_loop().create_future()) for entry in ENTRIES[:2]
    ]
    for submission in waiting:
        queue.put(submission)
    duties.core.unsure_claims = claims(ENTRIES[0].transaction)
    await event(duties)
    assert isinstance(waiting[0].result.exception(), OutcomeUnknown)
    assert not isinstance(waiting[1].result.exception(), OutcomeUnknown)
