"""Replicas do their long work beside the event loop, and what is on its way to a client is no refusal."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from goud_node.agreement.sequencer import Sequencer
from goud_node.chain.ledger import Receipt
from goud_node.errors import OutcomeUnknown
from goud_node.replica import lead, steps
from goud_node.replica.batch import Batch

from .trio import NAMES, Shared, Trio, account

RECEIPT = Receipt(1, 0, "a", bytes(32))


async def test_a_deadline_while_the_answer_is_on_its_way_is_no_refusal() -> None:
    trio = Trio(Shared())
    replica: Any = trio.start(NAMES[0]).replica
    try:
        replica._duties.leading = True
        replica._core.options = type(replica._core.options)(submit_deadline=0.05)
        replica._queue._telling = True  # the slices before this one take their time
        call = asyncio.create_task(replica.submit(account("late")))
        await asyncio.sleep(0)
        (waiting,) = replica._queue.waiting()
        replica._queue.settle(Batch(receipts=[(waiting, RECEIPT)]))
        with pytest.raises(OutcomeUnknown):
            await call
    finally:
        await trio.close()


async def test_long_work_happens_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop_thread, held = threading.get_ident(), set()
    wanted: list[tuple[object, str]] = [(lead, "compose"), (lead, "build"), (lead, "_receipts")]
    wanted += [(steps, "countersign"), (steps, "countersigned"), (Sequencer, "decode")]
    called = set()

    def watched(name: str, function: Any) -> Any:
        def run(*arguments: Any, **named: Any) -> Any:
            called.add(name)
            if threading.get_ident() == loop_thread:
                held.add(name)
            return function(*arguments, **named)

        return run

    for module, name in wanted:
        monkeypatch.setattr(module, name, watched(name, getattr(module, name)))
    trio = Trio(Shared())
    try:
        for name in NAMES:
            trio.start(name)
        await trio.until(trio.proposer)
        for number in range(3):
            await trio.replica(NAMES[number]).submit(account(f"beside-{number}"))
        await trio.until(trio.agreed)
    finally:
        await trio.close()
    assert called == {name for _, name in wanted}
    assert held == set()
