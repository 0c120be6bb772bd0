"""Requests of a simulated node to the log and to its peers: the schedule decides what becomes of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from goud_node.agreement.kv import Compare, KeyValue, Operation, Txn
from goud_node.chain.ledger import Epoch, Receipt
from goud_node.errors import CoordinationFull, OutcomeUnknown, Unavailable
from goud_node.replica.clocks import Reading
from goud_node.replica.types import Served

if TYPE_CHECKING:
    from .world import Node, World

T = TypeVar("T")


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


def lost(call: Call[Any]) -> Exception:
    """What a node sees when an answer does not come."""
    if call.changes:
        return OutcomeUnknown("the answer was lost")
    return Unavailable("no answer")


def refused(*, full: bool) -> Exception:
    """What a node sees of a request that was not taken up, and never will be."""
    return CoordinationFull("the space alarm is raised") if full else Unavailable("the request never left")


class SimulatedKv:
    """The log as one node reaches it."""

    def __init__(self, world: World, node: Node) -> None:
        self._world, self._node = world, node

    async def txn(self, compares: Sequence[Compare], then: Sequence[Operation]) -> Txn:
        world, compares, then = self._world, list(compares), list(then)
        machine = world.machine

        def apply() -> Txn:
            if machine is not world.machine:
                raise Unavailable("that log is gone")
            if world.now < world.full_until:
                raise CoordinationFull("the space alarm is raised")
            outcome = machine.txn(compares, then)
            world.check_log()
            return outcome

        return await Call(apply, remote=True, changes=True)

    async def range(
        self, start: bytes, end: bytes | None = None, limit: int = 0, *, keys_only: bool = False
    ) -> list[KeyValue]:
        world = self._world
        call = Call(lambda: world.machine.range(start, end, limit, keys_only=keys_only), remote=True, changes=False)
        if world.clients.are_served:
            # A client's request reads beside the node's loops; its own deadlines are what the schedule plays with.
            return world.machine.range(start, end, limit, keys_only=keys_only) if not self._node.cut else _fail(call)
        return await call

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


def _fail(call: Call[T]) -> T:
    raise lost(call)


class SimulatedPeers:
    """The other nodes, when they can be reached."""

    def __init__(self, world: World, node: Node) -> None:
        self._world, self._node = world, node

    async def fetch(self, start: int, limit: int, epoch: Epoch) -> Served | None:
        return await Call(lambda: self._world.answer_of(self._node, start, limit, epoch), remote=True, changes=False)

    async def forward(self, leader: str, transaction: bytes) -> Receipt:
        """As the peer client does: it waits for as long as a write may take."""
        answer = self._world.clients.send(self._node, leader, transaction)
        try:
            async with asyncio.timeout(self._world.options.submit_deadline):
                return await answer
        except TimeoutError:
            raise OutcomeUnknown("no usable answer") from None

    async def heights(self) -> Mapping[str, int]:
        def heights() -> dict[str, int]:
            return {peer.name: peer.ledger.height for peer in self._world.reachable(self._node)}

        return await Call(heights, remote=True, changes=False)

    async def proof(self, _node: str) -> Served | None:
        return None  # as of an earlier release

    def clocks(self) -> Mapping[str, Reading]:
        return {peer.name: Reading(self._world.clock_of(peer), 0) for peer in self._world.reachable(self._node)}
