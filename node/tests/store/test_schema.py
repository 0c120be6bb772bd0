"""A schema mismatch migrates, refuses, or moves aside. It never deletes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from goud_node.errors import CorruptStore, SchemaMismatch
from goud_node.store import SCHEMA_KEY, SCHEMA_VERSION, Batch, Family, RocksStore, Store, schema
from goud_node.store.schema import SchemaPolicy, open_database

from .support import put_rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store = RocksStore.create(tmp_path / "rocksdb")
    put_rows(store, 0, 10)
    store.close()
    return tmp_path / "rocksdb"


def set_version(path: Path, value: bytes | None) -> None:
    store = RocksStore.open(path)
    batch = Batch()
    if value is None:
        batch.delete(Family.METADATA, SCHEMA_KEY)
    else:
        batch.put(Family.METADATA, SCHEMA_KEY, value)
    store.write(batch)
    store.close()


def test_the_current_version_opens(path: Path) -> None:
    store = open_database(path, SchemaPolicy.REFUSE)
    assert schema.version(store) == SCHEMA_VERSION
    store.close()


def test_refuse_changes_nothing(path: Path) -> None:
    set_version(path, b"99")
    with pytest.raises(SchemaMismatch, match=r"version 99.*Nothing was changed"):
        open_database(path, SchemaPolicy.REFUSE)
    assert [entry.name for entry in path.parent.iterdir()] == ["rocksdb"]
    store = RocksStore.open(path)
    assert len(list(store.scan(Family.BLOCKS))) == 10
    store.close()


def test_reinitialize_keeps_the_old_database_whole_and_says_where(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    set_version(path, b"99")
    with caplog.at_level(logging.WARNING):
        store = open_database(path, SchemaPolicy.REINITIALIZE)
    assert store.fresh
    assert list(store.scan(Family.BLOCKS)) == []
    assert schema.version(store) == SCHEMA_VERSION
    store.close()
    (aside,) = path.parent.glob("rocksdb.schema-99-*")
    assert str(aside) in caplog.text
    old = RocksStore.open(aside)
    assert len(list(old.scan(Family.BLOCKS))) == 10
    old.close()


@pytest.mark.parametrize("policy", list(SchemaPolicy))
def test_migrations_run_forward_one_by_one(path: Path, policy: SchemaPolicy) -> None:
    seen: list[int] = []

    def step(number: int) -> schema.Migration:
        def migrate(store: Store) -> Batch:
            seen.append(schema.version(store))
            batch = Batch()
            batch.put(Family.METADATA, b"note", str(number).encode())
            return batch

        return migrate

    store = open_database(path, policy, target_version=3, migrations={1: step(1), 2: step(2)})
    assert seen == [1, 2]
    assert schema.version(store) == 3
    assert store.get(Family.METADATA, b"note") == b"2"
    assert len(list(store.scan(Family.BLOCKS))) == 10
    store.close()


def test_a_failed_migration_leaves_the_version_and_releases_the_lock(path: Path) -> None:
    def migrate(_: Store) -> Batch:
        raise CorruptStore("row 7 cannot be read")

    with pytest.raises(CorruptStore, match="row 7"):
        open_database(path, SchemaPolicy.REINITIALIZE, target_version=2, migrations={1: migrate})
    store = RocksStore.open(path)
    assert schema.version(store) == 1
    store.close()


@pytest.mark.parametrize("value", [None, b"one"])
def test_no_version_means_lost_data_under_either_policy(path: Path, value: bytes | None) -> None:
    set_version(path, value)
    for policy in SchemaPolicy:
        with pytest.raises(CorruptStore, match="schema version"):
            open_database(path, policy)
    assert [entry.name for entry in path.parent.iterdir()] == ["rocksdb"]
