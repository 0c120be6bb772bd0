"""Agreement epochs: how a chain at rest relates to the log, and beginning a new epoch from its tip.

Nothing here follows the log: after a restore that is how an operator decides before any node does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from goud_node.agreement.refusals import LogUnreadable
from goud_node.agreement.sequencer import Head, Sequencer, State
from goud_node.chain.block import Header
from goud_node.chain.ledger import Epoch, Ledger
from goud_node.chain.rules import check_block
from goud_node.errors import CorruptStore, EpochMismatch, InvalidBlock, OutcomeUnknown, Unavailable

Relation = Literal["empty", "continues", "gap", "ahead", "conflict"]
_READ_BATCH = 16


class ProposerRuns(Unavailable):
    """Another node leads, so the nodes are not stopped."""

    code = "proposer-runs"


@dataclass(frozen=True, slots=True)
class Survey:
    """How the local chain relates to the log, whose state was read first.

    empty: the log holds nothing. continues: this node can join and take every block up to the head from the log alone.
    gap: the log goes on above, but blocks in between are trimmed. ahead: the log has no block that this chain lacks,
    and yet this node could not join it. conflict: the log and this chain, or their epochs, contradict each other.
    """

    relation: Relation
    detail: str
    state: State
    blocks_above: int
    """Blocks above the local tip that the log still holds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The epoch in force now, and what the log said before."""

    action: Literal["started", "continued"]
    epoch: Epoch
    survey: Survey

    @property
    def left_behind(self) -> int:
        """Blocks of the log that are not part of the epoch."""
        return self.survey.blocks_above if self.action == "started" else 0


async def begin(ledger: Ledger, sequencer: Sequencer, state: State | None = None) -> Epoch:
    """Begin a new epoch from the ledger's tip in place of the one in `state`, which is read when not given.

    Its number is above the log's and above the last one this node knows: the log may have been lost. The caller
    records it in the ledger, so that this holds for the next one too, should the log be lost before anybody joined.
    """
    state = state or await sequencer.state()
    numbers = [epoch.number for epoch in (state.epoch, ledger.epoch) if epoch is not None]
    new_epoch = Epoch(max(numbers, default=0) + 1, ledger.tip.height, ledger.tip.hash)
    try:
        await sequencer.begin_epoch(new_epoch, state)
    except OutcomeUnknown:
        # Beginning the same one again changes nothing, and its answer says what became of the first.
        await sequencer.begin_epoch(new_epoch, state)
    return new_epoch


async def resume(ledger: Ledger, sequencer: Sequencer, node_id: str, *, if_needed: bool) -> Outcome:
    """Make the log one that stopped nodes with this chain can join: begin a new epoch, or leave it if that will do.

    With `if_needed` an epoch that continues this chain is kept, and a contradiction is an EpochMismatch; without, a
    new epoch begins whatever the log holds. Writes the ledger in the calling thread, so no replica may run on it.
    Raises ProposerRuns when another node leads.
    """
    initial_survey = await survey(ledger, sequencer)
    epoch, leader = initial_survey.state.epoch, initial_survey.state.leader
    if if_needed and initial_survey.relation == "conflict":
        raise EpochMismatch(
            f"{initial_survey.detail}. Examine both; if this chain is the right one, begin an epoch without "
            f"--if-needed: {initial_survey.blocks_above} blocks of the log are then left behind"
        )
    if if_needed and initial_survey.relation == "continues" and epoch is not None:
        # The nodes reported what they held before they were restored; trimming by that could drop what they now lack.
        await sequencer.forget_progress(epoch)
        await republish(ledger, sequencer, epoch, ledger.height)
        return Outcome("continued", epoch, initial_survey)
    if leader is not None and leader.node_id != node_id:
        raise ProposerRuns(f"{leader.node_id} is the proposer, so it runs: stop every node first, then try again")
    new_epoch = await begin(ledger, sequencer, initial_survey.state)
    ledger.set_epoch(new_epoch)
    await _prove(sequencer, new_epoch)
    return Outcome("started", new_epoch, initial_survey)


async def republish(ledger: Ledger, sequencer: Sequencer, epoch: Epoch, end_height: int) -> None:
    """Put back into the log what this chain holds without a certificate: peers give nobody a block without one."""
    for height in range(ledger.certified_height + 1, min(ledger.height, end_height) + 1):
        block = ledger.block(height)
        if block is not None:
            await sequencer.republish(epoch, block)


async def survey(ledger: Ledger, sequencer: Sequencer) -> Survey:
    """Compare the local chain with the log, block by block above the tip."""
    state = await sequencer.state()
    epoch, head = state.epoch, state.head
    if epoch is None or head is None:
        return Survey("empty", "the log is empty", state, 0)
    blocks_above = await sequencer.held_above(ledger.height)
    if ledger.height < head.height:
        relation, detail = await _relation_below(ledger, sequencer, epoch, head)
    else:
        relation, detail = _relation_at_or_above(ledger, epoch, head)
    return Survey(relation, detail, state, blocks_above)


async def ordered_hash(sequencer: Sequencer, head: Head, height: int) -> bytes | None:
    """Hash of the block that was ordered at `height`, as far as the log shows it; None when it does not.

    The block after it names it too: when a chain was restored to just below the first block the log still has, no
    node is left that could tell otherwise.
    """
    if height == head.height:
        return head.hash
    tail = await sequencer.tail(height, 1)
    if tail.blocks:
        return sequencer.decode(tail)[0].hash
    if tail.first == height + 1:
        tail = await sequencer.tail(height + 1, 1)
        return sequencer.decode(tail)[0].header.previous if tail.blocks else None
    return None


def superseded(own_epoch: Epoch | None, epoch: Epoch) -> str | None:
    """Why a node that took part in `own_epoch` cannot join `epoch`: it knows a later one, or another of that number."""
    if own_epoch is None or own_epoch.number < epoch.number or own_epoch == epoch:
        return None
    return f"this node is in epoch {own_epoch}, the log in epoch {epoch}: the log was replaced"


async def _relation_below(ledger: Ledger, sequencer: Sequencer, epoch: Epoch, head: Head) -> tuple[Relation, str]:
    """The log goes on above the tip: whether it does so from this very tip, without a gap."""
    contradiction = superseded(ledger.epoch, epoch)
    if contradiction is not None:
        return "conflict", f"{contradiction}, and goes on to block {head.height}"
    try:
        if _has_other_base(ledger, epoch) or await ordered_hash(sequencer, head, ledger.height) not in (
            None,
            ledger.tip.hash,
        ):
            return "conflict", f"the log continues another block {ledger.height} than this node holds"
        end = await _walk(ledger, sequencer, epoch, head)
    except (InvalidBlock, LogUnreadable) as error:
        return "conflict", f"the log holds a block that does not follow this node's chain: {error}"
    if end.height < head.height:
        return "gap", f"the log ends at block {head.height}, but no longer holds block {end.height + 1}"
    return "continues", f"the log holds every block from {ledger.height + 1} to {head.height}"


def _relation_at_or_above(ledger: Ledger, epoch: Epoch, head: Head) -> tuple[Relation, str]:
    """The log ends at the tip or below it: then it has nothing that this chain lacks, or it is another chain's."""
    if _hash_at(ledger, head.height) != head.hash or _has_other_base(ledger, epoch):
        return "conflict", f"the log ends at another block {head.height} than this node holds"
    if ledger.height > head.height:
        return "ahead", f"the log ends at block {head.height}, below this node's tip {ledger.height}: it lost blocks"
    contradiction = superseded(ledger.epoch, epoch)
    return ("continues", "the log ends at this node's tip") if contradiction is None else ("ahead", contradiction)


def _has_other_base(ledger: Ledger, epoch: Epoch) -> bool:
    return epoch.base_height <= ledger.height and _hash_at(ledger, epoch.base_height) != epoch.base_hash


async def _walk(ledger: Ledger, sequencer: Sequencer, epoch: Epoch, head: Head) -> Header:
    """The last of the log's blocks that follow the tip one by one. Raises InvalidBlock for one that may not."""
    last = ledger.tip
    while last.height < head.height:
        tail = await sequencer.tail(last.height + 1, min(_READ_BATCH, head.height - last.height))
        if not tail.blocks:
            return last
        for block in sequencer.decode(tail):
            check_block(ledger.genesis, last, block)
            last = block.header
            if (last.height == epoch.base_height and last.hash != epoch.base_hash) or (
                last.height == head.height and last.hash != head.hash
            ):
                raise InvalidBlock(f"block {last.height} is not the one that epoch {epoch.number} names")
    return last


async def _prove(sequencer: Sequencer, new_epoch: Epoch) -> None:
    state = await sequencer.state()
    if state.epoch != new_epoch or state.head != Head(new_epoch.base_height, new_epoch.base_hash):
        raise OutcomeUnknown(
            f"epoch {new_epoch.number} was begun, but the log has moved on since: does a node run? "
            "Look with `epoch show`"
        )


def _hash_at(ledger: Ledger, height: int) -> bytes:
    block = ledger.block(height)
    if block is None:
        raise CorruptStore(f"Block {height} is missing from the database, whose tip is {ledger.height}.")
    return block.hash
