"""Leading: win a term, propose one block at a time, trim the log, and give its space back."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from goud_node.agreement.refusals import HeightTrimmed
from goud_node.agreement.sequencer import Term
from goud_node.chain.block import Block, build
from goud_node.chain.ledger import Ledger, Receipt
from goud_node.chain.rules import check_block
from goud_node.chain.transactions import Claim, claims
from goud_node.errors import EpochMismatch, InvalidBlock, NotLeader, OutcomeUnknown, Unavailable
from goud_node.replica.batch import Batch, Waiting, compose
from goud_node.replica.clocks import ClockRefused
from goud_node.replica.core import Core
from goud_node.replica.steps import follow


class BlockRefused(Unavailable):
    """The block that this node made breaks a rule, so it was not ordered: every node would halt on it."""

    code = "block-refused"


async def campaign(core: Core) -> Term | None:
    """Try once to become the proposer, if nobody is known to be. Raises ClockRefused."""
    epoch = core.epoch
    if epoch is None or core.leader is not None or not core.validator:
        return None
    verdict = core.clock_verdict()
    if verdict.state == "unread" and verdict.enforced:
        await core.peers.heights()  # their answers carry their clocks
    _check_clock(core, core.clock())
    return await core.sequencer.campaign(epoch, core.options.lease_ttl)


async def prepare(core: Core, term: Term) -> bool:
    """Follow once more; True when this node has everything that was ordered before its term, so it may propose.

    Raises NotLeader when the term is over.
    """
    await follow(core)
    if core.leader is None or core.leader.create_revision != term.create_revision:
        raise NotLeader("the term ended before it began", None if core.leader is None else core.leader.node_id)
    return core.head is not None and core.head.height == core.ledger.height


def _no_answer(_batch: Batch) -> None:
    return None


async def propose(
    core: Core, term: Term, waiting: list[Waiting], answer: Callable[[Batch], None] = _no_answer
) -> Batch:
    """Order one block from what waits, store it, and return what became of the batch.

    `answer` gets the batch before the block is ordered, to answer what needs none; what it raises stops the block.
    `core.unsure_claims` has what the block's transactions claim until the caller has answered those, too.

    The batch is chosen against the local tip, and the log accepts the block only as the successor of that very tip: so
    what is applied already is never ordered again. Raises NotLeader (this block is not and will not be ordered),
    BlockRefused or another Unavailable (it is not ordered), OutcomeUnknown (call `settle` until it answers).
    """
    if core.unresolved_block is not None:
        raise OutcomeUnknown(f"block {core.unresolved_block.height} is not settled")
    now_ms = core.clock()
    _check_clock(core, now_ms)
    # Any of them may be in the block: whoever gives up while it is chosen must not be told that nothing happened.
    core.unsure_claims = _claims(waiting)
    try:
        # Thousands of look-ups and hashes: the loop must not wait for them.
        batch, block = await core.disk(partial(_choose, core, waiting, now_ms))
        answer(batch)
    except BaseException:
        core.unsure_claims = frozenset()
        raise
    if block is None:
        core.unsure_claims = frozenset()
        return batch
    core.unresolved_block, core.doubtful = block, False
    core.unsure_claims = _claims(batch.selection)
    await settle(core, term)
    batch.receipts = await core.disk(partial(_receipts, core.ledger, batch))
    return batch


def _choose(core: Core, waiting: list[Waiting], now_ms: int) -> tuple[Batch, Block | None]:
    """A batch against the tip, and the signed block of it, if there is anything to order. Raises BlockRefused."""
    batch, tip = compose(core.ledger, waiting), core.ledger.tip
    if not batch.selection:
        return batch, None
    raws = [entry.raw for entry in batch.selection]
    block = build(tip, raws, proposer=core.node_id, timestamp_ms=now_ms, key=core.key)
    try:
        check_block(core.ledger.genesis, tip, block)
    except InvalidBlock as error:
        raise BlockRefused(
            f"nothing was ordered, as this node's own rules refuse the block that it made: {error} "
            "Check this node's clock and key; another node may write meanwhile"
        ) from error
    return batch, block


def _claims(entries: list[Waiting]) -> frozenset[Claim]:
    return frozenset(claim for entry in entries for claim in claims(entry.transaction))


def _receipts(ledger: Ledger, batch: Batch) -> list[tuple[Waiting, Receipt]]:
    receipts = ((entry, ledger.admissible(entry.transaction)) for entry in (*batch.selection, *batch.twins))
    return [(entry, receipt) for entry, receipt in receipts if receipt is not None]


async def settle(core: Core, term: Term) -> Block:
    """Find out what became of `core.unresolved_block`, proposing the same block again if need be, and store it.

    Safe to repeat, also after the term ended: the fence then makes the answer NotLeader, for good.
    """
    block = core.unresolved_block
    if block is None:
        raise NotLeader("nothing is proposed")
    start = time.monotonic()
    try:
        holder = await core.sequencer.commit(term, block)
    except HeightTrimmed:
        core.unresolved_block = None
        raise
    except NotLeader:
        core.unresolved_block, core.unsure_claims = None, frozenset()
        raise
    except OutcomeUnknown:
        core.doubtful = True
        raise
    except Unavailable as error:
        if core.doubtful:
            raise OutcomeUnknown(f"block {block.height} may be ordered; the log cannot say yet: {error}") from error
        core.unresolved_block, core.unsure_claims = None, frozenset()
        raise
    core.measure(time.monotonic() - start)
    if holder != block.encode():
        core.unresolved_block, core.unsure_claims = None, frozenset()
        raise NotLeader(f"another block holds height {block.height}: this node's term had ended")
    # Ordered. Should the disk refuse it now, following takes it from the log like any other block.
    core.unresolved_block = None
    await core.append([block])
    return block


def _check_clock(core: Core, now_ms: int) -> None:
    verdict = core.clock_verdict(now_ms)
    if not verdict.may_propose:
        raise ClockRefused(verdict.detail)


async def safe_height(core: Core) -> int:
    """The height up to which a majority of validators hold blocks with certificates on their own disks."""
    progress = await core.sequencer.progress()
    genesis = core.ledger.genesis
    heights = sorted((progress.get(validator.node_id, 0) for validator in genesis.validators), reverse=True)
    return heights[genesis.quorum - 1]


async def trim(core: Core, tail_length: int | None = None) -> int:
    """Drop from the log what a majority can serve, less a short tail; returns the height trimmed to.

    Then every majority contains a node that can serve what the log no longer has.
    """
    if core.epoch is None:
        return 0
    height = await safe_height(core) - (core.options.tail_length if tail_length is None else tail_length)
    if height > core.trimmed_height:
        if not await core.sequencer.trim(core.epoch, height):
            core.epoch = None
            raise EpochMismatch("the log's epoch changed; joining again")
        core.trimmed_height = height
    return core.trimmed_height


async def reclaim(core: Core) -> None:
    """End a space alarm: trim all that is safe, then compact, defragment and disarm."""
    core.trimmed_height = 0
    await trim(core, tail_length=0)
    await core.sequencer.reclaim()
