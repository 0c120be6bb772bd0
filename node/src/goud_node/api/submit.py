"""Having a transaction ordered, on behalf of an HTTP request."""

from __future__ import annotations

import asyncio
import time

from goud_node.api.context import Context
from goud_node.chain.ledger import Receipt
from goud_node.errors import AlreadyExists, GoudError, IdempotencyConflict, OutcomeUnknown, StoreFull
from goud_node.problems import ProblemError, retry_after

_QUORUM_SECONDS = 2.0
"""Longer than the load balancer waits before it asks another node: that one may have a quorum."""
_QUORUM_RETRY_SECONDS = 2
_PAUSE_SECONDS = 0.05
_UNDER_WAY = "This write was under way and may still be applied: repeat it with the same Idempotency-Key."


async def submit(context: Context, transaction: bytes) -> Receipt:
    """Where the transaction stands in the chain, once it is durable.

    Raises the replica's errors: Unavailable and StoreFull when it surely did not happen, OutcomeUnknown when it may
    have.
    """
    start = time.perf_counter()
    # One budget from the arrival on: who asks again elsewhere after it must not wait for the sum of several.
    deadline = time.monotonic() + context.settings.submit_deadline_seconds
    try:
        _require_space(context)
        await _quorum(context)
    except ProblemError as error:
        if context.replica.is_in_doubt(transaction):
            raise OutcomeUnknown(f"{error} {_UNDER_WAY}") from error
        raise
    receipt = await _until_known(context, transaction, deadline)
    context.metrics.commit_latency.observe(time.perf_counter() - start)
    return receipt


def _require_space(context: Context) -> None:
    room = context.room()
    if room.shortage is not None:
        raise ProblemError(
            507, "disk-full", room.shortage, path=str(room.path), free_bytes=room.free, needed_bytes=room.needed
        )


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
            return await context.replica.submit(transaction, budget=deadline - time.monotonic())
        except OutcomeUnknown as error:
            doubt = error
        except StoreFull as error:
            if doubt is None:
                raise
            # Nobody takes it before there is space: waiting longer would not tell more.
            raise OutcomeUnknown(f"{error} {_UNDER_WAY}") from error
        except (IdempotencyConflict, AlreadyExists):
            raise  # what is taken stays taken, and would not be, had an earlier attempt been applied
        except GoudError:
            # A refusal is about this attempt; an earlier one may have been applied.
            if doubt is None:
                raise
        if time.monotonic() + _PAUSE_SECONDS >= deadline:
            raise doubt
        await asyncio.sleep(_PAUSE_SECONDS)
