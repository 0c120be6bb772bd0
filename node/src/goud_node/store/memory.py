"""A store in memory, for unit tests and the protocol model. Every write counts as durable."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from goud_node.errors import StoreError
from goud_node.store.base import FRESH_KEY, SCHEMA_KEY, SCHEMA_VERSION, Batch, Family


class _SortedDict:
    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.values:
            insort(self.keys, key)
        self.values[key] = value

    def delete(self, key: bytes) -> None:
        if key in self.values:
            del self.values[key]
            del self.keys[bisect_left(self.keys, key)]

    def copy(self) -> _SortedDict:
        twin = _SortedDict()
        twin.values = dict(self.values)
        twin.keys = list(self.keys)
        return twin


class MemoryStore:
    """Implements Store. `copy()` is the disk of a crashed node: open a new Ledger on it."""

    def __init__(self) -> None:
        self._families = {family: _SortedDict() for family in Family}
        self._closed = False
        self._families[Family.METADATA].put(SCHEMA_KEY, str(SCHEMA_VERSION).encode())
        self._families[Family.METADATA].put(FRESH_KEY, b"")

    @property
    def fresh(self) -> bool:
        return self.get(Family.METADATA, FRESH_KEY) is not None

    def get(self, family: Family, key: bytes) -> bytes | None:
        self._check_open()
        return self._families[family].values.get(key)

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(family, key) for key in keys]

    def scan(
        self,
        family: Family,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        rows = self._families[family]
        first = bisect_left(rows.keys, start)
        last = len(rows.keys) if end is None else bisect_left(rows.keys, end)
        keys = rows.keys[first:last]
        if reverse:
            keys.reverse()
        for key in keys if limit is None else keys[:limit]:
            yield key, rows.values[key]

    def count(self, family: Family) -> int:
        return self.rows_at_most(family)

    def rows_at_most(self, family: Family) -> int:
        return len(self._families[family].keys)

    def write(self, batch: Batch) -> None:
        self._check_open()
        for family, key, value in batch.changes():
            if value is None:
                self._families[family].delete(key)
            else:
                self._families[family].put(key, value)

    def close(self) -> None:
        self._closed = True

    def copy(self) -> MemoryStore:
        """An independent, open store with the same rows."""
        twin = MemoryStore()
        twin._families = {family: rows.copy() for family, rows in self._families.items()}
        return twin

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("The store is closed: this process is shutting down.")
