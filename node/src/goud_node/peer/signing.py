"""ASGI middleware of the peer interface: nothing unsigned comes in, nothing unsigned goes out."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, cast

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from goud_node import clock, problems
from goud_node.peer.tokens import ANSWER_HEADER, CHALLENGE, Caller, Refused, Signer, Verifier
from goud_node.problems import ProblemError
from goud_node.telemetry import Metrics

MAX_REQUEST_BYTES: Final = 2 * 1024 * 1024
MOST_UNFINISHED_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of all bodies that are not complete: until its end nobody can tell whether a body is what was signed."""
MOST_UNFINISHED_BYTES_OF_ONE: Final = MOST_UNFINISHED_BYTES // 4
"""Of one caller: none of them fills the room of all."""
_CROWDED: Final = "Too many large requests arrive here at once: repeat this one in a moment."


class SignedExchange:
    """Verifies each request, hands it on with its caller in the scope's state, and signs the answer."""

    def __init__(self, app: ASGIApp, verifier: Verifier, signer: Signer, metrics: Metrics) -> None:
        self._app = app
        self._verifier = verifier
        self._signer = signer
        self._metrics = metrics
        self._unfinished_bytes: Counter[str] = Counter()
        self._arriving: set[str] = set()
        """Ids of the requests whose bodies are under way."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        # The headers say who asks and for what: nobody else's body is read.
        try:
            caller = self._verifier.request(_token(scope), scope["method"], target_of(scope))
            body = await self._body(receive, caller)
            self._verifier.take(caller, body)
        except ClientDisconnect:
            return
        except ProblemError as error:
            response = problems.respond(scope, error.status, error.code, error.detail, headers=error.headers)
            await self._sign(response, caller)(scope, receive, send)
        except Refused as refusal:
            if refusal.reason == CHALLENGE:  # the first half of a request, no refusal to look into
                more: dict[str, Any] = {CHALLENGE: self._verifier.challenge()}
            else:
                more = {}
                self._metrics.peer_refused.labels(refusal.reason).inc()
            # Both sides then learn whose clock is wrong: a refusal for the time alone is signed, and shows the time.
            response = problems.respond(
                scope, 401, "unauthorized", str(refusal), reason=refusal.reason, clock_ms=clock.wall_ms(), **more
            )
            late_caller = refusal.caller
            await (response if late_caller is None else self._sign(response, late_caller))(scope, receive, send)
        else:
            scope.setdefault("state", {})["caller"] = caller
            await self._answer(scope, body, caller, send)

    def _sign(self, response: Response, caller: Caller) -> Response:
        body = bytes(response.body)
        token = self._signer.answer(caller.node_id, caller.request_id, response.status_code, body)
        response.headers[ANSWER_HEADER] = token
        return response

    async def _body(self, receive: Receive, caller: Caller) -> bytes:
        """The whole body. Raises ClientDisconnect when it ends too soon, ProblemError, Refused."""
        if caller.request_id in self._arriving:
            raise Refused("replayed", "The body of this request is under way on another connection.")
        self._arriving.add(caller.request_id)
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part = cast(bytes, message.get("body", b""))
                size += len(part)
                self._unfinished_bytes[caller.node_id] += len(part)
                if size > MAX_REQUEST_BYTES:
                    self._void(caller, "too-large")
                    raise ProblemError(
                        413, "content-too-large", f"A peer request has at most {MAX_REQUEST_BYTES} bytes."
                    )
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
                if self._is_crowded(caller):
                    self._void(caller, "crowded")
                    raise ProblemError(503, "unavailable", _CROWDED, headers=problems.retry_after(1))
        finally:
            self._unfinished_bytes[caller.node_id] -= size
            self._arriving.discard(caller.request_id)

    def _is_crowded(self, caller: Caller) -> bool:
        unfinished = self._unfinished_bytes
        return unfinished.total() > MOST_UNFINISHED_BYTES or unfinished[caller.node_id] > MOST_UNFINISHED_BYTES_OF_ONE

    def _void(self, caller: Caller, reason: str) -> None:
        """The answer will say that nothing happened: so nobody can have the request taken afterwards."""
        self._verifier.use_up(caller)
        self._metrics.peer_refused.labels(reason).inc()

    async def _answer(self, scope: Scope, body: bytes, caller: Caller, send: Send) -> None:
        start: Message | None = None
        parts: list[bytes] = []
        is_replayed = False

        async def replay() -> Message:
            nonlocal is_replayed
            if is_replayed:
                return {"type": "http.disconnect"}
            is_replayed = True
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
