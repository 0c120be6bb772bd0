"""The semantics of etcd that we rely on, as a plain state machine: no input or output, no clock, no tasks.

The embedded sequencer keeps it on disk and the model crashes nodes around it; the contract tests run the same cases
against it and against real etcd, so that what the model proves is what etcd does.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from goud_node.agreement.kv import Compare, Delete, KeyValue, Operation, Put, Txn
from goud_node.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Record:
    """A live key with the counters that comparisons see."""

    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class Machine:
    """Keys, revisions and leases.

    `changed_keys` collects touched keys until the owner clears it. `next_lease` only grows: an owner that builds a new
    machine carries it over, so that an old lease never names a new one.
    """

    def __init__(self) -> None:
        self.revision = 1
        self.records: dict[bytes, Record] = {}
        self.leases: dict[int, set[bytes]] = {}
        self.changed_keys: set[bytes] = set()
        self._keys: list[bytes] = []
        self.next_lease = 1

    def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Txn:
        """Evaluate and apply; a put on a lease that is gone refuses the whole transaction, as etcd does."""
        if not all(self._holds(compare) for compare in compares):
            return Txn(succeeded=False, revision=self.revision)
        for operation in operations:
            if isinstance(operation, Put) and operation.lease and operation.lease not in self.leases:
                raise Unavailable(f"lease {operation.lease:x} is gone; grant a new one and try again")
        if operations:
            self.revision += 1
        for operation in operations:
            self._apply(operation)
        return Txn(succeeded=True, revision=self.revision)

    def range(self, start: bytes, end: bytes | None, limit: int, *, keys_only: bool) -> list[KeyValue]:
        """Read in key order."""
        keys = self._select(start, end)
        if limit:
            keys = keys[:limit]
        records = [(key, self.records[key]) for key in keys]
        return [
            KeyValue(key, b"" if keys_only else record.value, record.create_revision, record.mod_revision, record.lease)
            for key, record in records
        ]

    def grant(self) -> int:
        """Return a lease id never used before in this machine's life."""
        lease = self.next_lease
        self.next_lease += 1
        self.leases[lease] = set()
        return lease

    def revoke(self, lease: int) -> None:
        """Delete the lease and its keys in one revision."""
        keys = self.leases.pop(lease, set())
        if keys:
            self.revision += 1
        for key in sorted(keys):
            self._delete(key)

    def restore(self, key: bytes, record: Record) -> None:
        """Put a record back as it was (loading from disk)."""
        insort(self._keys, key)
        self.records[key] = record

    def _holds(self, compare: Compare) -> bool:
        record = self.records.get(compare.key)
        if compare.kind == "value":
            return record is not None and record.value == compare.value
        value = 0 if record is None else int(getattr(record, compare.kind))
        return value == compare.value

    def _select(self, start: bytes, end: bytes | None) -> list[bytes]:
        if end is None:
            return [start] if start in self.records else []
        return self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, end)]

    def _apply(self, operation: Operation) -> None:
        if isinstance(operation, Delete):
            for key in self._select(operation.start, operation.end):
                self._delete(key)
            return
        key, previous = operation.key, self.records.get(operation.key)
        if previous is None:
            insort(self._keys, key)
        elif previous.lease in self.leases:
            self.leases[previous.lease].discard(key)
        if operation.lease:
            self.leases[operation.lease].add(key)
        create_revision = self.revision if previous is None else previous.create_revision
        version = 1 if previous is None else previous.version + 1
        self.records[key] = Record(operation.value, create_revision, self.revision, version, operation.lease)
        self.changed_keys.add(key)

    def _delete(self, key: bytes) -> None:
        record = self.records.pop(key, None)
        if record is None:
            return
        del self._keys[bisect_left(self._keys, key)]
        if record.lease in self.leases:
            self.leases[record.lease].discard(key)
        self.changed_keys.add(key)
