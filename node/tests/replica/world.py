"""A world for the protocol: real steps, sequencer and ledgers over a simulated log, network, disks and clocks.

There is no event loop. Every await of a step yields a `Call`; the schedule decides when it is applied, when (and
whether) its answer arrives, who crashes, sleeps or is cut off, and how time passes. The rules that must never break are
checked at every change; what must finally happen is checked after everything has been healed.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from goud_node.agreement.machine import Machine
from goud_node.agreement.sequencer import Sequencer, Term
from goud_node.chain.block import Block, build
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Epoch, Ledger, Receipt
from goud_node.errors import ConflictingBlock, Unavailable
from goud_node.replica.batch import Batch, Waiting
from goud_node.replica.clocks import TOLERANCE_MS
from goud_node.replica.core import Core
from goud_node.replica.duties import Duties
from goud_node.replica.replica import Replica
from goud_node.replica.types import Options, Served
from goud_node.store.memory import MemoryStore

from .actors import ENTRIES, KEYS
from .calls import Call, SimulatedKv, SimulatedPeers, Violation
from .clients import Clients, ShortQueue
from .lies import LIES

T = TypeVar("T")
Propose = Callable[["World", Core, Term, list[Waiting]], Coroutine[Any, Any, Batch | None]]
LEASE_TICKS = 4
OPTIONS = Options(
    lease_ttl=LEASE_TICKS, read_batch=2, fetch_batch=4, patience=2, poll_interval=1.0, submit_deadline=LEASE_TICKS
)
_NO_THREADS = ThreadPoolExecutor(1)
"""Never used: what a replica writes is a call of the world's."""


@dataclass
class Unit:
    """One loop of a node: the step it is in, and the request that step waits for."""

    name: str
    step: Coroutine[Any, Any, None] | None = None
    call: Call[Any] | None = None


@dataclass
class Node:
    """A machine: a volume that survives crashes, and a process that does not."""

    name: str
    key: SigningKey
    validator: bool
    skew: int
    store: MemoryStore
    ledger: Ledger
    alive: bool = False
    paused: bool = False
    cut: bool = False
    refill: int = 0
    wrong: int = 0
    """Milliseconds by which its clock was set wrong."""
    replica: Any = None
    """The real one of this life, of which the schedule moves the loops."""
    term: Term | None = None
    renewed: bool = True
    units: dict[str, Unit] = field(default_factory=dict)
    lies: list[int] = field(default_factory=list)
    """What the next answers of peers are instead of the truth."""

    @property
    def core(self) -> Core | None:
        return None if self.replica is None else self.replica._core

    @property
    def duties(self) -> Duties:
        duties: Duties = self.replica._duties
        return duties

    @property
    def queue(self) -> ShortQueue:
        queue: ShortQueue = self.replica._queue
        return queue

    @property
    def prepared(self) -> bool:
        return self.replica is not None and self.duties.leading

    @property
    def ended(self) -> bool:
        """It answers, and works no more in this life."""
        return self.replica is not None and (self.duties.halted is not None or self.duties.stopped.is_set())


class World:
    """All of it. `sequencer` and `propose` are replaced by planted bugs."""

    def __init__(
        self,
        validators: int,
        *,
        observer: bool,
        tail_length: int = 0,
        sequencer: type[Sequencer] = Sequencer,
        propose: Propose | None = None,
    ) -> None:
        self.options = replace(OPTIONS, tail_length=tail_length)
        names = [f"n{number}" for number in range(1, validators + 1)]
        self.genesis = Genesis("model", 0, tuple(Validator(name, KEYS[name].public) for name in names))
        self.machine = Machine()
        self.now = 0
        self.floor = 0
        self.full_until = 0
        self.ghosts: list[Call[Any]] = []
        self.history: dict[int, bytes] = {0: self.genesis.block().hash}
        self.acknowledged: dict[bytes, Receipt] = {}
        self.sequencer, self.propose = sequencer, propose
        self._deadlines: dict[int, int] = {}
        self._blocks = f"/goud/{self.genesis.chain_id}/blocks/".encode()
        self.left_behind: list[Served] = []
        self.nodes: list[Node] = []
        self.clients = Clients(self)
        for index, name in enumerate([*names, *(["observer"] if observer else [])]):
            store = MemoryStore()
            skew = -2 * index
            self.nodes.append(Node(name, KEYS[name], name in names, skew, store, Ledger(store, self.genesis)))
        for node in self.nodes:
            self.start(node)

    def start(self, node: Node) -> None:
        """Begin a new life on the node's volume."""
        node.ledger = Ledger(node.store, self.genesis)
        kv, peers = SimulatedKv(self, node), SimulatedPeers(self, node)
        log = self.sequencer(kv, self.genesis.chain_id, node.name)

        async def disk(write: Callable[[], T]) -> T:
            ledger = node.ledger

            def apply() -> T:
                outcome = write()
                self.check_ledger(ledger)
                return outcome

            return await Call(apply, remote=False, changes=True)

        def clock() -> int:
            return self.clock_of(node)

        node.replica = Replica(
            node.ledger,
            log,
            peers,
            node.key,
            node.name,
            clock=clock,
            validator=node.validator,
            options=self.options,
            executor=_NO_THREADS,
        )
        core = node.replica._core
        core.disk, core.running = disk, lambda: 0.0
        node.replica._queue = node.duties.queue = ShortQueue()
        node.term, node.renewed = None, True
        node.units = {name: Unit(name) for name in ("follow", "certify", "lead", "renew", "trim")}
        node.alive, node.paused = True, False

    def clock_of(self, node: Node) -> int:
        """What the node's clock shows."""
        return max(0, self.now + node.skew + node.wrong)

    def crash(self, node: Node) -> None:
        """Lose the process; its requests may still arrive."""
        self._cancel(node)
        node.replica, node.alive = None, False
        self.clients.crash(node)

    def stop(self, node: Node) -> None:
        """Cancel the loops, as at the end of a process that still answers."""
        core = node.core
        if core is None or node.ended:
            return
        duties = node.duties
        self._cancel(node)
        duties.stopped.set()
        if node.term is not None:
            node.queue.release(core.unsure_claims)
        duties.leading, node.term = False, None
        node.queue.fail(Unavailable("this node is stopping; ask another"), core.unsure_claims)

    def halt(self, node: Node) -> None:
        """The node finds something that it must stop for."""
        if node.alive and not node.ended:
            node.duties._halt(ConflictingBlock("another block"))

    def _cancel(self, node: Node) -> None:
        for unit in node.units.values():
            if unit.call is not None and unit.call.remote and unit.call.changes and not unit.call.applied:
                self.ghosts.append(unit.call)
            if unit.step is not None:
                unit.step.close()
        node.units = {}

    def wipe(self, node: Node) -> bool:
        """Lose a volume, unless that is more than the design promises to survive: one volume at a time.

        A wiped node counts as lost until it has refilled; after the loss of a log, a majority must have copies first.
        """
        validators = [other for other in self.nodes if other.validator]
        safe = sum(other.ledger.certified_height >= self.floor for other in validators)
        refilling = any(other.ledger.certified_height < other.refill for other in self.nodes if other is not node)
        if len(validators) == 1 or safe < self.genesis.quorum or refilling:
            return False
        node.refill = max(node.refill, *(other.ledger.certified_height for other in self.nodes))
        self.crash(node)
        # What the dead process still had under way has long been lost when its volume is replaced.
        self.ghosts.clear()
        node.store = MemoryStore()
        node.ledger = Ledger(node.store, self.genesis)
        return True

    def lose_log(self) -> None:
        """The log is lost and replaced by an empty one, after every node was stopped."""
        self.leave_behind()
        for node in self.nodes:
            self.crash(node)
        self.ghosts.clear()
        self.machine, self.full_until = Machine(), 0
        self._deadlines.clear()
        highest = max(node.ledger.height for node in self.nodes)
        self.floor = highest
        self.history = {height: found for height, found in self.history.items() if height <= highest}

    def tick(self) -> None:
        """Let time pass; leases that were not renewed end."""
        self.now += 1
        for lease in [lease for lease, deadline in self._deadlines.items() if deadline <= self.now]:
            del self._deadlines[lease]
            self.machine.revoke(lease)

    def raise_alarm(self) -> None:
        """The log has no space for a while."""
        self.full_until = self.now + 2

    def grant(self, ttl: int) -> int:
        lease = self.machine.grant()
        self._deadlines[lease] = self.now + ttl
        return lease

    def keep_alive(self, lease: int) -> bool:
        if lease not in self.machine.leases:
            return False
        self._deadlines[lease] = self.now + LEASE_TICKS
        return True

    def reachable(self, node: Node) -> list[Node]:
        if node.cut:
            return []
        return [peer for peer in self.nodes if peer is not node and peer.alive and not (peer.paused or peer.cut)]

    def answer_of(self, node: Node, start: int, limit: int, epoch: Epoch) -> Served | None:
        """What a peer answers: the truth, or what the schedule has in store for this node."""
        served = self.serve(node, start, limit, epoch)
        if not node.lies:
            return served
        choice = node.lies.pop()
        # Two logs that were lost after restores to one block have one epoch: nothing could tell their blocks apart.
        others = [s for s in self.left_behind if s.epoch != epoch]
        stale = [s for s in others if s.pairs[0][0].height <= start <= s.pairs[-1][0].height]
        if stale and choice % 2:
            # An honest peer that missed a new epoch, or a release that lets this node's own view of it decide.
            abandoned = stale[choice // 2 % len(stale)]
            return replace(abandoned, pairs=[p for p in abandoned.pairs if p[0].height >= start][:limit])
        if served is None or not served.pairs:
            served = Served("liar", epoch, [self.invented(start)])
        return list(LIES.values())[choice // 2 % len(LIES)](self.genesis, KEYS["n2"], served)

    def invented(self, height: int) -> tuple[Block, Certificate]:
        """A block that nobody ordered."""
        tip = replace(self.genesis.block().header, height=height - 1)
        block = build(tip, [ENTRIES[0].raw], proposer="n2", key=KEYS["n2"], timestamp_ms=1)
        return block, Certificate(height, block.hash, {"n1": bytes(64), "n2": bytes(64)})

    def leave_behind(self) -> None:
        """Remember every certified history, before what is done now may make it an abandoned one."""
        for node in self.nodes:
            epoch, height = node.ledger.epoch, node.ledger.certified_height
            pairs = [(node.ledger.block(at), node.ledger.certificate(at)) for at in range(1, height + 1)]
            if epoch is not None and pairs:
                whole = [(block, certificate) for block, certificate in pairs if block and certificate]
                self.left_behind.append(Served(node.name, epoch, whole))

    def serve(self, node: Node, start: int, limit: int, epoch: Epoch) -> Served | None:
        """What the peer with the most certified blocks, in the same epoch, answers; who is in none serves nothing."""
        joined = [p for p in self.reachable(node) if p.core is not None and p.core.epoch is not None]
        peers = [p for p in joined if p.core is not None and p.core.epoch == epoch]
        if not peers:
            raise Unavailable("no peer answers")
        peer = max(peers, key=lambda peer: peer.ledger.certified_height)
        pairs = []
        for height in range(start, min(start + limit, peer.ledger.certified_height + 1)):
            block, certificate = peer.ledger.block(height), peer.ledger.certificate(height)
            if block is None or certificate is None:
                raise Violation(f"a node lacks its own certified block {height}")
            pairs.append((block, certificate))
        return Served(peer.name, epoch, pairs)

    def check_log(self) -> None:
        """Invariant 1 in the log: a height never gets another block."""
        for key in self.machine.changed_keys:
            record = self.machine.records.get(key)
            if record is not None and key.startswith(self._blocks):
                self._remember(Block.decode(record.value))
        self.machine.changed_keys.clear()

    def check_ledger(self, ledger: Ledger) -> None:
        """Invariant 1 on the disks."""
        tip = ledger.block(ledger.height)
        if tip is None:
            raise Violation("a ledger lost its tip")
        self._remember(tip)

    def _remember(self, block: Block) -> None:
        if block.header.timestamp_ms > self.now + TOLERANCE_MS + len(self.history):
            raise Violation(f"block {block.height} has the time of a wrong clock")
        known = self.history.get(block.height)
        if known is None:
            self.history[block.height] = known = block.hash
            self.clients.ordered.update(block.transactions)
        if known != block.hash:
            raise Violation(f"two blocks at height {block.height}")

    def acknowledge(self, raw: bytes, receipt: Receipt) -> None:
        """A client was told so."""
        known = self.acknowledged.setdefault(raw, receipt)
        if (known.height, known.index, known.block_hash) != (receipt.height, receipt.index, receipt.block_hash):
            raise Violation(f"acknowledged at {known.height} and again at {receipt.height}")

    async def run_proposal(self, node: Node, core: Core, term: Term) -> None:
        """As the replica does: propose what waits, and answer it."""
        if self.propose is None:
            await node.duties._propose(term)
            return
        batch = await self.propose(self, core, term, node.queue.waiting())
        if batch is not None:
            node.queue.answer(batch)
            node.queue.settle(batch)
            core.unsure_claims = frozenset()
