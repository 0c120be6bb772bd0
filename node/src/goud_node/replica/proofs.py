"""What a peer's answer proves about the chain. Nothing in it counts before its signatures are verified.

A majority's certificate is a proof, whoever sends it: if it certifies, in this very epoch, another block than this node
holds, then one of the two histories is false and the node must stop. Whatever proves less costs its sender a line in
the log, and this node nothing.
"""

from __future__ import annotations

from functools import partial

from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis
from goud_node.chain.ledger import Epoch
from goud_node.errors import ConflictingBlock, GoudError, InvalidBlock, Unavailable
from goud_node.replica.core import Core
from goud_node.replica.types import Served


class AnswerRefused(Unavailable):
    """What a peer sent does not hold. Another peer is asked next time."""

    code = "peer-answer-refused"

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f"the answer of {peer} is refused: {reason}")
        self.peer = peer


async def ask(core: Core, epoch: Epoch, start: int, limit: int) -> Served | None:
    """An answer of the right shape, none of it verified: consecutive blocks from `start`, each with its certificate.

    Raises AnswerRefused, Unavailable.
    """
    answer = await core.peers.fetch(start, limit, epoch)
    if answer is None or not answer.pairs:
        return None
    if answer.epoch not in (None, epoch):
        raise AnswerRefused(answer.peer, f"it is about epoch {answer.epoch}, this node is in epoch {epoch}")
    if len(answer.pairs) > limit:
        raise AnswerRefused(answer.peer, f"it has {len(answer.pairs)} blocks, {limit} were asked for")
    for height, (block, certificate) in enumerate(answer.pairs, start):
        if block.height != height:
            raise AnswerRefused(answer.peer, f"it has block {block.height} in the place of block {height}")
        if (block.height, block.hash) != (certificate.height, certificate.block_hash):
            raise AnswerRefused(answer.peer, f"the certificate beside block {height} is not for it")
    return answer


async def refuse(core: Core, epoch: Epoch, answer: Served, error: GoudError) -> None:
    """Raise ConflictingBlock if the answer, refused with `error`, proves another history; else AnswerRefused."""
    block = await conflict(core, epoch, answer)
    if block is not None:
        raise ConflictingBlock(
            f"a majority certified another block {block.height} in epoch {epoch.number} than belongs to this node's "
            f"chain, which ends at block {core.ledger.height}: one of the two histories is false ({error})"
        ) from error
    raise AnswerRefused(answer.peer, str(error)) from error


async def conflict(core: Core, epoch: Epoch, answer: Served) -> Block | None:
    """A block that a majority certified in this epoch although it contradicts this node's chain; None: no such proof.

    An answer that does not name its epoch proves none: it may come from a history that a restore has left behind.
    """
    if answer.epoch != epoch:
        return None
    for block, certificate in answer.pairs:
        if _contradicts(core, epoch, block):
            # Only the first: what follows it in the answer hangs on it.
            return block if await core.disk(partial(certified, core.ledger.genesis, block, certificate)) else None
    return None


def certified(genesis: Genesis, block: Block, certificate: Certificate) -> bool:
    """Whether a majority of the validators signed this very block of this chain.

    Signatures cover the hash alone, so height and chain are believed only of the block that has this hash.
    """
    if (block.height, block.hash) != (certificate.height, certificate.block_hash):
        return False
    if block.header.chain_id != genesis.chain_id:
        return False
    try:
        certificate.verify(genesis)
    except InvalidBlock:
        return False
    return True


def has_begun(genesis: Genesis, answer: Served) -> bool:
    """Whether the answer proves that this chain has blocks."""
    return any(block.height > 0 and certified(genesis, block, certificate) for block, certificate in answer.pairs[:1])


def _contradicts(core: Core, epoch: Epoch, block: Block) -> bool:
    tip = core.ledger.tip
    if block.height == epoch.base_height and block.hash != epoch.base_hash:
        return True
    if block.height <= tip.height:
        return core.hash_at(block.height) != block.hash
    return block.height == tip.height + 1 and block.header.previous != tip.hash
