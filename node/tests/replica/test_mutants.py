"""Bugs planted on purpose: each must turn the model red, or the model proves nothing."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from goud_node.agreement.kv import Compare, Operation, Put
from goud_node.agreement.sequencer import Head, Sequencer, Term
from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis
from goud_node.chain.ledger import Epoch, Ledger, Receipt
from goud_node.errors import CoordinationFull, Draining, GoudError, OutcomeUnknown, Unavailable
from goud_node.replica import epochs, lead, proofs
from goud_node.replica.batch import Batch, Waiting, compose
from goud_node.replica.core import Core
from goud_node.replica.doubts import Doubts
from goud_node.replica.replica import Replica
from goud_node.replica.types import Served

from .calls import Violation
from .model import Model
from .schedules import bereft, busy
from .world import World

pytestmark = pytest.mark.model

SCHEDULES = 4000
"""More than any of these bugs has needed by far; a bug that survives them fails its test."""


def even(seed: int) -> bytes:
    """A long schedule of all that may happen."""
    return random.Random(seed).randbytes(2401)  # noqa: S311  # repeatable on purpose


def caught(run: Callable[[bytes], World], schedule: Callable[[int], bytes] = even) -> str:
    """The first violation that random schedules find."""
    for seed in range(SCHEDULES):
        try:
            run(schedule(seed))
        except Violation as violation:
            return str(violation)
    pytest.fail(f"the planted bug survived {SCHEDULES} schedules")


class Conditions(Sequencer):
    """Leaves out some of the comparisons of a commit."""

    kept: tuple[str, ...] = ()

    async def commit(self, term: Term, block: Block) -> bytes:
        raw, header = block.encode(), block.header
        key = self._block_key(header.height)
        before = b"\x82" + _cbor_uint(header.height - 1) + b"\x58\x20" + header.previous
        compares = {
            "fence": Compare(self._leader, "create_revision", term.create_revision),
            "absent": Compare(key, "version", 0),
            "head": Compare(self._head, "value", before),
            "epoch": Compare(self._epoch, "value", term.epoch.encode()),
        }
        after = b"\x82" + _cbor_uint(header.height) + b"\x58\x20" + header.hash
        then: list[Operation] = [Put(key, raw), Put(self._head, after)]
        if (await self._kv.txn([compares[name] for name in self.kept], then)).succeeded:
            return raw
        return await self._holder(header.height)


def _cbor_uint(number: int) -> bytes:
    return bytes([number]) if number < 24 else bytes([0x18, number])


class AllConditions(Conditions):
    """No bug: shows that the copy above is faithful."""

    kept = ("fence", "absent", "head", "epoch")


class NoCondition(Conditions):
    """Put without the condition."""


class OnlyAbsent(Conditions):
    """Nothing but "put if it does not exist": a stale proposer refills a trimmed height."""

    kept = ("absent",)


class LostMeansDone(Sequencer):
    """Takes a lost answer for a success."""

    async def commit(self, term: Term, block: Block) -> bytes:
        try:
            return await super().commit(term, block)
        except OutcomeUnknown:
            return block.encode()


async def acknowledge_first(world: World, core: Core, term: Term, waiting: list[Waiting]) -> Batch | None:
    """Acknowledges before the commit."""
    batch = compose(core.ledger, waiting)
    for index, entry in enumerate(batch.selection):
        height = core.ledger.height + 1
        world.acknowledged.setdefault(entry.raw, Receipt(height, index, "early", b""))
    return await lead.propose(core, term, waiting)


def compose_all(_ledger: Ledger, waiting: list[Waiting]) -> Batch:
    """Retry without dedupe: orders whatever waits, whether it was applied before or not."""
    return Batch(selection=list({entry.raw: entry for entry in waiting}.values()))


async def any_height(core: Core) -> int:
    """Trims what a single node has, before a majority has persisted it."""
    return core.ledger.height


async def highest_progress(core: Core) -> int:
    """Trims what the fastest validator has certified."""
    return max((await core.sequencer.progress()).values(), default=0)


async def only_the_block_itself(sequencer: Sequencer, head: Head, height: int) -> bytes | None:
    """Does not see that the block above names the one below: restored nodes then wait for one another."""
    if height == head.height:
        return head.hash
    tail = await sequencer.tail(height, 1)
    return Block.decode(tail.blocks[0]).hash if tail.blocks else None


def believes_anybody(_genesis: Genesis, _block: Block, _certificate: Certificate) -> bool:
    """Takes a certificate for valid without looking at its signatures."""
    return True


async def any_epoch(core: Core, epoch: Epoch, served: Served) -> Block | None:
    """Takes the certified history that a restore has left behind for one of this epoch."""
    return await proofs_conflict(core, epoch, replace(served, epoch=epoch))


proofs_conflict = proofs.conflict


async def doubts_when_told(replica: Any, attempt: Any, leader: str) -> Receipt | None:
    """Doubts a forwarded write when an exception says that the answer is lost. The deadline comes before it."""
    try:
        receipt: Receipt = await replica._core.peers.forward(leader, attempt.raw)
    except CoordinationFull:
        raise
    except Unavailable:
        return None
    except OutcomeUnknown:
        attempt.doubtful = True
        return None
    return receipt


def certain_of(is_certain: Callable[[GoudError], bool]) -> Callable[[Any, Any], Awaitable[Receipt | None]]:
    """Takes such a refusal for the whole truth, although the answer of an earlier try was lost."""
    try_once = Replica._attempt

    async def attempt_once(replica: Any, attempt: Any) -> Receipt | None:
        try:
            return await try_once(replica, attempt)
        except Unavailable as error:
            attempt.doubtful = attempt.doubtful and not is_certain(error)
            raise

    return attempt_once


LATER_REFUSALS: dict[str, Callable[[GoudError], bool]] = {
    "draining": lambda error: isinstance(error, Draining),
    "halted": lambda error: "halted" in str(error),
}


def test_the_faithful_copy_is_no_bug() -> None:
    for seed in range(150):
        Model(even(seed), sequencer=AllConditions).run()


@pytest.mark.parametrize("planted", [NoCondition, OnlyAbsent, LostMeansDone])
def test_a_planted_bug_in_the_commit_is_found(planted: type[Sequencer]) -> None:
    assert caught(lambda schedule: Model(schedule, sequencer=planted).run())


def test_acknowledging_before_the_commit_is_found() -> None:
    assert "acknowledged" in caught(lambda schedule: Model(schedule, propose=acknowledge_first).run())


def test_retrying_without_dedupe_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lead, "compose", compose_all)
    assert caught(lambda schedule: Model(schedule).run())


@pytest.mark.parametrize(("planted", "draw"), [(any_height, even), (highest_progress, bereft)])
def test_trimming_before_a_majority_has_persisted_is_found(
    monkeypatch: pytest.MonkeyPatch,
    planted: Callable[[Core], Awaitable[int]],
    draw: Callable[[int], bytes],
) -> None:
    monkeypatch.setattr(lead, "safe_height", planted)
    assert caught(lambda schedule: Model(schedule).run(), draw)


def test_restored_nodes_that_wait_for_one_another_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "ordered_hash", only_the_block_itself)
    assert "no progress" in caught(lambda schedule: Model(schedule).run())


def test_believing_a_peer_without_verifying_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "certified", believes_anybody)
    assert "halted" in caught(lambda schedule: Model(schedule).run())


def test_believing_a_peer_of_another_epoch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "conflict", any_epoch)

    async def whatever(core: Core, epoch: Epoch, start: int, limit: int) -> Served | None:
        return await core.peers.fetch(start, limit, epoch)

    monkeypatch.setattr(proofs, "ask", whatever)
    assert "halted" in caught(lambda schedule: Model(schedule).run())


def test_stamping_a_block_by_a_wrong_clock_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lead, "_check_clock", lambda _core, _now_ms: None)
    assert "wrong clock" in caught(lambda schedule: Model(schedule).run())


def test_a_forwarded_write_that_is_refused_at_its_deadline_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "_forward", doubts_when_told)
    assert "answered 503" in caught(lambda schedule: Model(schedule).run(), busy)


@pytest.mark.parametrize("refusal", LATER_REFUSALS)
def test_a_refusal_after_a_lost_answer_is_found(monkeypatch: pytest.MonkeyPatch, refusal: str) -> None:
    monkeypatch.setattr(Replica, "_attempt", certain_of(LATER_REFUSALS[refusal]))
    assert "answered 503" in caught(lambda schedule: Model(schedule).run(), busy)


def test_a_node_that_forgets_what_it_did_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """The repeat of a request has other bytes: whoever keeps only the tries under way in mind tells it a lie."""
    monkeypatch.setattr(Doubts, "leave", lambda *_: None)
    assert "a repeat was answered 503" in caught(lambda schedule: Model(schedule).run(), busy)
