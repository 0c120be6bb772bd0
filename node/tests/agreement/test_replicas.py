"""Three replicas on one log: embedded in this process, and on three real etcd members."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from goud_node.agreement.kv import Kv
from goud_node.chain.transactions import AccountCreate
from goud_node.errors import (
    AlreadyExists,
    CorruptStore,
    Draining,
    GoudError,
    InvalidTransaction,
    NotLeader,
    OutcomeUnknown,
    StoreFull,
    Unavailable,
)
from goud_node.replica.events import SlowSubscriber
from goud_node.replica.types import Hooks, Options

from .trio import NAMES, Shared, Trio, Writers, account

FAST = Options(tail_length=4, maintain_interval=0.2)


@pytest.fixture
async def trio(connect: Callable[[], Kv]) -> AsyncIterator[Trio]:
    trio = Trio(connect, FAST)
    for name in NAMES:
        trio.start(name)
    await trio.until(lambda: trio.proposer() and all(knows_its_place(trio, name) for name in NAMES))
    yield trio
    await trio.close()


def knows_its_place(trio: Trio, name: str) -> bool:
    status = trio.replica(name).status
    return status.synced and status.proposer == trio.proposer()


def followers(trio: Trio) -> list[str]:
    return [name for name in NAMES if name != trio.proposer()]


async def test_every_node_takes_writes_and_answers_alike(trio: Trio) -> None:
    receipts = [await trio.replica(name).submit(account(f"from-{name}")) for name in NAMES]
    assert [receipt.height for receipt in receipts] == [1, 2, 3]
    again = [await trio.replica(name).submit(account("from-node2")) for name in NAMES]
    assert {receipt.height for receipt in again} == {receipts[1].height}
    await trio.until(trio.agreed)


async def test_a_write_is_readable_where_it_was_sent(trio: Trio) -> None:
    for number in range(5):
        name = followers(trio)[number % 2]
        receipt = await trio.replica(name).submit(account(f"readable-{number}"))
        assert trio.members[name].ledger.height >= receipt.height


async def test_concurrent_writes_share_blocks(trio: Trio) -> None:
    calls = [trio.replica(NAMES[n % 3]).submit(account(f"many-{n % 150}")) for n in range(300)]
    receipts = await asyncio.gather(*calls)
    assert len({(receipt.height, receipt.index) for receipt in receipts}) == 150
    await trio.until(trio.agreed)
    assert trio.members["node1"].ledger.height < 150


async def test_invalid_transactions_are_refused_by_name(trio: Trio) -> None:
    with pytest.raises(InvalidTransaction):
        await trio.replica("node1").submit(b"nonsense")
    await trio.replica("node1").submit(account("taken"))
    other = AccountCreate("taken", bytes(32), bytes(32), 1).encode()
    for name in NAMES:
        with pytest.raises(AlreadyExists):
            await trio.replica(name).submit(other)


async def test_a_follower_does_not_pass_on_what_was_passed_to_it(trio: Trio) -> None:
    with pytest.raises(NotLeader) as raised:
        await trio.replica(followers(trio)[0]).submit(account("passed"), forward=False)
    assert trio.proposer() is not None
    assert raised.value.leader == trio.proposer()


async def test_a_hand_over_fails_no_request(trio: Trio) -> None:
    writers = Writers(trio, "handover")
    async with writers.writing(6):
        for _ in range(3):
            before = trio.proposer()
            assert before is not None
            await asyncio.sleep(0.3)
            assert await trio.replica(before).hand_over()
            await trio.until(trio.proposer)
            assert trio.proposer() != before
    assert writers.refused == 0
    await trio.until(trio.agreed)
    writers.check()


async def test_a_stopped_proposer_hands_over_and_ends_in_time(trio: Trio) -> None:
    writers = Writers(trio, "stop")
    async with writers.writing(4):
        await asyncio.sleep(0.3)
        name = trio.proposer()
        assert name is not None
        replica = trio.replica(name)
        assert await trio.stop(name) < 5
        assert replica.status.role == "stopped"
        with pytest.raises(Draining):
            await replica.submit(account("late"))
        await asyncio.sleep(0.5)
    await trio.until(trio.agreed)
    writers.check()


async def test_a_killed_proposer_costs_one_lease(trio: Trio, capsys: pytest.CaptureFixture[str]) -> None:
    writers = Writers(trio, "kill")
    async with writers.writing(6):
        await asyncio.sleep(0.5)
        name = trio.proposer()
        assert name is not None
        killed = time.monotonic()
        await trio.kill(name)
        await trio.until(lambda: any(t > killed + 0.2 for t in writers.times), 30)
        await asyncio.sleep(0.5)
        trio.start(name)
        await asyncio.sleep(0.5)
    await trio.until(trio.agreed)
    writers.check()
    silence = writers.longest_silence(killed)
    with capsys.disabled():
        print(f"\nwrites resumed {silence:.2f} s after the proposer was killed ({len(writers.acknowledged)} writes)")
    assert silence < 15


async def test_a_halted_proposer_leaves_the_lead_and_loses_nothing(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    name = trio.proposer()
    assert name is not None

    def broken(*_: object) -> None:
        raise CorruptStore("a flipped bit in 000042.sst")

    monkeypatch.setattr(trio.members[name].ledger, "append", broken)
    with pytest.raises((OutcomeUnknown, Unavailable)):
        await trio.replica(name).submit(account("halted"))
    await trio.until(lambda: trio.replica(name).status.role == "halted")
    status = trio.replica(name).status
    assert "000042.sst" in str(status.halted)
    assert not status.synced
    await trio.until(lambda: trio.proposer() not in (None, name))
    other = next(n for n in NAMES if n != name)
    receipt = await trio.replica(other).submit(account("halted"))
    assert receipt.height == 1, "the block was ordered already: it must not be ordered twice"


async def test_a_full_disk_gives_the_lead_away_and_recovers(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    name = trio.proposer()
    assert name is not None

    def full(*_: object) -> None:
        raise StoreFull("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(trio.members[name].ledger, "append", full)
        receipt = await trio.replica(next(n for n in NAMES if n != name)).submit(account("full"))
        await trio.until(lambda: trio.proposer() not in (None, name))
        await trio.replica(trio.proposer() or "").submit(account("meanwhile"))
    await trio.until(trio.agreed)
    assert (await trio.replica(name).submit(account("full"))).height == receipt.height
    assert trio.replica(name).status.halted is None


async def test_a_follower_with_a_full_disk_does_not_blame_the_quorum(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, proposer = followers(trio)[0], trio.proposer()
    assert proposer is not None

    def full(*_: object) -> None:
        raise StoreFull("no space left")

    replica = trio.replica(name)
    with monkeypatch.context() as patch:
        patch.setattr(trio.members[name].ledger, "append", full)
        await trio.replica(proposer).submit(account("not-followed"))
        await asyncio.sleep(1.5 * replica._core.options.quorum_timeout)
        status = replica.status
        assert (status.quorum, status.halted) == (True, None)
        assert status.height < trio.members[proposer].ledger.height
    await trio.until(trio.agreed)


async def test_a_proposer_short_of_space_gives_the_lead_away_before_a_write_fails(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = trio.proposer()
    assert name is not None
    with monkeypatch.context() as patch:
        patch.setattr(trio.replica(name)._duties, "_hooks", Hooks(shortage=lambda: "the disk is full"))
        await trio.until(lambda: trio.proposer() not in (None, name))
        for number in range(20):
            await trio.replica(name).submit(account(f"forwarded-{number}"))
            assert trio.proposer() != name
    await trio.until(trio.agreed)


async def test_a_wiped_node_refills_from_peers(trio: Trio) -> None:
    for number in range(30):
        await trio.replica("node1").submit(account(f"refill-{number}"))
    await trio.until(trio.agreed)
    name = followers(trio)[0]
    await trio.kill(name)
    for number in range(30, 60):
        await trio.replica(trio.proposer() or "").submit(account(f"refill-{number}"))
    trio.wipe(name)
    trio.start(name)
    await trio.until(trio.agreed)
    assert trio.members[name].ledger.height >= 60


async def test_an_observer_follows_and_never_leads(trio: Trio) -> None:
    trio.start("observer")
    await trio.replica("node1").submit(account("watched"))
    await trio.until(lambda: trio.members["observer"].ledger.certified_height >= 1)
    assert trio.replica("observer").status.role == "observer"
    receipt = await trio.replica("observer").submit(account("through-the-observer"))
    certificate = trio.members["node1"].ledger
    await trio.until(lambda: certificate.certificate(receipt.height) is not None)
    found = certificate.certificate(receipt.height)
    assert found is not None
    assert "observer" not in found.signatures


async def test_without_a_majority_of_signatures_the_log_does_not_fill(
    connect: Callable[[], Kv], monkeypatch: pytest.MonkeyPatch
) -> None:
    trio = Trio(connect, Options(max_uncertified=5, submit_deadline=1.0))
    alone = trio.start("node1")
    try:
        # The others show their clocks, and sign nothing.
        monkeypatch.setattr(alone.peers, "clocks", lambda: dict.fromkeys(NAMES[1:], trio.reading()))
        await trio.until(lambda: trio.proposer() == "node1")
        for number in range(6):
            await trio.replica("node1").submit(account(f"alone-{number}"))
        with pytest.raises(Unavailable, match="majority"):
            await trio.replica("node1").submit(account("one-too-many"))
        assert trio.members["node1"].ledger.height == 6
        trio.start("node2")
        await trio.until(trio.agreed)
        await trio.replica("node1").submit(account("again"))
    finally:
        await trio.close()


async def test_a_backlog_of_signatures_is_worked_off_without_pauses(connect: Callable[[], Kv]) -> None:
    """A node restarted under load has more to sign and certify than one batch, and more comes all the time."""
    trio = Trio(connect, Options(fetch_batch=4, certify_interval=3.0))
    try:
        for name in NAMES[:2]:
            trio.start(name)
        await trio.until(trio.proposer)
        for number in range(80):
            await trio.replica("node1").submit(account(f"more-{number}"))
        trio.start("node3")
        await trio.until(trio.agreed, 25)  # twenty batches: a minute, with a pause after each
    finally:
        await trio.close()


async def test_a_new_epoch_is_joined_by_those_who_match_it(trio: Trio) -> None:
    for number in range(3):
        await trio.replica("node1").submit(account(f"epoch-{number}"))
    await trio.until(trio.agreed)
    number = await trio.replica("node2").start_epoch()
    assert number == 2
    await trio.until(lambda: all(trio.replica(n).status.epoch == 2 for n in NAMES) and trio.proposer())
    await trio.replica("node3").submit(account("epoch-after"))
    await trio.until(trio.agreed)


async def test_a_node_from_another_history_is_refused(trio: Trio) -> None:
    other = Trio(Shared(), FAST, ("node1", "node2", "node3"))
    other.genesis = trio.genesis
    for name in ("node1", "node2"):
        other.start(name)
    try:
        await other.until(other.proposer)
        await other.replica("node1").submit(account("elsewhere"))
        await other.until(other.agreed)
    finally:
        await other.close()
    await trio.replica("node1").submit(account("here"))
    await trio.until(trio.agreed)
    await trio.kill("node2")
    trio.members["node2"].store = other.members["node2"].store
    trio.start("node2")
    await trio.until(lambda: trio.replica("node2").status.halted)
    status = trio.replica("node2").status
    assert not status.synced
    assert trio.members["node2"].ledger.height == 1
    if trio.proposer() == "node2":
        raise AssertionError("a node with another history leads")
    with pytest.raises(GoudError):
        await trio.replica("node2").submit(account("refused"), forward=False)


async def test_a_slow_subscriber_is_dropped(trio: Trio) -> None:
    trio.options = Options(subscriber_buffer=2)
    name = followers(trio)[0]
    await trio.kill(name)
    replica = trio.start(name).replica
    assert replica is not None
    slow, quick = replica.subscribe(), replica.subscribe()
    seen: list[int] = []

    async def read() -> None:
        async for block in quick:
            seen.append(block.height)  # noqa: PERF401  # the loop is cancelled, its list is kept

    reader = asyncio.create_task(read())
    for number in range(6):
        await trio.replica(name).submit(account(f"event-{number}"))
    await trio.until(lambda: len(seen) == 6)
    assert seen == sorted(seen)
    with pytest.raises(SlowSubscriber):
        async for _ in slow:
            pass
    reader.cancel()
    await asyncio.wait({reader})
