"""One node's part in the chain, as the rest of the node sees it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

from goud_node.agreement.sequencer import Sequencer
from goud_node.chain import transactions
from goud_node.chain.block import Block
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Ledger, Receipt
from goud_node.chain.transactions import Claim, Transaction
from goud_node.errors import (
    AlreadyExists,
    CoordinationFull,
    Draining,
    GoudError,
    IdempotencyConflict,
    InvalidTransaction,
    NotLeader,
    OutcomeUnknown,
    StoreFull,
    Unavailable,
)
from goud_node.replica import steps
from goud_node.replica.core import Core
from goud_node.replica.doubts import Doubts
from goud_node.replica.duties import Duties
from goud_node.replica.events import Events
from goud_node.replica.queue import Queue, Submission
from goud_node.replica.types import Hooks, Options, Peers, Role, Status

_log = logging.getLogger(__name__)
T = TypeVar("T")
_HAND_OVER_SECONDS = 4.0
_CATCH_UP_SECONDS = 2.0


class Replica:
    """Follows, countersigns and, when elected, proposes. Make it inside a running event loop."""

    def __init__(
        self,
        ledger: Ledger,
        sequencer: Sequencer,
        peers: Peers,
        key: SigningKey,
        node_id: str,
        *,
        clock: Callable[[], int],
        validator: bool,
        options: Options | None = None,
        hooks: Hooks | None = None,
        executor: Executor | None = None,
    ) -> None:
        """`clock` returns wall time in milliseconds.

        `executor` is where the ledger is written, with one worker; share it with an embedded log on the same store.
        """
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._own_executor = executor is None
        options = options or Options()
        hooks = hooks or Hooks()
        self._events = Events(options.subscriber_buffer)
        self._core = Core(
            ledger,
            sequencer,
            peers,
            key,
            node_id,
            validator,
            clock,
            self._disk,
            options,
            self._events.publish,
            hooks.committed,
        )
        self._queue = Queue(options.max_queue, options.max_queue_bytes)
        self._duties = Duties(self._core, self._queue, hooks)
        self._submission_count = 0
        self._doubts = Doubts()

    async def run(self) -> None:
        """Work until stopped or cancelled (then without handing over, as after a crash).

        A halt does not end it: the node goes on answering reads and says why. A defect does.
        """
        try:
            await self._duties.run()
        finally:
            self._duties.stopped.set()
            self._events.close()
            if self._own_executor:
                # Writes that were begun are finished; without waiting here, in case this task was cancelled.
                self._executor.shutdown(wait=False)

    async def submit(self, transaction: bytes, *, forward: bool = True, budget: float | None = None) -> Receipt:
        """Have an encoded transaction ordered once, and return where it stands in the chain.

        `budget` is what is left of the deadline, in seconds; all of it unless given.
        The peer server calls it with `forward=False`: then a node that does not lead raises `NotLeader` at once.
        Raises `InvalidTransaction` and its kinds, `Unavailable` or `StoreFull` (it did not happen), or `OutcomeUnknown`
        (it may have, or another try of the same request; both may be submitted again, and are applied once).
        """
        content = transactions.decode(transaction)
        attempt = _Attempt(transaction, content, forward, self._doubts)
        seconds = self._core.options.submit_deadline if budget is None else budget
        self._submission_count += 1
        try:
            receipt = await self._until_ordered(attempt, seconds)
        except (OutcomeUnknown, asyncio.CancelledError):
            self._doubts.leave(attempt.claims)
            raise
        else:
            self._doubts.settle(attempt.claims)
            return receipt
        finally:
            attempt.doubtful = False
            self._submission_count -= 1

    def is_in_doubt(self, transaction: bytes) -> bool:
        """Whether this write, or one that is the same request or claims the same, may be in the chain already.

        Raises `InvalidTransaction`.
        """
        return self._shares_doubt(transactions.claims(transactions.decode(transaction)))

    async def _until_ordered(self, attempt: _Attempt, seconds: float) -> Receipt:
        """Raises what `submit` does."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    receipt = await self._attempt(attempt)
                    if receipt is not None:
                        return receipt
                    await self._duties.pulse.wait(self._core.options.poll_interval)
        except TimeoutError as error:
            if self._shares_doubt(attempt.claims):
                raise OutcomeUnknown(f"no answer within {seconds:.1f} s; submit the same request again") from error
            self._refuse_when_full()
            reason = attempt.refusal or "is there a majority?"
            raise Unavailable(f"no proposer took it within {seconds:.1f} s; {reason}") from error
        except (OutcomeUnknown, IdempotencyConflict, AlreadyExists):
            raise  # the ledger says what is taken, and would have said otherwise had an earlier try been applied
        except GoudError as error:
            # This try is refused. An earlier one whose answer was lost may be ordered all the same.
            if self._shares_doubt(attempt.claims):
                raise OutcomeUnknown(f"{error}; an earlier try may have been applied: submit it again") from error
            raise

    def drain(self) -> None:
        """Stop campaigning and report `draining`; submissions are still taken and forwarded."""
        self._duties.draining = True

    def undrain(self) -> None:
        """Take part in elections again."""
        self._duties.draining = False

    async def hand_over(self) -> bool:
        """Give up the lead after the block in flight; returns once another node leads, False if none did in time."""
        if not self._leads():
            return True
        self._duties.request_hand_over()
        deadline = time.monotonic() + _HAND_OVER_SECONDS
        while time.monotonic() < deadline:
            leader = self._core.leader
            if not self._duties.leading and leader is not None and leader.node_id != self._core.node_id:
                return True
            await self._duties.pulse.wait(0.05)
        return False

    async def stop(self) -> None:
        """Drain, hand over, finish what is in flight, end `run`; under 5 s. The ledger's store stays open."""
        self.drain()
        if len(self._core.ledger.genesis.validators) > 1:
            await self.hand_over()
        deadline = time.monotonic() + 0.8
        while self._submission_count and time.monotonic() < deadline:
            await self._duties.pulse.wait(0.02)
        self._duties.stopped.set()

    async def start_epoch(self) -> int:
        """Begin a new epoch from the local tip (after a restore); returns its number."""
        epoch = await steps.start_epoch(self._core)
        self._duties.rejoin()
        return epoch.number

    @property
    def status(self) -> Status:
        """Cheap, and consistent within one turn of the event loop."""
        core, duties = self._core, self._duties
        has_joined = core.epoch is not None and duties.halted is None
        leader = None if core.leader is None else core.leader.node_id
        return Status(
            role=self._role(),
            proposer=core.node_id if duties.leading else leader,
            epoch=None if core.epoch is None else core.epoch.number,
            height=core.ledger.height,
            certified=core.ledger.certified_height,
            lag=core.lag,
            quorum=duties.quorum,
            synced=has_joined and duties.quorum and core.lag <= core.options.synced_lag,
            draining=duties.draining,
            halted=duties.halted or duties.refusal,
            clock=core.clock_verdict(),
        )

    def subscribe(self) -> AsyncIterator[Block]:
        """New blocks as they become durable here; a consumer that falls behind gets `SlowSubscriber`."""
        return self._events.subscribe()

    def _role(self) -> Role:
        if self._duties.halted is not None:
            return "halted"
        if self._duties.stopped.is_set():
            return "stopped"
        if self._core.epoch is None:
            return "starting"
        if not self._core.validator:
            return "observer"
        return "proposer" if self._duties.leading else "follower"

    def _leads(self) -> bool:
        leader = self._core.leader
        return self._duties.leading or (leader is not None and leader.node_id == self._core.node_id)

    def _shares_doubt(self, claims: frozenset[Claim]) -> bool:
        """Whether the answer about a write that claims any of it was lost, or its block is under way."""
        return self._doubts.cover(claims) or not self._core.unsure_claims.isdisjoint(claims)

    async def _attempt(self, attempt: _Attempt) -> Receipt | None:
        """One try with whoever leads now; None: try again."""
        if self._duties.stopped.is_set():
            raise Draining("this node is stopping; ask another")
        if self._duties.halted is not None:
            raise Unavailable("this node is halted; ask another")
        if self._duties.leading:
            return await self._enqueue(attempt)
        try:
            receipt = self._core.ledger.admissible(attempt.transaction)
        except (IdempotencyConflict, AlreadyExists):
            raise  # what is taken stays taken
        except InvalidTransaction:
            receipt = None  # its account may be in a block that has not arrived here
        if receipt is not None:
            return receipt
        if self._core.options.alone:
            self._refuse_when_full()
        leader = None if self._core.leader is None else self._core.leader.node_id
        if not attempt.forward:
            raise NotLeader("this node is not the proposer", leader)
        if leader is None or leader == self._core.node_id:
            return None
        return await self._forward(attempt, leader)

    async def _enqueue(self, attempt: _Attempt) -> Receipt | None:
        result: asyncio.Future[Receipt | None] = asyncio.get_running_loop().create_future()
        submission = Submission(attempt.raw, attempt.transaction, result)
        self._queue.put(submission)
        try:
            receipt = await result
        except asyncio.CancelledError:
            attempt.doubtful = attempt.doubtful or submission.decided  # the answer was on its way
            raise
        except OutcomeUnknown:
            if not attempt.forward:
                raise
            attempt.doubtful = True
            return None
        if receipt is None and not attempt.forward:
            raise NotLeader("this node's term ended before the request was ordered")
        return receipt

    async def _forward(self, attempt: _Attempt, leader: str) -> Receipt | None:
        """Ask the proposer; None: try again. It is given up when another node leads, and then its answer is missing."""
        previous_doubt, attempt.doubtful = attempt.doubtful, True  # from here on the request may have left
        call = asyncio.ensure_future(self._core.peers.forward(leader, attempt.raw))
        try:
            while not call.done() and not self._has_other_leader(leader):
                await asyncio.wait({call}, timeout=self._core.options.poll_interval)
            if not call.done():
                return None
            receipt = call.result()
        except (Unavailable, InvalidTransaction) as error:
            attempt.doubtful = previous_doubt  # a definite refusal
            if isinstance(error, Unavailable) and not isinstance(error, CoordinationFull):
                attempt.refusal = f"{leader} says: {error}"
                return None
            raise
        except OutcomeUnknown:
            return None
        finally:
            call.cancel()
        own_receipt = await self._confirm(attempt, receipt)
        if own_receipt is None:
            _log.warning("the receipt of %s is refused: block %d holds no such write", leader, receipt.height)
        else:
            attempt.doubtful = previous_doubt
        return own_receipt

    async def _confirm(self, attempt: _Attempt, receipt: Receipt) -> Receipt | None:
        """The receipt, if this node's own copy of the block, or else the log's, holds the write. A peer's word is none.

        Read your writes: the answer waits until this node holds the block too, but never for long.
        """
        try:
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                if self._core.ledger.height < receipt.height:
                    await self._events.reached(receipt.height)
        except TimeoutError:
            tail = await self._core.sequencer.tail(receipt.height, 1)
            block = Block.decode(tail.blocks[0]) if tail.blocks else None
            if block is None or (block.height, block.hash) != (receipt.height, receipt.block_hash):
                return None
            if not 0 <= receipt.index < len(block.transactions):
                return None
            transaction = transactions.decode(block.transactions[receipt.index])
            if not transactions.same_request(transaction, attempt.transaction):
                return None
            return Receipt(block.height, receipt.index, transaction.transaction_id, block.hash)
        try:
            own_receipt = self._core.ledger.admissible(attempt.transaction)
        except InvalidTransaction:
            return None
        return (
            own_receipt
            if own_receipt and (own_receipt.height, own_receipt.index) == (receipt.height, receipt.index)
            else None
        )

    def _refuse_when_full(self) -> None:
        shortage = self._duties.shortage
        if shortage is not None:
            raise StoreFull(shortage)

    def _has_other_leader(self, leader: str) -> bool:
        if self._duties.leading:
            return True
        current_leader = self._core.leader
        return current_leader is not None and current_leader.node_id != leader

    async def _disk(self, write: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, write)


class _Attempt:
    """What is remembered between the tries of one submission."""

    def __init__(self, raw: bytes, transaction: Transaction, forward: bool, doubts: Doubts) -> None:
        self.raw, self.transaction, self.forward = raw, transaction, forward
        self.claims = transactions.claims(transaction)
        self._doubts, self._doubtful = doubts, False
        self.refusal: str | None = None

    @property
    def doubtful(self) -> bool:
        """An answer was lost or is still awaited, so only a receipt that is borne out can end the doubt."""
        return self._doubtful

    @doubtful.setter
    def doubtful(self, value: bool) -> None:
        if value and not self._doubtful:
            self._doubts.begin(self.claims)
        elif self._doubtful and not value:
            self._doubts.end(self.claims)
        self._doubtful = value
