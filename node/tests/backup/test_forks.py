"""A chain that was restored to an earlier block goes on in another way, and the repository follows it."""

from __future__ import annotations

from datetime import datetime, tzinfo
from functools import partial
from pathlib import Path

import pytest

from goud_backup import verify as verifying
from goud_backup.errors import Damaged, NoSuchBackup, NotVerified, OtherHistory, OutOfReach
from goud_backup.fork import fork
from goud_backup.plan import Wish
from goud_backup.prune import prune
from goud_backup.repository import layout
from goud_backup.repository.marks import Clock
from goud_backup.repository.repository import Repository
from goud_backup.repository.retention import Policy
from goud_backup.restore import Tools
from goud_backup.ship import DirectoryBlocks
from goud_node.chain.block import Header

from .support import BLOCK_MS, GENESIS, backup, grow, restore, ship, tip_of

BASE = 25


@pytest.fixture
def forked(repository: Repository, cache: Path, tmp_path: Path) -> tuple[Path, Header]:
    """Backed up at 20, shipped to 30, backed up at 40; restored to 25, from where another chain has grown to 35."""
    data = tmp_path / "data"
    grow(data, 20)
    backup(repository, data, cache)
    grow(data, 10)
    ship(repository, data)
    grow(data, 10)
    backup(repository, data, cache)
    other = tmp_path / "other"
    restore(repository, other, Wish(to_height=BASE))
    base = tip_of(other)
    grow(other, 10, size=500)
    return other, base


def test_what_is_shipped_next_needs_the_fork(repository: Repository, forked: tuple[Path, Header]) -> None:
    other, base = forked
    with pytest.raises(OtherHistory, match="goud-backup fork --height 25 --hash"):
        ship(repository, other)
    made = fork(repository, BASE, base.hash.hex())
    assert made is not None
    assert len(made.backups) == 1
    assert ship(repository, other).last == 35


def test_a_history_without_a_backup_says_so_and_names_what_there_is(
    repository: Repository, cache: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    grow(data, 5)
    backup(repository, data, cache)
    hash_at_five = tip_of(data).hash.hex()
    grow(data, 5)
    backup(repository, data, cache)
    assert fork(repository, 5, hash_at_five) is not None
    assert repository.find("latest").chain.height == 5, "the backup at the fork is of both histories"
    fork(repository, 1, "00" * 32)
    for wish in (Wish(), Wish(to_height=3)):
        with pytest.raises((NoSuchBackup, OutOfReach), match="of the present history; 2 of an abandoned one"):
            restore(repository, tmp_path / "other", wish)


def test_latest_is_the_present_history(
    repository: Repository, forked: tuple[Path, Header], cache: Path, tmp_path: Path
) -> None:
    other, base = forked
    abandoned = repository.find("latest")
    fork(repository, BASE, base.hash.hex())
    ship(repository, other)
    present = tip_of(other)
    assert repository.find("latest").chain.height == 20
    assert restore(repository, tmp_path / "again").tip_hash == present.hash.hex()
    made = backup(repository, other, cache)
    assert repository.find("latest").id == made.id
    assert made.chain.tip_hash == present.hash.hex()
    # The old history stays whole: a backup of it is restored by its name.
    old = restore(repository, tmp_path / "old", Wish(abandoned.id))
    assert (old.height, old.tip_hash) == (40, abandoned.chain.tip_hash)


@pytest.mark.parametrize("height", [20, BASE, 30, 33, 40, 43, 45])
@pytest.mark.parametrize("by_time", [False, True])
def test_an_abandoned_backup_leads_through_its_own_history(
    repository: Repository, forked: tuple[Path, Header], tmp_path: Path, height: int, *, by_time: bool
) -> None:
    """Backed up at 40 and shipped to 45; what the chain stored since, up to 55, is not it."""
    other, base = forked
    data = tmp_path / "data"
    abandoned = repository.find("latest").id
    grow(data, 5)
    ship(repository, data)
    fork(repository, BASE, base.hash.hex())
    grow(other, 20, size=500)
    ship(repository, other)
    to_ms = GENESIS.created_ms + height * BLOCK_MS
    wish = Wish(abandoned, to_ms=to_ms) if by_time else Wish(abandoned, to_height=height)
    done = restore(repository, tmp_path / "again", wish)
    assert (done.height, done.tip_hash) == (height, DirectoryBlocks(data, GENESIS).digest(height))
    with pytest.raises(OutOfReach):
        restore(repository, tmp_path / "beyond", Wish(abandoned, to_height=50))


def test_every_height_of_the_present_history_is_exact(
    repository: Repository, forked: tuple[Path, Header], tmp_path: Path
) -> None:
    other, base = forked
    fork(repository, BASE, base.hash.hex())
    ship(repository, other)
    for height in (21, BASE, BASE + 1, 30, 35):
        done = restore(repository, tmp_path / f"to-{height}", Wish(to_height=height))
        assert done.height == height
    assert restore(repository, tmp_path / "base", Wish(to_height=BASE)).tip_hash == base.hash.hex()


@pytest.mark.parametrize("year", [1970, 2020, 2025])
def test_a_fork_by_a_clock_that_is_behind_is_no_older_than_the_backups(
    repository: Repository, forked: tuple[Path, Header], year: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Behind(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Behind:
            return cls(year, 1, 1, tzinfo=tz)

    newest = max(one.created_at for one in repository.manifests().good)
    monkeypatch.setattr("goud_backup.fork.datetime", Behind)
    made = fork(repository, BASE, forked[1].hash.hex())
    assert made is not None
    assert datetime.fromisoformat(made.created).date() >= newest.date()


def test_nothing_above_is_no_fork(repository: Repository, forked: tuple[Path, Header]) -> None:
    other, base = forked
    assert fork(repository, BASE, base.hash.hex()) is not None
    assert fork(repository, BASE, base.hash.hex()) is None
    assert len(repository.forks()) == 1
    ship(repository, other)
    assert fork(repository, 35, tip_of(other).hash.hex()) is None


@pytest.mark.usefixtures("forked")
def test_another_block_at_the_base_is_refused(repository: Repository) -> None:
    with pytest.raises(NotVerified, match="was not restored from"):
        fork(repository, 20, "ab" * 32)
    assert repository.forks() == []


def test_a_damaged_fork_is_named(repository: Repository, forked: tuple[Path, Header]) -> None:
    _, base = forked
    fork(repository, BASE, base.hash.hex())
    key = next(iter(repository.target.list(layout.FORKS))).key
    repository.target.put(key, bytes(repository.target.get(key)).replace(b'"height":25', b'"height":24'))
    with pytest.raises(Damaged, match=key):
        repository.segments()
    report = verifying.verify(repository, verifying.Depth(True, False, "latest", None, False), Tools(None))
    assert not report.ok
    assert any(problem.thing == key for problem in report.problems)


def test_pruning_keeps_a_way_to_the_present_history(
    repository: Repository, forked: tuple[Path, Header], tmp_path: Path
) -> None:
    """The newest and highest backup is of the abandoned history: it must not stand for the present one."""
    other, base = forked
    fork(repository, BASE, base.hash.hex())
    ship(repository, other)
    present = tip_of(other)
    prune(repository, Policy(days=0))
    assert restore(repository, tmp_path / "again").tip_hash == present.hash.hex()


def test_an_abandoned_history_goes_when_its_days_have_passed(
    repository: Repository, forked: tuple[Path, Header], cache: Path, tmp_path: Path
) -> None:
    other, base = forked
    abandoned = repository.find("latest").id
    made = fork(repository, BASE, base.hash.hex())
    assert made is not None
    ship(repository, other)
    grow(other, 5)
    backup(repository, other, cache)
    present = tip_of(other)
    stored = {stat.key for stat in repository.target.list(layout.SEGMENTS)}
    assert set(made.segments) <= stored
    prune(repository, Policy(days=1))
    assert abandoned in {one.id for one in repository.manifests().good}, "it is of a day that stays"
    for now in (0.0, 2 * 86400.0):
        prune(repository, Policy(days=0), clock=partial(Clock, now, now, "a"))
    assert abandoned not in {one.id for one in repository.manifests().good}
    assert not {stat.key for stat in repository.target.list(layout.SEGMENTS)} & set(made.segments)
    assert restore(repository, tmp_path / "again").tip_hash == present.hash.hex()
