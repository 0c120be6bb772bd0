"""Sockets and HTTP servers: both ports are taken before anything else, and each server stops when told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterator
from functools import partial
from typing import Final, cast

import httpx
import uvicorn
from starlette.types import ASGIApp

from goud_node.errors import ConfigurationError, GoudError
from goud_node.peer.addresses import Addresses
from goud_node.service.connections import Events, Requests
from goud_node.settings import Settings
from goud_node.telemetry import Seldom

_log = logging.getLogger(__name__)
_LOOK_SECONDS: Final = 1.0
_NAME_SECONDS: Final = 5.0


class PortInUse(GoudError):
    """Another process listens where this node should."""

    code = "port-in-use"


def bind(host: str, port: int, variable: str) -> socket.socket:
    """A listening socket's address, taken but not yet listening. `variable` names the port's setting.

    Raises PortInUse, ConfigurationError for an address this machine does not have.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        # Bound twice with SO_REUSEADDR, only listening tells that the port is taken.
        sock.listen(2048)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"Port {port} on {host} is in use by another process: stop it (`ss -ltnp sport = :{port}` names it) "
                f"or choose another port with {variable}."
            ) from error
        raise ConfigurationError(f"Cannot listen on {host}:{port} ({variable}): {error.strerror}.") from error
    sock.setblocking(False)
    return sock


def address(sock: socket.socket) -> str:
    """host:port as bound."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Server(uvicorn.Server):
    """A server whose signals and end are the service's business; two of them share the loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """One application on one address.

    With `host`, the name or address that was asked for, it follows: a container that is put back on a network may get
    another address there, and a socket on the former one hears nobody any more.
    """

    def __init__(self, app: ASGIApp, sock: socket.socket, settings: Settings, host: str | None = None) -> None:
        self._config = uvicorn.Config(
            app,
            loop="none",
            http=Requests,
            ws=cast(type[asyncio.Protocol], partial(Events, send_seconds=settings.events_send_seconds)),
            ws_max_size=64 * 1024,
            lifespan="off",
            log_config=None,
            access_log=settings.access_log,
            server_header=False,
            proxy_headers=False,
            # Longer than the clients' own: they close idle connections first, so no request meets a closed one.
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
        )
        self._server = Server(self._config)
        self._sock = sock
        self._host = host
        self._stopping = False

    async def run(self) -> None:
        """Serve until `stop`; requests in flight are finished, bounded by the setting."""
        async with asyncio.TaskGroup() as group:
            follow_task = group.create_task(self._follow())
            while not self._stopping:
                sock = self._sock
                await self._server.serve(sockets=[sock])
                if self._sock is sock:
                    break
                self._server = Server(self._config)
            follow_task.cancel()

    def stop(self) -> None:
        self._stopping = True
        self._server.should_exit = True

    async def _follow(self) -> None:
        if self._host is None:
            return
        log_limit = Seldom()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._server.should_exit:
                continue
            lost_host, port = self._sock.getsockname()[:2]
            if present(lost_host):
                continue
            try:
                addresses = await Addresses().of(self._host, _NAME_SECONDS)
                self._sock = bind(addresses[0], port, "GOUD_PEER_PORT")
            except (httpx.TransportError, GoudError) as error:
                if log_limit.allows(lost_host):
                    _log.warning(
                        "this machine has no address %s any more, and no other to listen on: %s", lost_host, error
                    )
                continue
            _log.warning("this machine has no address %s any more: listening on %s", lost_host, address(self._sock))
            self._server.should_exit = True


def present(host: str) -> bool:
    """Whether this machine has an address; True where that cannot be found out."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True
