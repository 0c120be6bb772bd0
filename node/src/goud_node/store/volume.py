"""Figures of the data volume, cheap enough for every scrape."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from goud_node.errors import StoreError
from goud_node.store.database import RocksStore

MAX_AGE_SECONDS = 5.0
MIB = 1024 * 1024


@dataclass(frozen=True)
class VolumeMetrics:
    """`disk_used_bytes` counts this database's files in use, `disk_used_mb` is that in MiB.

    The capacity is the file system's, in bytes; what is free of it, `space` measures.
    """

    disk_used_bytes: int
    disk_used_mb: float
    mount_path: str
    rocksdb_present: bool
    sst_file_count: int
    capacity_bytes: int


class Volume:
    """Measures at most every `max_age` seconds; costs one directory listing and RocksDB's own list of files."""

    def __init__(
        self,
        store: RocksStore,
        data_dir: Path,
        *,
        max_age: float = MAX_AGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._data_dir = data_dir
        self._max_age = max_age
        self._clock = clock
        self._lock = Lock()
        self._latest_metrics: VolumeMetrics | None = None
        self._measured_at = 0.0

    def metrics(self) -> VolumeMetrics:
        """Raises StoreError when the volume cannot be read: a figure is never made up."""
        with self._lock:
            now = self._clock()
            if self._latest_metrics is None or now - self._measured_at >= self._max_age:
                self._latest_metrics = self._measure()
                self._measured_at = now
            return self._latest_metrics

    def _measure(self) -> VolumeMetrics:
        files = self._store.live_files()
        try:
            used_bytes = sum(int(file["size"]) for file in files) + _log_bytes(self._store.path)
            disk = os.statvfs(self._data_dir)
        except OSError as error:
            raise StoreError(f"Cannot measure the volume {self._data_dir}: {error.strerror}.") from error
        return VolumeMetrics(
            disk_used_bytes=used_bytes,
            disk_used_mb=round(used_bytes / MIB, 3),
            mount_path=str(self._data_dir),
            rocksdb_present=(self._store.path / "CURRENT").is_file(),
            sst_file_count=len(files),
            capacity_bytes=disk.f_blocks * disk.f_frsize,
        )


def _log_bytes(path: Path) -> int:
    """Write-ahead logs (the memory not yet in data files) and the manifest."""
    with os.scandir(path) as entries:
        return sum(
            entry.stat().st_size
            for entry in entries
            if entry.name.endswith(".log") or entry.name.startswith("MANIFEST")
        )
