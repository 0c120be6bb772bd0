"""Real etcd members killed, paused, cut off and filled up, under a stream of writers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from goud_node.agreement.etcd import EtcdKv
from goud_node.agreement.kv import Compare, Put
from goud_node.chain.ledger import Receipt
from goud_node.chain.transactions import CollectionPut
from goud_node.errors import GoudError, OutcomeUnknown, Unavailable
from goud_node.replica.types import Options

from .etcd_cluster import Cluster, running
from .trio import NAMES, Trio, Writers, account

pytestmark = pytest.mark.etcd


@pytest.fixture
def healed(cluster: Cluster) -> Iterator[Cluster]:
    yield cluster
    cluster.heal()


@pytest.fixture
async def trio(healed: Cluster) -> AsyncIterator[Trio]:
    trio = Trio(lambda: EtcdKv(healed.endpoints), Options(tail_length=4, maintain_interval=0.2))
    for name in NAMES:
        trio.start(name)
    await trio.until(lambda: trio.proposer() and all(trio.replica(n).status.synced for n in NAMES))
    yield trio
    await trio.close()


def fault(cluster: Cluster, kind: str) -> Callable[[str], None]:
    return {"kill": cluster.kill, "pause": cluster.pause, "cut": cluster.cut}[kind]


@pytest.mark.parametrize("kind", ["kill", "pause", "cut"])
async def test_writes_go_on_without_the_leading_member(
    trio: Trio, healed: Cluster, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    writers = Writers(trio, f"leader-{kind}")
    async with writers.writing(6):
        await asyncio.sleep(0.5)
        leader = await asyncio.to_thread(healed.leader)
        struck = time.monotonic()
        await asyncio.to_thread(fault(healed, kind), leader)
        await trio.until(lambda: any(t > struck + 1.5 for t in writers.times), 45)
        await asyncio.to_thread(healed.heal)
        await asyncio.sleep(0.5)
    await trio.until(trio.agreed)
    writers.check()
    silence = writers.longest_silence(struck)
    with capsys.disabled():
        print(
            f"\n{kind} of etcd's leader: {silence:.2f} s without an acknowledgement, {len(writers.acknowledged)} writes"
        )
    assert silence < 30


async def test_without_quorum_nothing_is_acknowledged(trio: Trio, healed: Cluster) -> None:
    await trio.replica("node1").submit(account("before"))
    for name in healed.names[:2]:
        await asyncio.to_thread(healed.pause, name)
    height = max(member.ledger.height for member in trio.members.values())
    results = await asyncio.gather(
        *(trio.replica(name).submit(account(f"lonely-{name}")) for name in NAMES), return_exceptions=True
    )
    assert all(isinstance(result, (Unavailable, OutcomeUnknown)) for result in results), results
    assert not any(trio.replica(name).status.quorum for name in NAMES)
    assert max(member.ledger.height for member in trio.members.values()) == height
    await asyncio.to_thread(healed.heal)
    await trio.until(lambda: trio.proposer() and all(trio.replica(n).status.synced for n in NAMES), 30)
    receipts = [await trio.replica(name).submit(account(f"lonely-{name}")) for name in NAMES]
    assert len({(receipt.height, receipt.index) for receipt in receipts}) == 3
    await trio.until(trio.agreed)


async def test_a_lost_answer_is_said_to_be_lost(healed: Cluster) -> None:
    async with one_way(healed.endpoints[0]) as (endpoint, deafen):
        kv, witness = EtcdKv([endpoint]), EtcdKv(healed.endpoints)
        try:
            await kv.txn([], [Put(b"/lost/a", b"1")])
            deafen()
            with pytest.raises(OutcomeUnknown):
                await kv.txn([Compare(b"/lost/b", "version", 0)], [Put(b"/lost/b", b"1")])
            assert (await witness.range(b"/lost/b"))[0].value == b"1"
        finally:
            await kv.close()
            await witness.close()


async def test_an_unreachable_member_is_surely_not_written_to(healed: Cluster) -> None:
    kv = EtcdKv(["127.0.0.1:1"])
    with pytest.raises(Unavailable):
        await kv.txn([], [Put(b"/x", b"1")])
    await kv.close()
    mixed = EtcdKv(["127.0.0.1:1", *healed.endpoints])
    assert (await mixed.txn([], [Put(b"/x", b"1")])).succeeded
    await mixed.close()


@contextlib.asynccontextmanager
async def one_way(endpoint: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A relay to a member that can turn deaf: requests pass, answers do not."""
    host, port = endpoint.rsplit(":", 1)
    deaf = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if not (answers and deaf.is_set()):
                    writer.write(data)
                    await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writers.extend((writer, far_writer))
        for pair, answers in (((reader, far_writer), False), ((far_reader, writer), True)):
            task = asyncio.create_task(pump(*pair, answers=answers))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", deaf.set
    finally:
        server.close()
        pending = list(tasks)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        for writer in writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_the_space_alarm_heals_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with running(quota_bytes=8 * 1024 * 1024) as small:
        options = Options(tail_length=4, maintain_interval=0.2, compact_interval=3600.0)
        trio = Trio(lambda: EtcdKv(small.endpoints), options)
        for name in NAMES:
            trio.start(name)
        try:
            await trio.until(trio.proposer)
            await trio.replica("node1").submit(account("owner"))
            receipts = {}
            for number in range(60):
                receipts[number] = await persist(trio, NAMES[number % 3], large(number))
            assert "space alarm" in caplog.text, "the quota was never reached: the test proves nothing"
            await trio.until(trio.agreed, 30)
            # The last write may have been in time for a quota that the next compaction has to give back.
            await trio.until(lambda: small.etcdctl(small.names[0], "alarm", "list")[1].strip() == "", 30)
            for number, receipt in receipts.items():
                for member in trio.members.values():
                    block = member.ledger.block(receipt.height)
                    assert block is not None
                    assert block.transactions[receipt.index] == large(number)
        finally:
            await trio.close()


def large(number: int) -> bytes:
    """A transaction of about 300 kB."""
    payload = number.to_bytes(4, "big") * 75_000
    return CollectionPut(f"c{number}", "owner", f"k{number}", bytes(32), b"label", payload, 1).encode()


async def persist(trio: Trio, name: str, transaction: bytes) -> Receipt:
    """Submit until it is acknowledged, as a client with an idempotency key does."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return await trio.replica(name).submit(transaction)
        except GoudError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
