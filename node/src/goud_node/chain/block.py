"""Blocks: a hashed header over a Merkle root of transactions, signed by its proposer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from goud_node.chain import encoding
from goud_node.chain.keys import DOMAIN_BLOCK, SigningKey
from goud_node.errors import InvalidBlock

BLOCK_SCHEMA = 1
HASH_BYTES = 32
NO_HASH = bytes(HASH_BYTES)
MAX_BLOCK_BYTES = 960 * 1024
"""Most bytes of transactions in one block (the sum of their lengths); what a proposer may batch."""
ENCODED_LIMIT = 1024 * 1024
"""An encoded block is always shorter: the agreement service takes requests up to 1.5 MiB."""

_HEADER_KINDS = (str, int, bytes, int, str, bytes, int, int)


@dataclass(frozen=True)
class Header:
    """What is hashed and signed. `timestamp_ms` is Unix time in milliseconds, `previous` and `root` are 32 bytes."""

    chain_id: str
    height: int
    previous: bytes
    timestamp_ms: int
    proposer: str
    root: bytes
    count: int
    schema: int = BLOCK_SCHEMA

    def fields(self) -> list[object]:
        return [
            self.chain_id,
            self.height,
            self.previous,
            self.timestamp_ms,
            self.proposer,
            self.root,
            self.count,
            self.schema,
        ]

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the canonical encoding, 32 bytes."""
        return sha256(encoding.encode(self.fields())).digest()


@dataclass(frozen=True)
class Block:
    """A header, its transactions (each canonical CBOR), and the proposer's signature over the header's hash."""

    header: Header
    transactions: tuple[bytes, ...]
    signature: bytes

    @property
    def height(self) -> int:
        return self.header.height

    @property
    def hash(self) -> bytes:
        return self.header.hash

    def encode(self) -> bytes:
        """Canonical CBOR; computed once per object."""
        return self._encoding

    @cached_property
    def _encoding(self) -> bytes:
        return encoding.encode([self.header.fields(), list(self.transactions), self.signature])

    @classmethod
    def decode(cls, raw: bytes) -> Block:
        """The block of `raw`. Raises InvalidBlock for oversize, malformed, trailing or non-canonical bytes."""
        if len(raw) >= ENCODED_LIMIT:
            raise InvalidBlock(f"The block has {len(raw)} bytes; the limit is below {ENCODED_LIMIT}.")
        try:
            fields, transactions, signature = encoding.record(encoding.decode(raw), (list, list, bytes))
            header = Header(*encoding.record(fields, _HEADER_KINDS))
        except encoding.NotCanonical as error:
            raise InvalidBlock(f"The bytes are not a block: {error}.") from error
        if not all(type(transaction) is bytes for transaction in transactions):
            raise InvalidBlock("The bytes are not a block: a transaction is not a byte string.")
        block = cls(header, tuple(transactions), signature)
        # Just proven to be the canonical encoding of this very block: no need to compute it again.
        block.__dict__["_encoding"] = bytes(raw)
        return block


def build(
    previous: Header,
    transactions: Sequence[bytes],
    *,
    proposer: str,
    key: SigningKey,
    timestamp_ms: int,
) -> Block:
    """The signed block after `previous`. A clock at or behind `previous` is moved just past it."""
    header = Header(
        chain_id=previous.chain_id,
        height=previous.height + 1,
        previous=previous.hash,
        timestamp_ms=max(timestamp_ms, previous.timestamp_ms + 1),
        proposer=proposer,
        root=merkle_root(transactions),
        count=len(transactions),
    )
    return Block(header, tuple(transactions), key.sign(DOMAIN_BLOCK, header.hash))


def merkle_root(transactions: Sequence[bytes]) -> bytes:
    """Merkle tree hash after RFC 6962: leaves and inner nodes are hashed in separate domains; 32 bytes."""
    level = [sha256(b"\x00" + transaction).digest() for transaction in transactions]
    if not level:
        return sha256(b"").digest()
    while len(level) > 1:
        parents = [sha256(b"\x01" + level[index] + level[index + 1]).digest() for index in range(0, len(level) - 1, 2)]
        # A lone last node rises unchanged: the same tree as splitting at the largest power of two.
        if len(level) % 2:
            parents.append(level[-1])
        level = parents
    return level[0]
