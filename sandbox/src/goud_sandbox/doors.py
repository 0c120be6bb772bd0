"""What machines find on their bridge's own address: metadata servers, the proxy and Amazon's APIs.

Machines ask at link-local addresses; the room's firewall leads them here (``doors``). Nothing listens on any other
address, and what a machine is told depends on the address it asks from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from goud_sandbox.metadata import Question, Reply
from goud_sandbox.proxy import Proxy, join
from goud_sandbox.room.model import Door
from goud_sandbox.serving import server
from goud_sandbox.settings import MACHINES_PROXY_PORT, METADATA_ADDRESS, SERVICES_ADDRESS, Settings

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.25
METHODS = ["GET", "HEAD", "PUT", "POST", "DELETE"]
Answer = Callable[[Question], Reply | None]


def doors(settings: Settings) -> tuple[Door, ...]:
    """Where machines are led to."""
    return (
        Door(METADATA_ADDRESS, 80, settings.metadata_port),
        Door(SERVICES_ADDRESS, MACHINES_PROXY_PORT, settings.proxy_port),
        Door(SERVICES_ADDRESS, 80, settings.aws_port),
    )


def application(*providers: Answer) -> Starlette:
    """The metadata servers: the first provider that knows the machine answers."""

    def answer(request: Request) -> Response:
        query, headers = dict(request.query_params), {key.lower(): value for key, value in request.headers.items()}
        machine = request.client.host if request.client else ""
        question = Question(machine, request.method, request.url.path, query, headers)
        for provider in providers:
            reply = provider(question)
            if reply is not None:
                return Response(reply.text, reply.status, dict(reply.headers), reply.kind)
        return Response("No machine has the address that asks.\n", 404, media_type="text/plain")

    return Starlette(routes=[Route("/{path:path}", answer, methods=METHODS)])


@dataclass
class _Listeners:
    """The listeners on one bridge."""

    metadata: uvicorn.Server
    task: asyncio.Task[None]
    servers: list[asyncio.Server]

    def close(self) -> None:
        """Listen no longer; what is under way ends by itself."""
        self.metadata.should_exit = True
        for listener in self.servers:
            listener.close()


class Doors:
    """Listens on every bridge there is, until the task that runs it is cancelled."""

    def __init__(
        self, settings: Settings, bridges: Callable[[], frozenset[str]], proxy: Proxy, metadata: Starlette
    ) -> None:
        self._settings = settings
        self._bridges = bridges
        self._proxy = proxy
        self._metadata = metadata
        self._listeners: dict[str, _Listeners] = {}

    async def run(self) -> None:
        """Follow the bridges."""
        try:
            while True:
                await self._follow()
                await asyncio.sleep(INTERVAL_SECONDS)
        finally:
            for listeners in self._listeners.values():
                listeners.close()
            await asyncio.gather(*(listeners.task for listeners in self._listeners.values()), return_exceptions=True)

    async def _follow(self) -> None:
        bridges = self._bridges()
        for address in set(self._listeners) - bridges:
            self._listeners.pop(address).close()
        for address in bridges - set(self._listeners):
            try:
                self._listeners[address] = await self._listen(address)
            except OSError as error:  # the bridge is being made, or on its way out: the next look will tell
                log.info("no door at %s: %s", address, error)

    async def _listen(self, address: str) -> _Listeners:
        async with contextlib.AsyncExitStack() as stack:
            servers = []
            for port, serve in (
                (self._settings.proxy_port, self._proxy.serve_machine),
                (self._settings.aws_port, self._amazon),
            ):
                servers.append(await asyncio.start_server(serve, address, port))
                stack.callback(servers[-1].close)
            # uvicorn ends the process when it cannot bind, so it is given a socket that is bound.
            listener = socket.create_server((address, self._settings.metadata_port))
            stack.pop_all()
        metadata = server(self._metadata, address, self._settings.metadata_port)
        return _Listeners(metadata, asyncio.create_task(metadata.serve(sockets=[listener])), servers)

    async def _amazon(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._settings.aws_port)
        except OSError as error:
            log.info("Amazon's APIs do not listen: %s", error)
            writer.close()
            return
        await join((reader, writer), upstream)
