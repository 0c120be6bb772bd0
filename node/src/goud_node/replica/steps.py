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
    core.signed_height, core.reported_height, core.trimmed_height = core.ledger.certified_height, None, 0
    core.observe(state)
    core.epoch = epoch


async def start_epoch(core: Core) -> Epoch:
    """Begin a new epoch from the local tip and leave the old one; `join` takes this node into it.

    Raises Unavailable when this node follows a log that goes on above its tip: those blocks may be acknowledged.
    Raises ProposerRuns when it stands apart while another node leads: what that one orders is acknowledged.
    """
    state = await core.sequencer.state()
    is_following = core.epoch is not None and state.epoch == core.epoch
    if not is_following and state.leader is not None and state.leader.node_id != core.node_id:
        raise epochs.ProposerRuns(
            f"no epoch was begun: this node takes no part in the present one, and {state.leader.node_id} leads it. "
            "Wait until this node has joined, or stop that one if this node's chain is to go on instead"
        )
    if is_following and state.head and state.head.height > core.ledger.height:
        raise Unavailable(
            f"no epoch was begun: this node, at block {core.ledger.height}, follows the log, which goes on to block "
            f"{state.head.height}. Wait until it is level, or stop every node and use `goud-node epoch start`"
        )
    new_epoch = await epochs.begin(core.ledger, core.sequencer, state)
    core.epoch = None
    await core.disk(lambda: core.ledger.set_epoch(new_epoch))
    return new_epoch


async def follow(core: Core) -> int:
    """Store what the log has beyond the local tip, one batch; returns how many blocks were taken.

    Raises ConflictingBlock or InvalidBlock when the log contradicts this node's chain: it must then stop. Raises
    LogUnreadable when the next block's key holds none.
    """
    tip, previous_readings = core.ledger.tip, core.readings
    state = await core.sequencer.state()
    core.observe(state, previous_readings)
    if core.epoch is None or state.epoch != core.epoch or state.head is None:
        core.epoch = None
        raise EpochMismatch("the log's epoch changed; joining again")
    _check_head(state.head, tip)
    start = core.ledger.height + 1
    if state.head.height < start:
        return 0
    # What lies above the head is not ordered, whatever it is.
    tail = await core.sequencer.tail(start, min(core.options.read_batch, state.head.height - start + 1))
    if tail.blocks:
        blocks = await core.disk(partial(core.sequencer.decode, tail))
        await core.append(blocks)
        return len(blocks)
    return 0 if tail.first is None else await catch_up(core)


async def catch_up(core: Core) -> int:
    """Store one batch of certified blocks from peers; returns how many.

    Raises AnswerRefused for what does not hold (another peer is asked next time), ConflictingBlock when a majority is
    proven to have certified another history in this epoch.
    """
    epoch, start = core.epoch, core.ledger.height + 1
    if epoch is None:
        raise Unavailable("this node has not joined an epoch yet")
    answer = await proofs.ask(core, epoch, start, core.options.fetch_batch)
    if answer is None:
        raise Unavailable(f"no peer has certified block {start} yet; waiting for one")
    blocks, certificates = [block for block, _ in answer.pairs], [certificate for _, certificate in answer.pairs]
    try:
        _check_base(epoch, blocks)
        await core.append(blocks, certificates)
    except (ConflictingBlock, InvalidBlock) as error:
        await proofs.refuse(core, epoch, answer, error)
    core.signed_height = max(core.signed_height, core.ledger.certified_height)
    return len(blocks)


async def publish_signatures(core: Core) -> int:
    """Countersign what is durable here and not yet certified, and report the certified height; returns how many."""
    epoch = core.epoch
    if epoch is None or not core.validator:
        return 0
    certified_height = core.ledger.certified_height
    start = max(core.signed_height, certified_height) + 1
    stop = min(core.ledger.height, start + MAX_SIGNATURES_PER_TXN - 1)
    if start > stop and core.reported_height == certified_height:
        return 0
    signatures = await core.disk(partial(_countersignatures, core, start, stop))
    if not await core.sequencer.countersign(epoch, signatures, certified_height):
        core.epoch = None
        raise EpochMismatch("the log's epoch changed; joining again")
    core.signed_height = max(core.signed_height, start - 1, stop)
    core.reported_height = certified_height
    return len(signatures)


async def certify(core: Core) -> int:
    """Store the certificates that have become complete; returns how many. Raises as `catch_up` does."""
    return await certify_from_log(core) or await certify_from_peers(core)


async def certify_from_log(core: Core) -> int:
    """Store the certificates whose signatures are in the log; returns how many."""
    start, limit = _certificate_range(core)
    if limit == 0:
        return 0
    signatures = await core.sequencer.signatures(start, limit)
    certificates = await core.disk(partial(_certificates, core, start, limit, signatures))
    core.patience = core.options.patience if certificates else core.patience - 1
    if certificates:
        await core.disk(lambda: core.ledger.certify(certificates))
        core.forget_certified()
    return len(certificates)


async def certify_from_peers(core: Core) -> int:
    """Store a batch of certificates from peers, once the log has shown none for too long; returns how many.

    Others may have gone on without this node: then the signatures are trimmed, and peers have the proof. Raises as
    `catch_up` does.
    """
    epoch, (start, limit) = core.epoch, _certificate_range(core)
    if epoch is None or limit == 0 or core.patience >= 0:
        return 0
    core.patience = core.options.patience
    answer = await proofs.ask(core, epoch, start, limit)
    if answer is None:
        return 0
    certificates = [certificate for _, certificate in answer.pairs]
    try:
        await core.disk(lambda: core.ledger.certify(certificates))
    except (ConflictingBlock, InvalidBlock) as error:
        await proofs.refuse(core, epoch, answer, error)
    core.forget_certified()
    core.patience = -1  # what follows is most likely trimmed, too
    return len(certificates)


def _certificate_range(core: Core) -> tuple[int, int]:
    """The first height without a certificate here, and how many from there a batch asks for; none outside an epoch."""
    start = core.ledger.certified_height + 1
    count = 0 if core.epoch is None else core.ledger.height - start + 1
    return start, min(core.options.fetch_batch, count)


async def _begin_first_epoch(core: Core) -> None:
    # A node that ever took part knows that this is not the beginning, even if it has seen no block yet.
    if core.ledger.height > 0 or core.ledger.epoch is not None:
        raise EpochMismatch(
            f"the log is empty, but this node took part before and holds {core.ledger.height} blocks: "
            f"if the log was lost, {_START_EPOCH}"
        )
    if not core.validator:
        raise Unavailable("the log is empty; waiting for a validator to begin the chain")
    await _require_beginning(core)
    genesis = core.ledger.tip
    await core.sequencer.begin_epoch(Epoch(1, 0, genesis.hash), State(None, None, None))


async def _require_beginning(core: Core) -> None:
    """Raises EpochMismatch when the chain has begun already, as far as the peers prove it.

    A majority's certificate is a proof, whoever sends it. A height alone is the word of one node, and outweighed when a
    majority of the validators, this one included, says that it holds nothing.
    """
    genesis, heights = core.ledger.genesis, await core.peers.heights()
    claims = {node: height for node, height in heights.items() if height > 0}
    for node in claims:
        answer = await core.peers.proof(node)
        if answer is not None and await core.disk(partial(proofs.has_begun, genesis, answer)):
            raise EpochMismatch(
                f"the log is empty, but {node} proves that the chain has {answer.pairs[0][0].height} blocks: "
                f"{_START_EPOCH}"
            )
    empty_nodes = {node for node, height in heights.items() if height == 0 and genesis.validator(node)} | {core.node_id}
    if claims and len(empty_nodes) < genesis.quorum:
        statements = ", ".join(f"{node} says that it holds {height} blocks" for node, height in claims.items())
        raise EpochMismatch(
            f"the log is empty, but {statements}; {len(empty_nodes)} validators say that they hold none, "
            f"{genesis.quorum} would outweigh it. If the chain is new, start more of them or mend that node; else "
            f"{_START_EPOCH}"
        )


async def _check_ancestry(core: Core, epoch: Epoch, head: Head) -> None:
    """Raise EpochMismatch unless the local chain is a beginning of the chain that the log continues."""
    tip = core.ledger.tip
    contradiction = epochs.superseded(core.ledger.epoch, epoch)
    if contradiction is not None:
        raise EpochMismatch(f"{contradiction}; {_START_EPOCH}")
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
    # Blocks beyond the base: only if they are the very blocks of this epoch. Its number is not a proof: when a log was
    # lost, the epoch that began from a restored tip may be called like one that only nodes left behind remember.
    block_hash = await epochs.ordered_hash(core.sequencer, head, tip.height)
    if block_hash is None:
        block_hash = await _certified_hash(core, epoch, tip)
    if block_hash is None:
        raise Unavailable(f"nobody proves which block {tip.height} is that of epoch {epoch.number} yet; waiting")
    if block_hash != tip.hash:
        raise EpochMismatch(
            f"this node's block {tip.height} is not the one of epoch {epoch.number}; "
            "restore it from the same backup as the others, or empty its volume"
        )


async def _certified_hash(core: Core, epoch: Epoch, tip: Header) -> bytes | None:
    """Hash of the block at this height that a majority certified in the epoch, as far as a peer proves it.

    Only a peer that names the epoch can prove that this node's block is another: that advice costs a volume.
    """
    answer = await proofs.ask(core, epoch, tip.height, 1)
    if answer is None:
        return None
    block, certificate = answer.pairs[0]
    if not await core.disk(lambda: proofs.certified(core.ledger.genesis, block, certificate)):
        raise proofs.AnswerRefused(answer.peer, f"its block {tip.height} has no valid certificate of a majority")
    return block.hash if answer.epoch == epoch or block.hash == tip.hash else None


def _check_head(head: Head, tip: Header) -> None:
    """`tip` was the tip before `head` was read: an honest log cannot be behind it."""
    if head.height < tip.height:
        raise ConflictingBlock(
            f"the log ends at block {head.height}, but this node already held {tip.height}: the log lost blocks; "
            f"restore it, or {_START_EPOCH}"
        )
    if head.height == tip.height and head.hash != tip.hash:
        raise ConflictingBlock(
            f"the log holds another block {tip.height} than this node; one of them was tampered with"
        )


def _check_base(epoch: Epoch, blocks: Sequence[Block]) -> None:
    for block in blocks:
        if block.height == epoch.base_height and block.hash != epoch.base_hash:
            raise InvalidBlock(f"block {block.height} is not the one that epoch {epoch.number} began on")


def _countersignatures(core: Core, start: int, stop: int) -> dict[int, bytes]:
    return {height: countersign(core.key, core.hash_at(height)) for height in range(start, stop + 1)}


def _certificates(
    core: Core, start: int, limit: int, signatures: Mapping[int, Mapping[str, bytes]]
) -> list[Certificate]:
    """Certificates of consecutive heights: one after a gap would be found again and again, and hide the gap."""
    certificates = []
    for height in range(start, start + limit):
        certificate = _certificate(core, height, signatures.get(height, {}))
        if certificate is None:
            break
        certificates.append(certificate)
    return certificates


def _certificate(core: Core, height: int, signatures: Mapping[str, bytes]) -> Certificate | None:
    genesis = core.ledger.genesis
    if len(signatures) < genesis.quorum:
        return None
    block_hash = core.hash_at(height)
    valid_signatures = {
        node_id: signature
        for node_id, signature in signatures.items()
        if countersigned(genesis, node_id, block_hash, signature)
    }
    return Certificate(height, block_hash, valid_signatures) if len(valid_signatures) >= genesis.quorum else None
