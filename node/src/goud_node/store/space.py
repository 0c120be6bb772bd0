"""Whether the file system has room for what a node writes: one judge, for requests, elections, the log and metrics."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from goud_node.errors import StoreError
from goud_node.store.base import Batch
from goud_node.store.database import RocksStore
from goud_node.store.tuning import room_of

MOST_NEEDED = 2 * 1024**3
"""A share of a large disk is more than any node needs to go on until somebody has grown it."""


@dataclass(frozen=True, slots=True)
class Room:
    """Free and needed bytes of a file system. `refused`: the database's last write failed for want of space.

    `failure` is why it failed, if for anything else.
    """

    path: Path
    free: int
    needed: int
    refused: bool
    failure: str | None = None

    @property
    def enough(self) -> bool:
        return self.free >= self.needed

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written here, or None; the cause of a failure is in the log only."""
        if self.shortage is None and self.failure is not None:
            return f"The database in {self.path} takes no writes; the log has the cause."
        return self.shortage

    @property
    def shortage(self) -> str | None:
        """Why nothing can be written for want of space, or None."""
        figures = f"{self.free} bytes are free and {self.needed} are needed"
        if not self.enough:
            return f"The disk of {self.path} is full: {figures}. Free space on it or grow it; writes then resume."
        if self.refused:
            return f"The disk of {self.path} was full ({figures} now): the database resumes within seconds."
        return None


class Space:
    """Costs one call of the file system, so nothing is remembered: freed space counts at once."""

    def __init__(self, store: RocksStore, data_dir: Path, full_percent: float) -> None:
        """A file system is full when more than `full_percent` of it is used, except that `MOST_NEEDED` is enough."""
        self._store = store
        self._data_dir = data_dir
        self._share = 1 - full_percent / 100

    def room(self) -> Room:
        """Raises StoreError when the file system cannot be asked: a figure is never made up."""
        try:
            disk = os.statvfs(self._data_dir)
        except OSError as error:
            raise StoreError(f"Cannot measure the volume {self._data_dir}: {error.strerror}.") from error
        capacity = disk.f_blocks * disk.f_frsize
        # Less than the database needs to resume would call a disk good on which no write succeeds.
        needed = max(min(int(capacity * self._share), MOST_NEEDED), room_of(capacity))
        return Room(self._data_dir, disk.f_bavail * disk.f_frsize, needed, self._store.refused, self._store.failure)

    def shortage(self) -> str | None:
        """Why nothing can be written for want of space, or None."""
        return self.room().shortage

    def retry(self) -> None:
        """Find out whether the database takes writes again. Raises StoreFull, or another StoreError.

        It blocks, and belongs where everything else is written.
        """
        self._store.write(Batch())

    def record_floor(self) -> None:
        """Have what is synced by now be missed, should the database lose it. Raises StoreFull, or another StoreError.

        It blocks, and belongs where everything else is written.
        """
        self._store.floor.record()
