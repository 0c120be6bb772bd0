"""Manifests that a fork could not read in their place: whoever copies one back gets that backup, not its history."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from goud_backup import fork as forking
from goud_backup.errors import NoSuchBackup
from goud_backup.fork import fork
from goud_backup.plan import Wish, make
from goud_backup.prune import prune
from goud_backup.repository import layout
from goud_backup.repository.manifest import Manifest
from goud_backup.repository.marks import Clock
from goud_backup.repository.repository import Repository
from goud_backup.repository.retention import Policy

from .support import backup, grow, make_repository, restore, ship, tip_of


@dataclass
class World:
    """Backups at 10 and 20; the chain was restored to 10. `other` has gone on to 13 in another way."""

    repository: Repository
    other: Path
    below: Manifest
    above: Manifest
    raw: bytes

    @property
    def key(self) -> str:
        return layout.manifest_key(self.above.sequence, self.above.id)

    def fork(self) -> None:
        fork(self.repository, 10, self.below.chain.tip_hash)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(forking, "_PATIENCE", ())
    repository, data, other = make_repository(tmp_path / "repository"), tmp_path / "data", tmp_path / "other"
    grow(data, 10)
    below = backup(repository, data, tmp_path / "cache")
    shutil.copytree(data, other)
    grow(data, 10)
    above = backup(repository, data, tmp_path / "cache")
    grow(other, 3, size=77)
    raw = bytes(repository.target.get(layout.manifest_key(above.sequence, above.id)))
    return World(repository, other, below, above, raw)


def in_its_place(world: World) -> None:
    world.repository.target.put(world.key, world.raw[:100])


def moved(world: World, prefix: str, raw: bytes) -> None:
    world.repository.target.put(f"{prefix}{world.key.removeprefix(layout.MANIFESTS)}", raw)
    world.repository.target.delete(world.key)


def pruned(world: World) -> None:
    moved(world, f"{layout.TRASH}{layout.MANIFESTS}", world.raw)


ASIDE: dict[str, Callable[[World], None]] = {
    "in its place": in_its_place,
    "moved, damaged": lambda world: moved(world, layout.DAMAGED, world.raw[:100]),
    "moved, whole": lambda world: moved(world, layout.DAMAGED, world.raw),
    "moved with its folder": lambda world: moved(world, f"{layout.DAMAGED}{layout.MANIFESTS}", world.raw[:100]),
    "pruned": pruned,
}


@pytest.mark.parametrize("way", ASIDE)
def test_a_manifest_that_is_copied_back_is_of_the_abandoned_history(world: World, tmp_path: Path, way: str) -> None:
    ASIDE[way](world)
    world.fork()
    ship(world.repository, world.other)
    world.repository.target.put(world.key, world.raw)
    assert make(world.repository, Wish(), None).height == 13
    for now in (0.0, 2 * 86400.0):
        prune(world.repository, Policy(days=0), clock=partial(Clock, now, now, "a"))
    assert restore(world.repository, tmp_path / "again").tip_hash == tip_of(world.other).hash.hex()


@pytest.mark.parametrize("prefix", [layout.DAMAGED, f"{layout.TRASH}{layout.MANIFESTS}"])
def test_one_that_is_known_to_end_at_the_base_or_below_is_not_abandoned(world: World, prefix: str) -> None:
    moved(world, prefix, world.raw)
    assert fork(world.repository, 20, world.above.chain.tip_hash) is None


def test_junk_with_the_id_of_a_good_backup_does_not_hide_it(world: World) -> None:
    """A copy under another number, in its place or set aside."""
    raw = bytes(world.repository.target.get(layout.manifest_key(world.below.sequence, world.below.id)))
    for sequence in (0, 7):
        world.repository.target.put(layout.manifest_key(sequence, world.below.id), raw)
    world.repository.target.put(f"{layout.DAMAGED}{0:08d}-{world.below.id}.json", b"junk")
    assert world.repository.find(world.below.id).sequence == world.below.sequence
    world.fork()
    assert world.repository.abandoned_backups() == {world.above.id}
    with pytest.raises(NoSuchBackup, match="ambiguous"):
        world.repository.find("20")
