"""First boot, later boots, and the damage found before anything is opened for writing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from goud_node.chain.ledger import Ledger
from goud_node.chain.volume import initialize_volume, open_volume
from goud_node.errors import CorruptStore, SchemaMismatch, UninitializedVolume, WrongChain
from goud_node.store import SCHEMA_KEY, Batch, Family, MemoryStore, RocksStore
from goud_node.store.schema import SchemaPolicy

from .support import GENESIS, certificate_of, simple_chain

CHAIN = simple_chain(40)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume of forty blocks in several data files, closed cleanly."""
    path = tmp_path_factory.mktemp("volume") / "data"
    assert initialize_volume(path, GENESIS)
    store, ledger = open_volume(path, GENESIS, must_be_mount=False)
    for start in range(0, 40, 10):
        part = CHAIN[start : start + 10]
        ledger.append(part, [certificate_of(block) for block in part])
        store.flush()
    store.close()
    return path


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


def reopened(data: Path, policy: SchemaPolicy = SchemaPolicy.REFUSE) -> int:
    store, ledger = open_volume(data, GENESIS, must_be_mount=False, policy=policy)
    height = ledger.height
    store.close()
    return height


def test_a_volume_is_made_once_and_keeps_its_chain(data: Path) -> None:
    assert not initialize_volume(data, GENESIS)
    assert reopened(data) == 40
    store = RocksStore.open(data / "rocksdb")
    assert not store.fresh
    store.close()


def test_an_empty_or_foreign_directory_is_never_started_on(data: Path, tmp_path: Path) -> None:
    empty = tmp_path / "mistyped"
    empty.mkdir()
    with pytest.raises(UninitializedVolume):
        reopened(empty)
    assert list(empty.iterdir()) == []
    other = replace(GENESIS, name="other")
    with pytest.raises(WrongChain):
        open_volume(data, other, must_be_mount=False)
    with pytest.raises(WrongChain):
        initialize_volume(data, other)
    assert reopened(data) == 40


def test_a_volume_whose_database_was_moved_aside_starts_at_genesis_only_by_init(data: Path) -> None:
    (data / "rocksdb").rename(data / "aside")
    with pytest.raises(CorruptStore, match="CURRENT is missing"):
        reopened(data)
    assert not (data / "rocksdb").exists()
    assert initialize_volume(data, GENESIS)
    assert reopened(data) == 0
    assert (data / "aside" / "CURRENT").exists()


def test_a_creation_interrupted_before_genesis_is_finished_later(tmp_path: Path) -> None:
    initialize_volume(tmp_path, GENESIS)
    shutil.rmtree(tmp_path / "rocksdb")
    RocksStore.create(tmp_path / "rocksdb").close()
    assert reopened(tmp_path) == 0


def test_every_cut_of_the_manifest_is_refused_before_a_data_file_is_deleted(data: Path, tmp_path: Path) -> None:
    (manifest,) = (data / "rocksdb").glob("MANIFEST-*")
    content = manifest.read_bytes()
    names = {file.name for file in (data / "rocksdb").glob("*.sst")}
    refused = kept = 0
    for percent in range(0, 100, 4):
        for floor in (True, False):
            copy = tmp_path / f"cut-{percent}-{floor}"
            shutil.copytree(data, copy)
            (copy / "rocksdb" / manifest.name).write_bytes(content[: len(content) * percent // 100])
            if not floor:
                (copy / "rocksdb" / "goud-sequence").unlink()
            try:
                # Only bytes that say nothing about data may be missing.
                assert reopened(copy) == 40
            except CorruptStore:
                refused += 1
                kept += {file.name for file in (copy / "rocksdb").glob("*.sst")} >= names
    assert kept == refused > 40


def test_a_database_without_its_floor_is_not_taken_for_whole(data: Path) -> None:
    """A MANIFEST that is cut to an earlier state opens cleanly: only the floor tells."""
    floor = data / "rocksdb" / "goud-sequence"
    content = floor.read_bytes()
    floor.unlink()
    with pytest.raises(CorruptStore, match=r"goud-sequence is missing.* echo") as error:
        reopened(data)
    floor.write_bytes(content)
    assert reopened(data) == 40
    floor.write_text(str(error.value).rpartition("echo ")[2].partition(" ")[0] + "\n")
    assert reopened(data) == 40


def test_a_cut_that_opens_cleanly_costs_no_data_file(tmp_path: Path) -> None:
    # No compaction has run, so every cut names only files that exist: opening for writing would delete the others.
    data = tmp_path / "data"
    store = RocksStore.create(data / "rocksdb")
    (data / "chain_id").write_text(GENESIS.chain_id)
    Ledger(store, GENESIS).append(CHAIN)
    store.close()
    (manifest,) = (data / "rocksdb").glob("MANIFEST-*")
    content = manifest.read_bytes()
    names = {file.name for file in (data / "rocksdb").glob("*.sst")}
    refused = kept = 0
    for percent in range(40, 100, 6):
        copy = tmp_path / f"cut-{percent}"
        shutil.copytree(data, copy)
        (copy / "rocksdb" / manifest.name).write_bytes(content[: len(content) * percent // 100])
        (copy / "rocksdb" / "goud-sequence").unlink()
        try:
            assert reopened(copy) == 40
        except CorruptStore:
            refused += 1
            kept += {file.name for file in (copy / "rocksdb").glob("*.sst")} >= names
    assert kept == refused > 5


def test_refuse_and_reinitialize_keep_every_block(data: Path) -> None:
    store = RocksStore.open(data / "rocksdb")
    batch = Batch()
    batch.put(Family.METADATA, SCHEMA_KEY, b"7")
    store.write(batch)
    store.close()
    with pytest.raises(SchemaMismatch):
        reopened(data)
    assert reopened(data, SchemaPolicy.REINITIALIZE) == 0
    (aside,) = data.glob("rocksdb.schema-7-*")
    old = RocksStore.open(aside)
    assert Ledger(old, GENESIS).height == 40
    old.close()


def test_a_failed_open_leaves_the_database_unlocked(data: Path) -> None:
    store = RocksStore.open(data / "rocksdb")
    batch = Batch()
    batch.put(Family.METADATA, b"state", b"\xff")
    store.write(batch)
    store.close()
    for _ in range(2):
        with pytest.raises(CorruptStore, match="state record"):
            reopened(data)
    RocksStore.open(data / "rocksdb").close()


def test_memory_and_rocksdb_hold_the_same_chain(data: Path) -> None:
    memory = MemoryStore()
    ledger = Ledger(memory, GENESIS)
    ledger.append(CHAIN, [certificate_of(block) for block in CHAIN])
    store = RocksStore.open(data / "rocksdb")
    for family in Family:
        assert dict(store.scan(family)) == dict(memory.scan(family))
    store.close()
