"""The store as the ledger sees it: families of ordered keys, atomic durable batches, checked scans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Protocol


class Family(StrEnum):
    """Column families; the value is the name on disk, so it never changes."""

    BLOCKS = "blocks"
    CERTIFICATES = "certificates"
    METADATA = "metadata"
    ACCOUNTS = "accounts"
    COLLECTIONS = "collections"
    SUBMISSIONS = "submissions"
    AUDIT = "audit"
    SEQUENCER = "sequencer"


SCHEMA_VERSION = 1
"""Version of the layout on disk: families, keys and records. Raise it together with a migration in `schema`."""
SCHEMA_KEY = b"schema"
"""METADATA: the layout's version as decimal text."""
FRESH_KEY = b"fresh"
"""METADATA: present from creation until the first ledger is written, so that an empty store is known to be new."""


class Batch:
    """Changes that become visible and durable together, or not at all. The last change to a key wins."""

    def __init__(self) -> None:
        self._changes: dict[tuple[Family, bytes], bytes | None] = {}

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        self._changes[family, key] = value

    def delete(self, family: Family, key: bytes) -> None:
        self._changes[family, key] = None

    def changes(self) -> Iterator[tuple[Family, bytes, bytes | None]]:
        """Every change as (family, key, value); value None means delete."""
        for (family, key), value in self._changes.items():
            yield family, key, value

    def touches(self, family: Family, key: bytes) -> bool:
        return (family, key) in self._changes

    def pending(self, family: Family, key: bytes) -> bytes | None:
        """The value this batch will leave at `key`; None when deleted or untouched (see `touches`)."""
        return self._changes.get((family, key))

    def __len__(self) -> int:
        return len(self._changes)

    @property
    def size(self) -> int:
        """Bytes of keys and values to be written."""
        return sum(len(key) + len(value or b"") for (_, key), value in self._changes.items())


class Store(Protocol):
    """Ordered bytes in families. Reads may come from any thread, writes from one at a time."""

    @property
    def fresh(self) -> bool:
        """True until the first ledger is written: an empty store that is not fresh has lost its data."""
        ...

    def get(self, family: Family, key: bytes) -> bytes | None:
        """The value at `key`, or None. Raises CorruptStore, StoreError."""
        ...

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values at `keys`, in their order. Raises CorruptStore, StoreError."""
        ...

    def scan(
        self,
        family: Family,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < end in key order (descending when `reverse`), at most `limit`.

        Checksums are verified and the iterator's status is checked: damage raises CorruptStore, it never ends a scan
        quietly. Long scans read in chunks, so rows written meanwhile may or may not appear.
        """
        ...

    def count(self, family: Family) -> int:
        """The family's rows, each of them read: damage raises CorruptStore."""
        ...

    def rows_at_most(self, family: Family) -> int:
        """An upper bound of the family's rows, from the data files' own counts: cheap, and exact where no key was
        ever written twice. A bound below the number that must be there proves that files were lost.
        """
        ...

    def write(self, batch: Batch) -> None:
        """Apply the batch atomically; durable (synced) when this returns. Raises StoreFull or another StoreError."""
        ...

    def close(self) -> None:
        """Release everything, the lock file included. Closing twice is harmless."""
        ...
