"""New blocks for whoever listens: bounded, so that a slow listener costs its place and not our memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from goud_node.chain.block import Block
from goud_node.errors import GoudError


class SlowSubscriber(GoudError):
    """The consumer fell behind by more than the buffer; subscribe again and read the gap from the ledger."""

    code = "slow-subscriber"


class Events:
    """Distributes blocks to subscribers and wakes those who wait for a height."""

    def __init__(self, buffer: int) -> None:
        self._buffer = buffer
        self._subscribers: set[_Subscription] = set()
        self._heights: list[tuple[int, asyncio.Future[None]]] = []

    def publish(self, block: Block) -> None:
        """Hand out a block that has become durable here."""
        for subscription in tuple(self._subscribers):
            subscription.offer(block)
        for height, future in self._heights:
            if height <= block.height and not future.done():
                future.set_result(None)
        self._heights = [(height, future) for height, future in self._heights if not future.done()]

    async def reached(self, height: int) -> None:
        """Return when a block of at least that height is published."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heights.append((height, future))
        try:
            await future
        finally:
            # Such a height may never come: a peer's word is none.
            self._heights = [entry for entry in self._heights if entry[1] is not future]

    def subscribe(self) -> AsyncIterator[Block]:
        """Subscribe from now on; the subscription ends when the iterator is dropped, closed or too slow."""
        subscription = _Subscription(self._buffer)
        self._subscribers.add(subscription)
        return self._deliver(subscription)

    def close(self) -> None:
        """End every subscription."""
        for subscription in tuple(self._subscribers):
            subscription.end()

    async def _deliver(self, subscription: _Subscription) -> AsyncIterator[Block]:
        try:
            while (block := await subscription.take()) is not None:
                yield block
        finally:
            self._subscribers.discard(subscription)


class _Subscription:
    def __init__(self, buffer: int) -> None:
        self._queue: asyncio.Queue[Block | None] = asyncio.Queue(buffer + 1)
        self._buffer = buffer
        self._slow = False
        self._ended = False

    def offer(self, block: Block) -> None:
        if self._slow or self._ended:
            return
        if self._queue.qsize() >= self._buffer:
            self._slow = True
            self.end()
        else:
            self._queue.put_nowait(block)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._queue.put_nowait(None)

    async def take(self) -> Block | None:
        block = await self._queue.get()
        if block is None and self._slow:
            raise SlowSubscriber(f"more than {self._buffer} blocks were not taken in time; subscribe again")
        return block
