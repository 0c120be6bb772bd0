"""Waiting for something that happens again and again."""

from __future__ import annotations

import asyncio


class Pulse:
    """Wakes everybody who waits at the moment."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109  # a bound on waiting, which is no failure
        """Return after the next beat or `timeout` seconds; whether there was a beat."""
        return await within(self._event, timeout)


async def within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, but not longer; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
