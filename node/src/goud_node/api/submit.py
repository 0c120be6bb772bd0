"""Having a transaction ordered, on behalf of an HTTP request."""

from __future__ import annotations

import asyncio
import time

from goud_node.api.context import Context
from goud_node.chain.ledger import Receipt
from goud_node.errors import OutcomeUnknown, StoreFull, Unavailable
from goud_node.problems import ProblemError, retry_after

_FULL_SECONDS = 10.0
"""RocksDB recovers by itself some seconds after space was freed; until then the node calls itself full."""
_QUORUM_SECONDS = 2.0
"""Longer than the load balancer waits before it asks another node: that one may have a quorum."""
_QUORUM_RETRY_SECONDS = 2
_PAUSE_SECONDS = 0.05


def disk_fault(context: Context) -> str | None:
    """Why this node must not take writes for want of disk space, or None."""
    volume = context.volume()
    used = 100 * volume.used_fraction
    if used > context.settings.disk_full_percent:
        return (
            f"The file system of {volume.mount_path} is {used:.1f} % full; the limit is "
            f"{context.settings.disk_full_percent:g} %. Grow the disk."
        )
    if time.monotonic() < context.full_until:
        return f"A write failed for want of space on {volume.mount_path}: free space or grow the disk."
    return None


async def submit(context: Context, transaction: bytes) -> Receipt:
    """Where the transaction stands in the chain, once it is durable.

    Raises the replica's errors: Unavailable when it surely did not happen, OutcomeUnknown when it may have.
    """
    fault = disk_fault(context)
    if fault is not None:
        raise ProblemError(507, "disk-full", fault)
    started = time.perf_counter()
    # One budget from the arrival on: who asks again elsewhere after it must not wait for the sum of several.
    deadline = time.monotonic() + context.settings.submit_deadline_seconds
    await _quorum(context)
    try:
        receipt = await _until_known(context, transaction, deadline)
    except StoreFull:
        context.full_until = time.monotonic() + _FULL_SECONDS
        raise
    context.metrics.commit_latency.observe(time.perf_counter() - started)
    return receipt


async def _quorum(context: Context) -> None:
    """Say soon that there is no quorum, rather than after the whole deadline of a write."""
    deadline = time.monotonic() + _QUORUM_SECONDS
    while not context.replica.status.quorum:
        if time.monotonic() >= deadline:
            raise ProblemError(
                503,
                "no-quorum",
                "The ordering service has no quorum, so nothing can be written; reads go on. Retry when a majority of "
                "it is back.",
                headers=retry_after(_QUORUM_RETRY_SECONDS),
            )
        await asyncio.sleep(_PAUSE_SECONDS)


async def _until_known(context: Context, transaction: bytes, deadline: float) -> Receipt:
    """Submit the same bytes until it is known whether they were applied; they are applied once."""
    doubt: OutcomeUnknown | None = None
    while True:
        try:
            return await context.replica.submit(transaction, within=deadline - time.monotonic())
        except OutcomeUnknown as error:
            doubt = error
        except Unavailable:
            # "Surely did not happen" is about this attempt; an earlier one may have.
            if doubt is None:
                raise
        if time.monotonic() + _PAUSE_SECONDS >= deadline:
            raise doubt
        await asyncio.sleep(_PAUSE_SECONDS)
