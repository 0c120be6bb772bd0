"""First boot and every later boot of a data directory, as one call each."""

from __future__ import annotations

from pathlib import Path

from goud_node.chain.genesis import Genesis
from goud_node.chain.ledger import Ledger
from goud_node.store import SCHEMA_VERSION, RocksStore, marker, schema
from goud_node.store.schema import SchemaPolicy


def initialize_volume(data_dir: Path, genesis: Genesis) -> bool:
    """Make an empty directory this chain's volume: marker, database, genesis block. False when it was one already.

    An interrupted run is finished by the next one. A volume that has the marker but no database (moved aside to let
    the node refill) gets a new database. Raises WrongChain, ConfigurationError, StoreError; existing data stays.
    """
    marker.initialize(data_dir, genesis)
    path = marker.database_path(data_dir)
    is_new = not path.exists()
    if not is_new:
        _check_read_only(path, genesis)
    store = RocksStore.create(path) if is_new else RocksStore.open(path)
    try:
        Ledger(store, genesis)
    finally:
        store.close()
    return is_new


def open_volume(
    data_dir: Path, genesis: Genesis, *, must_be_mount: bool, policy: SchemaPolicy = SchemaPolicy.REFUSE
) -> tuple[RocksStore, Ledger]:
    """The store and ledger of an initialized volume; nothing is created on a wrong one. The caller closes the store.

    Raises ConfigurationError, UninitializedVolume, WrongChain, CorruptStore, SchemaMismatch, StoreError.
    """
    marker.require(data_dir, genesis.chain_id, must_be_mount)
    path = marker.database_path(data_dir)
    _check_read_only(path, genesis)
    store = schema.open_database(path, policy)
    try:
        return store, Ledger(store, genesis)
    except BaseException:
        store.close()
        raise


def _check_read_only(path: Path, genesis: Genesis) -> None:
    """Find damage before RocksDB opens for writing: that deletes every data file a cut MANIFEST no longer names."""
    store = RocksStore.open(path, read_only=True)
    try:
        if not store.fresh and schema.version(store) == SCHEMA_VERSION:
            Ledger(store, genesis)
    finally:
        store.close()
