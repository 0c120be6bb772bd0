"""The way in: a CONNECT proxy that takes ``*.googleapis.com`` to the sandbox and lets everything else pass.

Clients keep their built-in host names and still end here. Other hosts go where they would have gone: through the proxy
that was set when the sandbox came up, or directly. Machines get no further than the sandbox: what listens on this
host's loopback is not theirs.
"""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GOOGLE_DOMAIN = ".googleapis.com"
TIMEOUT_SECONDS = 20


class Proxy:
    """Listens on loopback until the task that runs it is cancelled."""

    def __init__(self, port: int, api_port: int, upstream: str) -> None:
        self._port = port
        self._api_port = api_port
        self._upstream = urlsplit(upstream) if upstream else None

    async def run(self) -> None:
        """Serve."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        async with server:
            await server.serve_forever()

    async def serve_machine(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a machine."""
        await self._serve(reader, writer, google_only=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, google_only: bool = False
    ) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
                if method != "CONNECT":
                    await _refuse(writer, "405 Method Not Allowed", "This proxy only tunnels (CONNECT).")
                    return
                if google_only and not _is_google(target):
                    await _refuse(
                        writer, "403 Forbidden", f"{target} is not behind this proxy; {GOOGLE_DOMAIN[1:]} is."
                    )
                    return
                upstream_reader, upstream_writer = await self._open(target)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await join((reader, writer), (upstream_reader, upstream_writer))
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
            log.info("tunnel not made: %s", error)
            await _refuse(writer, "502 Bad Gateway", f"{error}")
        finally:
            writer.close()

    async def _open(self, target: str) -> Stream:
        host, _, port = target.rpartition(":")
        if _is_google(target):
            return await asyncio.open_connection("127.0.0.1", self._api_port)
        if self._upstream is None:
            return await asyncio.open_connection(host.strip("[]"), int(port))
        reader, writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port or 3128)
        writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in answer.split(b"\r\n", 1)[0] + b" ":
            raise OSError(f"the proxy {self._upstream.hostname} refused {target}")
        return reader, writer


def _is_google(target: str) -> bool:
    host = target.rpartition(":")[0]
    return host == GOOGLE_DOMAIN[1:] or host.endswith(GOOGLE_DOMAIN)


async def join(client: Stream, upstream: Stream) -> None:
    """Pass bytes both ways until both ends are done."""
    await asyncio.gather(_pump(client[0], upstream[1]), _pump(upstream[0], client[1]))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()
    except (ConnectionError, OSError):
        pass  # the other side went away: the tunnel is over, and that is all there is to say
    finally:
        writer.close()


async def _refuse(writer: asyncio.StreamWriter, status: str, reason: str) -> None:
    body = f"{reason}\n".encode()
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    try:
        await writer.drain()
    except (ConnectionError, OSError):
        log.info("the client did not wait for: %s", status)
