"""Read the files of a database through before they become a backup: damage in them must not be stored as good.

The library has no reader for a single table file. It tells the family and the range of keys of each, and an iterator
over that range reads every block of it, checksums and all. Other files that overlap the range are read along.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from goud_node import processes
from goud_node.chain.indexes import height_key
from goud_node.errors import CorruptStore
from goud_node.store import Family, RocksStore

_LITTLE: Final = 64 * 1024 * 1024
"""Less than this is read in this process: starting another takes longer."""

Range = tuple[Family, bytes, bytes]
"""Family, first key and last key."""


def read_through(store: RocksStore, names: Collection[str], start: int, height: int) -> None:
    """Read the table files of these names, and see that no block from `start` to `height` is missing.

    Raises CorruptStore naming what is damaged.
    """
    tables = {name: table for name, table in store.tables().items() if name in names}
    ranges = merged((table.family, table.first, table.last) for table in tables.values())
    if sum(table.size for table in tables.values()) < _LITTLE:
        _read(store, ranges, start, height)
        return
    # The library reads while it holds the interpreter lock: beside threads that store files, only a process of its
    # own lets both use a core.
    with processes.pool(1) as executor:
        executor.submit(_read_at, str(store.path), ranges, start, height).result()


def read_all(store: RocksStore) -> None:
    """Read every table file. Raises CorruptStore naming what is damaged."""
    for family, first, last in merged((table.family, table.first, table.last) for table in store.tables().values()):
        store.read_through(family, first, last + b"\0")


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same keys, none of them twice."""
    union: list[Range] = []
    for family, first, last in sorted(ranges):
        if union and union[-1][0] == family and first <= union[-1][2]:
            union[-1] = (family, union[-1][1], max(last, union[-1][2]))
        else:
            union.append((family, first, last))
    return union


def _read_at(path: str, ranges: list[Range], start: int, height: int) -> None:
    store = RocksStore.open(Path(path), read_only=True)
    try:
        _read(store, ranges, start, height)
    finally:
        store.close()


def _read(store: RocksStore, ranges: list[Range], start: int, height: int) -> None:
    for family, first, last in ranges:
        # What follows reads the blocks from `start` on.
        end = min(last + b"\0", height_key(start)) if family is Family.BLOCKS else last + b"\0"
        if first < end:
            store.read_through(family, first, end)
    expected = start
    for key in store.keys(Family.BLOCKS, height_key(start)):
        if key != height_key(expected):
            raise CorruptStore(f"Block {expected} is missing from the source. Refill this node from its peers first.")
        expected += 1
    if expected != max(height + 1, start):
        raise CorruptStore(f"The source holds blocks up to {expected - 1}; its state says {height}.")
