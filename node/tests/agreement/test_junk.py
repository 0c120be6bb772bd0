"""One validator can write whatever it likes into the log: the others wait, say so, and go on once it is put right."""

from __future__ import annotations

import asyncio
import logging

import pytest

from goud_node.agreement.kv import Delete, Put
from goud_node.chain.encoding import encode
from goud_node.replica.types import Options

from .trio import NAMES, Shared, Trio, account

JUNK = {
    "head": [b"junk", encode(["x", b"y"]), encode([-1, None]), encode([2**64 - 1, bytes(32)])],
    "epoch": [b"junk", encode([-5, -1, b""])],
    "leader": [b"junk", encode(["node3", "x"])],
    "blocks/zz": [b"junk"],
    f"blocks/{1:016X}x": [b"junk"],
    "nodes/node3": [b"junk", encode(2**64 - 1)],
    f"signatures/{1:016x}/node3": [b"junk"],
}


@pytest.mark.parametrize(("name", "junk"), [(name, junk) for name, kinds in JUNK.items() for junk in kinds])
async def test_junk_in_the_log_ends_no_loop(name: str, junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    log = Shared()
    trio = Trio(log, Options(quorum_timeout=0.5))
    for member in NAMES:
        trio.start(member)
    try:
        await trio.until(trio.proposer)
        await trio.replica(NAMES[0]).submit(account("first"))
        await trio.until(trio.agreed)
        key, kv = f"/goud/{trio.genesis.chain_id}/{name}".encode(), log()
        before = await kv.range(key)
        with caplog.at_level(logging.WARNING):
            await kv.txn([], [Put(key, junk)])
            await asyncio.sleep(1)
        if name in {"head", "epoch"}:
            assert f"{key.decode()} cannot be read" in caplog.text
            assert not any(trio.replica(member).status.synced for member in NAMES)
        if name != "leader":  # what stood there is removed, and another leader elected
            await kv.txn([], [Put(key, before[0].value) if before else Delete(key)])
        for member in NAMES:
            assert trio.replica(member).status.role != "halted"
        await trio.until(trio.proposer)
        await trio.replica(NAMES[1]).submit(account("second"))
        await trio.until(trio.agreed)
        assert all(task is not None and not task.done() for task in (m.task for m in trio.members.values()))
    finally:
        await trio.close()
