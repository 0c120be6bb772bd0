"""Watching whether the database takes writes: say so once a minute while it does not, and once when that is over.

A disk is full, or a write failed for another reason (a device that breaks off, a file system turned read-only). After
the second kind the database never resumes by itself: then only a new start helps, and the process ends for it.

While it takes writes, how far they have come is recorded now and then: see `store.floor`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Executor
from typing import Final

from goud_node.errors import StoreError, StoreFull
from goud_node.store.space import Room, Space
from goud_node.telemetry import Lasting

_log = logging.getLogger(__name__)
_INTERVAL_SECONDS: Final = 1.0
FLOOR_SECONDS: Final = 10.0
"""After a kill, a database that loses what was written in so many seconds before opens as the older state."""
_RESUME_SECONDS: Final = 60.0
"""RocksDB looks for space every five seconds. Much later it will not resume by itself any more."""


class DiskWatch:
    """`executor` is where the store is written."""

    def __init__(self, space: Space, executor: Executor) -> None:
        self._space = space
        self._executor = executor
        self._trouble = Lasting()
        self._retry_start: float | None = None
        self._floor_time = float("-inf")

    async def run(self) -> None:
        """Watch until cancelled. Raises StoreFull or StoreError when the database stays shut although it has space."""
        while True:
            await self.look()
            await asyncio.sleep(_INTERVAL_SECONDS)

    async def look(self) -> None:
        """Look once, and log what has to be logged."""
        room = self._space.room()
        if room.failure is not None or (room.refused and room.enough):
            await self._retry(room)
            room = self._space.room()
        else:
            self._retry_start = None
        trouble = room.shortage or _failure_message(room)
        if trouble is None:
            await self._record_floor()
            seconds = self._trouble.ends("trouble")
            if seconds is not None:
                _log.info("%s takes writes again after %.0f s, %d bytes are free", room.path, seconds, room.free)
        elif self._trouble.goes_on("trouble"):
            _log.warning("%s", trouble)

    async def _record_floor(self) -> None:
        now = time.monotonic()
        if now - self._floor_time < FLOOR_SECONDS:
            return
        self._floor_time = now
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._space.record_floor)
        except StoreError as error:
            if self._trouble.goes_on("floor"):
                _log.warning("how far the database has come was not recorded: %s", error)
        else:
            self._trouble.ends("floor")

    async def _retry(self, room: Room) -> None:
        """No client's write would: all are refused before they reach the database."""
        now = time.monotonic()
        self._retry_start = self._retry_start or now
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._space.retry)
        except StoreError as error:
            if now - self._retry_start > _RESUME_SECONDS:
                raise _permanent_failure(room, error) from error
        else:
            self._retry_start = None


def _failure_message(room: Room) -> str | None:
    return None if room.failure is None else f"The database in {room.path} takes no writes: {room.failure}"


def _permanent_failure(room: Room, error: StoreError) -> StoreError:
    if room.failure is None:
        return StoreFull(
            f"The disk of {room.path} has space again ({room.free} bytes), but the database does not resume ({error}). "
            "Start the node again."
        )
    return StoreError(
        f"The database in {room.path} takes no writes, and does not resume by itself after such an error ({error}). "
        "See to the disk, and start the node again."
    )
