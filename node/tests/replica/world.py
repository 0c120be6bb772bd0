"""A world for the protocol: real steps, sequencer and ledgers over a simulated log, network, disks and clocks.

There is no event loop. Every await of a step yields a `Call`; the schedule decides when it is applied, when (and
whether) its answer arrives, who crashes, sleeps or is cut off, and how time passes. The rules that must never break are
checked at every change; what must finally happen is checked after everything has been healed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from goud_node.agreement.kv import Compare, KeyValue, Operation, Txn
from goud_node.agreement.machine import Machine
from goud_node.agreement.sequencer import Sequencer, Term
from goud_node.chain.block import Block, build
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Epoch, Ledger, Receipt
from goud_node.errors import OutcomeUnknown, Unavailable
from goud_node.replica import lead
from goud_node.replica.batch import Batch, Waiting
from goud_node.replica.clocks import TOLERANCE_MS, Reading
from goud_node.replica.core import Core
from goud_node.replica.types import Options, Served
from goud_node.store.memory import MemoryStore

from .actors import ENTRIES, KEYS
from .lies import LIES

T = TypeVar("T")
Propose = Callable[["World", Core, Term, list[Waiting]], Coroutine[Any, Any, Batch | None]]
LEASE_TICKS = 4
OPTIONS = Options(lease_ttl=LEASE_TICKS, read_batch=2, fetch_batch=4, patience=2)


class Violation(AssertionError):
    """An invariant of the design is broken."""


class Call(Generic[T]):
    """One request on its way: not applied, applied, or answered."""

    def __init__(self, apply: Callable[[], T], *, remote: bool, changes: bool) -> None:
        self.apply, self.remote, self.changes = apply, remote, changes
        self.applied = False
        self.answer: T | None = None
        self.error: Exception | None = None

    def __await__(self) -> Generator[Call[T], Any, T]:
        answer: T = yield self
        return answer

    def execute(self) -> None:
        """Let it take effect, once."""
        if self.applied:
            return
        self.applied = True
        try:
            self.answer = self.apply()
        except Exception as error:  # noqa: BLE001  # the callee's error is the caller's answer
            self.error = error


class SimulatedKv:
    """The log as one node reaches it."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def txn(self, compares: Sequence[Compare], then: Sequence[Operation]) -> Txn:
        world, compares, then = self._world, list(compares), list(then)
        machine = world.machine

        def apply() -> Txn:
            if machine is not world.machine:
                raise Unavailable("that log is gone")
            outcome = machine.txn(compares, then)
            world.check_log()
            return outcome

        return await Call(apply, remote=True, changes=True)

    async def range(
        self, start: bytes, end: bytes | None = None, limit: int = 0, *, keys_only: bool = False
    ) -> list[KeyValue]:
        world = self._world
        return await Call(
            lambda: world.machine.range(start, end, limit, keys_only=keys_only), remote=True, changes=False
        )

    async def grant(self, ttl: int) -> int:
        return await Call(lambda: self._world.grant(ttl), remote=True, changes=False)

    async def keep_alive(self, lease: int) -> bool:
        return await Call(lambda: self._world.keep_alive(lease), remote=True, changes=False)

    async def revoke(self, lease: int) -> None:
        await Call(lambda: self._world.machine.revoke(lease), remote=True, changes=True)

    def changes(self, start: bytes, end: bytes) -> AsyncIterator[None]:
        raise NotImplementedError("the schedule wakes the steps")

    async def compact_and_reclaim(self) -> None:
        raise NotImplementedError("space is tested on real etcd")

    async def close(self) -> None:
        raise NotImplementedError


class SimulatedPeers:
    """The other nodes, when they can be reached."""

    def __init__(self, world: World, node: Node) -> None:
        self._world, self._node = world, node

    async def fetch(self, start: int, limit: int, epoch: Epoch) -> Served | None:
        return await Call(lambda: self._world.answer_of(self._node, start, limit, epoch), remote=True, changes=False)

    async def forward(self, leader: str, transaction: bytes) -> Receipt:
        raise NotImplementedError("clients of the model choose their node")

    async def heights(self) -> Mapping[str, int]:
        def heights() -> dict[str, int]:
            return {peer.name: peer.ledger.height for peer in self._world.reachable(self._node)}

        return await Call(heights, remote=True, changes=False)

    def clocks(self) -> Mapping[str, Reading]:
        return {peer.name: Reading(self._world.clock_of(peer), 0) for peer in self._world.reachable(self._node)}


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
    core: Core | None = None
    term: Term | None = None
    prepared: bool = False
    renewed: bool = True
    waiting: list[Waiting] = field(default_factory=list)
    units: dict[str, Unit] = field(default_factory=dict)
    lies: list[int] = field(default_factory=list)
    """What the next answers of peers are instead of the truth."""


class World:
    """All of it. `sequencer` and `propose` are replaced by planted bugs."""

    def __init__(
        self,
        validators: int,
        *,
        observer: bool,
        kept_tail: int = 0,
        sequencer: type[Sequencer] = Sequencer,
        propose: Propose | None = None,
    ) -> None:
        self.options = replace(OPTIONS, kept_tail=kept_tail)
        names = [f"n{number}" for number in range(1, validators + 1)]
        self.genesis = Genesis("model", 0, tuple(Validator(name, KEYS[name].public) for name in names))
        self.machine = Machine()
        self.now = 0
        self.floor = 0
        self.ghosts: list[Call[Any]] = []
        self.history: dict[int, bytes] = {0: self.genesis.block().hash}
        self.acknowledged: dict[bytes, Receipt] = {}
        self.sequencer, self.propose = sequencer, propose
        self._deadlines: dict[int, int] = {}
        self._blocks = f"/goud/{self.genesis.chain_id}/blocks/".encode()
        self.left_behind: list[Served] = []
        self.nodes: list[Node] = []
        for index, name in enumerate([*names, *(["observer"] if observer else [])]):
            store = MemoryStore()
            skew = -2 * index
            self.nodes.append(Node(name, KEYS[name], name in names, skew, store, Ledger(store, self.genesis)))
        for node in self.nodes:
            self.start(node)

    def start(self, node: Node) -> None:
        """Begin a new life on the node's volume."""
        node.ledger = Ledger(node.store, self.genesis)
        kv, peers = SimulatedKv(self), SimulatedPeers(self, node)
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

        node.core = Core(node.ledger, log, peers, node.key, node.name, node.validator, clock, disk, self.options)
        node.core.running = lambda: 0.0
        node.term, node.prepared, node.renewed, node.waiting = None, False, True, []
        node.units = {name: Unit(name) for name in ("follow", "certify", "lead", "renew", "trim")}
        node.alive, node.paused = True, False

    def clock_of(self, node: Node) -> int:
        """What the node's clock shows."""
        return max(0, self.now + node.skew + node.wrong)

    def crash(self, node: Node) -> None:
        """Lose the process; its requests may still arrive."""
        for unit in node.units.values():
            if unit.call is not None and unit.call.remote and unit.call.changes and not unit.call.applied:
                self.ghosts.append(unit.call)
            if unit.step is not None:
                unit.step.close()
        node.units, node.core, node.alive = {}, None, False

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
        self.machine = Machine()
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
        for key in self.machine.changed:
            record = self.machine.records.get(key)
            if record is not None and key.startswith(self._blocks):
                self._remember(Block.decode(record.value))
        self.machine.changed.clear()

    def check_ledger(self, ledger: Ledger) -> None:
        """Invariant 1 on the disks."""
        tip = ledger.block(ledger.height)
        if tip is None:
            raise Violation("a ledger lost its tip")
        self._remember(tip)

    def _remember(self, block: Block) -> None:
        if block.header.timestamp_ms > self.now + TOLERANCE_MS + len(self.history):
            raise Violation(f"block {block.height} has the time of a wrong clock")
        known = self.history.setdefault(block.height, block.hash)
        if known != block.hash:
            raise Violation(f"two blocks at height {block.height}")

    def acknowledge(self, raw: bytes, receipt: Receipt) -> None:
        """A client was told so."""
        known = self.acknowledged.setdefault(raw, receipt)
        if (known.height, known.index, known.block_hash) != (receipt.height, receipt.index, receipt.block_hash):
            raise Violation(f"acknowledged at {known.height} and again at {receipt.height}")

    async def run_proposal(self, node: Node, core: Core, term: Term) -> None:
        """As the replica does: propose what waits, answer from the ledger."""
        waiting = node.waiting[:2]  # small blocks make a longer chain
        if self.propose is not None:
            batch = await self.propose(self, core, term, waiting)
        else:
            batch = await lead.propose(core, term, waiting)
        if batch is not None:
            self.answer(node, core, batch)

    def answer(self, node: Node, core: Core, batch: Batch) -> None:
        """Tell the clients of a stored batch."""
        for done, outcome in batch.answered:
            if not isinstance(outcome, Receipt):
                raise Violation(f"a valid transaction was refused: {outcome}")
            self.acknowledge(done.raw, outcome)
        for done in (*batch.chosen, *batch.twins):
            receipt = core.ledger.admissible(done.transaction)
            if receipt is None:
                raise Violation("a stored transaction has no receipt")
            self.acknowledge(done.raw, receipt)
        settled = {id(e) for e in (*batch.chosen, *batch.twins, *(done for done, _ in batch.answered))}
        node.waiting = [waiting for waiting in node.waiting if id(waiting) not in settled]


def lost(call: Call[Any]) -> Exception:
    """What a client sees when an answer does not come."""
    if call.changes:
        return OutcomeUnknown("the answer was lost")
    return Unavailable("no answer")
