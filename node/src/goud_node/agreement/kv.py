"""The five things of etcd this node uses, as a protocol: one sequencer runs on etcd, on RocksDB, and on the model.

Keys and values are bytes. Revisions are positive integers that grow with every applied change of the whole store.

Errors, with the same meaning everywhere:

* `Unavailable`: the call surely had no effect; it may be repeated.
* `OutcomeUnknown`: the answer was lost. The call may have been applied, **or may still be applied later**.
* `CoordinationFull`: the space alarm is raised, and `compact_and_reclaim` is the cure. **The call may have been
  applied**: etcd says so of the transaction that takes the last space, too. It is decided, so reading tells.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

CompareKind = Literal["version", "create_revision", "mod_revision", "value"]


@dataclass(frozen=True, slots=True)
class Compare:
    """True when that property of `key` equals `value`; an absent key has version and revisions 0, and no value."""

    key: bytes
    kind: CompareKind
    value: int | bytes


@dataclass(frozen=True, slots=True)
class Put:
    """Write `key`; `lease` (0 = none) deletes it again when the lease ends."""

    key: bytes
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete `start`, or every key in [start, end) when `end` is given."""

    start: bytes
    end: bytes | None = None


Operation = Put | Delete


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as read; `value` is empty when only keys were asked for, `lease` 0 when it hangs on none."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class Txn:
    """Outcome of a transaction: whether every comparison held, and the store's revision after it."""

    succeeded: bool
    revision: int


class Kv(Protocol):
    """A linearizable key-value store with transactions, leases and change hints."""

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Txn:
        """Apply `operations` atomically if every comparison holds; otherwise change nothing."""
        ...

    async def range(
        self, start: bytes, end: bytes | None = None, limit: int = 0, *, keys_only: bool = False
    ) -> list[KeyValue]:
        """Read `start`, or [start, end) in key order, at most `limit` keys (0 = all). Linearizable."""
        ...

    async def grant(self, ttl: int) -> int:
        """Return a new lease of `ttl` seconds."""
        ...

    async def keep_alive(self, lease: int) -> bool:
        """Renew once; False when the lease is gone."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease now, deleting its keys; an unknown lease is not an error."""
        ...

    def changes(self, start: bytes, end: bytes) -> AsyncIterator[None]:
        """Yield when something in [start, end) may have changed: a hint that may repeat, stall, or be missing."""
        ...

    async def compact_and_reclaim(self) -> None:
        """Drop old revisions; when the space alarm is raised, also defragment every member and disarm it."""
        ...

    async def close(self) -> None:
        """Release connections or handles."""
        ...


def prefix_end(prefix: bytes) -> bytes:
    """Return the first key after every key that starts with `prefix` (which must not end in 0xff)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
