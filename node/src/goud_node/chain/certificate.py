"""Certificates: the countersignatures of a majority that hold a block durably."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from goud_node.chain import encoding
from goud_node.chain.block import HASH_BYTES, Block
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import DOMAIN_PERSISTED, SIGNATURE_BYTES, SigningKey, verify
from goud_node.errors import InvalidBlock

MOST_BYTES: Final = 256 * 1024
"""Most bytes of a certificate: a thousand validators, the most of a genesis document, take half of it."""
_LEAST_TRANSACTION: Final = 24
"""Fewer bytes than any transaction takes in an encoding of blocks."""


def countersign(key: SigningKey, block_hash: bytes) -> bytes:
    """A validator's word that the block of this hash is durable in its own store; 64 bytes."""
    return key.sign(DOMAIN_PERSISTED, block_hash)


def countersigned(genesis: Genesis, node_id: str, block_hash: bytes, signature: bytes) -> bool:
    """Whether `signature` is the countersignature of the validator `node_id`. Use it before collecting one."""
    validator = genesis.validator(node_id)
    return validator is not None and _holds(validator, block_hash, signature)


@dataclass(frozen=True)
class Certificate:
    """Countersignatures for one block, by node id."""

    height: int
    block_hash: bytes
    signatures: Mapping[str, bytes]

    def encode(self) -> bytes:
        """Canonical CBOR, signers in order of their ids."""
        return encoding.encode(
            [
                self.height,
                self.block_hash,
                [[node_id, signature] for node_id, signature in sorted(self.signatures.items())],
            ]
        )

    @classmethod
    def decode(cls, raw: bytes) -> Certificate:
        """Raises InvalidBlock for oversize, malformed or non-canonical bytes."""
        if len(raw) > MOST_BYTES:
            raise InvalidBlock(f"The certificate has {len(raw)} bytes; the limit is {MOST_BYTES}.")
        try:
            height, block_hash, entries = encoding.record(encoding.decode(raw), (int, bytes, list))
            pairs = [encoding.record(entry, (str, bytes)) for entry in entries]
        except encoding.NotCanonical as error:
            raise InvalidBlock(f"The bytes are not a certificate: {error}.") from error
        names = [name for name, _ in pairs]
        if names != sorted(set(names)):
            raise InvalidBlock("The bytes are not a certificate: signers are repeated or out of order.")
        if len(block_hash) != HASH_BYTES or any(len(signature) != SIGNATURE_BYTES for _, signature in pairs):
            raise InvalidBlock("The bytes are not a certificate: a hash or a signature has the wrong length.")
        return cls(height, block_hash, dict(pairs))

    def verify(self, genesis: Genesis) -> None:
        """Raises InvalidBlock unless a majority of validators signed. Checking stops at the majority: any valid
        majority proves durability, whatever else the certificate carries, and signatures are the cost of catching up.
        """
        validators = genesis.validators_at(self.height)
        valid_count = 0
        for node_id, signature in self.signatures.items():
            validator = validators.get(node_id)
            if validator is None:
                raise InvalidBlock(
                    f"The certificate of block {self.height} is signed by {node_id!r}, which is not a validator."
                )
            if valid_count < validators.quorum and _holds(validator, self.block_hash, signature):
                valid_count += 1
        if valid_count < validators.quorum:
            raise InvalidBlock(
                f"The certificate of block {self.height} has {valid_count} valid countersignatures "
                f"of {len(validators)} validators; a majority is {validators.quorum}."
            )


def decode_pairs(rows: Iterable[list[bytes]], size: int) -> list[tuple[Block, Certificate]]:
    """Blocks with their certificates, out of an encoding of `size` bytes. Raises InvalidBlock."""
    pairs: list[tuple[Block, Certificate]] = []
    budget = size // _LEAST_TRANSACTION
    for block, certificate in rows:
        pairs.append((Block.decode(block), Certificate.decode(certificate)))
        budget -= len(pairs[-1][0].transactions)
        # Each takes some fifty bytes more than its own: many of nothing would fill the memory.
        if budget < 0:
            raise InvalidBlock("The bytes are not blocks: the transactions are shorter than any.")
    return pairs


def _holds(validator: Validator, block_hash: bytes, signature: bytes) -> bool:
    return verify(validator.public_key, DOMAIN_PERSISTED, block_hash, signature)
