"""A whole-cluster restore in the model: every volume comes from a backup, and the operator settles the epoch."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from goud_node.chain.ledger import Epoch, Ledger
from goud_node.errors import GoudError
from goud_node.replica import epochs
from goud_node.store.memory import MemoryStore

from .calls import Call, Violation
from .world import LEASE_TICKS, Node, World

T = TypeVar("T")


def restore_all(world: World, choice: int) -> None:
    """Stop every node, restore the chain up to some height, and begin a new epoch, or one only if needed.

    `choice` tells the height, how many blocks lack their certificate in the backup, how old its epoch is, whether the
    log is lost too, whether one node alone is restored beside empty ones, and what the operator wants.
    """
    source = max(world.nodes, key=lambda node: node.ledger.certified_height).ledger
    height = max(0, source.certified_height - choice // 2 % 8)
    if source.epoch is None or height == 0:
        return
    world.leave_behind()
    for node in world.nodes:
        world.crash(node)
    if choice // 16 % 4 == 0:
        world.lose_log()
    backup = _backup(world, source, height, choice)
    alone = choice // 128 and len(world.genesis.validators) > 1
    restored = [world.nodes[choice % len(world.nodes)]] if alone else world.nodes
    for node in world.nodes:
        node.store = backup.copy() if node in restored else MemoryStore()
        node.refill = 0 if node in restored else height
    world.floor = height
    for _ in range(LEASE_TICKS + 1):
        world.tick()
    for node in world.nodes:
        world.start(node)
        node.cut = False
    outcome = _operate(restored[choice % len(restored)], if_needed=choice % 2 == 1)
    if outcome.action == "continued":
        # As for a wiped node: in the same epoch nothing fences what the dead processes had under way, but it has long
        # been lost when volumes are replaced. A new epoch does fence it, so there it may arrive whenever it likes.
        world.ghosts.clear()
    else:
        world.history = {at: found for at, found in world.history.items() if at <= height}
        world.acknowledged = {raw: r for raw, r in world.acknowledged.items() if r.height <= height}


def _backup(world: World, source: Ledger, height: int, choice: int) -> MemoryStore:
    store = MemoryStore()
    ledger = Ledger(store, world.genesis)
    certificates = [source.certificate(at) for at in range(1, height + 1 - choice // 8 % 3)]
    ledger.append(source.blocks(1, height), [certificate for certificate in certificates if certificate is not None])
    first = Epoch(1, 0, world.genesis.block().hash)
    ledger.set_epoch(first if choice // 64 % 2 or source.epoch is None else source.epoch)
    return store


def _operate(node: Node, *, if_needed: bool) -> epochs.Outcome:
    if node.core is None:
        raise Violation("a started node has no core")
    try:
        return _alone(epochs.resume(node.ledger, node.core.sequencer, node.name, if_needed=if_needed))
    except GoudError as error:
        raise Violation(f"a restored chain finds no epoch: {error}") from error


def _alone(step: Coroutine[Any, Any, T]) -> T:
    """Run a step while nothing else happens."""
    answer: Any = None
    while True:
        try:
            call: Call[Any] = step.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        call.execute()
        if call.error is not None:
            raise call.error
        answer = call.answer
