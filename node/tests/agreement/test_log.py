"""What is logged while etcd does not answer: that it does not, and not at every call."""

from __future__ import annotations

import logging
import socket

import pytest

from goud_node.agreement.etcd import EtcdKv
from goud_node.errors import Unavailable


@pytest.mark.parametrize("members", [1, 3])
async def test_an_etcd_that_is_silent_is_named_once(members: int, caplog: pytest.LogCaptureFixture) -> None:
    sockets = [socket.socket() for _ in range(members)]  # bound, and not listening: whoever connects is refused
    for taken in sockets:
        taken.bind(("127.0.0.1", 0))
    endpoints = [f"127.0.0.1:{taken.getsockname()[1]}" for taken in sockets]
    kv = EtcdKv(endpoints)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            with pytest.raises(Unavailable):
                await kv.range(b"key")
    await kv.close()
    for taken in sockets:
        taken.close()
    assert sum(f"etcd at {endpoints[0]} failed" in record.getMessage() for record in caplog.records) == 1
    assert sum("failed" in record.getMessage() for record in caplog.records) == 1
