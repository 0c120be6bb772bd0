"""Ranges of the log, read in parts: an answer has one deadline and a most of bytes, whatever others wrote there."""

from __future__ import annotations

from collections.abc import AsyncIterator

from goud_node.agreement.kv import KeyValue, Kv
from goud_node.errors import Unavailable

_MOST_KEYS = 128


class Pages:
    """Reads as many keys at a time as get through: fewer over a slow link, or when their values are long."""

    def __init__(self, kv: Kv) -> None:
        self._kv, self._size = kv, _MOST_KEYS

    async def read(
        self, start: bytes, end: bytes, most: int = _MOST_KEYS, *, keys_only: bool = False
    ) -> AsyncIterator[list[KeyValue]]:
        """Yield [start, end) in key order, `most` keys at a time at most. Raises Unavailable when not one gets through.

        The pages are not of one moment.
        """
        while True:
            size = min(most, self._size)
            try:
                entries = await self._kv.range(start, end, size, keys_only=keys_only)
            except Unavailable:
                if size == 1:
                    raise
                self._size = size // 2
                continue
            if len(entries) == self._size:
                self._size = min(2 * size, _MOST_KEYS)
            yield entries
            if len(entries) < size:
                return
            start = entries[-1].key + b"\0"
