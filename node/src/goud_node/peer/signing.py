"""ASGI middleware of the peer interface: nothing unsigned comes in, nothing unsigned goes out."""

from __future__ import annotations

from typing import Final, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from goud_node import clock, problems
from goud_node.peer.tokens import ANSWER_HEADER, Caller, Refused, Signer, Verifier
from goud_node.telemetry import Metrics

MAX_REQUEST_BYTES: Final = 2 * 1024 * 1024


class SignedExchange:
    """Verifies each request, hands it on with its caller in the scope's state, and signs the answer."""

    def __init__(self, app: ASGIApp, verifier: Verifier, signer: Signer, metrics: Metrics) -> None:
        self._app = app
        self._verifier = verifier
        self._signer = signer
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        body = await _body(receive)
        if body is None:
            response = problems.respond(
                scope, 413, "content-too-large", f"A peer request has at most {MAX_REQUEST_BYTES} bytes."
            )
            await response(scope, receive, send)
            return
        try:
            caller = self._verifier.request(_token(scope), scope["method"], target_of(scope), body)
        except Refused as refused:
            self._metrics.peer_refused.labels(refused.reason).inc()
            # Both sides then learn whose clock is wrong: a refusal for the time alone is signed, and shows the time.
            response = problems.respond(
                scope, 401, "unauthorized", str(refused), reason=refused.reason, clock_ms=clock.wall_ms()
            )
            if (late := refused.caller) is not None:
                token = self._signer.answer(late.node_id, late.request_id, 401, bytes(response.body))
                response.headers[ANSWER_HEADER] = token
            await response(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._answer(scope, body, caller, send)

    async def _answer(self, scope: Scope, body: bytes, caller: Caller, send: Send) -> None:
        start: Message | None = None
        parts: list[bytes] = []
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return {"type": "http.disconnect"}
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body", False) and start is not None:
                content = b"".join(parts)
                token = self._signer.answer(caller.node_id, caller.request_id, start["status"], content)
                headers = [*start["headers"], (ANSWER_HEADER.encode(), token.encode())]
                await send({**start, "headers": headers})
                await send({"type": "http.response.body", "body": content})

        await self._app(scope, replay, collect)


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or None when it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        part = cast(bytes, message.get("body", b""))
        size += len(part)
        if size > MAX_REQUEST_BYTES:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _token(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else None
    return None


def target_of(scope: Scope) -> str:
    """Path and query as the client sent them."""
    raw = cast(bytes, scope.get("raw_path") or scope["path"].encode())
    query = cast(bytes, scope["query_string"])
    return (raw + (b"?" + query if query else b"")).decode("latin-1")
