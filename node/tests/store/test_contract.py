"""MemoryStore and RocksStore are the same store: the model in memory decides what is right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goud_node.errors import StoreError
from goud_node.store import Batch, Family, MemoryStore, RocksStore, Store

KEYS = st.binary(max_size=3)
CHANGES = st.lists(st.tuples(st.sampled_from(list(Family)), KEYS, st.none() | st.binary(max_size=4)), max_size=12)


@pytest.fixture(scope="module")
def rocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RocksStore]:
    store = RocksStore.create(tmp_path_factory.mktemp("contract") / "rocksdb")
    yield store
    store.close()


def batch_of(changes: list[tuple[Family, bytes, bytes | None]]) -> Batch:
    batch = Batch()
    for family, key, value in changes:
        if value is None:
            batch.delete(family, key)
        else:
            batch.put(family, key, value)
    return batch


def wiped(store: Store) -> None:
    batch = Batch()
    for family in Family:
        for key, _ in store.scan(family):
            batch.delete(family, key)
    store.write(batch)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(CHANGES, max_size=4),
    bounds=st.tuples(KEYS, st.none() | KEYS),
    reverse=st.booleans(),
    limit=st.none() | st.integers(0, 5),
)
def test_both_stores_answer_alike(
    rocks: RocksStore,
    writes: list[list[tuple[Family, bytes, bytes | None]]],
    bounds: tuple[bytes, bytes | None],
    reverse: bool,
    limit: int | None,
) -> None:
    wiped(rocks)
    memory = MemoryStore()
    wiped(memory)
    for changes in writes:
        for store in (rocks, memory):
            store.write(batch_of(changes))
    for family in Family:
        assert list(rocks.scan(family)) == list(memory.scan(family))
        for key, value in memory.scan(family):
            assert rocks.get(family, key) == value
        wanted = list(memory.scan(family, *bounds, reverse=reverse, limit=limit))
        assert list(rocks.scan(family, *bounds, reverse=reverse, limit=limit)) == wanted


@pytest.mark.parametrize("reverse", [False, True])
def test_long_scans_cross_chunks_without_gap_or_repeat(rocks: RocksStore, reverse: bool) -> None:
    wiped(rocks)
    batch = Batch()
    keys = [number.to_bytes(8, "big") for number in range(1500)]
    for key in keys:
        batch.put(Family.AUDIT, key, b"x")
    rocks.write(batch)
    expected = keys[3:1400][::-1] if reverse else keys[3:1400]
    assert [key for key, _ in rocks.scan(Family.AUDIT, keys[3], keys[1400], reverse=reverse)] == expected
    limited = rocks.scan(Family.AUDIT, keys[3], keys[1400], reverse=reverse, limit=1100)
    assert [key for key, _ in limited] == expected[:1100]


def test_batch_counts_and_the_last_change_wins() -> None:
    batch = batch_of([(Family.AUDIT, b"k", b"old"), (Family.AUDIT, b"k", b"new!"), (Family.AUDIT, b"gone", None)])
    assert (len(batch), batch.size) == (2, 9)
    assert batch.pending(Family.AUDIT, b"k") == b"new!"
    assert batch.touches(Family.AUDIT, b"gone")
    assert not batch.touches(Family.BLOCKS, b"k")


def test_a_copy_of_memory_is_independent_and_open() -> None:
    first = MemoryStore()
    first.write(batch_of([(Family.AUDIT, b"k", b"v")]))
    first.close()
    with pytest.raises(StoreError, match="closed"):
        first.get(Family.AUDIT, b"k")
    second = first.copy()
    second.write(batch_of([(Family.AUDIT, b"k", None)]))
    assert second.get(Family.AUDIT, b"k") is None
    assert first.copy().get(Family.AUDIT, b"k") == b"v"


def test_a_closed_database_says_so(tmp_path: Path) -> None:
    store = RocksStore.create(tmp_path / "rocksdb")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.get(Family.AUDIT, b"k")
    with pytest.raises(StoreError, match="is closed"):
        store.write(batch_of([(Family.AUDIT, b"k", b"v")]))
