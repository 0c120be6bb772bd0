"""The indexes beside the blocks: accounts, collections by owner, submissions by idempotency key, audit.

All of them follow from the blocks alone. Applying a block is deterministic and never fails: a transaction that repeats
an earlier one, or that the state does not admit, stays in its block and changes nothing (the first one wins).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from goud_node.chain import encoding
from goud_node.chain.block import Block, Header
from goud_node.chain.records import AccountRecord, AuditRecord, CollectionSummary, LedgerState, Receipt
from goud_node.chain.transactions import AccountCreate, CollectionPut, Transaction
from goud_node.errors import AlreadyExists, CorruptStore, IdempotencyConflict, InvalidTransaction
from goud_node.store import Batch, Family, Store

POSITION_BYTES = 12
ACTIONS = {1: "account.create", 2: "collection.put"}

Row = tuple[Family, bytes, bytes]
"""Family, key and value of something stored."""


def height_key(height: int) -> bytes:
    """8 bytes big-endian: key order is chain order, and appends land at the end of the files."""
    return height.to_bytes(8, "big")


def position_key(height: int, index: int) -> bytes:
    return height.to_bytes(8, "big") + index.to_bytes(4, "big")


def position(key: bytes) -> tuple[int, int]:
    """(height, index) of the last 12 bytes of a key."""
    tail = key[-POSITION_BYTES:]
    return int.from_bytes(tail[:8], "big"), int.from_bytes(tail[8:], "big")


def owner_prefix(kind: bytes, account_id: str) -> bytes:
    """Ids hold no zero byte, so no account's prefix begins another's."""
    return kind + account_id.encode() + b"\0"


def account_key(account_id: str) -> bytes:
    return b"a" + account_id.encode()


def key_hash_key(key_hash: bytes) -> bytes:
    return b"k" + key_hash


def collection_key(account_id: str, collection_id: str) -> bytes:
    return owner_prefix(b"i", account_id) + collection_id.encode()


def submission_key(account_id: str, idempotency_key: str) -> bytes:
    return owner_prefix(b"", account_id) + idempotency_key.encode()


class Indexes:
    """Reads the indexes, through the changes of a pending batch when there is one."""

    def __init__(self, store: Store, batch: Batch | None = None) -> None:
        self._store = store
        self._batch = batch

    def get(self, family: Family, key: bytes) -> bytes | None:
        if self._batch is not None and self._batch.touches(family, key):
            return self._batch.pending(family, key)
        return self._store.get(family, key)

    def account(self, account_id: str) -> AccountRecord | None:
        raw = self.get(Family.ACCOUNTS, account_key(account_id))
        if raw is None:
            return None
        key_hash, salt, created_ms, height, index, _ = _decode_record(raw, (bytes, bytes, int, int, int, bytes))
        return AccountRecord(account_id, key_hash, salt, created_ms, height, index)

    def account_by_key_hash(self, key_hash: bytes) -> AccountRecord | None:
        raw = self.get(Family.ACCOUNTS, key_hash_key(key_hash))
        try:
            return None if raw is None else self.account(raw.decode())
        except UnicodeDecodeError as error:
            raise CorruptStore(
                f"An index record is damaged: {error}. Restore a backup or refill from peers."
            ) from error

    def account_receipt(self, account_id: str) -> Receipt | None:
        raw = self.get(Family.ACCOUNTS, account_key(account_id))
        if raw is None:
            return None
        *_, height, index, block_hash = _decode_record(raw, (bytes, bytes, int, int, int, bytes))
        return Receipt(height, index, account_id, block_hash)

    def collection_position(self, account_id: str, collection_id: str) -> tuple[int, int] | None:
        raw = self.get(Family.COLLECTIONS, collection_key(account_id, collection_id))
        return None if raw is None else position(raw)

    def submission(self, account_id: str, idempotency_key: str) -> tuple[Receipt, bytes] | None:
        """The receipt and the fingerprint of what was submitted under this key."""
        raw = self.get(Family.SUBMISSIONS, submission_key(account_id, idempotency_key))
        if raw is None:
            return None
        height, index, transaction_id, block_hash, fingerprint = _decode_record(raw, (int, int, str, bytes, bytes))
        return Receipt(height, index, transaction_id, block_hash), fingerprint

    def admissible(self, transaction: Transaction) -> Receipt | None:
        """None: it may go into a block. A Receipt: it is in one already.

        Raises InvalidTransaction (unknown account), AlreadyExists, or IdempotencyConflict.
        """
        if isinstance(transaction, AccountCreate):
            return self._admissible_account(transaction)
        return self._admissible_collection(transaction)

    def _admissible_account(self, transaction: AccountCreate) -> Receipt | None:
        account = self.account(transaction.account_id)
        if account is not None:
            if (account.key_hash, account.salt) == (transaction.key_hash, transaction.salt):
                return self.account_receipt(transaction.account_id)
            raise AlreadyExists(f"Account {transaction.account_id} exists already. Choose another id.")
        if self.get(Family.ACCOUNTS, key_hash_key(transaction.key_hash)) is not None:
            raise AlreadyExists("Another account has this API key. Generate a new one.")
        return None

    def _admissible_collection(self, transaction: CollectionPut) -> Receipt | None:
        if self.get(Family.ACCOUNTS, account_key(transaction.account_id)) is None:
            raise InvalidTransaction(f"Account {transaction.account_id} does not exist. Create it first.")
        submission = self.submission(transaction.account_id, transaction.idempotency_key)
        if submission is not None:
            receipt, fingerprint = submission
            if fingerprint == transaction.fingerprint:
                return receipt
            raise IdempotencyConflict(
                "This idempotency key was used before, for another request. Use a new key for new content."
            )
        if self.collection_position(transaction.account_id, transaction.collection_id) is not None:
            raise AlreadyExists(f"Collection {transaction.collection_id} exists already. Choose another id.")
        return None


def apply(
    store: Store, batch: Batch, state: LedgerState, block: Block, transactions: tuple[Transaction, ...]
) -> LedgerState:
    """Put the block and its index rows into `batch`; the state after it. The block has passed the rules."""
    batch.put(Family.BLOCKS, height_key(block.height), block.encode())
    indexes = Indexes(store, batch)
    effective_transactions: list[Transaction] = []
    for index, transaction in enumerate(transactions):
        try:
            if indexes.admissible(transaction) is not None:
                continue
        except InvalidTransaction:
            # Ordered, signed and void: every node skips it alike, so one bad proposer cannot stop the chain.
            continue
        for row in rows_of(block.header, index, transaction):
            batch.put(*row)
        effective_transactions.append(transaction)
    state = counted(state, effective_transactions)
    return replace(state, height=block.height, tip_hash=block.hash, transactions=state.transactions + len(transactions))


def rows_of(header: Header, index: int, transaction: Transaction) -> list[Row]:
    """Every row that a transaction makes when it has an effect: all that the indexes hold is made here."""
    if isinstance(transaction, AccountCreate):
        return _account_rows(header, index, transaction)
    return _collection_rows(header, index, transaction)


def counted(state: LedgerState, transactions: Iterable[Transaction]) -> LedgerState:
    """The counters after transactions that have an effect."""
    accounts, collections, payload_bytes = state.accounts, state.collections, state.payload_bytes
    for transaction in transactions:
        if isinstance(transaction, AccountCreate):
            accounts += 1
        else:
            collections += 1
            payload_bytes += len(transaction.payload) + len(transaction.label)
    return replace(state, accounts=accounts, collections=collections, payload_bytes=payload_bytes)


def rows_implied(state: LedgerState) -> dict[Family, int]:
    """How many rows a chain of these counters makes in each family that the transactions fill."""
    return {
        Family.ACCOUNTS: 2 * state.accounts,
        Family.COLLECTIONS: 2 * state.collections,
        Family.SUBMISSIONS: state.collections,
        Family.AUDIT: state.accounts + state.collections,
    }


def _account_rows(header: Header, index: int, transaction: AccountCreate) -> list[Row]:
    name = transaction.account_id
    row = [transaction.key_hash, transaction.salt, transaction.created_ms, header.height, index, header.hash]
    return [
        (Family.ACCOUNTS, account_key(name), encoding.encode(row)),
        (Family.ACCOUNTS, key_hash_key(transaction.key_hash), name.encode()),
        _audit_row(header, index, name, (1, name)),
    ]


def _collection_rows(header: Header, index: int, transaction: CollectionPut) -> list[Row]:
    owner, name = transaction.account_id, transaction.collection_id
    raw_position = position_key(header.height, index)
    row = [name, transaction.label, len(transaction.payload), transaction.created_ms]
    receipt = [header.height, index, name, header.hash, transaction.fingerprint]
    return [
        (Family.COLLECTIONS, owner_prefix(b"p", owner) + raw_position, encoding.encode(row)),
        (Family.COLLECTIONS, collection_key(owner, name), raw_position),
        (Family.SUBMISSIONS, submission_key(owner, transaction.idempotency_key), encoding.encode(receipt)),
        _audit_row(header, index, owner, (2, name)),
    ]


def _audit_row(header: Header, index: int, account_id: str, entry: tuple[int, str]) -> Row:
    key = owner_prefix(b"", account_id) + position_key(header.height, index)
    return Family.AUDIT, key, encoding.encode([*entry, header.timestamp_ms])


def summary(key: bytes, raw: bytes) -> CollectionSummary:
    """The listing row stored under a position key."""
    collection_id, label, size, created_ms = _decode_record(raw, (str, bytes, int, int))
    return CollectionSummary(*position(key), collection_id, label, size, created_ms)


def audit_record(key: bytes, raw: bytes) -> AuditRecord:
    action, subject_id, timestamp_ms = _decode_record(raw, (int, str, int))
    return AuditRecord(*position(key), ACTIONS.get(action, str(action)), subject_id, timestamp_ms)


def _decode_record(raw: bytes, kinds: tuple[type, ...]) -> list[Any]:
    try:
        return encoding.record(encoding.decode_trusted(raw), kinds)
    except encoding.NotCanonical as error:
        raise CorruptStore(f"An index record is damaged: {error}. Restore a backup or refill from peers.") from error
