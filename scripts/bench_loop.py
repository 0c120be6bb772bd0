"""Measure how long blocks of many small writes hold the event loop, on the proposer and on a follower.

Run it as `.venv/bin/python scripts/bench_loop.py`. A heartbeat beats every millisecond; its longest pause is what any
other request would have waited. On a machine that does other work, too, the pause by the clock says little (the scene
`idle` shows how little); the processor time that this process used in a pause is its own part of it.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.sequencer import Sequencer, State, Tail, Term
from goud_node.chain.block import Block, build
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Epoch, Ledger
from goud_node.chain.transactions import AccountCreate, CollectionPut
from goud_node.replica.batch import MAX_COUNT
from goud_node.replica.clocks import Reading
from goud_node.replica.replica import Replica
from goud_node.replica.types import Options, Served
from goud_node.service.lifecycle import SWITCH_SECONDS
from goud_node.store import RocksStore
from goud_node.store.memory import MemoryStore

KEY = SigningKey.from_seed(hashlib.sha256(b"bench").digest())
GENESIS = Genesis("bench", 0, (Validator("n1", KEY.public),))
COUNT = 4096
BEAT = 0.001


@dataclass
class Heartbeat:
    """Beats in the loop, and remembers its longest pause in milliseconds: by the clock, and of processor time."""

    longest: float = 0.0
    busiest: float = 0.0
    _running: bool = field(default=True)

    async def beat(self) -> None:
        last, used = time.perf_counter(), time.process_time()
        while self._running:
            await asyncio.sleep(BEAT)
            now, busy = time.perf_counter(), time.process_time()
            self.longest = max(self.longest, (now - last - BEAT) * 1000)
            self.busiest = max(self.busiest, (busy - used) * 1000)
            last, used = now, busy

    def stop(self) -> None:
        self._running = False


@asynccontextmanager
async def heartbeat() -> AsyncIterator[Heartbeat]:
    heart = Heartbeat()
    task = asyncio.create_task(heart.beat())
    await asyncio.sleep(0.05)
    heart.longest = heart.busiest = 0.0
    try:
        yield heart
    finally:
        heart.stop()
        await task


class Nobody:
    """No peers."""

    async def fetch(self, start: int, limit: int, epoch: Epoch) -> Served | None:
        del start, limit, epoch
        return None

    async def forward(self, leader: str, transaction: bytes) -> object:
        raise NotImplementedError

    async def heights(self) -> Mapping[str, int]:
        return {}

    def clocks(self) -> Mapping[str, Reading]:
        return {}


class Gate(Sequencer):
    """The log, which can be held back while work for it gathers."""

    def __init__(self, kv: EmbeddedKv) -> None:
        super().__init__(kv, GENESIS.chain_id, "n1")
        self.open = asyncio.Event()

    async def tail(self, start: int, limit: int) -> Tail:
        await self.open.wait()
        return await super().tail(start, limit)

    async def commit(self, term: Term, block: Block) -> bytes:
        await self.open.wait()
        return await super().commit(term, block)


def owner() -> AccountCreate:
    digest = hashlib.sha256(b"owner").digest()
    return AccountCreate("owner", digest, digest, 1)


def writes(batch: int) -> list[bytes]:
    """Small collections of one owner."""
    names = [f"c{batch}-{number}" for number in range(COUNT)]
    return [CollectionPut(name, "owner", f"k-{name}", bytes(16), bytes(16), bytes(64), 1).encode() for name in names]


@asynccontextmanager
async def node(folder: Path, kv: EmbeddedKv | None = None) -> AsyncIterator[tuple[Replica, Gate, Ledger]]:
    """A replica on a database of its own; without `kv` it orders by itself."""
    store = RocksStore.create(folder / "rocksdb")
    executor = ThreadPoolExecutor(1, thread_name_prefix="ledger")
    ledger = Ledger(store, GENESIS)
    log = Gate(kv or EmbeddedKv(store, executor=executor))
    replica = Replica(
        ledger,
        log,
        Nobody(),  # type: ignore[arg-type]  # nothing is forwarded
        KEY,
        "n1",
        clock=lambda: int(time.time() * 1000),
        validator=kv is None,
        options=Options(alone=True, submit_deadline=60, max_queue=2 * COUNT),
        executor=executor,
    )
    task = asyncio.create_task(replica.run())
    try:
        yield replica, log, ledger
    finally:
        await replica.stop()
        await task
        executor.shutdown()
        store.close()


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("it did not happen within a minute")
        await asyncio.sleep(0.002)


async def idle(_folder: Path) -> Heartbeat:
    async with heartbeat() as heart:
        await asyncio.sleep(1)
    return heart


async def proposer(folder: Path) -> Heartbeat:
    """4,096 requests gather behind a commit, and are ordered at once."""
    async with node(folder) as (replica, log, ledger):
        log.open.set()
        await until(lambda: replica.status.role == "proposer")
        await replica.submit(owner().encode())
        before = ledger.height
        log.open.clear()
        first, *rest = writes(0), writes(1)
        crew = [asyncio.create_task(replica.submit(first[0]))]
        await asyncio.sleep(0.05)
        for number, raw in enumerate(rest[0]):
            crew.append(asyncio.create_task(replica.submit(raw)))
            if number % 32 == 0:
                await asyncio.sleep(0)
        answers = asyncio.gather(*crew)  # before the heart beats: it asks all of them in one turn, as no node does
        async with heartbeat() as heart:
            log.open.set()
            await answers
            await until(lambda: ledger.certified_height == ledger.height)
        if ledger.height - before > 6:
            raise RuntimeError(f"{ledger.height - before} blocks were made of what should fill four")
    return heart


async def follower(folder: Path, size: int = MAX_COUNT) -> Heartbeat:
    """Four times 4,096 writes come out of the log, in the largest blocks that a proposer makes."""
    kv = EmbeddedKv(MemoryStore())
    log = Sequencer(kv, GENESIS.chain_id, "n1")
    epoch = Epoch(1, 0, GENESIS.block().hash)
    await log.begin_epoch(epoch, State(None, None, None))
    term = await log.campaign(epoch, 60)
    if term is None:
        raise RuntimeError("the log elects nobody")
    tip = GENESIS.block().header
    raw = [transaction for batch in range(4) for transaction in writes(batch)]
    for raws in ([owner().encode()], *(raw[start : start + size] for start in range(0, len(raw), size))):
        block = build(tip, raws, proposer="n1", key=KEY, timestamp_ms=1)
        await log.commit(term, block)
        tip = block.header
    async with node(folder, kv) as (_, gate, ledger), heartbeat() as heart:
        gate.open.set()
        await until(lambda: ledger.height == tip.height)
    return heart


async def mixed(folder: Path) -> Heartbeat:
    """The same in blocks of 4,096, as release 0.1.0 proposes them: met in a rolling deploy from it."""
    return await follower(folder, COUNT)


SCENES: dict[str, Callable[[Path], Awaitable[Heartbeat]]] = {
    "idle": idle,
    "proposer": proposer,
    "follower": follower,
    "mixed": mixed,
}


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    scene: Annotated[list[str] | None, typer.Option(help=f"{', '.join(SCENES)}; all by default.")] = None,
) -> None:
    """Print the longest pauses of each scene in milliseconds, one round after the other, as JSON lines."""
    # As the service does.
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    for name in scene or SCENES:
        hearts: list[Heartbeat] = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                hearts.append(runner.run(_play(SCENES[name], Path(folder))))
        clock, processor = ([round(value, 1) for value in kind] for kind in zip(*map(_figures, hearts), strict=True))
        medians = {"clock_ms": statistics.median(clock), "processor_ms": statistics.median(processor)}
        summary = {"scene": name, **medians, "clock": clock, "processor": processor}
        sys.stdout.write(json.dumps(summary) + "\n")


def _figures(heart: Heartbeat) -> tuple[float, float]:
    return heart.longest, heart.busiest


async def _play(scene: Callable[[Path], Awaitable[Heartbeat]], folder: Path) -> Heartbeat:
    return await scene(folder)


if __name__ == "__main__":
    typer.run(main)
