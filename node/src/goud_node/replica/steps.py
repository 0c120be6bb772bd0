"""Following: join an epoch, take blocks from the log or from peers, countersign, collect certificates.

Each step is a plain coroutine that awaits only the log, the peers and the disk, can be stopped at any await, and can
be run again from the start: the model in the tests does exactly that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from goud_node.agreement.sequencer import MAX_SIGNATURES_PER_TXN, Head, State
from goud_node.chain.block import Block, Header
from goud_node.chain.certificate import Certificate, countersign, countersigned
from goud_node.chain.ledger import Epoch
from goud_node.errors import ConflictingBlock, EpochMismatch, InvalidBlock, Unavailable
from goud_node.replica import epochs, proofs
from goud_node.replica.core import Core

_START_EPOCH = (
    "run `goud-node admin start-epoch` on the node with the longest chain (of equals, the one of the latest epoch), "
    "or after a restore, before any node is started, `goud-node epoch start`"
)


async def join(core: Core) -> None:
    """Take part in the log's epoch, beginning the first one on a new chain.

    Raises EpochMismatch when this node's chain is not part of it, Unavailable when it cannot be told yet.
    """
    state = await core.sequencer.state()
    if state.epoch is None:
        await _begin_first_epoch(core)
        state = await core.sequencer.state()
    epoch, head = state.epoch, state.head
    if epoch is None or head is None:
        raise Unavailable("the log has no epoch yet")
    if state.leader is not None and state.leader.node_id == core.node_id:
        # From a previous life: the lock on this node's database proves that it is over.
        await core.sequencer.remove_leader(state.leader)
    await _check_ancestry(core, epoch, head)
    if core.ledger.epoch != epoch:
        await core.disk(lambda: core.ledger.set_epoch(epoch))
    await epochs.republish(core.ledger, core.sequencer, epoch, epoch.base_height)
    core.signed, core.reported, core.trimmed = core.ledger.certified_height, None, 0
    core.observe(state)
    core.epoch = epoch


async def start_epoch(core: Core) -> Epoch:
    """Begin a new epoch from the local tip and leave the old one; `join` takes this node into it.

    Raises Unavailable when this node follows a log that goes on above its tip: those blocks may be acknowledged.
    """
    state = await core.sequencer.state()
    if core.epoch is not None and state.epoch == core.epoch and state.head and state.head.height > core.ledger.height:
        raise Unavailable(
            f"no epoch was begun: this node, at block {core.ledger.height}, follows the log, which goes on to block "
            f"{state.head.height}. Wait until it is level, or stop every node and use `goud-node epoch start`"
        )
    new = await epochs.begin(core.ledger, core.sequencer, state)
    core.epoch = None
    await core.disk(lambda: core.ledger.set_epoch(new))
    return new


async def follow(core: Core) -> int:
    """Store what the log has beyond the local tip, one batch; returns how many blocks were taken.

    Raises ConflictingBlock or InvalidBlock when the log contradicts this node's chain: it must then stop.
    """
    mine, before = core.ledger.tip, core.readings
    state = await core.sequencer.state()
    core.observe(state, before)
    if core.epoch is None or state.epoch != core.epoch or state.head is None:
        core.epoch = None
        raise EpochMismatch("the log's epoch changed; joining again")
    _check_head(state.head, mine)
    start = core.ledger.height + 1
    if state.head.height < start:
        return 0
    tail = await core.sequencer.tail(start, core.options.read_batch)
    if tail.blocks:
        await core.append(await core.disk(partial(_decoded, tail.blocks)))
        return len(tail.blocks)
    return 0 if tail.first is None else await catch_up(core)


async def catch_up(core: Core) -> int:
    """Store one batch of certified blocks from peers; returns how many.

    Raises AnswerRefused for what does not hold (another peer is asked next time), ConflictingBlock when a majority is
    proven to have certified another history in this epoch.
    """
    epoch, start = core.epoch, core.ledger.height + 1
    if epoch is None:
        raise Unavailable("this node has not joined an epoch yet")
    served = await proofs.ask(core, epoch, start, core.options.fetch_batch)
    if served is None:
        raise Unavailable(f"no peer has certified block {start} yet; waiting for one")
    blocks, certificates = [block for block, _ in served.pairs], [certificate for _, certificate in served.pairs]
    try:
        _check_base(epoch, blocks)
        await core.append(blocks, certificates)
    except (ConflictingBlock, InvalidBlock) as error:
        await proofs.refuse(core, epoch, served, error)
    core.signed = max(core.signed, core.ledger.certified_height)
    return len(blocks)


async def publish_signatures(core: Core) -> int:
    """Countersign what is durable here and not yet certified, and report the certified height; returns how many."""
    epoch = core.epoch
    if epoch is None or not core.validator:
        return 0
    certified = core.ledger.certified_height
    start = max(core.signed, certified) + 1
    stop = min(core.ledger.height, start + MAX_SIGNATURES_PER_TXN - 1)
    if start > stop and core.reported == certified:
        return 0
    signatures = await core.disk(partial(_countersignatures, core, start, stop))
    if not await core.sequencer.countersign(epoch, signatures, certified):
        core.epoch = None
        raise EpochMismatch("the log's epoch changed; joining again")
    core.signed = max(core.signed, start - 1, stop)
    core.reported = certified
    return len(signatures)


async def certify(core: Core) -> int:
    """Store the certificates that have become complete; returns how many. Raises as `catch_up` does."""
    epoch, start, height = core.epoch, core.ledger.certified_height + 1, core.ledger.height
    if epoch is None or start > height:
        return 0
    limit = min(core.options.fetch_batch, height - start + 1)
    found = await core.sequencer.signatures(start, limit)
    certificates = await core.disk(partial(_certificates, core, start, limit, found))
    core.patience = core.options.patience if certificates else core.patience - 1
    if core.patience < 0:
        # Others may have gone on without this node: then the signatures are trimmed, and peers have the proof.
        core.patience = core.options.patience
        return await _certify_from_peers(core, epoch, start, limit)
    if certificates:
        await core.disk(lambda: core.ledger.certify(certificates))
        core.forget_certified()
    return len(certificates)


async def _certify_from_peers(core: Core, epoch: Epoch, start: int, limit: int) -> int:
    served = await proofs.ask(core, epoch, start, limit)
    if served is None:
        return 0
    certificates = [certificate for _, certificate in served.pairs]
    try:
        await core.disk(lambda: core.ledger.certify(certificates))
    except (ConflictingBlock, InvalidBlock) as error:
        await proofs.refuse(core, epoch, served, error)
    core.forget_certified()
    core.patience = 0  # what follows is most likely trimmed, too
    return len(certificates)


async def _begin_first_epoch(core: Core) -> None:
    # A node that ever took part knows that this is not the beginning, even if it has seen no block yet.
    if core.ledger.height > 0 or core.ledger.epoch is not None:
        raise EpochMismatch(
            f"the log is empty, but this node took part before and holds {core.ledger.height} blocks: "
            f"if the log was lost, {_START_EPOCH}"
        )
    if not core.validator:
        raise Unavailable("the log is empty; waiting for a validator to begin the chain")
    for node, height in (await core.peers.heights()).items():
        if height > 0:
            raise EpochMismatch(f"the log is empty, but {node} holds {height} blocks: {_START_EPOCH}")
    genesis = core.ledger.tip
    await core.sequencer.begin_epoch(Epoch(1, 0, genesis.hash), State(None, None, None))


async def _check_ancestry(core: Core, epoch: Epoch, head: Head) -> None:
    """Raise EpochMismatch unless the local chain is a beginning of the chain that the log continues."""
    tip = core.ledger.tip
    stale = epochs.superseded(core.ledger.epoch, epoch)
    if stale is not None:
        raise EpochMismatch(f"{stale}; {_START_EPOCH}")
    if tip.height > head.height:
        raise EpochMismatch(
            f"this node holds {tip.height} blocks, the log ends at {head.height}: the log lost blocks; {_START_EPOCH}"
        )
    if tip.height >= epoch.base_height and core.hash_at(epoch.base_height) != epoch.base_hash:
        raise EpochMismatch(
            f"epoch {epoch.number} began on another block {epoch.base_height} than this node holds; "
            "restore it from the same backup as the others, or empty its volume"
        )
    if tip.height <= epoch.base_height:
        return
    # Blocks beyond the base: only if they are the very blocks of this epoch. Its number is no proof: when a log was
    # lost, the epoch that began from a restored tip may be called like one that only nodes left behind remember.
    ordered = await epochs.ordered_hash(core.sequencer, head, tip.height)
    if ordered is None:
        ordered = await _certified_hash(core, epoch, tip)
    if ordered is None:
        raise Unavailable(f"nobody proves which block {tip.height} is that of epoch {epoch.number} yet; waiting")
    if ordered != tip.hash:
        raise EpochMismatch(
            f"this node's block {tip.height} is not the one of epoch {epoch.number}; "
            "restore it from the same backup as the others, or empty its volume"
        )


async def _certified_hash(core: Core, epoch: Epoch, tip: Header) -> bytes | None:
    """Hash of the block at this height that a majority certified in the epoch, as far as a peer proves it.

    Only a peer that names the epoch can prove that this node's block is another: that advice costs a volume.
    """
    served = await proofs.ask(core, epoch, tip.height, 1)
    if served is None:
        return None
    block, certificate = served.pairs[0]
    if not await core.disk(lambda: proofs.certified(core.ledger.genesis, block, certificate)):
        raise proofs.AnswerRefused(served.peer, f"its block {tip.height} has no valid certificate of a majority")
    return block.hash if served.epoch == epoch or block.hash == tip.hash else None


def _check_head(head: Head, mine: Header) -> None:
    """`mine` was the tip before `head` was read: an honest log cannot be behind it."""
    if head.height < mine.height:
        raise ConflictingBlock(
            f"the log ends at block {head.height}, but this node already held {mine.height}: the log lost blocks; "
            f"restore it, or {_START_EPOCH}"
        )
    if head.height == mine.height and head.hash != mine.hash:
        raise ConflictingBlock(
            f"the log holds another block {mine.height} than this node; one of them was tampered with"
        )


def _decoded(raws: Sequence[bytes]) -> list[Block]:
    return [Block.decode(raw) for raw in raws]


def _check_base(epoch: Epoch, blocks: Sequence[Block]) -> None:
    for block in blocks:
        if block.height == epoch.base_height and block.hash != epoch.base_hash:
            raise InvalidBlock(f"block {block.height} is not the one that epoch {epoch.number} began on")


def _countersignatures(core: Core, start: int, stop: int) -> dict[int, bytes]:
    return {height: countersign(core.key, core.hash_at(height)) for height in range(start, stop + 1)}


def _certificates(core: Core, start: int, limit: int, found: Mapping[int, Mapping[str, bytes]]) -> list[Certificate]:
    """Certificates of consecutive heights: one after a gap would be found again and again, and hide the gap."""
    certificates = []
    for height in range(start, start + limit):
        certificate = _certificate(core, height, found.get(height, {}))
        if certificate is None:
            break
        certificates.append(certificate)
    return certificates


def _certificate(core: Core, height: int, signatures: Mapping[str, bytes]) -> Certificate | None:
    genesis = core.ledger.genesis
    if len(signatures) < genesis.quorum:
        return None
    block_hash = core.hash_at(height)
    valid = {n: s for n, s in signatures.items() if countersigned(genesis, n, block_hash, s)}
    return Certificate(height, block_hash, valid) if len(valid) >= genesis.quorum else None
