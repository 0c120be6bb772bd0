"""Pure ASGI middleware of the public interface: body limit, and request metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from goud_node import problems
from goud_node.telemetry import Metrics

_LINGER_BYTES: Final = 4 * 1024 * 1024
_LINGER_SECONDS: Final = 2.0


class BodyLimit:
    """Refuse a body over `limit` bytes: at once when Content-Length says so, else while it is being read."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        content_length = self._content_length(scope)
        if content_length > self._limit:
            if content_length <= self._limit + _LINGER_BYTES:
                await _discard(receive)
            await self._refusal(scope)(scope, receive, send)
            return
        size = 0

        async def bounded_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                await _discard(receive)
                # The framework hands it to the handler that answers with a problem.
                raise HTTPException(413, self._detail, headers={"Connection": "close"})
            return message

        await self._app(scope, bounded_receive, send)

    @property
    def _detail(self) -> str:
        return f"The request body is larger than {self._limit} bytes; split the content or shorten it."

    def _refusal(self, scope: Scope) -> ASGIApp:
        return problems.respond(scope, 413, "content-too-large", self._detail, headers={"Connection": "close"})

    @staticmethod
    def _content_length(scope: Scope) -> int:
        for name, value in scope["headers"]:
            if name == b"content-length":
                return int(value) if value.isdigit() else 0
        return 0


async def _discard(receive: Receive) -> None:
    """Read on for a while without keeping anything.

    A connection closed with unread data is reset, and a reset can overtake the answer: a client that is only a little
    over the limit should see why it was refused.
    """
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while size < _LINGER_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return


class RequestMetrics:
    """Observe duration by method, route template and status; unknown routes share one label.

    While the node drains, each answer also closes its connection, so that none is idle when the server goes away.
    """

    _METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

    def __init__(self, app: ASGIApp, metrics: Metrics, draining: Callable[[], bool]) -> None:
        self._app = app
        self._metrics = metrics
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = "500"

        async def metered_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                if self._draining():
                    message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        start = time.perf_counter()
        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, metered_send)
        finally:
            self._metrics.in_flight.dec()
            # Label values come from us, never from the client, or anyone could grow the registry without end.
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in self._METHODS else "other"
            self._metrics.requests.labels(method, route, status).observe(time.perf_counter() - start)
