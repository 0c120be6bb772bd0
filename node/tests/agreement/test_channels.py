"""What a channel to an etcd member does before anything is said."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import pytest

from goud_node.agreement.channels import Member


class Door:
    """A TCP port that notes who knocked, and says nothing."""

    def __init__(self) -> None:
        self.knocked = asyncio.Event()

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.knocked.set()
        writer.close()

    async def open(self) -> asyncio.Server:
        return await asyncio.start_server(self._answer, "127.0.0.1", 0)


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
async def test_a_member_is_reached_without_the_proxy_of_the_environment(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, etcd = Door(), Door()
    async with await proxy.open() as at_proxy, await etcd.open() as at_etcd:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{at_proxy.sockets[0].getsockname()[1]}")
        member = Member(f"127.0.0.1:{at_etcd.sockets[0].getsockname()[1]}", None)
        call = asyncio.ensure_future(member.channel.channel_ready())
        doors = [asyncio.ensure_future(door.knocked.wait()) for door in (proxy, etcd)]
        await asyncio.wait(doors, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert etcd.knocked.is_set()
        assert not proxy.knocked.is_set()
        for waiting in (call, *doors):
            waiting.cancel()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            await call
        await member.close()
