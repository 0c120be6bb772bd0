"""A proposal whose answer was lost: nothing else is proposed, and no refusal is believed, until its fate is known."""

from __future__ import annotations

from typing import cast

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.sequencer import Sequencer, Term
from goud_node.chain.block import Block
from goud_node.errors import GoudError, NotLeader, OutcomeUnknown, Unavailable
from goud_node.replica import lead
from goud_node.replica.batch import Waiting
from goud_node.replica.core import Core
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
    assert core.unresolved is not None
    assert ENTRIES[0].raw in core.unsure
    assert (await lead.settle(core, TERM)).height == 1
    assert core.ledger.height == 1


async def test_a_refusal_without_a_lost_answer_is_final() -> None:
    core = core_with(Unavailable("no member answers"))
    with pytest.raises(Unavailable):
        await lead.propose(core, TERM, WAITING)
    assert core.unresolved is None
    assert not core.unsure


async def test_the_fence_ends_a_doubt() -> None:
    core = core_with(OutcomeUnknown("lost"), NotLeader("the term ended"))
    with pytest.raises(OutcomeUnknown):
        await lead.propose(core, TERM, WAITING)
    with pytest.raises(NotLeader):
        await lead.settle(core, TERM)
    assert core.unresolved is None
    assert not core.unsure


async def test_nothing_is_proposed_beside_what_is_not_settled() -> None:
    core = core_with(OutcomeUnknown("lost"))
    with pytest.raises(OutcomeUnknown):
        await lead.propose(core, TERM, WAITING)
    first = core.unresolved
    with pytest.raises(OutcomeUnknown, match="is not settled"):
        await lead.propose(core, TERM, cast("list[Waiting]", [ENTRIES[1]]))
    assert core.unresolved is first
