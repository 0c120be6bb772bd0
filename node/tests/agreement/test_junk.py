"""One validator can write whatever it likes into the log: the others wait, say so, and go on once it is put right."""

from __future__ import annotations

import asyncio
import logging

import pytest

from goud_node.agreement.kv import Delete, Put
from goud_node.chain.block import build
from goud_node.chain.encoding import encode
from goud_node.errors import OutcomeUnknown, Unavailable
from goud_node.replica.replica import Replica
from goud_node.replica.types import Options

from .trio import KEYS, NAMES, Shared, Trio, account

JUNK = {
    "head": [b"junk", encode(["x", b"y"]), encode([-1, None]), encode([2**64 - 1, bytes(32)])],
    "epoch": [b"junk", encode([-5, -1, b""])],
    "leader": [b"junk", encode(["node3", "x"]), *(encode([name, 5]) for name in ("ghost", *NAMES)), encode(["", 0])],
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


async def refusal(replica: Replica, label: str) -> str:
    """Why a write is refused. One whose deadline found it on its way to the proposer stays in doubt: then another."""
    for number in range(20):
        try:
            await replica.submit(account(f"{label}-{number}"))
        except OutcomeUnknown:
            continue
        except Unavailable as error:
            return str(error)
        raise AssertionError(f"{label}-{number} was ordered")
    raise AssertionError("every write was on its way at its deadline")


def block_after(trio: Trio, height: int) -> bytes:
    """A valid block of that height, which nobody ordered: the chain's own next one, or one further on."""
    last = trio.members[NAMES[0]].ledger.tip
    while last.height < height:
        block = build(
            last, [account(f"unordered-{last.height}")], proposer=NAMES[2], key=KEYS[NAMES[2]], timestamp_ms=1
        )
        last = block.header
    return block.encode()


@pytest.mark.parametrize("distance", [1, 2, 3])
@pytest.mark.parametrize("kind", ["nothing", "junk", "block"])
async def test_what_stands_above_the_head_is_not_ordered(
    distance: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds up the write of that height until it is deleted. Nobody reads it before, nor stores it at all."""
    log = Shared()
    trio = Trio(log, Options(quorum_timeout=0.5, submit_deadline=1.0))
    for member in NAMES:
        trio.start(member)
    try:
        await trio.until(trio.proposer)
        await trio.replica(NAMES[0]).submit(account("first"))
        await trio.until(trio.agreed)
        height = trio.members[NAMES[0]].ledger.height + distance
        key, kv = f"/goud/{trio.genesis.chain_id}/blocks/{height:016x}", log()
        value = {"nothing": b"", "junk": b"junk", "block": block_after(trio, height)}[kind]
        await kv.txn([], [Put(key.encode(), value)])
        for number in range(1, distance):
            await trio.replica(NAMES[number % 3]).submit(account(f"below-{number}"))
        await trio.until(trio.agreed)
        with caplog.at_level(logging.WARNING):
            for member in NAMES:
                assert f"{key} cannot be read" in await refusal(trio.replica(member), f"refused-{member}")
        assert f"{key} cannot be read" in caplog.text
        assert len(caplog.records) < 5
        assert {member.ledger.height for member in trio.members.values()} == {height - 1}
        await kv.txn([], [Delete(key.encode())])
        await trio.until(trio.proposer)
        assert (await trio.replica(NAMES[1]).submit(account("second"))).height == height
        await trio.until(trio.agreed)
    finally:
        await trio.close()


@pytest.mark.parametrize("needed", ["tip", "next"])
@pytest.mark.parametrize("kind", ["nothing", "junk", "other height"])
async def test_a_node_waits_for_an_ordered_block_that_cannot_be_read(
    kind: str, needed: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = Shared()
    trio = Trio(log, Options(quorum_timeout=0.5))
    for member in NAMES:
        trio.start(member)
    late = NAMES[2]
    try:
        await trio.until(trio.proposer)
        await trio.replica(NAMES[0]).submit(account("first"))
        await trio.until(trio.agreed)
        await trio.kill(late)
        await trio.until(lambda: trio.proposer() not in {None, late})
        for label in ("second", "third"):
            await trio.replica(NAMES[0]).submit(account(label))
        height = trio.members[late].ledger.height + (needed == "next")
        root, kv = f"/goud/{trio.genesis.chain_id}/blocks/", log()
        (key, other_key) = (f"{root}{number:016x}" for number in (height, height + 1))
        before, other = [(await kv.range(name.encode()))[0].value for name in (key, other_key)]
        value = {"nothing": b"", "junk": b"junk", "other height": other}[kind]
        await kv.txn([], [Put(key.encode(), value)])
        with caplog.at_level(logging.WARNING):
            trio.start(late)
            await trio.until(lambda: f"{key} cannot be read" in caplog.text)
        await asyncio.sleep(0.5)
        assert trio.replica(late).status.role != "halted"
        assert len(caplog.records) < 5
        await kv.txn([], [Put(key.encode(), before)])
        await trio.until(trio.agreed)
    finally:
        await trio.close()
