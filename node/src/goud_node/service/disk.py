"""Watching for a full disk: say so once a minute while it lasts and once when it is over, and try writes again."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Executor
from typing import Final

from goud_node.errors import StoreError, StoreFull
from goud_node.store.space import Room, Space
from goud_node.telemetry import Seldom

_log = logging.getLogger(__name__)
_INTERVAL_SECONDS: Final = 1.0
_RESUME_SECONDS: Final = 60.0
"""RocksDB looks for space every five seconds. Much later it will not resume by itself any more."""


class DiskWatch:
    """`executor` is where the store is written."""

    def __init__(self, space: Space, executor: Executor) -> None:
        self._space = space
        self._executor = executor
        self._seldom = Seldom()
        self._announced = False
        self._enough_since: float | None = None

    async def run(self) -> None:
        """Watch until cancelled. Raises StoreFull when the database stays shut although there is space again."""
        while True:
            await self.look()
            await asyncio.sleep(_INTERVAL_SECONDS)

    async def look(self) -> None:
        """Look once, and log what has to be logged."""
        room = self._space.room()
        if room.refused and room.enough:
            await self._retry(room)
            room = self._space.room()
        else:
            self._enough_since = None
        if room.shortage is None:
            if self._announced:
                _log.info("the disk of %s has space again, %d bytes: writes go on", room.path, room.free)
            self._announced = False
        elif self._seldom.allows("shortage"):
            _log.warning("%s", room.shortage)
            self._announced = True

    async def _retry(self, room: Room) -> None:
        """No client's write would: all are refused before they reach the database."""
        now = time.monotonic()
        self._enough_since = self._enough_since or now
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._space.retry)
        except StoreError as error:
            if now - self._enough_since > _RESUME_SECONDS:
                raise StoreFull(
                    f"The disk of {room.path} has space again ({room.free} bytes), but the database does not resume "
                    f"({error}). Start the node again."
                ) from error
        else:
            self._enough_since = None
