"""Pruning: exactly what was announced, in two phases, under locks, and on a full disk, too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
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


def traces(repository: Repository) -> dict[Path, tuple[int, int, int]]:
    """Everything below the directory, hidden files and folders, too."""
    root = Path(repository.url.removeprefix("file://"))
    stats = {path: path.stat() for path in (root, *root.rglob("*"))}
    return {path: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}


@pytest.mark.parametrize("clock", [None, partial(at, DAY), lambda: replace(at(DAY), store=None)])
@pytest.mark.parametrize("copied", [False, True], ids=["in use", "copied without hidden files"])
def test_a_dry_run_touches_no_file(three: Repository, clock: Callable[[], Clock] | None, *, copied: bool) -> None:
    if copied:
        Path(three.url.removeprefix("file://"), ".exclusive").unlink()
    before = traces(three)
    announced = prune(three, NEWEST, dry_run=True, clock=clock)
    assert traces(three) == before
    assert list(prune(three, NEWEST, clock=clock).lines()) == list(announced.lines())


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
    keep(three, first.id, mark=True)
    again = prune(three, NEWEST, clock=lambda: at(2 * DAY))
    assert again.unmark
    assert restore(three, tmp_path / "out", Wish(first.id)).height == 60


def test_what_a_backup_named_until_now_has_its_grace_period_before_it(three: Repository, tmp_path: Path) -> None:
    first = three.manifests().good[0]
    key = layout.manifest_key(first.sequence, first.id)
    content = bytes(three.target.get(key))
    prune(three, NEWEST, clock=lambda: at(0))
    three.target.put(key, content)
    # Its objects bear marks of two days ago; but it is forgotten, and they become garbage, only now.
    again = prune(three, NEWEST, clock=lambda: at(2 * DAY))
    assert key in again.forget
    assert not again.sweep
    three.target.put(key, content)
    assert restore(three, tmp_path / "out", Wish(first.id)).height == 60


def test_a_kept_backup_and_what_it_needs_stay(three: Repository, tmp_path: Path) -> None:
    first = three.manifests().good[0]
    keep(three, first.id[:-1], mark=True)
    for seconds in (0, 2 * DAY, 4 * DAY):
        prune(three, NEWEST, clock=partial(at, seconds))
    assert restore(three, tmp_path / "out", Wish(first.id)).height == 60
    keep(three, first.id, mark=False)
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


@pytest.mark.parametrize(
    "name", ["damaged/old (copy).json", "trash/a\nb", "damaged/.x y", "trash/\N{FULLWIDTH DIGIT ONE}"]
)
def test_what_somebody_put_there_under_a_name_of_his_own_is_left_alone(three: Repository, name: str) -> None:
    path = Path(three.url.removeprefix("file://")) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    for _ in range(3):
        prune(three, NEWEST, grace=0)
    assert len(three.manifest_keys()) == 1
    assert path.exists()


BY_HAND = {
    "a manifest": "00000003-20260101T000000Z-aaaaaa.json",
    "a manifest in its folder": "manifests/00000003-20260101T000000Z-aaaaaa.json",
    "a segment": f"{1:012d}-{9:012d}-{'ab' * 32}.seg",
    "a segment in its folder": f"segments/{1:012d}-{9:012d}-{'ab' * 32}.seg",
    "an object in its folder": f"objects/ab/{'ab' * 32}",
    "a fork": f"forks/{9:012d}-{'ab' * 32}.json",
    "a file": "notes.txt",
    "a hash in other letters": "AB" * 32,
}


@pytest.mark.parametrize("name", BY_HAND.values(), ids=BY_HAND)
def test_what_was_moved_by_hand_stays_and_is_named(
    three: Repository, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Only `verify --quarantine` gives the names that go: the hash alone."""
    key, rot = f"{layout.DAMAGED}{name}", f"{layout.DAMAGED}{'ab' * 32}"
    for one in (key, rot):
        three.target.put(one, b"x")
    for dry_run in (True, False, False, False):
        caplog.clear()
        prune(three, NEWEST, grace=0, dry_run=dry_run)
        assert f"{key!r} stays" in caplog.text
    assert {stat.key for stat in three.target.list(layout.DAMAGED)} == {key}


def test_a_manifest_that_was_moved_as_prune_says_is_kept(three: Repository) -> None:
    key = three.manifest_keys()[0][2]
    raw = b'{"format":"goud-backup/1"}'
    three.target.put(key, raw)
    with pytest.raises(NotVerified, match=f"move it to {layout.DAMAGED} by hand, where it stays"):
        prune(three, NEWEST)
    moved = f"{layout.DAMAGED}{Path(key).name}"
    three.target.put(moved, raw)
    three.target.delete(key)
    for _ in range(3):
        prune(three, NEWEST, grace=0)
    assert bytes(three.target.get(moved)) == raw


def test_a_name_in_other_digits_is_none_of_ours(three: Repository) -> None:
    key = three.manifest_keys()[0][2].replace("/0", "/\N{FULLWIDTH DIGIT ZERO}", 1)
    (Path(three.url.removeprefix("file://")) / key).write_bytes(b"x")
    assert len(three.manifests().good) == 3
    assert not three.manifests().bad


def test_what_a_manifest_in_damaged_needs_stays_with_it(three: Repository) -> None:
    """It was moved there to be copied back some day."""
    first = three.manifests().good[0]
    key = layout.manifest_key(first.sequence, first.id)
    three.target.put(f"{layout.DAMAGED}{Path(key).name}", bytes(three.target.get(key)))
    three.target.delete(key)
    for _ in range(3):
        prune(three, NEWEST, grace=0)
    assert set(first.objects) <= set(three.object_sizes())


def test_of_a_manifest_that_cannot_be_read_prune_says_what_goes(
    three: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    first = three.manifests().good[0]
    key = layout.manifest_key(first.sequence, first.id)
    three.target.put(key, bytes(three.target.get(key))[:100])
    with pytest.raises(NotVerified, match="then what only it needs is removed"):
        prune(three, NEWEST)
    three.target.put(f"{layout.DAMAGED}{Path(key).name}", bytes(three.target.get(key)))
    three.target.delete(key)
    prune(three, NEWEST, dry_run=True)
    assert f"the manifest of {first.id} in damaged/ cannot be read" in caplog.text
