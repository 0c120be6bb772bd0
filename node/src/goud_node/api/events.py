"""Events over WebSocket: every new block, and what happened on the caller's own behalf.

Events are hints with heights: a client that reconnects reads what it missed from /api/blocks and /api/audit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import APIRouter, WebSocket
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from goud_node import problems
from goud_node.api.context import Context
from goud_node.api.tokens import InvalidToken, Principal
from goud_node.chain.block import Block
from goud_node.chain.transactions import CollectionPut, decode_trusted
from goud_node.documents import Document, Malformed, read
from goud_node.errors import GoudError

router = APIRouter()
_log = logging.getLogger(__name__)

SUBPROTOCOL: Final = "goud.events"
TOKEN_PREFIX: Final = "goud.token."  # noqa: S105  (the name of a subprotocol, not a secret)
CLOSE_UNAUTHORIZED: Final = 4401
CLOSE_TRY_LATER: Final = 1013
_FIRST_MESSAGE_SECONDS: Final = 5.0
_MOST_REASON: Final = 123
_SHARES: Final = 10
_LEAST_SHARE: Final = 8
"""An account has a tenth of the streams of a node, and always so many: none takes the place of the others."""


class _FirstMessage(Document):
    token: str


class Listener:
    """One client's bounded queue of events, ready to send."""

    def __init__(self, account_id: str, size: int) -> None:
        self.account_id = account_id
        self.queue: asyncio.Queue[str] = asyncio.Queue(size)
        self.overrun = asyncio.Event()

    def offer(self, event: str) -> None:
        """Queue an event; a full queue ends the listener instead of growing."""
        try:
            self.queue.put_nowait(event)
        except asyncio.QueueFull:
            self.overrun.set()


class Broadcaster:
    """Reads new blocks once and hands each to every listener."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._listeners: set[Listener] = set()

    async def run(self) -> None:
        """Broadcast until cancelled."""
        while True:
            try:
                async for block in self._context.replica.subscribe():
                    await self.publish(block)
            except GoudError as error:
                _log.warning("the event stream fell behind and starts again at the tip: %s", error)
            # A subscription that ends by itself (the replica stops) must not spin.
            await asyncio.sleep(0.1)

    def join(self, account_id: str) -> Listener | None:
        """A listener for that account, or None when as many as allowed are connected, of it or of all."""
        most = self._context.settings.events_connections
        own_count = sum(listener.account_id == account_id for listener in self._listeners)
        if len(self._listeners) >= most or own_count >= max(_LEAST_SHARE, most // _SHARES):
            return None
        listener = Listener(account_id, self._context.settings.events_queue)
        self._listeners.add(listener)
        self._context.metrics.sockets.set(len(self._listeners))
        return listener

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        self._context.metrics.sockets.set(len(self._listeners))

    async def publish(self, block: Block) -> None:
        """Offer the block's events to everybody they concern."""
        if not self._listeners:
            return
        listeners, event = tuple(self._listeners), _block_event(block)
        # A block has up to thousands of transactions to decode.
        events_by_account = await asyncio.to_thread(_own_events, block, {listener.account_id for listener in listeners})
        for listener in listeners:
            listener.offer(event)
            for entry in events_by_account.get(listener.account_id, ()):
                listener.offer(entry)


def _block_event(block: Block) -> str:
    header = block.header
    return json.dumps(
        {
            "type": "block",
            "height": header.height,
            "hash": header.hash.hex(),
            "timestamp_ms": header.timestamp_ms,
            "proposer": header.proposer,
            "count": header.count,
        }
    )


def _own_events(block: Block, accounts: set[str]) -> Mapping[str, Sequence[str]]:
    events: defaultdict[str, list[str]] = defaultdict(list)
    for index, raw in enumerate(block.transactions):
        transaction = decode_trusted(raw)
        if isinstance(transaction, CollectionPut) and transaction.account_id in accounts:
            entry: dict[str, Any] = {
                "type": "collection.put",
                "collection_id": transaction.collection_id,
                "height": block.height,
                "index": index,
            }
            events[transaction.account_id].append(json.dumps(entry))
    return events


@router.websocket("/api/events")
async def events(websocket: WebSocket) -> None:
    """Stream events to one client.

    The token comes as `Authorization: Bearer`, as `?token=`, as the subprotocol `goud.token.<token>` beside
    `goud.events`, or in a first message {"token": "..."} within five seconds.
    """
    context: Context = websocket.app.state.context
    broadcaster: Broadcaster = websocket.app.state.broadcaster
    try:
        principal = await _principal(websocket, context)
    except InvalidToken as error:
        await _refuse(websocket, str(error))
        return
    except WebSocketDisconnect:
        return
    listener = broadcaster.join(principal.account_id)
    if listener is None:
        reason = "too many event streams on this node, of this account or of all: try another node"
        await _close(websocket, CLOSE_TRY_LATER, reason)
        return
    try:
        await _serve(websocket, context, principal, listener)
    finally:
        broadcaster.leave(listener)


async def _principal(websocket: WebSocket, context: Context) -> Principal:
    """Accept the connection of a valid token. Raises InvalidToken (before or after accepting)."""
    token = _token(websocket)
    subprotocol = SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None
    if token is not None:
        principal = context.tokens.verify(token)
        await websocket.accept(subprotocol=subprotocol)
        return principal
    await websocket.accept(subprotocol=subprotocol)
    try:
        message = read(await asyncio.wait_for(websocket.receive_text(), _FIRST_MESSAGE_SECONDS), _FirstMessage)
    except Malformed as error:
        raise InvalidToken(f'The first message is not {{"token": "..."}}: {error}') from error
    except (TimeoutError, KeyError) as error:
        raise InvalidToken('Send {"token": "..."} as the first message within five seconds.') from error
    return context.tokens.verify(message.token)


def _token(websocket: WebSocket) -> str | None:
    scheme, _, value = websocket.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value:
        return value.strip()
    if "token" in websocket.query_params:
        return websocket.query_params["token"]
    for name in websocket.scope["subprotocols"]:
        if name.startswith(TOKEN_PREFIX):
            return str(name)[len(TOKEN_PREFIX) :]
    return None


async def _refuse(websocket: WebSocket, reason: str) -> None:
    if websocket.application_state.name == "CONNECTED":
        # The protocol has no room for a longer one.
        reason = reason.encode(errors="replace")[:_MOST_REASON].decode(errors="ignore")
        await _close(websocket, CLOSE_UNAUTHORIZED, reason)
    else:
        response: Response = problems.respond(websocket.scope, 401, "unauthorized", reason)
        await websocket.send_denial_response(response)


async def _serve(websocket: WebSocket, context: Context, principal: Principal, listener: Listener) -> None:
    tip = context.ledger.tip
    hello = {"type": "hello", "account_id": principal.account_id, "height": tip.height, "hash": tip.hash.hex()}
    await websocket.send_text(json.dumps(hello))
    tasks = [
        asyncio.create_task(_send(websocket, listener)),
        asyncio.create_task(_receive(websocket)),
        asyncio.create_task(listener.overrun.wait()),
    ]
    try:
        lifetime = max(0.0, principal.expires - context.wall())
        done, _ = await asyncio.wait(tasks, timeout=lifetime, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if listener.overrun.is_set():
        context.metrics.dropped.inc()
        await _close(websocket, CLOSE_TRY_LATER, "you read too slowly: reconnect and read /api/blocks for the gap")
    elif not done:
        reason = "the token has expired: make a new one with POST /api/sessions"
        await _close(websocket, CLOSE_UNAUTHORIZED, reason)


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    """The client may be gone already; then there is nobody to tell."""
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await websocket.close(code, reason)


async def _send(websocket: WebSocket, listener: Listener) -> None:
    while True:
        await websocket.send_text(await listener.queue.get())


async def _receive(websocket: WebSocket) -> None:
    """Read until the client closes; what it says after the first message is ignored."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
