"""What counts as a full disk is a share of it, bounded, and never less than the database needs to resume."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goud_node.errors import StoreError
from goud_node.store import RocksStore, tuning
from goud_node.store.space import MOST_NEEDED, Room, Space

MIB, TIB = 1024**2, 1024**4


def room(capacity: int, free: int, percent: float = 95.0, *, refused: bool = False) -> Room:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_frsize=1, f_blocks=capacity, f_bavail=free))
        store = SimpleNamespace(refused=refused, failure=None)
        return Space(store, Path("/data"), percent).room()  # type: ignore[arg-type]  # only that field is read


@given(st.integers(MIB, 64 * TIB), st.floats(0.1, 100))
def test_what_is_needed_lets_the_database_resume_and_is_bounded(capacity: int, percent: float) -> None:
    needed = room(capacity, 0, percent).needed
    largest = max(tuning.WRITE_BUFFERS.values()) * tuning.room_of(capacity) / tuning.MEMTABLES_TOTAL
    assert largest <= tuning.room_of(capacity) <= needed <= MOST_NEEDED
    assert tuning.room_of(capacity) <= max(1, capacity * 0.05), "a small disk is not asked for more than its share"


@pytest.mark.parametrize(
    ("capacity", "percent", "needed"),
    [
        (90 * MIB, 95, 90 * MIB // 20),
        (90 * MIB, 99, 90 * MIB // 20),
        (90 * MIB, 50, 45 * MIB),
        (10 * 1024 * MIB, 95, 512 * MIB),
        (10 * 1024 * MIB, 100, 64 * MIB),
        (TIB, 95, MOST_NEEDED),
    ],
)
def test_the_threshold_by_size_of_the_disk(capacity: int, percent: float, needed: int) -> None:
    assert room(capacity, 0, percent).needed == pytest.approx(needed, abs=1)


@given(st.integers(MIB, TIB), st.booleans(), st.integers(-1, 1))
def test_a_shortage_names_path_and_figures(capacity: int, refused: bool, more: int) -> None:
    needed = room(capacity, 0).needed
    found = room(capacity, needed + more, refused=refused)
    if more >= 0 and not refused:
        assert found.shortage is None
    else:
        assert found.shortage is not None
        assert all(part in found.shortage for part in ("/data", str(needed + more), str(needed)))


def test_free_space_is_that_of_the_file_system_now(tmp_path: Path) -> None:
    store = RocksStore.create(tmp_path / "rocksdb")
    try:
        disk = os.statvfs(tmp_path)
        measured = Space(store, tmp_path, 95).room()
        assert measured.free == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.2)
        with pytest.raises(StoreError, match="Cannot measure"):
            Space(store, tmp_path / "gone", 95).room()
    finally:
        store.close()
