"""Sockets and HTTP servers: both ports are taken before anything else, and each server stops when told."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from goud_node.errors import ConfigurationError, GoudError
from goud_node.settings import Settings


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
    """One application on one socket."""

    def __init__(self, app: ASGIApp, sock: socket.socket, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="websockets-sansio",
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
        self._server = Server(config)
        self._sock = sock

    async def run(self) -> None:
        """Serve until `stop`; requests in flight are finished, bounded by the setting."""
        await self._server.serve(sockets=[self._sock])

    def stop(self) -> None:
        self._server.should_exit = True
