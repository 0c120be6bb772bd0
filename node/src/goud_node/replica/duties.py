"""The loops of one node around the steps: follow, watch, countersign and certify, lead, maintain."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from goud_node.agreement.refusals import HeightTaken, HeightTrimmed
from goud_node.agreement.sequencer import MAX_SIGNATURES_PER_TXN, Term
from goud_node.errors import (
    ConflictingBlock,
    CoordinationFull,
    CorruptStore,
    EpochMismatch,
    GoudError,
    InvalidBlock,
    NotLeader,
    OutcomeUnknown,
    StoreError,
    StoreFull,
    Unavailable,
    WrongChain,
)
from goud_node.replica import lead, steps
from goud_node.replica.batch import Batch
from goud_node.replica.clocks import ClockRefused
from goud_node.replica.core import Core
from goud_node.replica.proofs import AnswerRefused
from goud_node.replica.pulse import Pulse, within
from goud_node.replica.queue import Queue
from goud_node.replica.types import Hooks
from goud_node.telemetry import Lasting, Seldom

_log = logging.getLogger(__name__)
_FATAL = (ConflictingBlock, InvalidBlock, CorruptStore, WrongChain)
_RETRY_PAUSE = 0.05
_FULL_PATIENCE = 3.0


class Duties:
    """Runs the loops; the fields are what `Replica` reports and steers by."""

    def __init__(self, core: Core, queue: Queue, hooks: Hooks) -> None:
        self.core, self.queue, self._hooks = core, queue, hooks
        self.halted: str | None = None
        self.refusal: str | None = None
        self.leading = False
        self.draining = False
        self.ending = False
        self.stopped = asyncio.Event()
        self.pulse = Pulse()
        self._wake = asyncio.Event()
        self._hold_off = float("-inf")
        self._yield_until = float("-inf")
        # Whether the last batch was a whole one: then there is more to do.
        self._full_signatures = self._full_certificates = self._full_proofs = False
        self._full_since: float | None = None
        self._term: Term | None = None
        self._term_since = float("-inf")
        self._compaction_time = time.monotonic()
        self._complaints: dict[str, set[str]] = {}
        self._refusal_log = Seldom()
        self._complaint_log = Lasting()

    @property
    def quorum(self) -> bool:
        """Whether the log answered a linearizable read lately."""
        return time.monotonic() - self.core.last_answer < self.core.options.quorum_timeout

    @property
    def shortage(self) -> str | None:
        """Why this node can write nothing for want of space, or None."""
        return self._hooks.shortage()

    def request_hand_over(self) -> None:
        """End the present term after the block in flight, and let others go first for a while."""
        self._yield_until = time.monotonic() + 2.5 * self.core.options.lease_ttl
        self._end_soon()

    def _end_soon(self) -> None:
        """End the present term, if any, after the block in flight."""
        self.ending = True
        self.queue.arrival.set()

    def rejoin(self) -> None:
        """Look at the log again now."""
        self._wake.set()

    async def run(self) -> None:
        """Run every loop until `stopped` is set or a defect ends one of them."""
        options = self.core.options
        loops = (
            self._repeat("follow", self._follow, self._next_follow),
            self._repeat("sign", self._sign, self._next_sign),
            self._repeat("certify", self._certify, self._next_certify),
            self._repeat("prove", self._prove, self._next_proof),
            self._repeat("lead", self._lead, lambda: self.pulse.wait(options.poll_interval)),
            self._repeat("maintain", self._maintain, lambda: asyncio.sleep(options.maintain_interval)),
            self._watch(),
        )
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(loop) for loop in loops]
                await self.stopped.wait()
                for task in tasks:
                    task.cancel()
        finally:
            self.leading = False
            self.queue.fail(Unavailable("this node is stopping; ask another"), self.core.unsure_claims)

    async def _repeat(
        self, name: str, step: Callable[[], Awaitable[None]], pause: Callable[[], Awaitable[object]]
    ) -> None:
        while self.halted is None:
            try:
                await step()
            except EpochMismatch as error:
                self._refuse(error)
            except CoordinationFull as error:
                self._note_full(error)
            except AnswerRefused as error:
                if self._refusal_log.allows(error.peer):
                    _log.warning("%s: %s", name, error)
            except (Unavailable, OutcomeUnknown) as error:
                self._complain(name, error)
            except _FATAL as error:
                self._halt(error)
                return
            except StoreError as error:
                self._stand_back(name, error)
                await asyncio.sleep(1)
            else:
                self._go_on(name)
            await pause()

    async def _follow(self) -> None:
        self._wake.clear()
        if self.core.epoch is None:
            await steps.join(self.core)
            self.refusal = None
            _log.info("joined epoch %s at height %d", self.core.epoch, self.core.ledger.height)
        request_time = time.monotonic()
        try:
            await steps.follow(self.core)
        finally:
            self.pulse.beat()
        self._check_term(request_time)
        leader = self.core.leader
        if leader is not None and leader.node_id != self.core.node_id:
            self._yield_until = float("-inf")  # somebody took over, so the next election is open to all

    def _check_term(self, request_time: float) -> None:
        """End a term that the log no longer knows: the lease may live on although the leader's key is gone."""
        leader, term = self.core.leader, self._term
        if term is None or request_time < self._term_since:
            return
        if leader is None or leader.create_revision != term.create_revision:
            self._end_soon()

    async def _next_follow(self) -> None:
        core = self.core
        if core.epoch is not None and core.lag and not self.leading and not self._complaints.get("follow"):
            await asyncio.sleep(0)
        elif self.leading:
            # Our own blocks cause the hints; the poll alone shows what others did to the log.
            await asyncio.sleep(core.options.poll_interval)
        else:
            await within(self._wake, core.options.poll_interval)

    async def _watch(self) -> None:
        async for _ in self.core.sequencer.changes():
            self._wake.set()

    async def _sign(self) -> None:
        """Apart from `_prove`, like `_certify`: a peer that hangs must hold up nothing that others wait for."""
        self._full_signatures = False  # also when a step fails: that is no reason to hurry
        self._full_signatures = await steps.publish_signatures(self.core) >= MAX_SIGNATURES_PER_TXN

    async def _certify(self) -> None:
        self._full_certificates = False
        self._full_certificates = await steps.certify_from_log(self.core) >= self.core.options.fetch_batch

    async def _prove(self) -> None:
        self._full_proofs = False
        self._full_proofs = await steps.certify_from_peers(self.core) >= self.core.options.fetch_batch

    # With a pause after each batch a node that fell behind under load would never draw level.

    async def _next_sign(self) -> None:
        await asyncio.sleep(0 if self._full_signatures else self.core.options.certify_interval)

    async def _next_certify(self) -> None:
        await asyncio.sleep(0 if self._full_certificates else self.core.options.certify_interval)

    async def _next_proof(self) -> None:
        await asyncio.sleep(0 if self._full_proofs else self.core.options.certify_interval)

    async def _lead(self) -> None:
        core = self.core
        holds_back = self.draining or time.monotonic() < max(self._hold_off, self._yield_until)
        if holds_back or core.lag or core.epoch is None or not self.quorum or self.shortage:
            return
        start = time.monotonic()
        self.ending = False
        term = await lead.campaign(core)
        if term is None:
            return
        self._term, self._term_since = term, time.monotonic()
        renewal = asyncio.create_task(self._renew(term, start))
        renewal.add_done_callback(lambda _: self.queue.arrival.set())
        try:
            await self._serve(term, renewal)
        except GoudError:
            await self._end_term(term, renewal)
            raise
        except asyncio.CancelledError:
            # As after a crash: the lease runs out by itself.
            renewal.cancel()
            self.queue.release(core.unsure_claims)
            raise
        finally:
            self._term = None
        await self._end_term(term, renewal)

    async def _end_term(self, term: Term, renewal: asyncio.Task[None]) -> None:
        self.leading = False
        self.queue.release(self.core.unsure_claims)
        renewal.cancel()
        await asyncio.wait({renewal})
        self.core.leader = None
        try:
            await self.core.sequencer.resign(term)
        except (Unavailable, OutcomeUnknown) as error:
            self._complain("resign", error)  # the lease runs out by itself
        else:
            self._go_on("resign")
        self._wake.set()

    async def _serve(self, term: Term, renewal: asyncio.Task[None]) -> None:
        _log.info("elected proposer, term %d", term.create_revision)
        while not await self._attempt(lambda: lead.prepare(self.core, term), renewal):
            if renewal.done() or self.ending:
                return
        self.leading = True
        while self.core.unresolved_block is not None or not (renewal.done() or self.ending):
            if self.core.unresolved_block is not None:
                await self._attempt(lambda: self._settle(term), renewal)
            elif not len(self.queue):
                await self.queue.arrival.wait()
                self.queue.arrival.clear()
            elif not await self._attempt(lambda: self._propose(term), renewal):
                await asyncio.sleep(_RETRY_PAUSE)

    async def _attempt(self, step: Callable[[], Awaitable[bool]], renewal: asyncio.Task[None]) -> bool:
        """Run a step of the term; failures that may pass are paused upon, those that end the term end the renewal."""
        try:
            outcome = await step()
        except CoordinationFull as error:
            self._note_full(error)
            self.queue.fail(error, self.core.unsure_claims)
        except (NotLeader, EpochMismatch, HeightTrimmed) as error:
            if self._refusal_log.allows(f"term {error.code}"):
                _log.warning("the term ends: %s", error)
            renewal.cancel()
            await asyncio.wait({renewal})
            return False
        except (lead.BlockRefused, HeightTaken) as error:
            self._complain("propose", error)
            self.queue.fail(error, self.core.unsure_claims)
        except (Unavailable, OutcomeUnknown) as error:
            self._complain("propose", error)
        else:
            self._go_on("propose")
            return outcome
        await asyncio.sleep(_RETRY_PAUSE)
        return False

    async def _settle(self, term: Term) -> bool:
        await lead.settle(self.core, term)
        return True

    async def _propose(self, term: Term) -> bool:
        core = self.core
        backlog = core.ledger.height - core.ledger.certified_height
        if backlog > core.options.max_uncertified:
            # The log must not fill up with blocks that no majority has confirmed to hold.
            self.queue.fail(
                Unavailable(f"{backlog} blocks await the signatures of a majority; start more validators"),
                self.core.unsure_claims,
            )
            return False
        start = time.monotonic()
        batch = await lead.propose(core, term, self.queue.waiting(), self._answer)
        self.queue.settle(batch)
        core.unsure_claims = frozenset()
        if batch.selection:
            self._hooks.created(time.monotonic() - start)
            self._hooks.batched(float(len(batch.selection)))
        core.last_answer = time.monotonic()
        return True

    def _answer(self, batch: Batch) -> None:
        """Answer what needs no block. Raises Unavailable when this node halted while the block was chosen."""
        if self.halted is not None:
            raise Unavailable("this node halted and orders nothing any more")
        self.queue.answer(batch)

    async def _renew(self, term: Term, valid_from: float) -> None:
        """Return when the lease is lost, or may be."""
        options = self.core.options
        while time.monotonic() - valid_from < options.lease_ttl:
            await asyncio.sleep(options.renew_interval)
            request_time = time.monotonic()
            try:
                if not await self.core.sequencer.renew(term):
                    return
            except (Unavailable, OutcomeUnknown) as error:
                self._complain("renew", error)
            else:
                self._go_on("renew")
                valid_from = request_time

    async def _maintain(self) -> None:
        full_seconds = 0.0 if self._full_since is None else time.monotonic() - self._full_since
        if self._full_since is not None and (self.leading or full_seconds > _FULL_PATIENCE):
            await lead.reclaim(self.core)
            self._full_since = None
            _log.warning("the log's space was reclaimed")
        self._watch_clock()
        self._watch_disk()
        if not self.leading:
            return
        await lead.trim(self.core)
        if time.monotonic() - self._compaction_time > self.core.options.compact_interval:
            self._compaction_time = time.monotonic()
            await self.core.sequencer.reclaim()

    def _watch_clock(self) -> None:
        """Give up the lead for a wrong clock, also while nothing is written; only warn while that is not enforced."""
        verdict = self.core.clock_verdict()
        if verdict.state == "right":
            self._go_on("clock")
            return
        if verdict.state == "wrong" or self.leading:
            self._complain("clock", ClockRefused(verdict.detail))
        if self.leading and not verdict.may_propose:
            self._end_soon()

    def _watch_disk(self) -> None:
        """Give up the lead before a write fails, if there is anybody to take it."""
        if self.leading and not self.core.options.alone and self.shortage:
            self._end_soon()

    def _note_full(self, error: CoordinationFull) -> None:
        if self._full_since is None:
            self._full_since = time.monotonic()
            _log.warning("%s", error)

    def _stand_back(self, name: str, error: StoreError) -> None:
        self._hold_off = time.monotonic() + 2 * self.core.options.lease_ttl
        # The watch of the disk logs a shortage, once for all loops.
        if not isinstance(error, StoreFull) or self.shortage is None:
            self._complain(name, error)

    def _refuse(self, error: EpochMismatch) -> None:
        if self.core.epoch is None and str(error) != self.refusal:
            self.refusal = str(error)
            _log.warning("not taking part: %s", error)

    def _halt(self, error: GoudError) -> None:
        self.halted = f"{error.code}: {error}"
        self.leading = False
        self._end_soon()
        _log.critical("halted: %s", error)
        self.queue.fail(Unavailable(f"this node halted ({error.code}); ask another"), self.core.unsure_claims)
        self.pulse.beat()

    def _complain(self, name: str, error: GoudError) -> None:
        """Log a failure when it begins, and once a minute while it lasts."""
        self._complaints.setdefault(name, set()).add(error.code)
        if not error.reported and self._complaint_log.goes_on(f"{name} {error.code}"):
            _log.warning("%s: %s", name, error)

    def _go_on(self, name: str) -> None:
        """What was complained about is over."""
        ends = [self._complaint_log.ends(f"{name} {code}") for code in self._complaints.pop(name, ())]
        seconds = max((end for end in ends if end is not None), default=None)
        if seconds is not None:
            _log.info("%s: goes on after %.1f s", name, seconds)
