"""The embedded log across restarts and failing disks."""

from __future__ import annotations

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.kv import Compare, Put
from goud_node.errors import CorruptStore, StoreFull
from goud_node.store.base import Batch, Family
from goud_node.store.memory import MemoryStore

A, B = b"/a", b"/b"


async def test_what_was_answered_survives_a_restart() -> None:
    store = MemoryStore()
    kv = EmbeddedKv(store)
    first = await kv.txn([], [Put(A, b"1")])
    await kv.txn([], [Put(A, b"2")])
    again = EmbeddedKv(store.copy())
    found = await again.range(A)
    assert [(f.value, f.create_revision) for f in found] == [(b"2", first.revision)]
    assert (await again.txn([Compare(A, "version", 2)], [Put(A, b"3")])).revision > found[0].mod_revision


async def test_what_hung_on_a_lease_does_not_survive_a_restart() -> None:
    store = MemoryStore()
    kv = EmbeddedKv(store)
    lease = await kv.grant(60)
    await kv.txn([], [Put(A, b"1", lease), Put(B, b"2")])
    again = EmbeddedKv(store.copy())
    assert await again.range(A) == []
    assert [found.value for found in await again.range(B)] == [b"2"]


async def test_a_lease_ends_by_the_clock() -> None:
    now = [0.0]
    kv = EmbeddedKv(MemoryStore(), monotonic=lambda: now[0])
    lease = await kv.grant(2)
    await kv.txn([], [Put(A, b"1", lease)])
    now[0] = 1.9
    assert await kv.keep_alive(lease)
    now[0] = 3.8
    assert len(await kv.range(A)) == 1
    now[0] = 3.9
    assert await kv.range(A) == []
    assert not await kv.keep_alive(lease)


class FullStore(MemoryStore):
    full = False

    def write(self, batch: Batch) -> None:
        if self.full:
            raise StoreFull("no space")
        super().write(batch)


async def test_what_the_disk_refused_did_not_happen() -> None:
    store = FullStore()
    kv = EmbeddedKv(store)
    await kv.txn([], [Put(A, b"1")])
    old = await kv.grant(60)
    store.full = True
    with pytest.raises(StoreFull):
        await kv.txn([Compare(A, "version", 1)], [Put(A, b"2"), Put(B, b"2")])
    store.full = False
    assert [found.value for found in await kv.range(A)] == [b"1"]
    assert await kv.range(B) == []
    assert (await kv.txn([Compare(A, "version", 1)], [Put(A, b"3")])).succeeded
    assert not await kv.keep_alive(old)
    assert await kv.grant(60) != old


@pytest.mark.parametrize("leases", [0, 1, 3])
@pytest.mark.parametrize("expired", [False, True])
async def test_a_full_disk_is_read_and_what_it_refused_did_not_happen_while_leases_live(
    leases: int, expired: bool
) -> None:
    store, now = FullStore(), [0.0]
    kv = EmbeddedKv(store, monotonic=lambda: now[0])
    await kv.txn([], [Put(A, b"1")])
    for number in range(leases):
        await kv.txn([], [Put(b"/leased/%d" % number, b"", await kv.grant(5))])
    store.full = True
    now[0] += 6 if expired else 0
    assert [found.value for found in await kv.range(A)] == [b"1"]
    for _ in range(2):
        with pytest.raises(StoreFull):
            await kv.txn([], [Put(A, b"2"), Put(B, b"2")])
        assert [found.value for found in await kv.range(A)] == [b"1"]
        assert await kv.range(B) == []
    assert [found.value for found in await EmbeddedKv(store).range(A)] == [b"1"], "a restart reads it as well"
    store.full = False
    await kv.txn([], [Put(B, b"3")])
    assert await kv.range(b"/leased/", b"/leased0") == []
    assert [found.value for found in await EmbeddedKv(store).range(A, b"/c")] == [b"1", b"3"]


async def test_a_damaged_log_is_named() -> None:
    store = MemoryStore()
    await EmbeddedKv(store).txn([], [Put(A, b"1")])
    batch = Batch()
    batch.put(Family.SEQUENCER, b"record/" + A, b"\xff\xff")
    store.write(batch)
    with pytest.raises(CorruptStore, match="embedded log"):
        EmbeddedKv(store)
