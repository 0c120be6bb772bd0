"""Volume figures are those of the disk, and cheap."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from goud_node.errors import StoreError
from goud_node.store import RocksStore
from goud_node.store.volume import Volume

from .support import put_rows


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksStore]:
    opened = RocksStore.create(tmp_path / "rocksdb")
    put_rows(opened, 0, 3000)
    opened.flush()
    put_rows(opened, 3000, 500)
    yield opened
    opened.close()


def test_figures_match_the_files_on_disk(store: RocksStore, tmp_path: Path) -> None:
    metrics = Volume(store, tmp_path).metrics()
    files = [file for file in store.path.iterdir() if file.suffix in {".sst", ".log"} or "MANIFEST" in file.name]
    assert metrics.disk_used_bytes == sum(file.stat().st_size for file in files) > 3500 * 200
    assert metrics.disk_used_mb == pytest.approx(metrics.disk_used_bytes / 2**20, abs=0.001)
    assert metrics.sst_file_count == len(list(store.path.glob("*.sst"))) > 0
    assert metrics.rocksdb_present
    assert metrics.mount_path == str(tmp_path)
    disk = os.statvfs(tmp_path)
    assert metrics.capacity_bytes == disk.f_blocks * disk.f_frsize


def test_figures_are_measured_again_only_after_their_age(store: RocksStore, tmp_path: Path) -> None:
    now = 0.0
    volume = Volume(store, tmp_path, max_age=5, clock=lambda: now)
    first = volume.metrics()
    put_rows(store, 4000, 100)
    now = 4.9
    assert volume.metrics() is first
    now = 5.0
    assert volume.metrics().disk_used_bytes > first.disk_used_bytes


def test_presence_is_looked_up_not_assumed(store: RocksStore, tmp_path: Path) -> None:
    (store.path / "CURRENT").rename(tmp_path / "CURRENT.away")
    assert not Volume(store, tmp_path).metrics().rocksdb_present
    (tmp_path / "CURRENT.away").rename(store.path / "CURRENT")


def test_an_unreadable_volume_is_an_error_not_a_zero(store: RocksStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Cannot measure"):
        Volume(store, tmp_path / "gone").metrics()
