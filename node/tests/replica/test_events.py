"""Waiting for blocks: what is no longer waited for is forgotten."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from goud_node.replica.events import Events


@pytest.mark.parametrize("count", [1, 3])
async def test_a_height_that_nobody_waits_for_any_more_is_forgotten(count: int) -> None:
    events = Events(1)
    waiters = [asyncio.create_task(events.reached(10**9)) for _ in range(count)]
    await asyncio.sleep(0)
    assert len(cast("Any", events)._heights) == count
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    assert not cast("Any", events)._heights
