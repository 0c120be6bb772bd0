"""Read the files of a database through before they become a backup: damage in them must not be stored as good.

The library has no reader for a single table file. It tells the family and the range of keys of each, and an iterator
over that range reads every block of it, checksums and all. Other files that overlap the range are read along.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Work:
    """Ranges to read, families whose rows to count, and the blocks that must be there."""

    ranges: list[Range]
    counted: dict[Family, int]
    start: int
    height: int


def read_through(
    store: RocksStore, names: Collection[str], start: int, height: int, implied: Mapping[Family, int]
) -> None:
    """Read the table files of these names, and see that no block from `start` to `height` is missing, nor any of the
    rows that the chain implies, as far as reading these files or the files' own counts tell.

    Raises CorruptStore naming what is damaged.
    """
    tables = store.tables()
    unread = [table for name, table in tables.items() if name in names]
    partly = {table.family for name, table in tables.items() if name not in names}
    work = _Work(
        merged((table.family, table.first, table.last) for table in unread),
        # What is read anyway is counted. Of the other families, whose rows are never removed, the ledger has compared
        # the files' counts with the state: only a removal can be hidden behind them.
        {
            family: rows
            for family, rows in implied.items()
            if store.deletions(family) or (family not in partly and (family is not Family.BLOCKS or start > 0))
        },
        start,
        height,
    )
    if sum(table.size for table in unread) < _LITTLE:
        _read(store, work)
        return
    # The library reads while it holds the interpreter lock: beside threads that store files, only a process of its
    # own lets both use a core.
    with processes.pool(1) as executor:
        executor.submit(_read_at, str(store.path), work).result()


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


def _read_at(path: str, work: _Work) -> None:
    store = RocksStore.open(Path(path), read_only=True)
    try:
        _read(store, work)
    finally:
        store.close()


def _read(store: RocksStore, work: _Work) -> None:
    start = work.start
    for family, rows in work.counted.items():
        actual = store.count(family)
        if actual != rows:
            raise CorruptStore(
                f"The family {family.value} holds {actual} rows where the source's chain makes {rows}: it could not be "
                "restored, and no backup was recorded. Refill this node from its peers first."
            )
    for family, first, last in work.ranges:
        if family in work.counted:
            continue
        # What follows reads the blocks from `start` on.
        end = min(last + b"\0", height_key(start)) if family is Family.BLOCKS else last + b"\0"
        if first < end:
            store.read_through(family, first, end)
    expected = start
    for key in store.keys(Family.BLOCKS, height_key(start)):
        if key != height_key(expected):
            raise CorruptStore(f"Block {expected} is missing from the source. Refill this node from its peers first.")
        expected += 1
    if expected != max(work.height + 1, start):
        raise CorruptStore(f"The source holds blocks up to {expected - 1}; its state says {work.height}.")
