"""RocksDB on disk: families, marker, schema, checkpoints, volume figures."""

from __future__ import annotations

from goud_node.store.base import FRESH_KEY, SCHEMA_KEY, SCHEMA_VERSION, Batch, Family, Store
from goud_node.store.database import RocksStore
from goud_node.store.memory import MemoryStore

__all__ = ["FRESH_KEY", "SCHEMA_KEY", "SCHEMA_VERSION", "Batch", "Family", "MemoryStore", "RocksStore", "Store"]
