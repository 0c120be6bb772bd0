"""ASGI middleware of both interfaces: what a client hears whose request does not end before the node does."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from goud_node import problems
from goud_node.errors import Draining, OutcomeUnknown


class CutShort:
    """Tell the client of a request that the server cancels when its graceful end runs out of time.

    A write may have gone through, so only its idempotency key makes repeating it safe; a read is simply repeated. Who
    has the start of an answer already can be told nothing: the connection is closed. None of that is a defect.
    """

    _READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_answered = False

        async def tracking_send(message: Message) -> None:
            nonlocal has_answered
            has_answered = True
            await send(message)

        try:
            await self._app(scope, receive, tracking_send)
        except asyncio.CancelledError:
            if has_answered or scope["type"] != "http":
                return
            await problems.from_error(scope, self._error(scope["method"]))(scope, receive, send)

    def _error(self, method: str) -> Draining | OutcomeUnknown:
        if method in self._READS:
            return Draining("The node stopped before this request was answered. Repeat it: other nodes serve.")
        return OutcomeUnknown(
            "The node stopped before the outcome of this write was known. Repeat it with the same Idempotency-Key."
        )
