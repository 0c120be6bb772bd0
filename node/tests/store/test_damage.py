"""Every way a RocksDB directory was seen to break, and what an operator is told. Quiet loss is the only failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from goud_node.errors import CorruptStore, StoreError, StoreFull
from goud_node.store import FRESH_KEY, Batch, Family, RocksStore
from goud_node.store.floor import NAME as FLOOR

from .support import filled, flip, largest, put_rows


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, bytes]]:
    path = tmp_path_factory.mktemp("damage") / "rocksdb"
    return path, filled(path)


@pytest.fixture
def database(original: tuple[Path, dict[bytes, bytes]], tmp_path: Path) -> Path:
    path = tmp_path / "rocksdb"
    shutil.copytree(original[0], path)
    return path


def read_all(path: Path) -> dict[bytes, bytes]:
    store = RocksStore.open(path)
    try:
        return dict(store.scan(Family.BLOCKS))
    finally:
        store.close()


def test_the_undamaged_copy_holds_everything(database: Path, original: tuple[Path, dict[bytes, bytes]]) -> None:
    assert read_all(database) == original[1]


READS: dict[str, Callable[[RocksStore], object]] = {
    "scan": lambda store: list(store.scan(Family.BLOCKS)),
    "scan backwards": lambda store: list(store.scan(Family.BLOCKS, reverse=True)),
    "count": lambda store: store.count(Family.BLOCKS),
    "keys": lambda store: list(store.keys(Family.BLOCKS, b"")),
    "read through": lambda store: store.read_through(Family.BLOCKS, b"", b"\xff" * 9),
}


@pytest.mark.parametrize("read", READS)
def test_one_flipped_byte_in_a_data_file_ends_every_read_of_it_with_an_error(database: Path, read: str) -> None:
    file = largest(database, "*.sst")
    flip(file, file.stat().st_size // 2)
    store = RocksStore.open(database)
    try:
        with pytest.raises(CorruptStore, match=f"{file.name}|family blocks"):
            READS[read](store)
    finally:
        store.close()


@pytest.mark.parametrize("damage", ["footer", "truncated", "deleted"])
def test_a_broken_data_file_is_named_at_open(database: Path, damage: str) -> None:
    file = largest(database, "*.sst")
    if damage == "footer":
        flip(file, file.stat().st_size - 10)
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    with pytest.raises(CorruptStore, match=f"{file.name}"):
        read_all(database)


def test_a_flipped_byte_in_the_manifest_is_found_at_open(database: Path) -> None:
    file = largest(database, "MANIFEST-*")
    flip(file, file.stat().st_size // 2)
    with pytest.raises(CorruptStore):
        read_all(database)


def test_every_cut_of_the_manifest_shows(
    database: Path, original: tuple[Path, dict[bytes, bytes]], tmp_path: Path
) -> None:
    length = largest(database, "MANIFEST-*").stat().st_size
    refused = 0
    for percent in range(0, 100, 5):
        copy = tmp_path / f"cut-{percent}"
        shutil.copytree(database, copy)
        manifest = largest(copy, "MANIFEST-*")
        manifest.write_bytes(manifest.read_bytes()[: length * percent // 100])
        try:
            store = RocksStore.open(copy, read_only=True)
        except CorruptStore:
            refused += 1
            continue
        if dict(store.scan(Family.BLOCKS)) != original[1]:
            # It opens with a hole in the middle; the number of rows its files can hold is what tells.
            assert store.rows_at_most(Family.BLOCKS) < len(original[1])
            refused += 1
        store.close()
        assert {file.name for file in database.glob("*.sst")} == {file.name for file in copy.glob("*.sst")}
    assert refused > 10


def test_a_cut_after_a_clean_close_is_told_by_the_floor(database: Path, tmp_path: Path) -> None:
    RocksStore.open(database).close()
    manifest = largest(database, "MANIFEST-*")
    data = manifest.read_bytes()
    told_by_floor = 0
    for percent in range(5, 100, 5):
        copy = tmp_path / f"cut-{percent}"
        shutil.copytree(database, copy)
        (copy / manifest.name).write_bytes(data[: len(data) * percent // 100])
        try:
            RocksStore.open(copy).close()
        except CorruptStore as error:
            told_by_floor += FLOOR in str(error)
    assert told_by_floor > 0


def test_the_row_bound_is_exact_for_many_uneven_files(tmp_path: Path) -> None:
    # RocksDB's own estimate looks at twenty files and extrapolates, which would condemn a healthy database.
    store = RocksStore.create(tmp_path / "rocksdb")
    rows = 0
    for number in range(30):
        count = 1 if number < 25 else 200
        batch = Batch()
        for offset in range(count):
            batch.put(Family.BLOCKS, (rows + offset).to_bytes(8, "big"), bytes(20))
        store.write(batch)
        store.flush()
        rows += count
        assert store.rows_at_most(Family.BLOCKS) == rows
    put_rows(store, rows, 50)
    store.close()
    store = RocksStore.open(tmp_path / "rocksdb")
    assert store.rows_at_most(Family.BLOCKS) == rows + 50
    assert store.rows_at_most(Family.AUDIT) == 0
    store.close()


def test_a_missing_current_never_creates_and_deletes_nothing(database: Path) -> None:
    (database / "CURRENT").unlink()
    for log in database.glob("*.log"):
        log.unlink()
    before = {file.name: file.read_bytes() for file in database.iterdir()}
    with pytest.raises(CorruptStore, match="CURRENT is missing"):
        RocksStore.open(database)
    with pytest.raises(StoreError, match="exists already"):
        RocksStore.create(database)
    assert {file.name: file.read_bytes() for file in database.iterdir()} == before


def test_an_empty_current_is_corrupt(database: Path) -> None:
    (database / "CURRENT").write_bytes(b"")
    with pytest.raises(CorruptStore):
        read_all(database)


def test_a_wrong_path_stays_untouched(tmp_path: Path) -> None:
    with pytest.raises(CorruptStore, match="no readable database"):
        RocksStore.open(tmp_path / "typo")
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_byte_inside_the_log_is_not_taken_for_its_end(database: Path) -> None:
    log = largest(database, "*.log")
    flip(log, log.stat().st_size // 2)
    with pytest.raises(CorruptStore):
        read_all(database)


def test_a_log_torn_in_its_last_record_is_a_crash_and_opens(
    database: Path, original: tuple[Path, dict[bytes, bytes]]
) -> None:
    log = largest(database, "*.log")
    log.write_bytes(log.read_bytes()[:-40])
    rows = read_all(database)
    assert len(original[1]) - 10 <= len(rows) < len(original[1])


def _log_deleted(database: Path) -> None:
    largest(database, "*.log").unlink()


def _log_emptied(database: Path) -> None:
    largest(database, "*.log").write_bytes(b"")


def _log_cut(database: Path) -> None:
    log = largest(database, "*.log")
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 3])


def _manifest_cut(database: Path) -> None:
    manifest = largest(database, "MANIFEST-*")
    manifest.write_bytes(manifest.read_bytes()[: manifest.stat().st_size // 2])


@pytest.mark.parametrize("harm", [_log_deleted, _log_emptied, _log_cut, _manifest_cut])
def test_what_a_killed_node_loses_later_shows_by_the_floor_of_its_last_record(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    killed = tmp_path / "killed"
    store = RocksStore.create(tmp_path / "rocksdb")
    try:
        begun = Batch()
        begun.delete(Family.METADATA, FRESH_KEY)
        store.write(begun)
        for number in range(3):
            rows = put_rows(store, number * 100, 100)
            if harm is _manifest_cut:
                store.flush()
        store.floor.record()
        shutil.copytree(tmp_path / "rocksdb", killed)
    finally:
        store.close()
    shutil.copytree(killed, tmp_path / "whole")
    assert rows.items() <= read_all(tmp_path / "whole").items()
    harm(killed)
    with pytest.raises(CorruptStore):
        read_all(killed)


@pytest.mark.parametrize("failure", [StoreError, StoreFull])
def test_the_floor_is_never_above_what_was_synced(
    database: Path, monkeypatch: pytest.MonkeyPatch, failure: type[StoreError]
) -> None:
    """The library counts a write that failed, too; a floor above what a power cut leaves refuses a good database."""
    store = RocksStore.open(database)
    put_rows(store, 5000, 10)
    sequence = store.sequence_number()

    def fail(_batch: Batch) -> bool:
        raise failure("the disk broke off")

    with monkeypatch.context() as patched:
        patched.setattr(store, "_try_write", fail)
        patched.setattr(store, "sequence_number", lambda: sequence + 7)
        with pytest.raises(failure):
            put_rows(store, 6000, 10)
        patched.setattr(store, "_try_write", lambda _batch: True)
        store.write(Batch())  # how a node finds out whether the disk takes writes again: nothing is written
        store.floor.record()
    assert int((database / FLOOR).read_text()) == sequence
    store.close()


def test_a_floor_that_is_recorded_is_not_written_again(database: Path) -> None:
    store = RocksStore.open(database)
    put_rows(store, 5000, 10)
    store.floor.record()
    first = (database / FLOOR).stat()
    store.floor.record()
    assert (database / FLOOR).stat().st_ino == first.st_ino
    store.close()


@pytest.mark.parametrize(
    "content",
    [b"not a number", b"", b"0", b"0\n", b"\xb12\n", b"9" * 5000, "²\n".encode(), b"-1\n"],
    ids=lambda found: found[:9],
)
def test_a_damaged_floor_is_named(database: Path, content: bytes) -> None:
    (database / FLOOR).write_bytes(content)
    with pytest.raises(CorruptStore, match=FLOOR):
        read_all(database)


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("odd", [_folder, _loop, os.mkfifo])
def test_a_floor_that_is_no_file_is_named(database: Path, odd: Callable[[Path], None]) -> None:
    (database / FLOOR).unlink()
    odd(database / FLOOR)
    with pytest.raises(CorruptStore, match=FLOOR):
        read_all(database)
