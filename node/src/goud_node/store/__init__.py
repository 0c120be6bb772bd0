"""RocksDB on disk: families, marker, schema, checkpoints, volume figures."""

from __future__ import annotations
