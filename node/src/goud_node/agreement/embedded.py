"""The ordered log of a single node: the same state machine, kept in the node's own database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor

from goud_node.agreement.kv import Compare, KeyValue, Operation, Txn
from goud_node.agreement.machine import Machine, Record
from goud_node.chain import encoding
from goud_node.errors import CorruptStore
from goud_node.store.base import Batch, Family, Store

_REVISION = b"revision"
_RECORD = b"record/"
_RECORDS_END = b"record0"


class EmbeddedKv:
    """A `Kv` for one process. Writes are durable when a call returns.

    Leases live by the monotonic clock and never survive a restart: what hung on one is ignored when opened, because
    the database lock proves that the process that held it is gone. So the end of a lease needs no write of its own: the
    next transaction deletes what hung on it.
    """

    def __init__(
        self, store: Store, *, executor: Executor | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Load the log from family SEQUENCER; raises CorruptStore when it cannot be read.

        A store takes one writer at a time, so `executor` must be the one in which the ledger writes.
        """
        self._store = store
        self._executor = executor
        self._monotonic = monotonic
        self._deadlines: dict[int, tuple[float, int]] = {}
        self._lock = asyncio.Lock()
        self._wakeups: set[asyncio.Event] = set()
        self._machine = self._load()

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Txn:
        """Apply and persist before answering; an error of the store leaves memory as it was on disk."""
        async with self._lock:
            self._expire()
            outcome = self._machine.txn(compares, operations)
            await self._persist()
            return outcome

    async def range(
        self, start: bytes, end: bytes | None = None, limit: int = 0, *, keys_only: bool = False
    ) -> list[KeyValue]:
        """Read the current state; the store is not written, so this works on a full disk."""
        async with self._lock:
            self._expire()
            return self._machine.range(start, end, limit, keys_only=keys_only)

    async def grant(self, ttl: int) -> int:
        """Return a lease of `ttl` seconds."""
        lease = self._machine.grant()
        self._deadlines[lease] = (self._monotonic() + ttl, ttl)
        return lease

    async def keep_alive(self, lease: int) -> bool:
        """Renew; False when it has expired."""
        async with self._lock:
            self._expire()
            if lease not in self._deadlines:
                return False
            ttl = self._deadlines[lease][1]
            self._deadlines[lease] = (self._monotonic() + ttl, ttl)
            return True

    async def revoke(self, lease: int) -> None:
        """End the lease and delete its keys."""
        async with self._lock:
            self._deadlines.pop(lease, None)
            self._machine.revoke(lease)
            self._wake()

    async def changes(self, start: bytes, end: bytes) -> AsyncIterator[None]:
        """Yield after every write: with one process there is no need to look at the keys."""
        del start, end
        event = asyncio.Event()
        self._wakeups.add(event)
        try:
            while True:
                await event.wait()
                event.clear()
                yield
        finally:
            self._wakeups.discard(event)

    async def compact_and_reclaim(self) -> None:
        """Nothing to do: no old revisions are kept."""

    async def close(self) -> None:
        """Nothing to release: the store belongs to the caller."""

    def _load(self) -> Machine:
        machine = Machine()
        try:
            raw = self._store.get(Family.SEQUENCER, _REVISION)
            machine.revision = 1 if raw is None else int(encoding.decode_trusted(raw))
            for key, value in self._store.scan(Family.SEQUENCER, _RECORD, _RECORDS_END):
                record = Record(*encoding.decode_trusted(value))
                name = key[len(_RECORD) :]
                if record.lease:
                    machine.changed_keys.add(name)
                else:
                    machine.restore(name, record)
        except (TypeError, ValueError) as error:
            raise CorruptStore(f"the embedded log cannot be read ({error}); restore this node from a backup") from error
        return machine

    def _expire(self) -> None:
        now = self._monotonic()
        expired_leases = [lease for lease, (deadline, _) in self._deadlines.items() if deadline <= now]
        for lease in expired_leases:
            del self._deadlines[lease]
            self._machine.revoke(lease)
        if expired_leases:
            self._wake()

    async def _persist(self) -> None:
        machine = self._machine
        if not machine.changed_keys:
            return
        batch = Batch()
        for key in machine.changed_keys:
            record = machine.records.get(key)
            if record is None:
                batch.delete(Family.SEQUENCER, _RECORD + key)
            else:
                fields = [record.value, record.create_revision, record.mod_revision, record.version, record.lease]
                batch.put(Family.SEQUENCER, _RECORD + key, encoding.encode(fields))
        batch.put(Family.SEQUENCER, _REVISION, encoding.encode(machine.revision))
        try:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._executor, self._store.write, batch))
        except Exception:
            # What was not written did not happen: memory goes back to what the disk says, and every lease ends.
            self._machine = self._load()
            self._machine.next_lease = machine.next_lease
            self._deadlines.clear()
            raise
        machine.changed_keys.clear()
        self._wake()

    def _wake(self) -> None:
        for event in self._wakeups:
            event.set()
