"""What was quarantined when a chain forked is of the abandoned history, also after it was copied back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pyrage import x25519

from goud_backup import fork as forking
from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, OtherHistory, SourceError
from goud_backup.fork import fork
from goud_backup.plan import Wish, make
from goud_backup.repository import layout
from goud_backup.repository.repository import Repository
from goud_backup.ship import DirectoryBlocks
from goud_backup.targets import Stat

from .support import GENESIS, backup, grow, make_repository, restore, ship, tip_of

IDENTITY = x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())
OPENER = Opener([IDENTITY])


@dataclass
class World:
    """Backed up at 10, shipped to 20 and 30, forked at 15; the other chain is at 20. `segments`: as they were."""

    repository: Repository
    data: Path
    other: Path
    recipients: tuple[str, ...]
    segments: dict[str, bytes]

    @property
    def base(self) -> str:
        return str(DirectoryBlocks(self.data, GENESIS).digest(15))


@pytest.fixture(params=[(), (RECIPIENT,)], ids=["plain", "sealed"])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(forking, "_PATIENCE", ())
    repository, data, other = make_repository(tmp_path / "repository", request.param), tmp_path / "data", tmp_path / "o"
    grow(other, 15)
    grow(other, 5, size=500)
    for height in (10, 20, 30):
        grow(data, 10)
        if height == 10:
            backup(repository, data, tmp_path / "cache", request.param)
        else:
            ship(repository, data, request.param)
    content = {segment.key: bytes(repository.target.get(segment.key)) for segment in repository.segments()}
    return World(repository, data, other, request.param, content)


def at_the_end(raw: bytes) -> bytes:
    return raw[:-20] + bytes(20)


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) * 3 // 4]


def require_abandoned(world: World) -> None:
    """What was set aside and comes back is no part of the history that was shipped after the fork."""
    assert fork(world.repository, 15, world.base) is None, "it has been said"
    for key, raw in world.segments.items():
        world.repository.target.put(key, raw)
    ship(world.repository, world.other, world.recipients)
    assert make(world.repository, Wish(), None).height == 20
    assert verifying.verify(world.repository, verifying.Depth(record=False), restoring.Tools(None)).ok


def quarantine(world: World, rot: Callable[[bytes], bytes] = at_the_end) -> None:
    for key, raw in world.segments.items():
        world.repository.target.put(key, rot(raw))
    report = verifying.verify(world.repository, verifying.Depth(record=False), restoring.Tools(None))
    assert set(verifying.quarantine(world.repository, report)) == set(world.segments)


@pytest.mark.parametrize("rot", [at_the_end, cut])
def test_what_comes_back_from_quarantine_stays_abandoned(world: World, rot: Callable[[bytes], bytes]) -> None:
    quarantine(world, rot)
    record = fork(world.repository, 15, world.base)
    assert record is not None
    assert set(record.segments) == set(world.segments)
    require_abandoned(world)


def test_what_is_below_the_base_comes_back_into_the_present_history(world: World) -> None:
    quarantine(world)
    record = fork(world.repository, 20, str(DirectoryBlocks(world.data, GENESIS).digest(20)))
    assert record is not None
    below = [key for key in world.segments if "-000000000020-" in key]
    assert len(below) == 1
    assert set(record.segments) == set(world.segments) - set(below)


def test_what_was_shipped_again_is_named_once(world: World) -> None:
    """The damaged copy stays below damaged/ for some time."""
    quarantine(world)
    ship(world.repository, world.data, world.recipients)
    present = {segment.key for segment in world.repository.segments() if segment.last > 15}
    record = fork(world.repository, 15, world.base)
    assert record is not None
    assert len(record.segments) == len(set(record.segments))
    assert present <= set(record.segments)


def test_a_segment_whose_header_is_gone_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Its heights are not known, so nothing can be listed: whoever copies it back has to know."""
    quarantine(world, lambda raw: raw[:20] + bytes(40) + raw[60:])
    with caplog.at_level(logging.WARNING):
        fork(world.repository, 15, world.base)
    for key in world.segments:
        name = key[-len(".seg") - 64 : -len(".seg")]
        assert any(f"{layout.DAMAGED}{name}" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("content", [b"", b"goudseg1", b"junk", b"{}" * 5000])
def test_what_else_lies_there_does_not_matter(world: World, content: bytes) -> None:
    for name in ("0" * 64, "README", f"by-hand/{'1' * 64}"):
        world.repository.target.put(f"{layout.DAMAGED}{name}", content)
    assert fork(world.repository, 30, tip_of(world.data).hash.hex()) is None
    record = fork(world.repository, 15, world.base)
    assert record is not None
    assert set(record.segments) == set(world.segments)


def lowered(raw: bytes) -> bytes:
    """Rot in the header, which says that it ends below the base, and in another block than it did."""
    return raw.replace(b'"last":20', b'"last":10').replace(b'"last":30', b'"last":10')


def by_hand(world: World, prefix: str) -> None:
    for key, raw in world.segments.items():
        world.repository.target.put(f"{layout.DAMAGED}{prefix}{key.removeprefix(layout.SEGMENTS)}", raw)
        world.repository.target.delete(key)


ASIDE: dict[str, Callable[[World], None]] = {
    "rot says another height": lambda world: quarantine(world, lowered),
    "by hand": lambda world: by_hand(world, ""),
    "by hand, in a folder": lambda world: by_hand(world, "2026/"),
}


@pytest.mark.parametrize("way", ASIDE)
def test_whatever_way_it_was_set_aside_it_stays_abandoned(world: World, way: str) -> None:
    ASIDE[way](world)
    fork(world.repository, 15, world.base)
    require_abandoned(world)


def test_what_cannot_be_read_at_once_stays_abandoned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lifecycle rule has moved damaged/ to an archive storage class."""
    quarantine(world)
    listed = world.repository.target.list

    def archived(prefix: str, after: str = "") -> Iterator[Stat]:
        for stat in listed(prefix, after):
            yield replace(stat, archived="GLACIER") if prefix == layout.DAMAGED else stat

    monkeypatch.setattr(world.repository.target, "list", archived)
    fork(world.repository, 15, world.base)
    assert fork(world.repository, 15, world.base) is None, "it has been said"
    for key, raw in world.segments.items():
        world.repository.target.put(key, raw)
    assert world.repository.segments() == []


def test_what_nobody_could_name_is_refused_beside_the_present_history(world: World, tmp_path: Path) -> None:
    """A prune had removed the damaged copies before the fork: then nothing tells what comes back."""
    quarantine(world)
    for stat in list(world.repository.target.list(layout.DAMAGED)):
        world.repository.target.delete(stat.key)
    fork(world.repository, 15, world.base)
    ship(world.repository, world.other, world.recipients)
    for key, raw in world.segments.items():
        world.repository.target.put(key, raw)
    with pytest.raises(Damaged, match="two histories are mixed"):
        restore(world.repository, tmp_path / "again", tools=restoring.Tools(OPENER))
    with pytest.raises((OtherHistory, SourceError)):
        ship(world.repository, world.other, world.recipients)
    assert not verifying.verify(world.repository, verifying.Depth(record=False), restoring.Tools(OPENER)).ok


@pytest.mark.parametrize("place", ["rotten", "segments/", "damaged/", "damaged/segments/"])
def test_a_segment_below_the_base_stays_whatever_lies_elsewhere_of_it(world: World, place: str) -> None:
    """A fork names segments by their hash: one that is stored below the base, too, is of both histories."""
    (below,) = (segment for segment in world.repository.segments() if segment.last == 20)
    raw = world.segments[below.key]
    if place == "rotten":
        rotten = raw.replace(b'"last":20', b'"last":90')
        world.repository.target.put(below.key, rotten)
        report = verifying.verify(world.repository, verifying.Depth(record=False), restoring.Tools(None))
        assert verifying.quarantine(world.repository, report) == [below.key]
        world.repository.target.put(below.key, raw)  # as a run that ships them again stores them
    else:
        key = layout.segment_key(31, 40, below.name)
        world.repository.target.put(f"{place.removesuffix(layout.SEGMENTS)}{key}", raw)
    record = fork(world.repository, 20, str(DirectoryBlocks(world.data, GENESIS).digest(20)))
    assert record is not None
    assert [key for key in record.segments if below.name in key] == []
    assert below in world.repository.segments()


def test_a_rotten_segment_below_the_base_keeps_none_above_it(world: World) -> None:
    """What lies there under that hash is not what was written, so it says nothing of it."""
    (above,) = (segment for segment in world.repository.segments() if segment.last == 30)
    world.repository.target.put(layout.segment_key(11, 19, above.name), world.segments[above.key][:-1])
    record = fork(world.repository, 20, str(DirectoryBlocks(world.data, GENESIS).digest(20)))
    assert record is not None
    assert above.key in record.segments
