"""A request that is still waiting when the server has to go is told what its client may do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from goud_node.service.listeners import Listener, address, bind
from goud_node.settings import Settings
from goud_node.shutdown import CutShort

from .support import assert_problem


@pytest.mark.parametrize(("method", "status", "code"), [("GET", 503, "draining"), ("POST", 504, "outcome-unknown")])
async def test_who_is_cut_short_is_told_whether_it_may_have_happened(
    make_settings: Callable[..., Settings], method: str, status: int, code: str
) -> None:
    waiting = asyncio.Event()

    async def endless(_scope: Scope, _receive: Receive, _send: Send) -> None:
        waiting.set()
        await asyncio.Event().wait()

    sock = bind("127.0.0.1", 0, "GOUD_PORT")
    listener = Listener(CutShort(endless), sock, make_settings(shutdown_seconds=1))
    serving = asyncio.create_task(listener.run())
    async with httpx.AsyncClient(base_url=f"http://{address(sock)}", trust_env=False, timeout=10) as client:
        asked = asyncio.create_task(client.request(method, "/api/collections"))
        await waiting.wait()
        listener.stop()
        assert_problem(await asked, status, code)
    await serving
