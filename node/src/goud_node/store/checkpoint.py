"""Checkpoints: consistent copies of the database made of hard links, each leased for a time.

A checkpoint pins the space of files that compaction would free, so one that is not released expires. Its lease is
counted by the clock that only runs, and across restarts of the node; a restart of the machine ends it, because whoever
read the checkpoint ended as well.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from rocksdict import Checkpoint

from goud_node import clock
from goud_node.documents import Document, Line, Malformed, Seconds, read_file
from goud_node.errors import StoreError
from goud_node.store import durable, floor
from goud_node.store.database import RocksStore
from goud_node.store.failures import classified

_log = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MAX_TTL_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint at `path`; `expires_at` is Unix time in seconds, `files` maps names to sizes in bytes."""

    path: Path
    id: str
    expires_at: float
    files: dict[str, int]


class _Lease(Document):
    expires_at: Seconds
    boot_id: Line | None = None
    runs_until: Seconds = 0.0


class Checkpoints:
    """All checkpoints under one directory, which must be on the database's file system."""

    def __init__(
        self,
        store: RocksStore,
        directory: Path,
        running: Callable[[], float] = clock.running,
        boot_id: Callable[[], str] = clock.boot_id,
    ) -> None:
        self._store = store
        self._directory = directory
        self._running = running
        self._boot_id = boot_id
        self._lock = Lock()

    def create(self, checkpoint_id: str, ttl_seconds: float) -> CheckpointInfo:
        """Flush, then link. Blocks the calling thread for the flush, so call it from a worker thread.

        Raises StoreError for a bad or taken id, StoreFull when the disk is full; nothing is left behind then.
        """
        if not _ID.fullmatch(checkpoint_id):
            raise StoreError("A checkpoint id has 1 to 64 letters, digits, dashes and underscores.")
        if not 0 < ttl_seconds <= MAX_TTL_SECONDS:
            raise StoreError(f"A checkpoint lives more than 0 and at most {MAX_TTL_SECONDS} seconds.")
        with self._lock, durable.named(self._directory / checkpoint_id):
            return self._create(checkpoint_id, ttl_seconds)

    def _create(self, checkpoint_id: str, ttl_seconds: float) -> CheckpointInfo:
        path = self._directory / checkpoint_id
        if os.path.lexists(path) or os.path.lexists(self._lease(checkpoint_id)):
            raise StoreError(f"Checkpoint {checkpoint_id} exists already. Release it or choose another id.")
        self._prepare_directory()
        # Flushing inside the checkpoint would hold the interpreter lock for as long as the memory takes to write.
        self._store.flush()
        sequence = self._store.sequence_number()
        # Earlier releases know the wall clock's time only; for this one it is what people read.
        expires_at = time.time() + ttl_seconds
        lease = {"expires_at": expires_at, "boot_id": self._boot_id(), "runs_until": self._running() + ttl_seconds}
        durable.replace(self._lease(checkpoint_id), json.dumps(lease).encode())
        try:
            with classified(self._store.path):
                Checkpoint(self._store.database).create_checkpoint(str(path))
            durable.adopt_all(path, self._directory)
            floor.raise_to(path, sequence)
            return CheckpointInfo(path, checkpoint_id, expires_at, _files(path))
        except BaseException:
            self._remove(checkpoint_id)
            raise

    def _prepare_directory(self) -> None:
        durable.make_folder(self._directory)
        if self._directory.stat().st_dev != self._store.path.stat().st_dev:
            raise StoreError(
                f"{self._directory} and {self._store.path} are on different file systems: a checkpoint would copy the "
                "whole database. Put both on one volume."
            )

    def release(self, checkpoint_id: str) -> bool:
        """Remove the checkpoint and free what it pinned. False when there is none of this id."""
        if not _ID.fullmatch(checkpoint_id):
            return False
        with self._lock:
            if not _is_folder(self._directory / checkpoint_id):
                return False
            self._remove(checkpoint_id)
            return True

    def sweep(self) -> list[str]:
        """Remove checkpoints that are expired, unfinished or without a readable lease; their ids.

        What is no folder is no checkpoint and stays; one that cannot be removed keeps no other.
        """
        with self._lock:
            if not self._directory.is_dir():
                return []
            leases = self._leases()
            stale_ids = sorted(
                {entry.name for entry in self._directory.iterdir() if _is_folder(entry)}
                - {name for name, seconds in leases.items() if seconds > 0}
            )
            orphans = {name for name in leases if not _is_folder(self._directory / name)}
            return [name for name in sorted({*stale_ids, *orphans}) if self._sweep(name) and name in stale_ids]

    def _sweep(self, name: str) -> bool:
        try:
            self._remove(name)
        except (OSError, RecursionError) as error:  # folders within folders, a thousand deep
            _log.warning("the checkpoint %r could not be removed: %s", str(self._directory / name), error)
            return False
        return True

    def list(self) -> list[CheckpointInfo]:
        """Live checkpoints, by id."""
        with self._lock:
            return [
                CheckpointInfo(self._directory / name, name, time.time() + seconds, _files(self._directory / name))
                for name, seconds in sorted(self._leases().items())
                if _is_folder(self._directory / name)
            ]

    def _remove(self, name: str) -> None:
        for path in (self._directory / name, self._directory / f"{name}.tmp"):
            if _is_folder(path):
                shutil.rmtree(path)
        # The lease goes last: a removal that is interrupted is finished by the next sweep.
        self._lease(name).unlink(missing_ok=True)

    def _lease(self, checkpoint_id: str) -> Path:
        return self._directory / f"{checkpoint_id}.json"

    def _leases(self) -> dict[str, float]:
        """The seconds that each lease still has; none or fewer when it has ended."""
        if not self._directory.is_dir():
            return {}
        return {path.stem: self._remaining_seconds(path) for path in self._directory.glob("*.json") if path.is_file()}

    def _remaining_seconds(self, path: Path) -> float:
        try:
            lease = read_file(path, _Lease)
            if lease.boot_id is None:
                return lease.expires_at - time.time()  # of an earlier release
            return lease.runs_until - self._running() if lease.boot_id == self._boot_id() else 0.0
        except (OSError, Malformed):
            # An unreadable lease protects nothing: space must not stay pinned because a file is damaged.
            return 0.0


def _is_folder(path: Path) -> bool:
    """A link to one is somebody else's."""
    return path.is_dir() and not path.is_symlink()


def _files(path: Path) -> dict[str, int]:
    return {entry.name: entry.stat().st_size for entry in sorted(path.iterdir()) if entry.is_file()}
