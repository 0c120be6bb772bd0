"""A floor under RocksDB's sequence number, kept in a file of our own.

A truncated MANIFEST opens cleanly as an older state of the database, and can be consistent in itself. The sequence
number only grows, so one below the last known value is proof of lost writes. Checked at open, raised at open and close,
and at each `Floor.record` while a node runs: of what one that was killed has written since the last one, a log that is
lost or cut takes away everything without a word. (Acknowledged blocks are in the ordered log and on other nodes, too.)
"""

from __future__ import annotations

import re
from pathlib import Path

from goud_node.documents import Malformed, read_bytes
from goud_node.errors import CorruptStore
from goud_node.store import durable

NAME = "goud-sequence"
_NUMBER = re.compile(rb"[1-9]\d{0,19}\n?")
_MOST_BYTES = 100


def check(path: Path, sequence: int) -> None:
    """Raises CorruptStore when the database at `path` is older than it was, or when nothing says how old it was."""
    try:
        text = read_bytes(path / NAME, _MOST_BYTES)
    except FileNotFoundError:
        raise CorruptStore(
            f"{path / NAME} is missing, which every database has from its creation: whether the database lost writes, "
            "too, cannot be seen. Restore the directory from a backup, or let the node refill from its peers on an "
            f"empty volume. If you know that nothing else is missing: echo {sequence} > {path / NAME}"
        ) from None
    except OSError as error:
        raise CorruptStore(
            f"Cannot read {path / NAME}: {error.strerror}. Restore the directory from a backup."
        ) from error
    except Malformed:
        text = b""
    if _NUMBER.fullmatch(text) is None:
        raise CorruptStore(f"{path / NAME} is damaged: it must hold one number. Restore the directory from a backup.")
    if sequence < int(text):
        raise CorruptStore(
            f"The database in {path} has lost writes: it ends at change {sequence}, but {path / NAME} has seen "
            f"{int(text)}. Its MANIFEST or its log was cut. Move the directory aside and restore a backup, or let the "
            "node refill from its peers on an empty volume."
        )


class Floor:
    """That of a database which is open for writing.

    Never above what is synced: a floor above what a power cut leaves would refuse a good database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._synced = self._recorded = 0

    def reach(self, sequence: int) -> None:
        """A synced write has succeeded, and the database ends at this change.

        The library counts writes that failed, too: only one that was written shows that the count is on disk.
        """
        self._synced = max(self._synced, sequence)

    def record(self) -> None:
        """Raise the floor, where the database is written. Raises StoreFull or StoreError; the old floor then stands."""
        if self._synced > self._recorded:
            raise_to(self._path, self._synced)
            self._recorded = self._synced


def raise_to(path: Path, sequence: int) -> None:
    """Record `sequence`, durably and atomically."""
    durable.replace(path / NAME, f"{sequence}\n".encode("ascii"))
