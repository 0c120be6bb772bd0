"""Submissions of this node: waiting for the next block, or on their way to the proposer."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from goud_node.chain.ledger import Ledger, Receipt
from goud_node.chain.transactions import Transaction
from goud_node.errors import GoudError, OutcomeUnknown, Unavailable
from goud_node.replica.batch import Batch, Waiting


@dataclass(eq=False, slots=True)
class Submission:
    """One waiting transaction. Its result is a receipt, or None: try again with whoever leads now."""

    raw: bytes
    transaction: Transaction
    result: asyncio.Future[Receipt | None]


class Queue:
    """In order of arrival, bounded; memory does not grow with the load."""

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit, self._limit_bytes = limit, limit_bytes
        self._bytes = 0
        self._waiting: deque[Submission] = deque()
        self.arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, submission: Submission) -> None:
        """Raises Unavailable when the queue is full."""
        if len(self._waiting) >= self._limit or self._bytes >= self._limit_bytes:
            raise Unavailable(f"{len(self._waiting)} submissions are waiting already; retry a little later")
        self._waiting.append(submission)
        self._bytes += len(submission.raw)
        self.arrived.set()

    def waiting(self) -> list[Waiting]:
        """All that wait, first come first."""
        self._drop_done()
        return list(self._waiting)

    def release(self, unsure: frozenset[bytes]) -> None:
        """Send all that wait to try again elsewhere; those in `unsure` may have been ordered, and are told so."""
        self._spare(unsure)
        for submission in self._waiting:
            _resolve(submission, None)
        self._drop_done()

    def fail(self, error: GoudError, unsure: frozenset[bytes]) -> None:
        """Answer all that wait with an error; those in `unsure` may have been ordered, and are told so."""
        self._spare(unsure)
        for submission in self._waiting:
            if not submission.result.done():
                submission.result.set_exception(error)
        self._drop_done()

    def _spare(self, unsure: frozenset[bytes]) -> None:
        for submission in self._waiting:
            if submission.raw in unsure and not submission.result.done():
                submission.result.set_exception(OutcomeUnknown("the answer was lost; submit the same request again"))

    def settle(self, batch: Batch, ledger: Ledger) -> None:
        """Answer a batch whose block is stored; every receipt comes from the ledger."""
        self.answer(batch)
        for entry in (*batch.chosen, *batch.twins):
            receipt = ledger.admissible(entry.transaction)
            if receipt is not None and isinstance(entry, Submission):
                _resolve(entry, receipt)
        self._drop_done()

    def answer(self, batch: Batch) -> None:
        """Answer what needed no block."""
        for entry, outcome in batch.answered:
            if not isinstance(entry, Submission) or entry.result.done():
                continue
            if isinstance(outcome, Receipt):
                entry.result.set_result(outcome)
            else:
                entry.result.set_exception(outcome)
        self._drop_done()

    def _drop_done(self) -> None:
        if any(submission.result.done() for submission in self._waiting):
            self._waiting = deque(s for s in self._waiting if not s.result.done())
            self._bytes = sum(len(s.raw) for s in self._waiting)
        if not self._waiting:
            self.arrived.clear()


def _resolve(submission: Submission, receipt: Receipt | None) -> None:
    if not submission.result.done():
        submission.result.set_result(receipt)
