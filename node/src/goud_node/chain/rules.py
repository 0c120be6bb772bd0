"""The rules that every block must pass before it touches the ledger."""

from __future__ import annotations

from typing import Final

from goud_node.chain.block import (
    BLOCK_SCHEMA,
    ENCODED_LIMIT,
    HASH_BYTES,
    MAX_BLOCK_BYTES,
    Block,
    Header,
    merkle_root,
)
from goud_node.chain.genesis import Genesis
from goud_node.chain.keys import DOMAIN_BLOCK, verify
from goud_node.chain.transactions import Transaction, decode
from goud_node.errors import InvalidBlock, InvalidTransaction

LATEST_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999. Later ones must leave time to the blocks that follow: each is stamped after
the one before it, so one block at the end of all numbers would be the last.
"""


def check_block(genesis: Genesis, previous: Header, block: Block) -> tuple[Transaction, ...]:
    """The decoded transactions of a block that may follow `previous`. Raises InvalidBlock naming height and rule."""
    transactions = check_content(genesis, previous, block)
    check_signature(genesis, block)
    return transactions


def check_content(genesis: Genesis, previous: Header, block: Block) -> tuple[Transaction, ...]:
    """All of `check_block` but who signed it."""
    _check_link(previous, block.header)
    return _check_alone(genesis, block)


def check_alone(genesis: Genesis, block: Block) -> tuple[Transaction, ...]:
    """What holds for a block whatever it follows; raises and returns what `check_block` does."""
    transactions = _check_alone(genesis, block)
    check_signature(genesis, block)
    return transactions


def _check_alone(genesis: Genesis, block: Block) -> tuple[Transaction, ...]:
    _check_header(genesis, block.header)
    _check_body(block)
    try:
        return tuple(decode(transaction) for transaction in block.transactions)
    except InvalidTransaction as error:
        raise _refusal(block.header, f"a transaction is invalid: {error}") from error


def _check_header(genesis: Genesis, header: Header) -> None:
    if header.schema != BLOCK_SCHEMA:
        raise _refusal(header, f"block schema {header.schema} is unknown (this node knows {BLOCK_SCHEMA})")
    if header.chain_id != genesis.chain_id:
        raise _refusal(header, f"it belongs to chain {header.chain_id}, not {genesis.chain_id}")


def _check_link(previous: Header, header: Header) -> None:
    if header.height != previous.height + 1:
        raise _refusal(header, f"it does not follow height {previous.height}")
    if header.previous != previous.hash:
        raise _refusal(header, f"its previous hash is not that of block {previous.height}")
    if header.timestamp_ms <= previous.timestamp_ms:
        raise _refusal(header, "its timestamp is not later than the previous block's")
    # Beyond it time goes on by single milliseconds, so that no block, whatever its time, ends the chain.
    if header.timestamp_ms > max(LATEST_MS, previous.timestamp_ms + 1):
        raise _refusal(header, "its timestamp is after the year 9999, and leaves later blocks no time")


def _check_body(block: Block) -> None:
    if block.header.count != len(block.transactions):
        raise _refusal(block.header, f"it counts {block.header.count} transactions and has {len(block.transactions)}")
    if sum(map(len, block.transactions)) > MAX_BLOCK_BYTES:
        raise _refusal(block.header, f"its transactions exceed {MAX_BLOCK_BYTES} bytes")
    if len(block.encode()) >= ENCODED_LIMIT:
        raise _refusal(block.header, f"it encodes to {ENCODED_LIMIT} bytes or more")
    if len(block.header.root) != HASH_BYTES or block.header.root != merkle_root(block.transactions):
        raise _refusal(block.header, "its root does not match its transactions")


def check_signature(genesis: Genesis, block: Block) -> None:
    """Raises InvalidBlock unless a validator of this height proposed the block."""
    validator = genesis.validators_at(block.height).get(block.header.proposer)
    if validator is None:
        raise _refusal(block.header, f"its proposer {block.header.proposer!r} is not a validator")
    if not verify(validator.public_key, DOMAIN_BLOCK, block.header.hash, block.signature):
        raise _refusal(block.header, f"the signature of {block.header.proposer} is not valid")


def _refusal(header: Header, reason: str) -> InvalidBlock:
    return InvalidBlock(f"Block {header.height} is refused: {reason}.")
