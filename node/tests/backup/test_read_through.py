"""One flipped byte, in any table of any family, wherever it comes from: no backup is made of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from goud_backup import reading
from goud_backup.plan import Wish
from goud_backup.reading import merged
from goud_backup.repository.manifest import canonical
from goud_backup.repository.repository import Repository
from goud_node.errors import CorruptStore
from goud_node.store import Batch, Family, RocksStore

from .support import backup, grow, restore, tip_of

Prepare = Callable[[Repository, Path, Path], tuple[Path, Path]]
"""Given a repository, a data directory and a folder: the source of the backup that meets damage, and its cache."""


def first(_: Repository, data: Path, folder: Path) -> tuple[Path, Path]:
    return data, folder / "cache"


def second(repository: Repository, data: Path, folder: Path) -> tuple[Path, Path]:
    """Another node at the same height, on another host."""
    other = shutil.copytree(data, folder / "other")
    backup(repository, data, folder / "cache")
    return other, folder / "other cache"


def lagging(repository: Repository, data: Path, folder: Path) -> tuple[Path, Path]:
    """A node below the last backup: none of its rows are new."""
    other = shutil.copytree(data, folder / "other")
    backup(repository, data, folder / "cache")
    grow(data, 20)
    backup(repository, data, folder / "cache")
    return other, folder / "other cache"


def compacted(repository: Repository, data: Path, folder: Path) -> tuple[Path, Path]:
    """The very rows of the last backup, in files that were written anew."""
    backup(repository, data, folder / "cache")
    store = RocksStore.open(data / "rocksdb")
    for family in Family:
        store._family(family).compact_range(None, None)
    store.close()
    return data, folder / "cache"


@pytest.fixture(scope="module")
def names() -> list[Family]:
    return [family for family in Family if family is not Family.SEQUENCER]


@pytest.mark.parametrize("prepare", [first, second, lagging, compacted])
def test_a_flipped_byte_in_any_new_table_is_found_and_named(
    repository: Repository, data: Path, tmp_path: Path, prepare: Prepare, names: list[Family]
) -> None:
    source, cache = prepare(repository, data, tmp_path)
    store = RocksStore.open(source / "rocksdb", read_only=True)
    tables = store.tables()
    store.close()
    assert {table.family for table in tables.values()} == set(names)
    before = repository.manifest_keys()
    known = cache.exists() and shutil.copytree(cache, tmp_path / "known")
    for name, table in sorted(tables.items()):
        if known and prepare is compacted and table.first == table.last:
            continue  # a file of one row that compaction leaves alone: it is stored, and was read
        path = source / "rocksdb" / name
        whole = path.read_bytes()
        # The first bytes are rows. What lies behind them, such as filters, harms nobody when it is damaged.
        path.write_bytes(whole[:9] + bytes([whole[9] ^ 0xFF]) + whole[10:])
        with pytest.raises(CorruptStore, match=re.escape(name)):
            backup(repository, source, cache)
        assert repository.manifest_keys() == before, "nothing was recorded"
        path.write_bytes(whole)
    # What was stored but not read through by the runs that failed is read now.
    made = backup(repository, source, cache)
    assert made.chain.height == tip_of(source).height
    assert restore(repository, tmp_path / "back", Wish(made.id)).height == made.chain.height


def test_damage_that_no_backup_was_made_of_is_found_by_each_run_after_it(
    repository: Repository, data: Path, cache: Path
) -> None:
    """What a run stored of a file whose reading failed is known to the next one, but not as read."""
    for path in sorted((data / "rocksdb").glob("*.sst")):
        whole = path.read_bytes()
        path.write_bytes(whole[:9] + bytes([whole[9] ^ 0xFF]) + whole[10:])
        for _ in range(3):
            with pytest.raises(CorruptStore, match=re.escape(path.name)):
                backup(repository, data, cache)
        assert repository.manifest_keys() == []
        path.write_bytes(whole)


@pytest.mark.parametrize("position", [n / 10 for n in range(10)])
def test_wherever_a_byte_is_flipped_a_backup_that_is_made_can_be_restored(
    repository: Repository, data: Path, cache: Path, tmp_path: Path, position: float
) -> None:
    for path in sorted((data / "rocksdb").glob("*.sst")):
        whole = path.read_bytes()
        at = int(len(whole) * position)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            backup(repository, data, cache)
        except CorruptStore:
            assert not (tmp_path / "back").exists()
        else:
            restore(repository, tmp_path / "back")
            shutil.rmtree(tmp_path / "back")
        path.write_bytes(whole)


def later(repository: Repository, data: Path, folder: Path) -> tuple[Path, Path]:
    """The rows of the last backup lie in files that were read, and stay as they are."""
    backup(repository, data, folder / "cache")
    grow(data, 3)
    return data, folder / "cache"


@pytest.mark.parametrize("settled", ["in the log", "in a file", "merged"])
@pytest.mark.parametrize("prepare", [first, second, lagging, later])
def test_no_backup_is_made_of_a_database_that_lacks_a_row(
    repository: Repository, data: Path, tmp_path: Path, prepare: Prepare, settled: str
) -> None:
    source, cache = prepare(repository, data, tmp_path)
    before = repository.manifest_keys()
    for family in set(Family) - {Family.METADATA, Family.SEQUENCER}:
        lacking = shutil.copytree(source, tmp_path / f"lacks {family.value}")
        store = RocksStore.open(lacking / "rocksdb")
        keys = list(store.keys(family, b""))
        batch = Batch()
        batch.delete(family, keys[len(keys) // 2])
        store.write(batch)
        if settled != "in the log":
            store.flush()
        if settled == "merged":
            store._family(family).compact_range(None, None)
        store.close()
        with pytest.raises(CorruptStore, match=rf"{family.value}|Block \d+ is missing"):
            backup(repository, lacking, cache)
        assert repository.manifest_keys() == before, "nothing was recorded"
    backup(repository, source, cache)


@pytest.mark.parametrize("family", list(Family))
def test_no_backup_is_made_of_a_database_with_a_row_that_nothing_makes(
    repository: Repository, data: Path, cache: Path, family: Family
) -> None:
    store = RocksStore.open(data / "rocksdb")
    batch = Batch()
    batch.put(family, b"zzz", b"?")
    store.write(batch)
    store.close()
    with pytest.raises(CorruptStore):
        backup(repository, data, cache)
    assert repository.manifest_keys() == [], "nothing was recorded"


def read_names(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The names that each backup reads through from now on."""
    found: list[set[str]] = []

    def noted(store: RocksStore, names: set[str], *rest: Any) -> None:
        found.append(names & set(store.tables()))
        reading.read_through(store, names, *rest)

    monkeypatch.setattr("goud_backup.create.read_through", noted)
    return found


def test_what_was_read_through_is_not_read_again(
    repository: Repository, data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_names(monkeypatch)
    for _ in range(2):
        backup(repository, data, cache)
    grow(data, 3)
    backup(repository, data, cache)
    assert found[0]
    assert found[1] == set()
    assert found[2]
    assert found[2].isdisjoint(found[0])


def test_a_cache_that_says_stored_does_not_say_read(
    repository: Repository, data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caches of releases that read nothing through but new blocks."""
    backup(repository, data, cache)
    (path,) = cache.glob("*.jsonl")
    lines = []
    for line in path.read_bytes().splitlines():
        document = json.loads(line.partition(b" ")[2])
        del document["read"]
        body = canonical(document)
        lines.append(sha256(body).hexdigest()[:16].encode() + b" " + body + b"\n")
    path.write_bytes(b"".join(lines))
    found = read_names(monkeypatch)
    made = backup(repository, data, cache)
    assert made.totals["new_objects"] == 0, "what is stored is not stored again"
    assert found == [{path.name for path in (data / "rocksdb").glob("*.sst")}]


def test_ranges_are_read_once() -> None:
    blocks, audit = Family.BLOCKS, Family.AUDIT
    assert merged([(blocks, b"c", b"d"), (audit, b"a", b"z"), (blocks, b"a", b"c"), (blocks, b"e", b"f")]) == [
        (audit, b"a", b"z"),
        (blocks, b"a", b"d"),
        (blocks, b"e", b"f"),
    ]
