"""Checkpoints for the operator: made in a worker thread, described by what is really in them, swept when expired."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from goud_node.chain.ledger import STATE_KEY, LedgerState
from goud_node.errors import CorruptStore, GoudError
from goud_node.store import Family, RocksStore, durable
from goud_node.store.checkpoint import CheckpointInfo, Checkpoints

_log = logging.getLogger(__name__)
_SWEEP_SECONDS: Final = 15.0
_T = TypeVar("_T")


@dataclass(frozen=True)
class Described:
    """A checkpoint and the chain it holds."""

    info: CheckpointInfo
    height: int
    tip_hash: bytes

    def document(self) -> dict[str, Any]:
        """As JSON: sizes in bytes, expiry in Unix seconds."""
        return {
            "id": self.info.id,
            "path": str(self.info.path),
            "height": self.height,
            "tip_hash": self.tip_hash.hex(),
            "expires": self.info.expires_at,
            "files": self.info.files,
        }


class OperatorCheckpoints:
    """Checkpoints without a pause of the event loop."""

    def __init__(self, checkpoints: Checkpoints, *, ttl: float) -> None:
        self._checkpoints = checkpoints
        self._ttl = ttl
        # A sweep must not take the probe's directory for a stale checkpoint.
        self._lock = threading.Lock()

    async def create(self, checkpoint_id: str | None, ttl: float | None) -> Described:
        """A new checkpoint. Raises StoreError for a taken id, StoreFull."""
        name = checkpoint_id or f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        return await asyncio.to_thread(self._create, name, self._ttl if ttl is None else ttl)

    async def release(self, checkpoint_id: str) -> bool:
        """False when there is none of that id."""
        return await asyncio.to_thread(self._with_lock(lambda: self._checkpoints.release(checkpoint_id)))

    async def listed(self) -> list[CheckpointInfo]:
        return await asyncio.to_thread(self._with_lock(self._checkpoints.list))

    async def sweep_forever(self) -> None:
        """Drop expired checkpoints until cancelled; the first sweep clears what a crash left."""
        while True:
            try:
                expired_ids = await asyncio.to_thread(self._with_lock(self._checkpoints.sweep))
            except (GoudError, OSError) as error:
                _log.warning("checkpoints could not be swept: %s", error)
            else:
                if expired_ids:
                    _log.warning("checkpoints expired without release and were removed: %s", ", ".join(expired_ids))
            await asyncio.sleep(_SWEEP_SECONDS)

    def _with_lock(self, work: Callable[[], _T]) -> Callable[[], _T]:
        def run() -> _T:
            with self._lock:
                return work()

        return run

    def _create(self, name: str, ttl: float) -> Described:
        with self._lock:
            info = self._checkpoints.create(name, ttl)
            try:
                with durable.named(info.path):
                    state = _state_of(info.path)
            except BaseException:
                self._checkpoints.release(name)
                raise
        return Described(info, state.height, state.tip_hash)


def _state_of(path: Path) -> LedgerState:
    """The ledger state inside a checkpoint.

    Writes go on while it is made, so the node's own height is not the checkpoint's. Opening a database adds files to
    its directory, so a twin is opened: data files linked (they never change), the small ones copied.
    """
    twin = path.with_name(f"{path.name}.probe")
    twin.mkdir()
    try:
        for entry in path.iterdir():
            if entry.suffix == ".sst":
                os.link(entry, twin / entry.name)
            else:
                shutil.copyfile(entry, twin / entry.name)
        store = RocksStore.open(twin, read_only=True)
        try:
            raw = store.get(Family.METADATA, STATE_KEY)
        finally:
            store.close()
    finally:
        shutil.rmtree(twin)
    if raw is None:
        raise CorruptStore(f"The checkpoint {path} holds no ledger state: it is unusable and was removed.")
    return LedgerState.decode(raw)
