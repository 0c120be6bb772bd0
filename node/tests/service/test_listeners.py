"""A server that follows its name: networks of containers come and go, and give out other addresses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import httpx
import pytest
from starlette.responses import PlainTextResponse

from goud_node.service import listeners
from goud_node.service.listeners import Listener, address, bind, present
from goud_node.settings import Settings

HERE, THERE = "127.0.0.1", "127.0.0.2"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - an address that is asked about


class Machine:
    """The machine's addresses, and what a name leads to: nothing while the network is gone."""

    def __init__(self) -> None:
        self.addresses = {HERE}
        self.name: str | None = HERE

    def present(self, host: str) -> bool:
        return host in self.addresses

    def getaddrinfo(self, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if self.name is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.name, 0))]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(listeners, "present", machine.present)
    monkeypatch.setattr(listeners, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", machine.getaddrinfo)
    return machine


async def answers(url: str) -> bool:
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            return (await client.get(url)).status_code == 200
        except httpx.TransportError:
            return False


async def said(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return words in caplog.text


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1000):
        if await what():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError


async def until_answers(url: str) -> None:
    await until(lambda: answers(url))


@pytest.mark.parametrize("nameless", [False, True], ids=["moved at once", "without a network for a while"])
async def test_a_server_follows_its_name_to_another_address(
    make_settings: Callable[..., Settings], machine: Machine, caplog: pytest.LogCaptureFixture, *, nameless: bool
) -> None:
    sock = bind(HERE, 0, "GOUD_PEER_PORT")
    port = sock.getsockname()[1]
    listener = Listener(PlainTextResponse("here"), sock, make_settings(), host="node1.peers")
    serving = asyncio.create_task(listener.run())
    await until_answers(f"http://{HERE}:{port}")
    if nameless:
        machine.addresses, machine.name = set(), None
        await until(lambda: said(caplog, "no other to listen on"))
    machine.addresses, machine.name = {THERE}, THERE
    await until_answers(f"http://{THERE}:{port}")
    assert not await answers(f"http://{HERE}:{port}")
    listener.stop()
    async with asyncio.timeout(20):
        await serving
    assert not await answers(f"http://{THERE}:{port}")


async def test_a_server_whose_address_stays_is_left_alone(
    make_settings: Callable[..., Settings], machine: Machine
) -> None:
    sock = bind(HERE, 0, "GOUD_PEER_PORT")
    listener = Listener(PlainTextResponse("here"), sock, make_settings(), host="node1.peers")
    serving = asyncio.create_task(listener.run())
    machine.name = THERE  # a name that leads elsewhere says nothing of the address that is here
    await until_answers(url := f"http://{address(sock)}")
    await asyncio.sleep(0.1)
    assert await answers(url)
    listener.stop()
    await serving


@pytest.mark.parametrize(("host", "expected"), [(HERE, True), (EVERYWHERE, True), ("192.0.2.1", False)])
def test_an_address_is_present_where_a_socket_can_take_it(host: str, *, expected: bool) -> None:
    assert present(host) is expected
