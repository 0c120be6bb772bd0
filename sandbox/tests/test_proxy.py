"""The proxy: what machines may reach through it."""

from __future__ import annotations

import asyncio

from goud_sandbox.proxy import Proxy


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(100))
    writer.close()


async def connect(port: int, target: str) -> tuple[str, bytes]:
    """The proxy's first line, and what comes back through the tunnel."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"hello")
    body = await reader.read(100) if b" 200 " in head else b""
    writer.close()
    return head.decode().split("\r\n", 1)[0], body


async def test_machines_reach_google_and_nothing_of_this_host() -> None:
    api = await asyncio.start_server(echo, "127.0.0.1", 0)
    api_port = api.sockets[0].getsockname()[1]
    proxy = Proxy(0, api_port, "")
    door = await asyncio.start_server(proxy.serve_machine, "127.0.0.1", 0)
    port = door.sockets[0].getsockname()[1]
    async with api, door:
        assert await connect(port, "storage.googleapis.com:443") == ("HTTP/1.1 200 Connection established", b"hello")
        for target in (f"127.0.0.1:{api_port}", "example.test:443", f"googleapis.com.example.test:{api_port}"):
            assert (await connect(port, target))[0] == "HTTP/1.1 403 Forbidden"
