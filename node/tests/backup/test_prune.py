"""Pruning: exactly what was announced, in two phases, under locks, and on a full disk, too."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.errors import Locked, NotVerified
from goud_backup.plan import Wish
from goud_backup.prune import keep, prune
from goud_backup.repository import layout, locks
from goud_backup.repository.marks import Clock
from goud_backup.repository.repository import Repository
from goud_backup.repository.retention import Policy

from .support import backup, grow, restore

NEWEST = Policy(days=0)
DAY = 86400.0


def at(seconds: float, *, boot: str = "a", uptime: float | None = None) -> Clock:
    """The clocks of a host whose disk it is: what the file system says is what the host says."""
    wall = 1_000_000 + seconds
    return Clock(wall, 500 + (seconds if uptime is None else uptime), boot, wall)


def names(repository: Repository) -> set[str]:
    return {stat.key for stat in repository.target.list("") if not stat.key.startswith(layout.LOCKS)}


@pytest.fixture
def three(repository: Repository, data: Path, cache: Path, tmp_path: Path) -> Repository:
    """Three backups of a growing chain, the first of another node: the same blocks in other files."""
    grow(tmp_path / "other", 60, uncertified=1, size=4000)
    backup(repository, tmp_path / "other", cache)
    for _ in range(2):
        backup(repository, data, cache)
        grow(data, 10)
    return repository


def test_a_dry_run_announces_exactly_what_happens(three: Repository) -> None:
    for seconds in (0, 2 * DAY, 4 * DAY):
        before = names(three)
        told = prune(three, NEWEST, dry_run=True, clock=partial(at, seconds))
        assert names(three) == before, "a dry run changes nothing"
        done = prune(three, NEWEST, clock=partial(at, seconds))
        assert list(done.lines()) == list(told.lines())
        gone = before - names(three)
        assert gone == {*told.forget, *told.sweep}


def test_objects_go_after_the_grace_period_only(three: Repository, tmp_path: Path) -> None:
    objects = set(three.object_sizes())
    first = prune(three, NEWEST, clock=lambda: at(0))
    assert len(first.forget) == 2
    assert first.mark
    assert set(three.object_sizes()) == objects
    assert not prune(three, NEWEST, clock=lambda: at(DAY - 10)).sweep
    swept = prune(three, NEWEST, clock=lambda: at(DAY + 10))
    assert swept.sweep
    assert set(three.object_sizes()) == set(three.find("latest").objects)
    prune(three, NEWEST, clock=lambda: at(3 * DAY))
    assert not [key for key in names(three) if key.startswith(layout.TRASH)]
    assert restore(three, tmp_path / "out", Wish(exact=True)).height == 70


def test_a_clock_that_jumps_removes_nothing(three: Repository) -> None:
    prune(three, NEWEST, clock=lambda: at(0))
    before = set(three.object_sizes())
    assert not prune(three, NEWEST, clock=lambda: at(365 * DAY, uptime=60)).sweep
    assert not prune(three, NEWEST, clock=lambda: at(-365 * DAY, uptime=120)).sweep
    # A reboot with the wrong time: the marks are of another boot, and this one is a minute old.
    assert not prune(three, NEWEST, clock=lambda: at(365 * DAY, boot="b", uptime=60 - 500)).sweep
    assert set(three.object_sizes()) == before
    assert prune(three, NEWEST, clock=lambda: at(365 * DAY, boot="b", uptime=2 * DAY)).sweep


def test_what_is_named_again_is_unmarked(three: Repository, data: Path, tmp_path: Path) -> None:
    assert data.is_dir()
    first = three.manifests().good[0]
    key = layout.manifest_key(first.sequence, first.id)
    content = bytes(three.target.get(key))
    prune(three, NEWEST, clock=lambda: at(0))
    # Somebody takes the backup out of the trash within the grace period.
    assert bytes(three.target.get(layout.TRASH + key)) == content
    three.target.put(key, content)
    keep(three, first.id, wanted=True)
    again = prune(three, NEWEST, clock=lambda: at(2 * DAY))
    assert again.unmark
    assert restore(three, tmp_path / "out", Wish(first.id)).height == 60


def test_a_kept_backup_and_what_it_needs_stay(three: Repository, tmp_path: Path) -> None:
    first = three.manifests().good[0]
    keep(three, first.id[:-1], wanted=True)
    for seconds in (0, 2 * DAY, 4 * DAY):
        prune(three, NEWEST, clock=partial(at, seconds))
    assert restore(three, tmp_path / "out", Wish(first.id)).height == 60
    keep(three, first.id, wanted=False)
    prune(three, NEWEST, clock=lambda: at(5 * DAY))
    assert first.id not in {one.id for one in three.manifests().good}


def test_the_last_good_one_stays_when_the_newest_is_damaged(three: Repository, tmp_path: Path) -> None:
    newest, good = three.manifests().good[-1], three.manifests().good[-2]
    (own,) = sorted(set(newest.objects) - set(good.objects))[:1]
    key = layout.object_key(own)
    three.target.put(key, bytes(three.target.get(key))[:-1] + b"?")
    assert not verifying.verify(three, verifying.Depth(), restoring.Tools(None)).ok
    for seconds in (0, 2 * DAY, 4 * DAY):
        prune(three, NEWEST, clock=partial(at, seconds))
    assert {newest.id, good.id} <= {one.id for one in three.manifests().good}
    assert restore(three, tmp_path / "out", Wish(good.id)).height == 60


def test_a_damaged_manifest_stops_it(three: Repository) -> None:
    key = three.manifest_keys()[0][2]
    three.target.put(key, b"{")
    before = names(three)
    with pytest.raises(NotVerified, match=key):
        prune(three, NEWEST)
    assert names(three) == before


def test_not_beside_a_backup_or_a_shipment(three: Repository) -> None:
    for name in (locks.BACKUP, locks.SHIP):
        with locks.Lock(three.target, name, "somebody"), pytest.raises(Locked, match="somebody"):
            prune(three, NEWEST, wait=0.1)


def test_a_proven_backup_stays(three: Repository) -> None:
    middle = three.manifests().good[1]
    depth = verifying.Depth(data=False, deep=True, backup=middle.id)
    assert verifying.verify(three, depth, restoring.Tools(None)).ok
    verifying.verify(three, verifying.Depth(), restoring.Tools(None))
    plan = prune(three, NEWEST, dry_run=True)
    assert "last proven by a restore" in plan.keep[middle.id]


def test_copies_of_a_repository_are_repositories(three: Repository, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "repository", tmp_path / "copy")
    assert len(names(three)) == sum(1 for path in (tmp_path / "copy").rglob("*") if path.is_file() and path.parent.name
                                    != "locks" and not path.name.startswith("."))  # fmt: skip
