"""Freeing space takes no space that is not there; what killed writers leave behind is seen and goes."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from goud_backup.errors import AccessRefused, TargetFull
from goud_backup.prune import prune
from goud_backup.repository import layout
from goud_backup.repository.marks import Clock
from goud_backup.repository.repository import RESERVE_BYTES, Repository
from goud_backup.repository.retention import Policy

from .command import Command
from .support import backup, grow, restore, ship

NEWEST = Policy(days=0)
DAY = 86400.0


@pytest.fixture
def full(
    repository: Repository, data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Repository:
    """Two backups on a disk that has room only while what was set aside is given up."""
    grow(tmp_path / "other", 60, uncertified=1, size=4000)
    backup(repository, tmp_path / "other", cache)
    backup(repository, data, cache)
    reserve, write = tmp_path / "repository/.reserve", os.write

    def limited(descriptor: int, content: bytes) -> int:
        if reserve.exists():
            raise OSError(28, "No space left on device")
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", limited)
    assert reserve.stat().st_size == RESERVE_BYTES
    return repository


def test_prune_and_its_dry_run_work_on_a_full_disk(full: Repository, data: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetFull):
        backup(full, data, cache)
    before = full.object_sizes()
    announced = prune(full, NEWEST, grace=0, dry_run=True)
    done = prune(full, NEWEST, grace=0)
    assert list(done.lines()) == list(announced.lines())
    assert prune(full, NEWEST, grace=0).sweep
    assert len(full.object_sizes()) < len(before)
    assert (tmp_path / "repository/.reserve").stat().st_size == RESERVE_BYTES, "set aside again for the next time"
    assert restore(full, tmp_path / "out").height == 60


def test_as_much_is_set_aside_as_there_is_room(repository: Repository, tmp_path: Path) -> None:
    reserve = tmp_path / "repository/.reserve"
    repository.target.reserve(0)
    assert not reserve.exists()
    write = os.pwrite
    room = [3]

    def limited(descriptor: int, content: bytes, at: int) -> int:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        return write(descriptor, content, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", limited)
        assert 0 < repository.set_aside() < RESERVE_BYTES
    assert repository.set_aside() == reserve.stat().st_size == RESERVE_BYTES


def test_a_repository_of_a_former_release_gets_it(
    repository: Repository, data: Path, cache: Path, tmp_path: Path
) -> None:
    reserve = tmp_path / "repository/.reserve"
    for change in (lambda: prune(repository, NEWEST), lambda: backup(repository, data, cache)):
        reserve.unlink()
        change()
        assert reserve.stat().st_size == RESERVE_BYTES


def test_work_that_is_done_does_not_fail_for_want_of_it(
    repository: Repository, data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: int) -> int:
        raise AccessRefused("not here")

    monkeypatch.setattr(repository.target, "reserve", refuse)
    backup(repository, data, cache)
    assert "no room was set aside" in caplog.text


@pytest.mark.parametrize("folder", ["", "objects/ab", "manifests", "segments", "locks"])
def test_what_a_killed_writer_left_is_shown_and_goes_after_the_grace_period(
    goud_backup: Command, tmp_path: Path, folder: str
) -> None:
    goud_backup("init")
    half = tmp_path / "repository" / folder / ".tmp-0123456789abcdef"
    foreign = half.with_name(".of-another-tool")
    half.parent.mkdir(parents=True, exist_ok=True)
    for path in (half, foreign):
        path.write_bytes(b"half")
    status = goud_backup("status", "--json")
    assert (status["unfinished_files"], status["unfinished_bytes"], status["objects"]) == (1, 4, 0)
    goud_backup("create")
    goud_backup("prune")
    assert half.exists(), "its writer may be alive"
    assert goud_backup("prune", "--grace-hours", "0", "--json")["remove"] == [f"{folder}/{half.name}".lstrip("/")]
    assert not half.exists()
    assert foreign.exists()
    assert goud_backup("status", "--json")["unfinished_files"] == 0


def test_segments_go_in_two_phases(repository: Repository, tmp_path: Path, cache: Path) -> None:
    data = tmp_path / "data"
    grow(data, 20)
    ship(repository, data)
    grow(data, 10)
    backup(repository, data, cache)

    def at(seconds: float) -> Clock:
        return Clock(seconds, seconds, "a")

    (stored,) = [one.key for one in repository.segments()]
    assert stored in prune(repository, NEWEST, clock=partial(at, 0.0)).mark
    assert restore(repository, tmp_path / "out").height == 30
    prune(repository, NEWEST, clock=partial(at, DAY - 10))
    assert [stat.key for stat in repository.target.list(layout.SEGMENTS)] == [stored]
    assert prune(repository, NEWEST, clock=partial(at, DAY + 10)).sweep == [stored]
    assert not list(repository.target.list(layout.SEGMENTS))


def test_what_a_manifest_still_names_is_not_ripe(repository: Repository, data: Path, tmp_path: Path) -> None:
    """A run that was killed after it had marked and before it forgot: the grace period begins when it is forgotten."""
    grow(tmp_path / "other", 60, uncertified=1, size=4000)
    backup(repository, tmp_path / "other", tmp_path / "cache-1")
    backup(repository, data, tmp_path / "cache-2")
    first = repository.manifests().good[0]
    key = layout.manifest_key(first.sequence, first.id)
    manifest = bytes(repository.target.get(key))
    prune(repository, NEWEST, grace=0)
    repository.target.put(key, manifest)
    assert not [name for name in prune(repository, NEWEST, grace=0).sweep if name.startswith(layout.OBJECTS)]
    assert [name for name in prune(repository, NEWEST, grace=0).sweep if name.startswith(layout.OBJECTS)]
