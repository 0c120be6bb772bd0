"""Inside the keeper, as its main program: addresses that machines got after they were made.

Docker publishes ports only when it makes a container. ``/relays/relays.json`` is a list of ``[address, port, to
address, to port]``; each entry is a listener that passes connections on. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sys
from pathlib import Path

RELAYS = Path("/relays/relays.json")
INTERVAL_SECONDS = 0.25
CONNECT_SECONDS = 10
Relay = tuple[str, int, str, int]


def read_relays() -> set[Relay]:
    try:
        entries = json.loads(RELAYS.read_text())
    except (OSError, ValueError):  # none yet, or being written
        return set()
    return {(str(address), int(port), str(target), int(target_port)) for address, port, target, target_port in entries}


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until the end, and then the end."""
    with contextlib.suppress(OSError):
        while block := await reader.read(1 << 16):
            writer.write(block)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def serve(relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            upstream_reader, upstream_writer = await asyncio.open_connection(relay[2], relay[3])
    except (OSError, TimeoutError):
        writer.transport.abort()  # nobody listens there: a refused connection, as far as that is possible
        return
    try:
        await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer))
    finally:
        writer.close()
        upstream_writer.close()


async def main() -> None:
    servers: dict[Relay, asyncio.Server] = {}
    while True:
        relays = read_relays()
        for relay in set(servers) - relays:
            servers.pop(relay).close()
        for relay in relays - set(servers):
            try:
                servers[relay] = await asyncio.start_server(functools.partial(serve, relay), relay[0], relay[1])
            except OSError as error:
                sys.stderr.write(f"{relay}: {error}\n")
        await asyncio.sleep(INTERVAL_SECONDS)


if __name__ == "__main__":
    asyncio.run(main())
