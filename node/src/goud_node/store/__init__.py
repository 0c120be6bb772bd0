"""RocksDB on disk: families, marker, schema, checkpoints, volume figures."""

from __future__ import annotations

from goud_node.store.base import Batch, Family, Store
from goud_node.store.database import RocksStore
from goud_node.store.memory import MemoryStore

__all__ = ["Batch", "Family", "MemoryStore", "RocksStore", "Store"]
