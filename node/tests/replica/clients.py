"""Clients of a world: what each submits by which node, what it is told, and whether that was true.

The real `Replica.submit` runs here, with its deadlines in the world's time. A write that enters by a follower is a
letter to the proposer: the schedule delivers it, late or never, and brings or loses the answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from goud_node.chain.ledger import Receipt
from goud_node.chain.transactions import decode_trusted
from goud_node.errors import GoudError, OutcomeUnknown, StoreFull, Unavailable
from goud_node.peer.answers import proposer_error
from goud_node.replica.batch import Waiting
from goud_node.replica.queue import Queue

from .actors import Entry
from .calls import Call, Violation
from .turns import Turns

if TYPE_CHECKING:
    from .world import Node, World

QUEUE_LIMIT = 6


class ShortQueue(Queue):
    """The real queue, of which two at a time go into a block: small blocks make a longer chain."""

    def __init__(self) -> None:
        super().__init__(QUEUE_LIMIT, 1 << 20)

    def waiting(self) -> list[Waiting]:
        return super().waiting()[:2]

    def flood(self) -> None:
        """Others fill it from now on."""
        self._limit = 0

    def ebb(self) -> None:
        self._limit = QUEUE_LIMIT


@dataclass(eq=False)
class Letter:
    """A forwarded write: on its way, being worked on by the proposer, or answered."""

    sender: Node
    leader: str
    raw: bytes
    answer: asyncio.Future[Receipt]
    work: asyncio.Task[Receipt] | None = None

    @property
    def is_over(self) -> bool:
        """Delivered, and nobody waits for the answer any more."""
        return self.work is not None and self.answer.done()


class Clients:
    """Every request of every client, and every answer."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.turns = Turns(lambda: world.now)  # type: ignore[abstract]  # nobody here opens sockets
        self.are_served = False
        self.letters: list[Letter] = []
        self.ordered: set[bytes] = set()
        """Whatever was in a block, ever."""
        self._doubts: set[tuple[Any, str]] = set()
        self._denials: set[str] = set()
        self._asked: Counter[bytes] = Counter()
        self._refused: Counter[bytes] = Counter()
        self._tasks: dict[asyncio.Task[Any], Node] = {}

    @property
    def are_answered(self) -> bool:
        return not self._tasks and not self.letters

    def ask(self, node: Node, entry: Entry, within: float) -> None:
        """A client submits to that node, and waits no longer than `within` ticks."""
        self._asked[entry.raw] += 1
        self._begin(node, self._request(node, entry, within))

    def was_asked(self, entry: Entry) -> bool:
        return entry.raw in self._asked

    def send(self, sender: Node, leader: str, raw: bytes) -> asyncio.Future[Receipt]:
        letter = Letter(sender, leader, raw, self.turns.create_future())
        self.letters.append(letter)
        return letter.answer

    def advance(self, letter: Letter) -> None:
        """Let the letter arrive, or its answer."""
        world, leader = self._world, next(node for node in self._world.nodes if node.name == letter.leader)
        if letter.sender.cut or leader.cut or leader.paused:
            return
        if letter.work is None:
            self.deliver(letter)
        elif letter.work.done() and not letter.answer.done():
            self._reply(letter)
        if letter.is_over:
            self.letters.remove(letter)
        world.clients.run()

    def deliver(self, letter: Letter) -> None:
        """Let the proposer begin to work on it."""
        leader = next(node for node in self._world.nodes if node.name == letter.leader)
        if leader.replica is None:
            letter.work = self.turns.create_task(_refuse_connection())
        else:
            letter.work = self._begin(leader, leader.replica.submit(letter.raw, forward=False))

    def hold_up(self, letter: Letter) -> None:
        """The connection breaks. What has not arrived may do so at any later time."""
        self.break_off(letter)
        if letter.work is None:
            self.letters.remove(letter)
            self._world.ghosts.append(Call(lambda: self.deliver(letter), remote=True, changes=True))

    def break_off(self, letter: Letter) -> None:
        """The connection breaks: the letter may still arrive, its answer does not."""
        if not letter.answer.done():
            letter.answer.set_exception(OutcomeUnknown("the connection broke"))

    def crash(self, node: Node) -> None:
        """Whoever waits for an answer of that node gets none."""
        for letter in self.letters:
            if letter.work is not None and letter.leader == node.name:
                self.break_off(letter)
        for task in [task for task, at in self._tasks.items() if at is node]:
            task.cancel()
        self.run()
        self.letters = [letter for letter in self.letters if not letter.is_over]

    def run(self) -> None:
        """Serve the requests as far as they get without anybody else."""
        self.are_served = True
        try:
            self.turns.run()
        finally:
            self.are_served = False
        for task in [task for task in self._tasks if task.done()]:
            del self._tasks[task]
            if not task.cancelled() and isinstance(task.exception(), Violation):
                task.result()

    def check(self) -> None:
        """A write that was refused, as often as it was asked for, was never ordered; nor one whose repeat was refused
        by the very node that had not known what became of it. Raises Violation.
        """
        for raw, times in self._refused.items():
            if times == self._asked[raw] and raw in self.ordered:
                raise Violation("a write was answered 503 and is in the chain")
        accounts = {decode_trusted(raw).account_id for raw in self.ordered}
        if self._denials & accounts:
            raise Violation("a repeat was answered 503 and the request is in the chain")

    def _begin(self, node: Node, coroutine: Any) -> asyncio.Task[Any]:
        task = self.turns.create_task(coroutine)
        self._tasks[task] = node
        self.run()
        return task

    async def _request(self, node: Node, entry: Entry, within: float) -> None:
        if node.replica is None:
            raise Violation("a node that is down cannot be asked")
        replica, account_id = node.replica, entry.transaction.account_id
        try:
            receipt = await replica.submit(entry.raw, budget=within)
        except OutcomeUnknown:
            self._doubts.add((replica, account_id))
            return
        except (Unavailable, StoreFull):
            self._refused[entry.raw] += 1
            # What is asked for again and again may be ordered later.
            if (replica, account_id) in self._doubts and self._asked[entry.raw] == 1:
                self._denials.add(account_id)
            return
        except GoudError as error:
            raise Violation(f"a valid transaction was refused: {error}") from error
        self._world.acknowledge(entry.raw, receipt)

    def _reply(self, letter: Letter) -> None:
        """What the proposer's answer becomes on the way: the real reading of it."""
        if letter.work is None or letter.work.cancelled():
            raise Violation("nothing is known of this letter")
        error = letter.work.exception()
        if error is None:
            letter.answer.set_result(letter.work.result())
        elif isinstance(error, GoudError):
            letter.answer.set_exception(proposer_error(letter.leader, {"code": error.code, "detail": str(error)}))
        else:
            raise error


async def _refuse_connection() -> Receipt:
    raise Unavailable("no connection")
