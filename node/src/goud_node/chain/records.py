"""What the ledger answers, and how its small records look on disk (canonical CBOR arrays)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from goud_node.chain import encoding
from goud_node.chain.block import HASH_BYTES
from goud_node.chain.transactions import MAX_INT
from goud_node.errors import CorruptStore

Item = TypeVar("Item")


@dataclass(frozen=True)
class Receipt:
    """Where a transaction stands. `transaction_id` is the id of what it made: the account's or the collection's."""

    height: int
    index: int
    transaction_id: str
    block_hash: bytes


@dataclass(frozen=True)
class Epoch:
    """An agreement epoch: it began on the block of this height and hash."""

    number: int
    base_height: int
    base_hash: bytes

    def __str__(self) -> str:
        return f"{self.number} (from block {self.base_height}, {self.base_hash.hex()[:16]})"

    def encode(self) -> bytes:
        return encoding.encode([self.number, self.base_height, self.base_hash])

    @classmethod
    def decode(cls, raw: bytes) -> Epoch:
        """Raises ValueError when the bytes are not an epoch."""
        number, base_height, base_hash = encoding.record(encoding.decode(raw), (int, int, bytes))
        if not (0 < number <= MAX_INT and 0 <= base_height <= MAX_INT and len(base_hash) == HASH_BYTES):
            raise ValueError(f"epoch {number} from block {base_height}, a hash of {len(base_hash)} bytes, is none")
        return cls(number, base_height, base_hash)


@dataclass(frozen=True)
class AccountRecord:
    """An account, and the block position (height, index) that made it."""

    account_id: str
    key_hash: bytes
    salt: bytes
    created_ms: int
    height: int
    index: int


@dataclass(frozen=True)
class CollectionRecord:
    """A whole collection; label and payload are ciphertext."""

    height: int
    index: int
    collection_id: str
    label: bytes
    payload: bytes
    created_ms: int


@dataclass(frozen=True)
class CollectionSummary:
    """A row of a listing: the encrypted label and the payload's size in bytes (as ciphertext), not the payload."""

    height: int
    index: int
    collection_id: str
    label: bytes
    size: int
    created_ms: int


@dataclass(frozen=True)
class AuditRecord:
    """One change of the chain on behalf of an account. `action` is "account.create" or "collection.put"."""

    height: int
    index: int
    action: str
    subject_id: str
    timestamp_ms: int


@dataclass(frozen=True)
class Page(Generic[Item]):
    """Rows, newest first. `next_cursor` asks for the rows after these; None on the last page."""

    items: tuple[Item, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class LedgerState:
    """The one mutable record of a ledger, replaced as a whole with every write.

    `payload_bytes` counts the ciphertext of all collections' labels and payloads.
    """

    height: int
    tip_hash: bytes
    certified_height: int
    accounts: int
    collections: int
    payload_bytes: int
    transactions: int

    def encode(self) -> bytes:
        return encoding.encode(
            [
                self.height,
                self.tip_hash,
                self.certified_height,
                self.accounts,
                self.collections,
                self.payload_bytes,
                self.transactions,
            ]
        )

    @classmethod
    def decode(cls, raw: bytes) -> LedgerState:
        """Raises CorruptStore when the bytes are not a state."""
        try:
            return cls(*encoding.record(encoding.decode(raw), (int, bytes, int, int, int, int, int)))
        except encoding.NotCanonical as error:
            raise CorruptStore(f"The ledger's state record is damaged: {error}. Restore a backup.") from error
