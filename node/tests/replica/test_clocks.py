"""A node's clock stamps blocks only while a majority of the validators has about the same time."""

from __future__ import annotations

import pytest

from goud_node import clock
from goud_node.agreement.embedded import EmbeddedKv
from goud_node.chain.genesis import Genesis, Validator
from goud_node.replica import lead, steps
from goud_node.replica.clocks import FRESH_SECONDS, TOLERANCE_MS, ClockRefused, Reading, judge
from goud_node.replica.core import Core
from goud_node.replica.duties import Duties
from goud_node.replica.queue import Queue
from goud_node.replica.types import Hooks
from goud_node.store.memory import MemoryStore

from .actors import ENTRIES, KEYS
from .test_steps import CLOCK_MS, Told, core_on

HOUR_MS = 3_600_000
NOW = 1000.0
OWN = 10 * HOUR_MS


def genesis_of(count: int) -> Genesis:
    names = [f"n{number}" for number in range(1, count + 1)]
    return Genesis("clocks", 0, tuple(Validator(name, KEYS[name].public) for name in names))


def told(offset_ms: int | None, age: float = 0.0) -> Reading:
    """A clock that is `offset_ms` ahead of this node's, read `age` seconds ago; None: its release does not say."""
    return Reading(None if offset_ms is None else OWN + offset_ms - int(age * 1000), NOW - age)


@pytest.mark.parametrize(
    ("count", "readings", "state", "may_propose"),
    [
        (1, {}, "right", True),
        (2, {}, "unread", False),
        (3, {}, "unread", False),
        (3, {"n2": told(0)}, "right", True),
        (3, {"n2": told(TOLERANCE_MS)}, "right", True),
        (3, {"n2": told(-TOLERANCE_MS)}, "right", True),
        (3, {"n2": told(TOLERANCE_MS + 1)}, "wrong", False),
        (3, {"n2": told(-HOUR_MS)}, "wrong", False),
        (3, {"n2": told(HOUR_MS), "n3": told(-100)}, "right", True),
        (3, {"n2": told(HOUR_MS), "n3": told(HOUR_MS)}, "wrong", False),
        (3, {"n2": told(0, FRESH_SECONDS - 1)}, "right", True),
        (3, {"n2": told(0, FRESH_SECONDS + 1)}, "unread", False),
        (3, {"n2": told(HOUR_MS, FRESH_SECONDS + 1), "n3": told(HOUR_MS, FRESH_SECONDS + 1)}, "unread", False),
        (3, {"observer": told(0), "stranger": told(0)}, "unread", False),
        (5, {"n2": told(0)}, "unread", False),
        (5, {"n2": told(0), "n3": told(0)}, "right", True),
        (5, {"n2": told(0), "n3": told(HOUR_MS)}, "wrong", False),
        # Until every validator's release sends its clock, the rule only warns.
        (3, {"n2": told(None)}, "unread", True),
        (3, {"n2": told(None, FRESH_SECONDS - 1), "n3": told(HOUR_MS)}, "wrong", True),
        # One that has not answered for so long is dead, or has another release by now.
        (3, {"n2": told(None, FRESH_SECONDS + 1), "n3": told(HOUR_MS)}, "wrong", False),
        (3, {"n2": told(None, FRESH_SECONDS + 1), "n3": told(0)}, "right", True),
        (3, {"n2": told(None, FRESH_SECONDS + 1)}, "unread", False),
        (3, {"n2": told(None), "n3": told(0)}, "right", True),
    ],
)
def test_the_rule(count: int, readings: dict[str, Reading], state: str, may_propose: bool) -> None:
    verdict = judge(genesis_of(count), "n1", OWN, readings, NOW)
    assert (verdict.state, verdict.may_propose) == (state, may_propose)
    assert verdict.detail.endswith((".", "clock."))


async def ready() -> tuple[Core, Told]:
    kv, peers = EmbeddedKv(MemoryStore()), Told()
    core = core_on(kv, peers)
    await steps.join(core)
    return core, peers


@pytest.mark.parametrize("offset_ms", [-365 * 24 * HOUR_MS, -6000, 6000, 365 * 24 * HOUR_MS])
async def test_a_wrong_clock_neither_campaigns_nor_commits(offset_ms: int) -> None:
    core, _ = await ready()
    term = await lead.campaign(core)
    assert term is not None
    assert await lead.prepare(core, term)
    core.clock = lambda: CLOCK_MS + offset_ms
    with pytest.raises(ClockRefused, match="put right"):
        await lead.propose(core, term, [ENTRIES[0]])
    assert (core.unresolved_block, (await core.sequencer.state()).head) == (None, core.head), "nothing was ordered"
    await core.sequencer.resign(term)
    core.leader = None
    with pytest.raises(ClockRefused):
        await lead.campaign(core)
    core.clock = lambda: CLOCK_MS
    term = await lead.campaign(core)
    assert term is not None
    await lead.prepare(core, term)
    assert await lead.propose(core, term, [ENTRIES[0]]) is not None
    assert core.ledger.tip.timestamp_ms - CLOCK_MS < TOLERANCE_MS


@pytest.mark.parametrize("age", [None, FRESH_SECONDS + 1], ids=["no reading", "an old reading"])
async def test_without_readings_of_a_majority_nothing_is_proposed(age: float | None) -> None:
    core, peers = await ready()
    term = await lead.campaign(core)
    assert term is not None
    assert await lead.prepare(core, term)
    readings = peers.shown
    peers.shown = {} if age is None else {name: Reading(CLOCK_MS, clock.running() - age) for name in KEYS}
    with pytest.raises(ClockRefused, match="majority is 2"):
        await lead.propose(core, term, [ENTRIES[0]])
    assert (core.unresolved_block, (await core.sequencer.state()).head) == (None, core.head), "nothing was ordered"
    peers.shown = readings
    assert (await lead.propose(core, term, [ENTRIES[0]])).receipts


@pytest.mark.parametrize("clock_ms", [CLOCK_MS + HOUR_MS, None], ids=["every release sends its clock", "one does not"])
async def test_a_wrong_clock_costs_the_lead_only_once_every_release_sends_its_own(
    clock_ms: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    core, peers = await ready()
    peers.shown = {"n2": Reading(clock_ms, clock.running()), "n3": Reading(CLOCK_MS + HOUR_MS, clock.running())}
    duties = Duties(core, Queue(8, 1 << 20), Hooks())
    duties.leading = True
    duties._watch_clock()
    assert duties.ending == (clock_ms is not None)
    (line,) = [record.getMessage() for record in caplog.records]
    assert ("only warns, as the release of n2" in line) == (clock_ms is None)


async def test_a_campaign_beside_an_earlier_release_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer would cost a fail-over a second, for a rule that only warns."""
    core, peers = await ready()
    peers.shown = {"n2": Reading(None, clock.running())}

    async def asked() -> dict[str, int]:
        raise AssertionError("asked")

    monkeypatch.setattr(peers, "heights", asked)
    assert await lead.campaign(core) is not None


async def test_clocks_are_asked_for_before_a_campaign() -> None:
    core, peers = await ready()
    peers.shown = {}
    with pytest.raises(ClockRefused, match="majority is 2"):
        await lead.campaign(core)
    peers.shows_when_asked = {"n3": Reading(CLOCK_MS, clock.running())}
    assert await lead.campaign(core) is not None
