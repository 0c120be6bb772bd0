"""Three replicas in one process on one log, with peers that call each other directly."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from goud_node import clock
from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.kv import Kv
from goud_node.agreement.sequencer import Sequencer
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Epoch, Ledger, Receipt
from goud_node.chain.transactions import AccountCreate
from goud_node.errors import GoudError, Unavailable
from goud_node.replica.clocks import Reading
from goud_node.replica.replica import Replica
from goud_node.replica.types import Options, Served
from goud_node.store.memory import MemoryStore

NAMES = ("node1", "node2", "node3")
KEYS = {name: SigningKey.from_seed(hashlib.sha256(name.encode()).digest()) for name in (*NAMES, "observer")}


def account(label: str) -> bytes:
    """An encoded transaction; equal labels give equal bytes."""
    digest = hashlib.sha256(label.encode()).digest()
    return AccountCreate(label, digest, digest, 1).encode()


class Shared:
    """One embedded log under several nodes: nobody closes it."""

    def __init__(self) -> None:
        self._kv = EmbeddedKv(MemoryStore())

    def __call__(self) -> Kv:
        return self._kv


class DirectPeers:
    """Calls the other replicas of a `Trio` as the peer protocol would."""

    def __init__(self, trio: Trio, name: str) -> None:
        self._trio, self._name = trio, name

    def _others(self) -> list[Member]:
        return [m for m in self._trio.members.values() if m.running and m.name != self._name]

    async def fetch(self, start: int, limit: int, epoch: Epoch) -> Served | None:
        await asyncio.sleep(0)
        if not self._others():
            raise Unavailable("no peer runs")
        best = max((m for m in self._others()), key=lambda m: m.ledger.certified_height)
        ledger = best.ledger
        if ledger.epoch != epoch:
            return None
        pairs = []
        for height in range(start, min(start + limit, ledger.certified_height + 1)):
            block, certificate = ledger.block(height), ledger.certificate(height)
            assert block is not None
            assert certificate is not None
            pairs.append((block, certificate))
        return Served(best.name, ledger.epoch, pairs)

    async def proof(self, node: str) -> Served | None:
        ledger = self._trio.members[node].ledger
        block, certificate = ledger.block(ledger.certified_height), ledger.certificate(ledger.certified_height)
        return Served(node, None, [(block, certificate)]) if block and certificate else None

    async def forward(self, leader: str, transaction: bytes) -> Receipt:
        member = self._trio.members.get(leader)
        if member is None or not member.running or member.replica is None:
            raise Unavailable(f"{leader} does not run")
        return await member.replica.submit(transaction, forward=False)

    async def heights(self) -> Mapping[str, int]:
        await asyncio.sleep(0)
        return {member.name: member.ledger.height for member in self._others()}

    def clocks(self) -> Mapping[str, Reading]:
        return {m.name: self._trio.reading(m.replica._core.clock()) for m in self._others() if m.replica is not None}


@dataclass
class Member:
    """A node: its disk, and its process while it runs."""

    name: str
    store: MemoryStore
    ledger: Ledger
    peers: DirectPeers | None = None
    kv: Kv | None = None
    replica: Replica | None = None
    task: asyncio.Task[None] | None = None
    running: bool = False


@dataclass
class Trio:
    """Replicas that can be killed, stopped, wiped and started again."""

    connect: Callable[[], Kv]
    options: Options = field(default_factory=Options)
    validators: tuple[str, ...] = NAMES
    members: dict[str, Member] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A name of its own gives each trio a chain of its own on a shared log.
        name = f"trio-{time.monotonic_ns()}"
        self.genesis = Genesis(name, 0, tuple(Validator(n, KEYS[n].public) for n in self.validators))

    def start(self, name: str) -> Member:
        member = self.members.get(name)
        if member is None:
            store = MemoryStore()
            member = self.members[name] = Member(name, store, Ledger(store, self.genesis))
        member.ledger = Ledger(member.store, self.genesis)
        member.kv = self.connect()
        member.peers = DirectPeers(self, name)
        sequencer = Sequencer(member.kv, self.genesis.chain_id, name)
        member.replica = Replica(
            member.ledger,
            sequencer,
            member.peers,
            KEYS[name],
            name,
            clock=lambda: int(time.time() * 1000),
            validator=name in self.validators,
            options=self.options,
        )
        member.task = asyncio.create_task(member.replica.run())
        member.running = True
        return member

    def reading(self, clock_ms: int | None = None) -> Reading:
        """A clock as a status shows it now; the true one if none is given."""
        return Reading(int(time.time() * 1000) if clock_ms is None else clock_ms, clock.running())

    async def kill(self, name: str) -> None:
        """As SIGKILL: no farewell to the log."""
        member = self.members[name]
        member.running = False
        if member.task is not None:
            member.task.cancel()
            await asyncio.wait({member.task})
        if member.kv is not None:
            await member.kv.close()
        member.store = member.store.copy()

    async def stop(self, name: str) -> float:
        """As SIGTERM; returns the seconds it took."""
        member = self.members[name]
        assert member.replica is not None
        assert member.task is not None
        began = time.monotonic()
        await member.replica.stop()
        await member.task
        member.running = False
        if member.kv is not None:
            await member.kv.close()
        return time.monotonic() - began

    def wipe(self, name: str) -> None:
        """Lose a stopped member's disk."""
        member = self.members[name]
        assert not member.running
        member.store = MemoryStore()

    def ledger_of(self, name: str) -> Ledger:
        """A stopped member's chain, as on its disk."""
        assert not self.members[name].running
        return Ledger(self.members[name].store, self.genesis)

    def replica(self, name: str) -> Replica:
        replica = self.members[name].replica
        assert replica is not None
        return replica

    def proposer(self) -> str | None:
        for member in self.members.values():
            if member.running and member.replica is not None and member.replica.status.role == "proposer":
                return member.name
        return None

    async def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        """Wait for a condition; says what every node thinks when it does not come."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                states = {n: m.replica.status for n, m in self.members.items() if m.replica is not None}
                raise AssertionError(f"not within {seconds} s: {states}")
            await asyncio.sleep(0.02)

    def agreed(self) -> bool:
        """Everybody who runs holds the same chain, with certificates up to the tip."""
        ledgers = [member.ledger for member in self.members.values() if member.running]
        tips = {ledger.tip.hash for ledger in ledgers}
        return len(tips) == 1 and all(ledger.certified_height == ledger.height for ledger in ledgers)

    async def close(self) -> None:
        for name, member in self.members.items():
            if member.running:
                await self.kill(name)


@dataclass
class Writers:
    """A stream of clients that submit through every running node and never give up on a request."""

    trio: Trio
    prefix: str
    acknowledged: dict[str, Receipt] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    refused: int = 0
    _stopping: bool = False

    @contextlib.asynccontextmanager
    async def writing(self, writers: int) -> AsyncIterator[Writers]:
        tasks = [asyncio.create_task(self._write(number)) for number in range(writers)]
        try:
            yield self
        finally:
            self._stopping = True
            done, late = await asyncio.wait(tasks, timeout=30)
            for task in late:
                task.cancel()
            for task in done:
                task.result()
            assert not late, "a writer never got its answer"

    async def _write(self, number: int) -> None:
        count = 0
        while not self._stopping:
            label = f"{self.prefix}-{number}-{count}"
            count += 1
            await self._submit(label, number)

    async def _submit(self, label: str, number: int) -> None:
        """The same request until it is acknowledged."""
        for attempt in range(10_000):
            running = [member for member in self.trio.members.values() if member.running]
            member = running[(number + attempt) % len(running)]
            assert member.replica is not None
            try:
                self.acknowledged[label] = await member.replica.submit(account(label))
            except GoudError:
                self.refused += 1
                await asyncio.sleep(0.02)
            else:
                self.times.append(time.monotonic())
                return

    def longest_silence(self, since: float) -> float:
        """Seconds between two acknowledgements around or after a moment."""
        times = [since, *(t for t in self.times if t > since)]
        return max((b - a for a, b in pairwise(times)), default=float("inf"))

    def check(self) -> None:
        """Every acknowledged write is in the chain of every running node, exactly once, where the receipt says."""
        assert self.acknowledged
        for member in self.trio.members.values():
            if not member.running:
                continue
            ledger = member.ledger
            chain = [raw for block in ledger.blocks(1, ledger.height) for raw in block.transactions]
            assert len(chain) == len(set(chain)), "a transaction was ordered twice"
            for label, receipt in self.acknowledged.items():
                block = ledger.block(receipt.height)
                assert block is not None, f"{member.name} lacks block {receipt.height}"
                assert block.transactions[receipt.index] == account(label)
