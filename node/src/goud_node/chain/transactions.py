"""Transactions: what a block carries. Labels and payloads are ciphertext here; the chain never sees a key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from goud_node.chain import encoding
from goud_node.errors import InvalidTransaction

MAX_COLLECTION_BYTES = 512 * 1024
"""Most bytes of one collection before encryption."""
CIPHERTEXT_OVERHEAD = 1024
"""What encryption and its framing may add to a collection or a label."""
MAX_LABEL_BYTES = 1024
"""Most bytes of a label before encryption."""
MAX_INT = 2**63 - 1

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_ACCOUNT_CREATE = 1
_COLLECTION_PUT = 2


@dataclass(frozen=True)
class AccountCreate:
    """A new account. `key_hash` is the 32-byte hash of the API key's secret; `salt` 16 to 64 bytes."""

    account_id: str
    key_hash: bytes
    salt: bytes
    created_ms: int

    @property
    def transaction_id(self) -> str:
        """The id of what the transaction makes: the account."""
        return self.account_id

    def encode(self) -> bytes:
        return self._encoding

    @cached_property
    def _encoding(self) -> bytes:
        _check(self)
        return encoding.encode([_ACCOUNT_CREATE, self.account_id, self.key_hash, self.salt, self.created_ms])


@dataclass(frozen=True)
class CollectionPut:
    """A new collection of an account. Same idempotency key and same fingerprint (16 to 64 bytes) make a repeat."""

    collection_id: str
    account_id: str
    idempotency_key: str
    fingerprint: bytes
    label: bytes
    payload: bytes
    created_ms: int

    @property
    def transaction_id(self) -> str:
        """The id of what the transaction makes: the collection."""
        return self.collection_id

    def encode(self) -> bytes:
        return self._encoding

    @cached_property
    def _encoding(self) -> bytes:
        _check(self)
        return encoding.encode(
            [
                _COLLECTION_PUT,
                self.collection_id,
                self.account_id,
                self.idempotency_key,
                self.fingerprint,
                self.label,
                self.payload,
                self.created_ms,
            ]
        )


Transaction = AccountCreate | CollectionPut
Claim = tuple[str, ...]
"""What only one transaction of a chain can have: an id, a key of an account, or an idempotency key."""


def claims(transaction: Transaction) -> frozenset[Claim]:
    """All that the transaction claims. A repeat of a request shares one with it, whatever its bytes are."""
    if isinstance(transaction, AccountCreate):
        return frozenset({("account", transaction.account_id), ("key", transaction.key_hash.hex())})
    owner = transaction.account_id
    return frozenset(
        {("submission", owner, transaction.idempotency_key), ("collection", owner, transaction.collection_id)}
    )


def same_request(transaction: Transaction, other: Transaction) -> bool:
    """Whether the ledger takes one for a repeat of the other: the bytes may differ, as each try is sealed anew."""
    if isinstance(transaction, AccountCreate):
        return isinstance(other, AccountCreate) and (
            (transaction.account_id, transaction.key_hash, transaction.salt)
            == (other.account_id, other.key_hash, other.salt)
        )
    return isinstance(other, CollectionPut) and (
        (transaction.account_id, transaction.idempotency_key, transaction.fingerprint)
        == (other.account_id, other.idempotency_key, other.fingerprint)
    )


_ACCOUNT_KINDS = (int, str, bytes, bytes, int)
_COLLECTION_KINDS = (int, str, str, str, bytes, bytes, bytes, int)


def encode(transaction: Transaction) -> bytes:
    """Canonical CBOR. Raises InvalidTransaction when a field breaks a limit."""
    return transaction.encode()


def decode(raw: bytes) -> Transaction:
    """Raises InvalidTransaction for malformed, trailing or non-canonical bytes, and for fields beyond their limits."""
    try:
        value = encoding.decode(raw)
        return _decode_value(value)
    except encoding.NotCanonical as error:
        raise InvalidTransaction(f"The bytes are not a transaction: {error}.") from error


def decode_trusted(raw: bytes) -> Transaction:
    """A transaction out of a block that was checked before it was stored."""
    return _decode_value(encoding.decode_trusted(raw))


def _decode_value(value: object) -> Transaction:
    if type(value) is not list or not value:
        raise InvalidTransaction("The bytes are not a transaction: expected an array.")
    transaction: Transaction
    if value[0] == _ACCOUNT_CREATE:
        transaction = AccountCreate(*encoding.record(value, _ACCOUNT_KINDS)[1:])
    elif value[0] == _COLLECTION_PUT:
        transaction = CollectionPut(*encoding.record(value, _COLLECTION_KINDS)[1:])
    else:
        raise InvalidTransaction(f"Transaction kind {value[0]!r} is unknown: it may need a newer version of this node.")
    _check(transaction)
    return transaction


def _check(transaction: Transaction) -> None:
    if not _ID.fullmatch(transaction.account_id):
        raise InvalidTransaction("An account id has 1 to 64 letters, digits, dashes and underscores.")
    if not 0 <= transaction.created_ms <= MAX_INT:
        raise InvalidTransaction("created_ms must be milliseconds since 1970.")
    if isinstance(transaction, AccountCreate):
        if len(transaction.key_hash) != 32:
            raise InvalidTransaction("key_hash must have 32 bytes.")
        if not 16 <= len(transaction.salt) <= 64:
            raise InvalidTransaction("salt must have 16 to 64 bytes.")
        return
    _check_collection(transaction)


def _check_collection(transaction: CollectionPut) -> None:
    if not _ID.fullmatch(transaction.collection_id):
        raise InvalidTransaction("A collection id has 1 to 64 letters, digits, dashes and underscores.")
    if not _IDEMPOTENCY_KEY.fullmatch(transaction.idempotency_key):
        raise InvalidTransaction("An idempotency key has 1 to 255 printable ASCII characters.")
    if not 16 <= len(transaction.fingerprint) <= 64:
        raise InvalidTransaction("fingerprint must have 16 to 64 bytes.")
    if len(transaction.label) > MAX_LABEL_BYTES + CIPHERTEXT_OVERHEAD:
        raise InvalidTransaction(f"The label is larger than {MAX_LABEL_BYTES} bytes.")
    if len(transaction.payload) > MAX_COLLECTION_BYTES + CIPHERTEXT_OVERHEAD:
        raise InvalidTransaction(f"The collection is larger than {MAX_COLLECTION_BYTES} bytes.")
