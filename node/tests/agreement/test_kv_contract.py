"""The same cases against every implementation of `Kv`: what the model proves on one must hold on all."""

from __future__ import annotations

import asyncio

import pytest

from goud_node.agreement.kv import Compare, Delete, Kv, Put, prefix_end
from goud_node.errors import GoudError

A, B, C = b"/t/a", b"/t/b", b"/t/c"


async def value(kv: Kv, key: bytes) -> bytes | None:
    found = await kv.range(key)
    return found[0].value if found else None


async def test_put_if_absent_happens_once(kv: Kv) -> None:
    first = await kv.txn([Compare(A, "version", 0)], [Put(A, b"1")])
    second = await kv.txn([Compare(A, "version", 0)], [Put(A, b"2")])
    assert (first.succeeded, second.succeeded) == (True, False)
    assert await value(kv, A) == b"1"


async def test_compares_every_kind(kv: Kv) -> None:
    made = (await kv.txn([], [Put(A, b"1")])).revision
    changed = (await kv.txn([], [Put(A, b"2")])).revision
    assert changed > made
    for kind, good, bad in (
        ("version", 2, 1),
        ("create_revision", made, changed),
        ("mod_revision", changed, made),
        ("value", b"2", b"1"),
    ):
        assert (await kv.txn([Compare(A, kind, good)], [])).succeeded, kind  # type: ignore[arg-type]  # a literal
        assert not (await kv.txn([Compare(A, kind, bad)], [])).succeeded, kind  # type: ignore[arg-type]  # a literal
    assert not (await kv.txn([Compare(B, "value", b"")], [])).succeeded


async def test_create_revision_is_the_revision_of_the_creating_txn(kv: Kv) -> None:
    txn = await kv.txn([], [Put(A, b"1"), Put(B, b"1")])
    assert [found.create_revision for found in await kv.range(A, C)] == [txn.revision, txn.revision]
    await kv.txn([], [Delete(A)])
    again = await kv.txn([], [Put(A, b"1")])
    assert again.revision > txn.revision
    assert (await kv.range(A))[0].create_revision == again.revision


async def test_all_or_nothing(kv: Kv) -> None:
    await kv.txn([], [Put(A, b"1")])
    refused = await kv.txn([Compare(A, "version", 1), Compare(B, "version", 1)], [Put(A, b"2"), Delete(C)])
    assert not refused.succeeded
    assert await value(kv, A) == b"1"


async def test_range_is_ordered_limited_and_may_leave_out_values(kv: Kv) -> None:
    await kv.txn([], [Put(C, b"3"), Put(A, b"1"), Put(B, b"2")])
    assert [found.key for found in await kv.range(b"/t/", prefix_end(b"/t/"))] == [A, B, C]
    assert [found.value for found in await kv.range(B, prefix_end(b"/t/"), 1)] == [b"2"]
    assert [found.value for found in await kv.range(A, C, keys_only=True)] == [b"", b""]


async def test_delete_range(kv: Kv) -> None:
    await kv.txn([], [Put(A, b"1"), Put(B, b"2"), Put(C, b"3")])
    await kv.txn([], [Delete(A, C)])
    assert [found.key for found in await kv.range(b"/t/", prefix_end(b"/t/"))] == [C]


async def test_a_revoked_lease_takes_its_keys(kv: Kv) -> None:
    lease = await kv.grant(60)
    await kv.txn([], [Put(A, b"1", lease), Put(B, b"2")])
    assert [(entry.key, entry.lease) for entry in await kv.range(A, C)] == [(A, lease), (B, 0)]
    assert await kv.keep_alive(lease)
    await kv.revoke(lease)
    assert await value(kv, A) is None
    assert await value(kv, B) == b"2"
    assert not await kv.keep_alive(lease)
    await kv.revoke(lease)


@pytest.mark.parametrize("again", ["none", "another"])
async def test_a_key_that_was_put_again_does_not_hang_on_its_former_lease(kv: Kv, again: str) -> None:
    former = await kv.grant(60)
    present = 0 if again == "none" else await kv.grant(60)
    await kv.txn([], [Put(A, b"1", former)])
    await kv.txn([], [Put(A, b"2", present)])
    await kv.revoke(former)
    assert await value(kv, A) == b"2"


async def test_a_put_on_a_lost_lease_refuses_the_whole_txn(kv: Kv) -> None:
    lease = await kv.grant(60)
    await kv.revoke(lease)
    with pytest.raises(GoudError):
        await kv.txn([], [Put(B, b"2"), Put(A, b"1", lease)])
    assert await value(kv, B) is None


async def test_a_lease_that_is_not_renewed_ends(kv: Kv) -> None:
    lease = await kv.grant(2)
    await kv.txn([], [Put(A, b"1", lease)])
    for _ in range(100):
        await asyncio.sleep(0.1)
        if await value(kv, A) is None:
            break
    assert await value(kv, A) is None
    assert not await kv.keep_alive(lease)


async def test_changes_hint_at_writes(kv: Kv) -> None:
    seen = asyncio.Event()

    async def watch() -> None:
        async for _ in kv.changes(A, B):
            seen.set()

    task = asyncio.create_task(watch())
    try:
        for attempt in range(50):
            await kv.txn([], [Put(A, b"%d" % attempt)])
            try:
                async with asyncio.timeout(0.1):
                    await seen.wait()
                    break
            except TimeoutError:
                continue
        assert seen.is_set()
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_compaction_keeps_the_present(kv: Kv) -> None:
    for number in range(5):
        await kv.txn([], [Put(A, b"%d" % number)])
    await kv.compact_and_reclaim()
    await kv.compact_and_reclaim()
    assert await value(kv, A) == b"4"
