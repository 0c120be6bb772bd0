"""Versions of the layout on disk. A mismatch never deletes anything."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from goud_node.errors import CorruptStore, SchemaMismatch
from goud_node.store import durable
from goud_node.store.base import SCHEMA_KEY, SCHEMA_VERSION, Batch, Family, Store
from goud_node.store.database import RocksStore

__all__ = ["MIGRATIONS", "SCHEMA_VERSION", "Migration", "SchemaPolicy", "open_database", "version"]

logger = logging.getLogger(__name__)

Migration = Callable[[Store], Batch]
"""Returns the changes from one version to the next; they are written together with the new version."""

MIGRATIONS: dict[int, Migration] = {}
"""Migrations forward, by the version they start from."""


class SchemaPolicy(StrEnum):
    """What to do about a version that no migration leads away from."""

    REFUSE = "refuse"
    REINITIALIZE = "reinitialize"


def version(store: Store) -> int:
    """The layout's version in this store. Raises CorruptStore when it is not recorded."""
    raw = store.get(Family.METADATA, SCHEMA_KEY)
    if raw is None or not raw.isdigit():
        raise CorruptStore(
            "The database does not say its schema version: data was lost, or this is not a Goud Chain database. "
            "Move it aside and restore a backup, or let the node refill from its peers on an empty volume."
        )
    return int(raw)


def open_database(
    path: Path,
    policy: SchemaPolicy,
    *,
    target_version: int = SCHEMA_VERSION,
    migrations: Mapping[int, Migration] = MIGRATIONS,
) -> RocksStore:
    """The database at `path`, migrated to `target_version`.

    When no migration leads there: SchemaMismatch under `refuse`; under `reinitialize` the database is renamed aside
    (kept whole, the log says where) and a new, empty one takes its place for the same genesis.
    """
    store = RocksStore.open(path)
    try:
        current_version = version(store)
        while current_version < target_version and current_version in migrations:
            _migrate(store, migrations[current_version], current_version)
            current_version += 1
    except BaseException:
        store.close()
        raise
    if current_version == target_version:
        return store
    store.close()
    if policy is SchemaPolicy.REFUSE:
        raise SchemaMismatch(
            f"{path} has schema version {current_version}, this node needs {target_version}, and no migration leads "
            "there. Nothing was changed. Run the version of the node that wrote it, or move the database aside and let "
            "the node refill."
        )
    return _reinitialize(path, current_version)


def _migrate(store: RocksStore, migration: Migration, old_version: int) -> None:
    logger.info("migrating %s from schema version %d to %d", store.path, old_version, old_version + 1)
    batch = migration(store)
    batch.put(Family.METADATA, SCHEMA_KEY, str(old_version + 1).encode())
    store.write(batch)


def _reinitialize(path: Path, old_version: int) -> RocksStore:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    old_path = path.with_name(f"{path.name}.schema-{old_version}-{stamp}")
    path.rename(old_path)
    durable.sync_directory(path.parent)
    logger.warning(
        "the database had schema version %d, unknown here: it is kept at %s, and a new one starts at genesis",
        old_version,
        old_path,
    )
    return RocksStore.create(path)
