"""A source that is not any more what it was when it was asked: nothing of it is shipped that does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from goud_backup import ship as shipping
from goud_backup.errors import OtherHistory, SourceError
from goud_backup.fork import fork
from goud_backup.plan import Wish
from goud_backup.repository import layout
from goud_backup.repository.repository import Repository
from goud_backup.repository.segments import Pair
from goud_backup.seen import Memory
from goud_backup.ship import DirectoryBlocks
from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate, countersign
from goud_node.chain.indexes import height_key
from goud_node.errors import InvalidBlock
from goud_node.store import Batch, Family, RocksStore

from .support import GENESIS, KEYS, backup, certificate_of, grow, restore, ship, tip_of


class Changing(DirectoryBlocks):
    """Restored between two questions: it says which blocks it has, and gives those of another history."""

    def __init__(self, before: Path, after: Path) -> None:
        super().__init__(before, GENESIS)
        self._after = DirectoryBlocks(after, GENESIS)

    def from_height(self, start: int) -> Iterator[Pair]:
        return self._after.from_height(start)


def keys(repository: Repository) -> list[str]:
    return [stat.key for stat in repository.target.list(layout.SEGMENTS)]


def test_blocks_after_another_block_than_the_last_one_stored(
    repository: Repository, cache: Path, tmp_path: Path
) -> None:
    data, other = tmp_path / "chain", tmp_path / "other"
    grow(data, 8)
    shutil.copytree(data, other)
    grow(data, 2)
    backup(repository, data, cache)
    grow(data, 5)
    grow(other, 7, size=77)
    with pytest.raises(OtherHistory, match="changed meanwhile"):
        shipping.ship(repository, Changing(data, other), ())
    assert keys(repository) == []


def test_blocks_in_a_hole_that_lead_to_another_block_than_the_next_one_stored(
    repository: Repository, tmp_path: Path
) -> None:
    data, other = tmp_path / "chain", tmp_path / "other"
    grow(data, 20)
    ship(repository, data, segment_bytes=4000)
    hole = repository.segments()[1]
    assert hole.last > hole.first
    restore(repository, other, Wish(to_height=hole.first))
    grow(other, 20 - hole.first, size=77)
    repository.target.delete(hole.key)
    before = keys(repository)
    with pytest.raises(OtherHistory, match="changed meanwhile"):
        shipping.ship(repository, Changing(data, other), ())
    assert keys(repository) == before


@pytest.mark.parametrize("fault", ["of a minority", "of another block"])
def test_a_block_without_its_own_certificate(repository: Repository, tmp_path: Path, fault: str) -> None:
    data = tmp_path / "chain"
    grow(data, 6)
    store = RocksStore.open(data / "rocksdb")
    raw = store.get(Family.BLOCKS, height_key(4))
    assert raw is not None
    certificate = certificate_of(Block.decode(raw), ("node1",))
    if fault == "of another block":
        digest = b"o" * 32
        signatures = {name: countersign(key, digest) for name, key in KEYS.items()}
        certificate = Certificate(4, digest, signatures)
    batch = Batch()
    batch.put(Family.CERTIFICATES, height_key(4), certificate.encode())
    store.write(batch)
    store.close()
    with pytest.raises(InvalidBlock, match="block 4"):
        ship(repository, data)
    assert keys(repository) == []


@pytest.fixture
def shipped(repository: Repository, tmp_path: Path) -> tuple[Path, Path, Memory]:
    """A chain that was shipped whole to block 10, a copy of it as of block 6, and what the run remembers."""
    data, earlier = tmp_path / "chain", tmp_path / "earlier"
    grow(data, 6)
    shutil.copytree(data, earlier)
    grow(data, 4)
    memory = Memory(tmp_path / "hints", repository.config.id)
    run(repository, data, memory)
    return data, earlier, memory


def run(repository: Repository, data: Path, memory: Memory) -> int:
    return shipping.ship(repository, DirectoryBlocks(data, GENESIS), (), memory=memory).blocks


def test_another_history_as_long_as_the_one_that_is_remembered(
    repository: Repository, shipped: tuple[Path, Path, Memory]
) -> None:
    _, other, memory = shipped
    grow(other, 4, size=77)
    with pytest.raises(OtherHistory):
        run(repository, other, memory)


def test_what_was_abandoned_since_is_shipped_again(repository: Repository, shipped: tuple[Path, Path, Memory]) -> None:
    """The chain was restored and put back: the source is as it was, and what is stored of it counts no more."""
    data, earlier, memory = shipped
    assert run(repository, data, memory) == 0
    assert fork(repository, 6, tip_of(earlier).hash.hex()) is not None
    assert run(repository, data, memory) > 0
    assert run(repository, data, memory) == 0


def test_what_the_store_does_not_show_is_not_shipped(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, listed = tmp_path / "chain", repository.target.list
    grow(data, 6)
    monkeypatch.setattr(
        repository.target,
        "list",
        lambda prefix, *after: iter(()) if prefix == layout.SEGMENTS else listed(prefix, *after),
    )
    with pytest.raises(SourceError, match="does not show block 6"):
        ship(repository, data)


def test_blocks_that_a_backup_holds_without_a_certificate_are_shipped(
    repository: Repository, cache: Path, tmp_path: Path
) -> None:
    data = tmp_path / "chain"
    grow(data, 10, uncertified=3)
    manifest = backup(repository, data, cache)
    assert (manifest.chain.height, manifest.chain.certified_height) == (10, 7)
    tip = grow(data, 5)
    assert ship(repository, data).first == 8
    assert restore(repository, tmp_path / "again").tip_hash == tip.hash.hex()
