"""A write that is submitted again within one request: once an answer was lost, no later refusal is the answer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from goud_node.api.context import Context
from goud_node.api.submit import submit
from goud_node.chain.ledger import Receipt
from goud_node.errors import (
    AlreadyExists,
    CoordinationFull,
    CorruptStore,
    Draining,
    GoudError,
    IdempotencyConflict,
    InvalidTransaction,
    NotLeader,
    OutcomeUnknown,
    StoreFull,
    Unavailable,
)
from goud_node.problems import ProblemError

REFUSALS = [Unavailable, Draining, NotLeader, CoordinationFull, StoreFull, InvalidTransaction, CorruptStore]
FINAL = [IdempotencyConflict, AlreadyExists]
"""What is taken stays taken, and would not be had the earlier try been applied."""
RECEIPT = Receipt(1, 0, "a", bytes(32))


def context_of(*script: GoudError | Receipt, in_doubt: frozenset[bytes] = frozenset()) -> Context:
    """A node whose replica answers as the script says, the last of it for ever."""
    answers = list(script)

    async def answer(_transaction: bytes, *, budget: float) -> Receipt:
        del budget  # on a busy machine nothing may be left of it
        outcome = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(outcome, GoudError):
            raise outcome
        return outcome

    replica = SimpleNamespace(
        submit=answer, status=SimpleNamespace(quorum=True), is_in_doubt=lambda write: write in in_doubt
    )
    metrics = SimpleNamespace(commit_latency=SimpleNamespace(observe=lambda _seconds: None))
    context: Any = SimpleNamespace(
        room=lambda: SimpleNamespace(shortage=None),
        settings=SimpleNamespace(submit_deadline_seconds=0.3),
        replica=replica,
        metrics=metrics,
    )
    return cast(Context, context)


def _without_quorum(context: Any) -> None:
    context.replica.status.quorum = False


def _without_space(context: Any) -> None:
    context.room = lambda: SimpleNamespace(shortage="full", path="/data", free=0, needed=1)


@pytest.mark.parametrize("hindrance", [_without_quorum, _without_space])
async def test_what_keeps_a_write_out_is_no_answer_about_one_that_is_in_doubt(
    monkeypatch: pytest.MonkeyPatch, hindrance: Callable[[Any], None]
) -> None:
    monkeypatch.setattr("goud_node.api.submit._QUORUM_SECONDS", 0.05)
    context = context_of(RECEIPT, in_doubt=frozenset({b"a write"}))
    hindrance(context)
    with pytest.raises(OutcomeUnknown, match="Idempotency-Key"):
        await submit(context, b"a write")
    with pytest.raises(ProblemError):
        await submit(context, b"another write")


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_no_later_refusal_takes_a_doubt_away(refusal: type[GoudError]) -> None:
    with pytest.raises(OutcomeUnknown):
        await submit(context_of(OutcomeUnknown("lost"), refusal("no")), b"a write")


@pytest.mark.parametrize("refusal", [*REFUSALS, *FINAL])
async def test_a_refusal_without_a_doubt_is_the_answer(refusal: type[GoudError]) -> None:
    with pytest.raises(refusal):
        await submit(context_of(refusal("no")), b"a write")


@pytest.mark.parametrize("refusal", FINAL)
async def test_what_is_taken_is_said_in_doubt_too(refusal: type[GoudError]) -> None:
    with pytest.raises(refusal):
        await submit(context_of(OutcomeUnknown("lost"), refusal("no")), b"a write")


async def test_a_receipt_ends_every_doubt() -> None:
    context = context_of(OutcomeUnknown("lost"), Unavailable("no"), OutcomeUnknown("lost"), RECEIPT)
    assert await submit(context, b"a write") == RECEIPT
