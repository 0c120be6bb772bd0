"""What a peer may send instead of the truth: forged, half-signed, misplaced, oversized. None of it proves anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from goud_node.chain.block import NO_HASH, Block, Header, build
from goud_node.chain.certificate import Certificate, countersign
from goud_node.chain.genesis import Genesis
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Epoch
from goud_node.replica.types import Served

Pairs = Sequence[tuple[Block, Certificate]]
Lie = Callable[[Genesis, SigningKey, Served], Served]


def _signed(change: Callable[[Certificate], dict[str, bytes]]) -> Lie:
    """True blocks, with other signatures in their certificates."""

    def lie(_genesis: Genesis, _key: SigningKey, served: Served) -> Served:
        return replace(served, pairs=[(block, replace(c, signatures=change(c))) for block, c in served.pairs])

    return lie


def _moved(_genesis: Genesis, _key: SigningKey, served: Served) -> Served:
    """Each certificate is the valid one of the next block, under this height: signatures do not cover the height."""
    pairs = [
        (block, Certificate(block.height, following.block_hash, following.signatures))
        for (block, _), (_, following) in pairwise(served.pairs)
    ]
    return replace(served, pairs=pairs or [(b, replace(c, block_hash=b.header.previous)) for b, c in served.pairs])


def _another(whole: bool) -> Lie:
    """Another block at each height, made by the liar and signed by it alone; `whole` forges the other signatures."""

    def lie(genesis: Genesis, key: SigningKey, served: Served) -> Served:
        name = next((v.node_id for v in genesis.validators if v.public_key == key.public), "stranger")
        pairs = []
        for true, certificate in served.pairs:
            before = Header(genesis.chain_id, true.height - 1, true.header.previous, 0, name, NO_HASH, 0)
            block = build(before, true.transactions, proposer=name, key=key, timestamp_ms=true.header.timestamp_ms + 1)
            block = replace(block, header=replace(block.header, previous=true.header.previous))
            signatures = dict.fromkeys(certificate.signatures, bytes(64)) if whole else {}
            if len(genesis.validators) > 1:
                signatures[name] = countersign(key, block.hash)
            pairs.append((block, Certificate(block.height, block.hash, signatures)))
        return replace(served, pairs=pairs)

    return lie


def _emptied(_genesis: Genesis, _key: SigningKey, served: Served) -> Served:
    """The signed header of a block, and other transactions."""
    return replace(served, pairs=[(replace(block, transactions=(b"\xa0",)), c) for block, c in served.pairs])


def _foreign(genesis: Genesis, key: SigningKey, served: Served) -> Served:
    """Blocks of another chain, under the names of this one's validators."""
    foreign = [(replace(b, header=replace(b.header, chain_id=f"{genesis.chain_id}-2")), c) for b, c in served.pairs]
    pairs = [
        (block, Certificate(block.height, block.hash, dict.fromkeys(c.signatures, countersign(key, block.hash))))
        for block, c in foreign
    ]
    return replace(served, pairs=pairs if len(genesis.validators) > 1 else foreign)


def _misplaced(_genesis: Genesis, _key: SigningKey, served: Served) -> Served:
    return replace(served, pairs=[*served.pairs[1:], served.pairs[0], served.pairs[0]])


def _oversized(_genesis: Genesis, _key: SigningKey, served: Served) -> Served:
    return replace(served, pairs=list(served.pairs) * 100)


def _other_epoch(_genesis: Genesis, _key: SigningKey, served: Served) -> Served:
    epoch = served.epoch or Epoch(0, 0, NO_HASH)
    return replace(served, epoch=replace(epoch, number=epoch.number + 7))


LIES: dict[str, Lie] = {
    "zeros": _signed(lambda c: dict.fromkeys(c.signatures, bytes(64))),
    "half signed": _signed(lambda c: dict(list(c.signatures.items())[:1]) if len(c.signatures) > 1 else {}),
    "one of a majority is forged": _signed(lambda c: {**c.signatures, min(c.signatures): bytes(64)}),
    "signed twice by one": _signed(lambda c: dict.fromkeys(c.signatures, min(c.signatures.values()))),
    "unsigned": _signed(lambda _: {}),
    "signed by strangers": _signed(lambda c: {**c.signatures, "zz": bytes(64)}),
    "moved certificates": _moved,
    "another block": _another(whole=False),
    "another block, forged": _another(whole=True),
    "another body": _emptied,
    "another chain": _foreign,
    "misplaced": _misplaced,
    "oversized": _oversized,
    "another epoch": _other_epoch,
}
