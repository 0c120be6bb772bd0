"""A small chain to build on: three validators with fixed keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from goud_node.chain.block import Block, Header, build
from goud_node.chain.certificate import Certificate, countersign
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import DOMAIN_BLOCK, SigningKey
from goud_node.chain.transactions import AccountCreate, CollectionPut, Transaction

KEYS = {f"node{number}": SigningKey.from_seed(bytes([number]) * 32) for number in (1, 2, 3)}
GENESIS = Genesis("test", 1_000, tuple(Validator(node_id, key.public) for node_id, key in KEYS.items()))


def account(name: str = "alice") -> AccountCreate:
    return AccountCreate(name, name.encode().ljust(32, b"."), b"s" * 16, 5)


def collection(
    name: str, owner: str = "alice", *, key: str | None = None, fingerprint: bytes | None = None
) -> CollectionPut:
    content = (fingerprint or name.encode()).ljust(32, b".")
    return CollectionPut(name, owner, key or f"key-{name}", content, b"label " + name.encode(), b"payload " * 20, 7)


def block_after(previous: Header, transactions: Sequence[Transaction], proposer: str = "node1", at: int = 0) -> Block:
    encoded = [transaction.encode() for transaction in transactions]
    return build(previous, encoded, proposer=proposer, key=KEYS[proposer], timestamp_ms=at)


def chain_of(bodies: Iterable[Sequence[Transaction]], previous: Header | None = None) -> list[Block]:
    """Consecutive blocks with these transactions, from `previous` or genesis."""
    tip = previous or GENESIS.block().header
    blocks = []
    for body in bodies:
        blocks.append(block_after(tip, body))
        tip = blocks[-1].header
    return blocks


def simple_chain(length: int, previous: Header | None = None) -> list[Block]:
    """Block 1 creates alice, every other block stores one collection."""
    first = 1 if previous is None else previous.height + 1
    heights = range(first, first + length)
    return chain_of(([account()] if height == 1 else [collection(f"c{height}")] for height in heights), previous)


def certificate_of(block: Block, signers: Iterable[str] = KEYS) -> Certificate:
    return Certificate(block.height, block.hash, {name: countersign(KEYS[name], block.hash) for name in signers})


def resigned(block: Block, changes: Mapping[str, object], signer: str = "node1") -> Block:
    """The block with changed header fields, validly signed by `signer`."""
    changed = replace(block.header, **changes)  # type: ignore[arg-type]  # the fields vary by test
    return Block(changed, block.transactions, KEYS[signer].sign(DOMAIN_BLOCK, changed.hash))
