"""Runs a world by a schedule: one byte says what happens, the next to whom; then everything heals and must converge."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from goud_node.agreement.refusals import HeightTrimmed
from goud_node.agreement.sequencer import Sequencer
from goud_node.chain.transactions import decode_trusted, same_request
from goud_node.errors import CoordinationFull, EpochMismatch, GoudError, NotLeader, OutcomeUnknown, Unavailable
from goud_node.replica import lead, steps

from .actors import ENTRIES, WRITES
from .calls import Violation, lost, refused
from .clients import QUEUE_LIMIT
from .restore import restore_all
from .world import LEASE_TICKS, Node, Propose, Unit, World

HEALING_ROUNDS = 120
WARM_ROUNDS = 2


class Model:
    """A world, and the two ways it moves: by schedule, and fairly."""

    def __init__(
        self, schedule: bytes, *, sequencer: type[Sequencer] = Sequencer, propose: Propose | None = None
    ) -> None:
        self._shape = shape = schedule[0]
        self._schedule = schedule[1:]
        validators = (3, 3, 3, 1, 5)[shape % 5]
        self.world = World(
            validators, observer=shape % 3 == 0, tail_length=shape % 4, sequencer=sequencer, propose=propose
        )

    def run(self) -> World:
        """Follow the schedule, heal, and check that everything converged. Raises Violation."""
        pairs = zip(self._schedule[::2], self._schedule[1::2], strict=False)
        if self._shape >= 64:
            self.work(WARM_ROUNDS)
        for action, target in pairs:
            self.act(action, target)
        self.heal(apply_ghosts=bool(self._schedule and self._schedule[-1] % 2))
        return self.world

    def act(self, action: int, target: int) -> None:
        """What one pair of bytes means; two thirds of them let somebody get on with the work."""
        node = self.world.nodes[target % len(self.world.nodes)]
        meanings: tuple[tuple[int, Callable[[], object]], ...] = (
            (172, lambda: self.advance_some(target, 1 + action % 4)),
            (181, lambda: self.submit(node, target)),
            (185, lambda: self.write_once(node, target)),
            (186, lambda: self.flood(node, target)),
            (187, lambda: self.world.halt(node)),
            (188, lambda: self.world.stop(node)),
            (195, self.world.tick),
            (196, lambda: self.set_clock(node, target)),
            (198, lambda: node.lies.append(target // len(self.world.nodes))),
            (222, lambda: self.disturb(action, target)),
            (228, lambda: self.deliver_ghost(target)),
            (231, lambda: self.world.crash(node)),
            (233, lambda: setattr(node, "paused", node.alive)),
            (235, lambda: setattr(node, "cut", True)),
            (247, lambda: self.recover(node)),
            (250, lambda: self.hand_over(node)),
            (253, lambda: self.world.wipe(node)),
            (254, self.lose_log),
            (255, lambda: restore_all(self.world, target)),
            (256, self.world.tick),
        )
        next(meaning for limit, meaning in meanings if action < limit)()
        self.world.clients.run()

    def deliver_ghost(self, target: int) -> None:
        """A request of long ago arrives after all."""
        if self.world.ghosts:
            self.world.ghosts.pop(target % len(self.world.ghosts)).execute()

    def submit(self, node: Node, target: int) -> None:
        """One of the writes that are asked for until they are acknowledged."""
        if node.alive and len(node.queue) < 8:
            self.world.clients.ask(node, ENTRIES[target // 8 % len(ENTRIES)], 1 + target % 8)

    def write_once(self, node: Node, target: int) -> None:
        """A client that asks once, and believes what it is told."""
        clients = self.world.clients
        write = next((write for write in WRITES if not clients.was_asked(write)), None)
        if node.alive and write is not None:
            clients.ask(node, write, 1 + 4 * (target // 8 % 4))

    def flood(self, node: Node, target: int) -> None:
        """Something is full for a while: the log, or the queue of a node that may come to lead."""
        if target // 8 % 2:
            self.world.raise_alarm()
        elif node.alive and not node.prepared:
            node.queue.flood()

    def recover(self, node: Node) -> None:
        if node.ended:
            self.world.crash(node)
        if not node.alive:
            self.world.start(node)
        node.paused = node.cut = False

    def set_clock(self, node: Node, target: int) -> None:
        """Somebody sets a clock wrong, or right again; a majority of the validators keeps the true time."""
        wrong = sum(other.wrong != 0 for other in self.world.nodes if other is not node and other.validator)
        if (
            node.wrong
            or not node.validator
            or wrong + 1 > len(self.world.genesis.validators) - self.world.genesis.quorum
        ):
            node.wrong = 0
        else:
            node.wrong = (1 - 2 * (target // 8 % 2)) * 10**9

    def hand_over(self, node: Node) -> None:
        if node.core is not None and node.term is not None and node.core.unresolved_block is None:
            node.renewed = False

    def lose_log(self) -> None:
        """The log is replaced; the operator begins a new epoch on the longest chain, of equals the latest."""
        world = self.world
        highest = max(node.ledger.height for node in world.nodes)
        promised = max((receipt.height for receipt in world.acknowledged.values()), default=0)
        refilling = any(node.ledger.certified_height < node.refill for node in world.nodes)
        if highest == 0 or promised > highest or refilling:
            return  # log and volumes lost at once: more than the design promises to survive
        world.lose_log()
        for node in world.nodes:
            world.start(node)
            node.cut = False  # whoever decides this must see every node
        longest = max(world.nodes, key=lambda n: (n.ledger.height, n.ledger.epoch.number if n.ledger.epoch else 0))
        if longest.core is None:
            raise Violation("a started node has no core")
        step = steps.start_epoch(longest.core)
        unit = Unit("operator", _discard(step))
        self.resume(longest, unit, None)
        while unit.step is not None:
            self.advance(longest, unit)

    def runnable(self) -> list[tuple[Node, Unit]]:
        nodes = [node for node in self.world.nodes if node.alive and not node.paused]
        return [(node, unit) for node in nodes for unit in node.units.values()]

    def advance_some(self, target: int, times: int) -> None:
        letters = self.world.clients.letters
        for _ in range(times):
            units = self.runnable()
            choice = target % ((len(units) + len(letters)) or 1)
            if choice < len(units):
                self.advance(*units[choice])
            elif letters:
                self.world.clients.advance(letters[choice - len(units)])

    def disturb(self, action: int, target: int) -> None:
        """Something happens to a request on its way."""
        waiting = [(node, unit) for node, unit in self.runnable() if unit.call is not None]
        letters = self.world.clients.letters
        choice = target % ((len(waiting) + len(letters)) or 1)
        if choice >= len(waiting):
            if letters:
                self.world.clients.hold_up(letters[choice - len(waiting)])
            return
        node, unit = waiting[choice]
        call = unit.call
        if call is None:
            return
        if action < 205 or not call.remote:
            call.execute()  # applied; the answer takes its time
        elif action < 212:
            call.execute()  # applied; the answer is lost
            self.resume(node, unit, lost(call))
        elif action < 215 and call.changes and not call.applied:
            self.resume(node, unit, refused(full=action % 2 == 0))
        else:
            if call.changes and not call.applied:
                self.world.ghosts.append(call)  # delayed: it may arrive later, or never
            self.resume(node, unit, lost(call))

    def advance(self, node: Node, unit: Unit) -> None:
        """Begin the loop's next step, or let its request be applied and answered."""
        if unit.step is None:
            unit.step = self.next_step(node, unit)
            if unit.step is not None:
                self.resume(node, unit, None)
            return
        call = unit.call
        if call is None:
            raise Violation("a step waits for nothing")
        if call.remote and node.cut and not call.applied:
            self.resume(node, unit, lost(call))
            return
        call.execute()
        self.resume(node, unit, call.error)

    def resume(self, node: Node, unit: Unit, error: Exception | None) -> None:
        """Give the step its answer, and run it to its next await or its end."""
        step, call = unit.step, unit.call
        if step is None:
            raise Violation("no step to resume")
        try:
            unit.call = step.throw(error) if error is not None else step.send(None if call is None else call.answer)
        except StopIteration:
            unit.step = unit.call = None
        except CoordinationFull as full:
            unit.step = unit.call = None
            if unit.name == "lead" and node.core is not None:
                node.queue.fail(full, node.core.unsure_claims)
        except (NotLeader, HeightTrimmed, EpochMismatch) as end:
            unit.step = unit.call = None
            if unit.name == "lead":
                end_term(node)
            self.check_advice(node, end)
        except (Unavailable, OutcomeUnknown):
            unit.step = unit.call = None
        except GoudError as halt:
            # Who lies in this world has no majority, so a node that stops has found a broken rule, or believes lies.
            raise Violation(f"{node.name} halted: {halt}") from halt

    def check_advice(self, node: Node, error: GoudError) -> None:
        """Nobody may be told to empty a volume that holds the common history."""
        tip, history = node.ledger.tip, self.world.history
        if "empty its volume" in str(error) and history.get(tip.height) == tip.hash:
            raise Violation(f"{node.name} is told to empty a good volume: {error}")

    def next_step(self, node: Node, unit: Unit) -> Coroutine[Any, Any, None] | None:
        core, term = node.core, node.term
        if core is None or (node.ended and unit.name != "lead"):
            return None
        if unit.name == "follow":
            return steps.join(core) if core.epoch is None else _discard(steps.follow(core))
        if unit.name == "certify":
            return _certify(node)
        if unit.name == "lead":
            return self.lead_step(node)
        if unit.name == "renew":
            return _renew(node) if term is not None else None
        return _discard(lead.trim(core)) if node.prepared else None

    def lead_step(self, node: Node) -> Coroutine[Any, Any, None] | None:
        core, term = node.core, node.term
        if core is None:
            return None
        if term is None:
            return None if node.ended else _campaign(node)
        if core.unresolved_block is not None:
            return _discard(lead.settle(core, term))
        if not node.renewed or node.ended:
            end_term(node)
            return _discard(core.sequencer.resign(term))
        if not node.prepared:
            return _prepare(node)
        return self.world.run_proposal(node, core, term) if len(node.queue) else None

    def heal(self, *, apply_ghosts: bool) -> None:
        """Undo every fault and work fairly: all must be acknowledged, everywhere, and certified."""
        world = self.world
        if apply_ghosts:
            for ghost in world.ghosts:
                ghost.execute()
        world.ghosts.clear()
        for node in world.nodes:
            node.cut = node.paused = False
            node.lies.clear()
            node.wrong = 0
            self.recover(node)
            node.queue.ebb()
        world.full_until = 0
        for turn in range(HEALING_ROUNDS):
            if self.converged():
                break
            if turn % 4 == 0:
                self.ask_again()
                world.tick()
            self.work(4)
        else:
            heights = {n.name: (n.ledger.height, n.ledger.certified_height) for n in world.nodes}
            raise Violation(f"no progress after healing: {heights}, {len(world.acknowledged)} acknowledged")
        self.check_chain()
        world.clients.check()

    def ask_again(self) -> None:
        """Clients that have their answer do not ask again."""
        for node in self.world.nodes:
            if node.prepared and not len(node.queue):
                for entry in [e for e in ENTRIES if e.raw not in self.world.acknowledged][:QUEUE_LIMIT]:
                    self.world.clients.ask(node, entry, LEASE_TICKS)

    def work(self, rounds: int) -> None:
        """Let every loop of every node advance, in turn."""
        for _ in range(rounds):
            for node, unit in self.runnable():
                self.advance(node, unit)
            for letter in list(self.world.clients.letters):
                self.world.clients.advance(letter)
            self.world.clients.run()

    def converged(self) -> bool:
        world = self.world
        heights = {node.ledger.height for node in world.nodes}
        certified = {node.ledger.certified_height for node in world.nodes}
        # After a restore every node may be level below what the log still has.
        promised = max((receipt.height for receipt in world.acknowledged.values()), default=0)
        complete = all(e.raw in world.acknowledged for e in ENTRIES) and min(heights) >= promised
        return complete and world.clients.are_answered and len(heights) == 1 and heights == certified

    def check_chain(self) -> None:
        """Invariants 1 and 2 on the final chain."""
        world = self.world
        reference = world.nodes[0].ledger
        for node in world.nodes:
            for height in range(reference.height + 1):
                if node.ledger.raw_block(height) != reference.raw_block(height):
                    raise Violation(f"{node.name} holds another block {height}")
        chain = [decode_trusted(raw) for block in reference.blocks(1, reference.height) for raw in block.transactions]
        accounts = [transaction.account_id for transaction in chain]
        for raw, receipt in world.acknowledged.items():
            request = decode_trusted(raw)
            if accounts.count(request.account_id) != 1:
                raise Violation(
                    f"an acknowledged transaction is in the chain {accounts.count(request.account_id)} times"
                )
            block = reference.block(receipt.height)
            if block is None or not same_request(decode_trusted(block.transactions[receipt.index]), request):
                raise Violation(f"a receipt points to something else at {receipt.height}")
        if len(set(accounts)) != len(accounts):
            raise Violation("a transaction was ordered twice")


def end_term(node: Node) -> None:
    """As the replica does when a term is over."""
    node.term = None
    core = node.core
    if core is not None:
        node.duties.leading = False
        node.queue.release(core.unsure_claims)
        node.queue.ebb()
        core.leader = None


async def _discard(step: Coroutine[Any, Any, object]) -> None:
    await step


async def _certify(node: Node) -> None:
    core = node.core
    if core is not None:
        await steps.publish_signatures(core)
        await steps.certify(core)
        await steps.publish_signatures(core)


async def _campaign(node: Node) -> None:
    core = node.core
    if core is not None:
        term = await lead.campaign(core)
        if term is not None:
            node.term, node.renewed = term, True


async def _prepare(node: Node) -> None:
    core, term = node.core, node.term
    if core is not None and term is not None and await lead.prepare(core, term):
        node.duties.leading = True


async def _renew(node: Node) -> None:
    core, term = node.core, node.term
    if core is not None and term is not None and not await core.sequencer.renew(term) and node.term is term:
        node.renewed = False
