"""Segments of two histories that overlap: heights hide one behind the other, so each is asked for its own blocks."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyrage import x25519

from goud_backup import plan as plans
from goud_backup import verify as verifying
from goud_backup.codec.sealing import Opener, Sealer
from goud_backup.errors import Damaged, OtherHistory, SourceError
from goud_backup.fork import fork
from goud_backup.plan import Wish
from goud_backup.repository import segments
from goud_backup.repository.repository import Repository
from goud_backup.repository.segments import Reference
from goud_backup.restore import Tools
from goud_backup.ship import DirectoryBlocks

from .support import GENESIS, backup, grow, make_repository, restore, ship, tip_of

IDENTITY = x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())

OVERLAPS = [
    ([(11, 20)], [(11, 18)]),
    ([(11, 20)], [(11, 20)]),
    ([(11, 18)], [(11, 20)]),
    ([(11, 20)], [(11, 13), (14, 17)]),
    ([(11, 13), (14, 20)], [(11, 18)]),
    ([(11, 15), (16, 20)], [(11, 13), (14, 22)]),
]
"""What was stored of the one history, and of the other; both are the same up to block 10."""


@dataclass
class World:
    repository: Repository
    folder: Path
    recipients: tuple[str, ...] = ()

    def store(self, name: str, ranges: list[tuple[int, int]]) -> None:
        """As a release that did not look at what it continued has done."""
        sealer = Sealer(self.recipients) if self.recipients else None
        for first, last in ranges:
            pairs = [pair for pair in self.blocks(name).from_height(first) if pair[0].height <= last]
            self.repository.target.put(*segments.build(pairs, sealer))

    def blocks(self, name: str) -> DirectoryBlocks:
        return DirectoryBlocks(self.folder / name, GENESIS)


def world_of(folder: Path, former: list[tuple[int, int]], present: list[tuple[int, int]], *, sealed: bool) -> World:
    """The data of each history ends where its segments do."""
    world = World(make_repository(folder / "r", (RECIPIENT,) if sealed else ()), folder, (RECIPIENT,) if sealed else ())
    grow(folder / "present", 10)
    backup(world.repository, folder / "present", folder / "cache", world.recipients)
    shutil.copytree(folder / "present", folder / "former")
    for name, ranges, size in (("former", former, 400), ("present", present, 500)):
        grow(folder / name, ranges[-1][1] - 10, size=size)
        world.store(name, ranges)
    return world


def stored(world: World) -> set[str]:
    return {stat.key for prefix in ("segments/", "manifests/") for stat in world.repository.target.list(prefix)}


RUNS: dict[str, Callable[[World], object]] = {
    "ship": lambda world: ship(world.repository, world.folder / "present", world.recipients),
    "create": lambda world: backup(
        world.repository, world.folder / "present", world.folder / "cache2", world.recipients
    ),
}


@pytest.mark.parametrize(("former", "present"), OVERLAPS)
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("more", [0, 3])
def test_a_source_of_one_of_them_is_refused_and_a_fork_ends_it(
    tmp_path: Path, former: list[tuple[int, int]], present: list[tuple[int, int]], run: str, more: int
) -> None:
    world = world_of(tmp_path, former, present, sealed=False)
    if more:
        grow(tmp_path / "present", more, size=500)
    before = stored(world)
    with pytest.raises(OtherHistory, match="fork --height 1") as refused:
        RUNS[run](world)
    assert stored(world) == before
    height, _, digest = str(refused.value).split("--height ")[1].split("`")[0].split()
    fork(world.repository, int(height), digest)
    RUNS[run](world)
    assert restore(world.repository, tmp_path / "again").tip_hash == tip_of(tmp_path / "present").hash.hex()


@pytest.mark.parametrize(("former", "present"), OVERLAPS)
@pytest.mark.parametrize("run", RUNS)
def test_where_they_are_sealed_nothing_that_cannot_be_told_is_promised(
    tmp_path: Path, former: list[tuple[int, int]], present: list[tuple[int, int]], run: str
) -> None:
    world = world_of(tmp_path, former, present, sealed=True)
    with pytest.raises((OtherHistory, SourceError), match="fork"):
        RUNS[run](world)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("run", RUNS)
def test_segments_of_one_history_may_overlap(tmp_path: Path, run: str, *, sealed: bool) -> None:
    world = world_of(tmp_path, [(11, 20)], [(11, 16)], sealed=sealed)
    for segment in world.repository.segments():
        world.repository.target.delete(segment.key)
    for ranges in ([(11, 13)], [(12, 16)], [(11, 16)]):
        world.store("present", ranges)
    grow(tmp_path / "present", 3, size=500)
    RUNS[run](world)


def test_segments_that_overlap_are_found() -> None:
    def of(*ranges: tuple[int, int]) -> list[Reference]:
        return [Reference(f"{first:03d}-{last:03d}", first, last, "", 1) for first, last in ranges]

    assert segments.overlapping(of((1, 5), (6, 9), (10, 20))) == []
    assert segments.overlapping(of((1, 5), (5, 9), (10, 20))) == of((1, 5), (5, 9))
    assert segments.overlapping(of((1, 50), (5, 9), (20, 30), (51, 60))) == of((1, 50), (5, 9), (20, 30))
    assert segments.overlapping(of((1, 9), (1, 10), (8, 20), (21, 22))) == of((1, 9), (1, 10), (8, 20))


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(("former", "present"), OVERLAPS)
def test_verification_and_restore_name_them(
    tmp_path: Path, former: list[tuple[int, int]], present: list[tuple[int, int]], *, sealed: bool
) -> None:
    world = world_of(tmp_path, former, present, sealed=sealed)
    tools = Tools(Opener([IDENTITY]))
    for depth in (verifying.Depth(), verifying.Depth(deep=True)):
        report = verifying.verify(world.repository, depth, tools)
        mixed = [problem for problem in report.problems if "two histories are mixed" in problem.message]
        assert {problem.thing for problem in mixed} & {segment.key for segment in world.repository.segments()}
    with pytest.raises(Damaged, match=r"two histories are mixed.*--to-height 10"):
        restore(world.repository, tmp_path / "again", tools=tools)
    assert restore(world.repository, tmp_path / "lower", Wish(to_height=10), tools).height == 10
    if not sealed:
        with pytest.raises(Damaged, match="two histories are mixed"):
            plans.require_restorable(world.repository, world.repository.object_sizes())


def test_without_a_key_verification_says_what_it_did_not_compare(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = world_of(tmp_path, [(11, 20)], [(11, 18)], sealed=True)
    with caplog.at_level(logging.WARNING):
        assert verifying.verify(world.repository, verifying.Depth(record=False), Tools(None)).ok
    assert any(
        "-000000000020-" in entry.getMessage() and "--identity" in entry.getMessage() for entry in caplog.records
    )
    caplog.clear()
    verifying.verify(world.repository, verifying.Depth(record=False), Tools(Opener([IDENTITY])))
    assert not caplog.records
