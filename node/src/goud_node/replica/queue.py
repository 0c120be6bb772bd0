"""Submissions of this node: waiting for the next block, or on their way to the proposer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from goud_node.chain.ledger import Receipt
from goud_node.chain.transactions import Claim, Transaction, claims
from goud_node.errors import GoudError, OutcomeUnknown, Unavailable
from goud_node.replica.batch import Batch, Waiting

Outcome = Receipt | GoudError | None
_SLICE = 32


@dataclass(eq=False, slots=True)
class Submission:
    """One waiting transaction. Its result is a receipt, or None: try again with whoever leads now."""

    raw: bytes
    transaction: Transaction
    result: asyncio.Future[Receipt | None]
    decided: bool = False
    """The result is on its way."""

    @property
    def is_over(self) -> bool:
        return self.decided or self.result.done()


class Queue:
    """In order of arrival, bounded; memory does not grow with the load."""

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit, self._limit_bytes = limit, limit_bytes
        self._bytes = 0
        self._submissions: deque[Submission] = deque()
        self._outcomes: deque[tuple[asyncio.Future[Receipt | None], Outcome]] = deque()
        self._telling = False
        self.arrival = asyncio.Event()

    def __len__(self) -> int:
        return len(self._submissions)

    def put(self, submission: Submission) -> None:
        """Raises Unavailable when the queue is full."""
        if len(self._submissions) >= self._limit or self._bytes >= self._limit_bytes:
            raise Unavailable(f"{len(self._submissions)} submissions are waiting already; retry a little later")
        self._submissions.append(submission)
        self._bytes += len(submission.raw)
        self.arrival.set()

    def waiting(self) -> list[Waiting]:
        """All that wait, first come first."""
        self._drop_over()
        return list(self._submissions)

    def release(self, unsure_claims: frozenset[Claim]) -> None:
        """Send all that wait to try again elsewhere; who shares one of `unsure_claims` is told of the doubt."""
        self._spare(unsure_claims)
        self._answer((submission, None) for submission in self._submissions)

    def fail(self, error: GoudError, unsure_claims: frozenset[Claim]) -> None:
        """Answer all that wait with an error; who shares one of `unsure_claims` is told of the doubt."""
        self._spare(unsure_claims)
        self._answer((submission, error) for submission in self._submissions)

    def _spare(self, unsure_claims: frozenset[Claim]) -> None:
        error = OutcomeUnknown("the answer was lost; submit the same request again")
        self._answer(
            (submission, error)
            for submission in self._submissions
            if unsure_claims and not unsure_claims.isdisjoint(claims(submission.transaction))
        )

    def settle(self, batch: Batch) -> None:
        """Answer a batch whose block is stored."""
        self._answer(batch.receipts)

    def answer(self, batch: Batch) -> None:
        """Answer what needed no block."""
        self._answer(batch.outcomes)

    def _answer(self, outcomes: Iterable[tuple[Waiting, Outcome]]) -> None:
        """Decide now, and tell whoever waits a slice at a time: they all wake up in the same turn of the loop."""
        for submission, outcome in outcomes:
            if isinstance(submission, Submission) and not submission.is_over:
                submission.decided = True
                self._outcomes.append((submission.result, outcome))
        self._drop_over()
        if not self._telling:
            self._tell()

    def _tell(self) -> None:
        for _ in range(min(_SLICE, len(self._outcomes))):
            result, outcome = self._outcomes.popleft()
            if result.done():
                continue
            if isinstance(outcome, GoudError):
                result.set_exception(outcome)
            else:
                result.set_result(outcome)
        self._telling = bool(self._outcomes)
        if self._telling:
            asyncio.get_running_loop().call_soon(self._tell)

    def _drop_over(self) -> None:
        if any(submission.is_over for submission in self._submissions):
            self._submissions = deque(submission for submission in self._submissions if not submission.is_over)
            self._bytes = sum(len(submission.raw) for submission in self._submissions)
        if not self._submissions:
            self.arrival.clear()
