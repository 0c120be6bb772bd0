"""A chain that was restored to an earlier block goes on in another way, and the repository follows it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, tzinfo
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from goud_backup import fork as forking
from goud_backup import plan as plans
from goud_backup import verify as verifying
from goud_backup.errors import Damaged, NoSuchBackup, NotVerified, OtherHistory, OutOfReach
from goud_backup.fork import fork
from goud_backup.plan import Wish, make
from goud_backup.prune import prune
from goud_backup.repository import layout
from goud_backup.repository.forks import Fork, dump
from goud_backup.repository.marks import Clock
from goud_backup.repository.repository import Repository
from goud_backup.repository.retention import Policy
from goud_backup.restore import Tools
from goud_backup.ship import DirectoryBlocks
from goud_node.chain.block import Header

from .command import Command
from .support import BLOCK_MS, GENESIS, backup, grow, restore, ship, tip_of
from .test_metrics import values

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
    record = fork(repository, BASE, base.hash.hex())
    assert record is not None
    assert len(record.backups) == 1
    assert ship(repository, other).last == 35


def test_a_manifest_that_comes_back_does_not_bring_its_history_back(
    repository: Repository, forked: tuple[Path, Header], cache: Path
) -> None:
    other, base = forked
    key = repository.manifest_keys()[-1][2]
    whole = bytes(repository.target.get(key))
    repository.target.put(key, whole[:-40])
    record = fork(repository, BASE, base.hash.hex())
    assert record is not None
    assert record.backups == (repository.manifest_keys()[-1][1],)
    present = backup(repository, other, cache)
    repository.target.put(key, whole)
    assert make(repository, Wish(), None).manifest == repository.find(present.id), "not the one that led higher"
    assert fork(repository, 35, tip_of(other).hash.hex()) is None


def test_a_manifest_that_is_misread_in_passing_keeps_its_history(
    repository: Repository, forked: tuple[Path, Header], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, base = forked
    monkeypatch.setattr("goud_backup.fork._PATIENCE", (0.0, 0.0))
    below, above = [backup_id for _, backup_id, _ in repository.manifest_keys()]
    read, misread = repository.target.get, [repository.manifest_keys()[0][2]]

    def get(key: str, *arguments: int) -> bytes | bytearray:
        raw = read(key, *arguments)
        if key in misread:
            misread.remove(key)
            return raw[:-40]
        return raw

    monkeypatch.setattr(repository.target, "get", get)
    abandoned = fork(repository, BASE, base.hash.hex())
    assert abandoned is not None
    assert not misread
    assert abandoned.backups == (above,)
    assert repository.find("latest").id == below


def named(repository: Repository) -> str | None:
    """The backup that latest.json names."""
    if repository.target.stat(layout.LATEST) is None:
        return None
    return str(json.loads(bytes(repository.target.get(layout.LATEST)))["id"])


def test_the_latest_that_is_named_is_of_the_present_history_and_there(
    repository: Repository, forked: tuple[Path, Header]
) -> None:
    other, base = forked
    below, above = [backup_id for _, backup_id, _ in repository.manifest_keys()]
    assert named(repository) == above
    fork(repository, BASE, base.hash.hex())
    assert named(repository) == below
    # A release that wrote no other name at a fork has left the old one.
    repository.target.put(layout.LATEST, b'{"id": "' + above.encode() + b'", "sha256": "0"}')
    for now in (0.0, 2 * 86400.0):
        prune(repository, Policy(days=0), clock=partial(Clock, now, now, "a"))
    assert named(repository) == below
    fork(repository, 0, GENESIS.block().hash.hex())
    assert named(repository) is None, "there is none"
    assert other.is_dir()


def test_a_fork_that_was_cut_off_is_followed_when_it_is_repeated(
    repository: Repository, forked: tuple[Path, Header], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, base = forked
    below, above = [backup_id for _, backup_id, _ in repository.manifest_keys()]
    with monkeypatch.context() as patch:
        patch.setattr(forking, "follow", lambda *_: None)
        assert fork(repository, BASE, base.hash.hex()) is not None
    assert named(repository) == above
    assert fork(repository, BASE, base.hash.hex()) is None, "there is nothing to abandon any more"
    assert named(repository) == below


@pytest.mark.parametrize("created", ["yesterday", "2026-01-01T00:00:00", "", "2026-13-01T00:00:00+00:00"])
def test_a_fork_of_no_day_is_damaged(repository: Repository, created: str) -> None:
    date = "2026-01-01T00:00:00+00:00"
    raw = dump(Fork(5, "0" * 64, date, (), ("20200101T000000Z-000000",)))[1].replace(date.encode(), created.encode())
    key = layout.fork_key(5, sha256(raw).hexdigest())
    repository.target.put(key, raw)
    with pytest.raises(Damaged, match=key):
        prune(repository, Policy())


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


@pytest.fixture
def abandoned(goud_backup: Command, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Backed up and shipped, then said to have been restored to block 1: nothing that is stored is of that history."""
    (tmp_path / "metrics").mkdir()
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("GOUD_BACKUP_METRICS_DIR", str(tmp_path / "metrics"))
    goud_backup("init")
    goud_backup("create")
    grow(data, 5)
    goud_backup("ship", "--data-dir", str(data))
    base = DirectoryBlocks(data, GENESIS).digest(1)
    goud_backup("fork", "--height", "1", "--hash", str(base))
    return goud_backup


NO_BACKUP = "holds no backup yet of the present history; 1 of an abandoned one.*Make one with `goud-backup create`"


@pytest.mark.parametrize("level", [["--quick"], [], ["--deep"]])
def test_no_backup_of_the_present_history_is_told_by_verify(
    abandoned: Command, tmp_path: Path, level: list[str]
) -> None:
    report = abandoned("verify", *level, "--json", code=16)
    assert not report["ok"]
    (problem,) = report["problems"]
    assert re.search(NO_BACKUP, problem["message"])
    metrics = values(tmp_path / "metrics", "verify")
    assert (metrics["success"], metrics["exit_code"], metrics["problems"]) == (0, 16, 1)
    next((tmp_path / "repository" / "objects").rglob("*/*")).unlink()
    assert len(abandoned("verify", *level, "--json", code=11)["problems"]) > 1, "damage is not hidden by it"


def test_no_backup_of_the_present_history_is_told_by_status_and_drill(abandoned: Command, tmp_path: Path) -> None:
    assert re.search(NO_BACKUP, abandoned("status", "--json", code=16)["problem"])
    abandoned("drill", "--scratch", str(tmp_path / "scratch"), code=16)
    assert re.search(NO_BACKUP, abandoned.error)
    assert values(tmp_path / "metrics", "drill")["exit_code"] == 16


@pytest.mark.parametrize("verb", ["create", "ship"])
def test_the_next_run_that_stores_ends_that(abandoned: Command, verb: str) -> None:
    abandoned(verb, *(["--data-dir", str(abandoned.folder / "data")] if verb == "ship" else []))
    assert abandoned("status", "--json")["problem"] is None
    assert abandoned("verify", "--json")["ok"]


def test_shipped_blocks_without_a_backup_can_be_abandoned_too(repository: Repository, tmp_path: Path) -> None:
    plans.require_whole(repository)
    grow(tmp_path / "chain", 10)
    ship(repository, tmp_path / "chain")
    assert fork(repository, 0, GENESIS.block().hash.hex()) is not None
    with pytest.raises(NoSuchBackup, match="of the present history; what was shipped is abandoned"):
        plans.require_whole(repository)


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
    manifest = backup(repository, other, cache)
    assert repository.find("latest").id == manifest.id
    assert manifest.chain.tip_hash == present.hash.hex()
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


class Behind(datetime):
    """A clock that stands in the past."""

    year_of_the_clock = 1970

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Behind:
        return cls(cls.year_of_the_clock, 1, 1, tzinfo=tz)


@pytest.mark.parametrize("year", [1970, 2020, 2025])
def test_a_fork_by_a_clock_that_is_behind_is_no_older_than_the_backups(
    repository: Repository, forked: tuple[Path, Header], year: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = max(one.created_at for one in repository.manifests().good)
    monkeypatch.setattr(Behind, "year_of_the_clock", year)
    monkeypatch.setattr("goud_backup.fork.datetime", Behind)
    record = fork(repository, BASE, forked[1].hash.hex())
    assert record is not None
    assert datetime.fromisoformat(record.created).date() >= newest.date()


@pytest.mark.parametrize("damaged", [False, True])
def test_where_there_is_no_backup_a_fork_is_no_older_than_the_blocks(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, damaged: bool
) -> None:
    grow(tmp_path / "chain", 10)
    ship(repository, tmp_path / "chain", segment_bytes=900)
    newest = repository.segments()[-1]
    last = datetime.fromtimestamp(repository.segment_header(newest).last_ms / 1000, UTC)
    if damaged:
        repository.target.put(newest.key, b"goudseg1")
    base = str(DirectoryBlocks(tmp_path / "chain", GENESIS).digest(1))
    with monkeypatch.context() as patch:
        patch.setattr("goud_backup.fork.datetime", Behind)
        record = fork(repository, 1, base)
    assert record is not None
    assert datetime.fromisoformat(record.created).date() == last.date()


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
    record = fork(repository, BASE, base.hash.hex())
    assert record is not None
    ship(repository, other)
    grow(other, 5)
    backup(repository, other, cache)
    present = tip_of(other)
    stored = {stat.key for stat in repository.target.list(layout.SEGMENTS)}
    assert set(record.segments) <= stored
    prune(repository, Policy(days=1))
    assert abandoned in {one.id for one in repository.manifests().good}, "it is of a day that stays"
    for now in (0.0, 2 * 86400.0):
        prune(repository, Policy(days=0), clock=partial(Clock, now, now, "a"))
    assert abandoned not in {one.id for one in repository.manifests().good}
    assert not {stat.key for stat in repository.target.list(layout.SEGMENTS)} & set(record.segments)
    assert restore(repository, tmp_path / "again").tip_hash == present.hash.hex()


@pytest.mark.parametrize("name", ["README.txt", ".DS_Store", "é", "a b", "old/README"])
def test_a_stray_file_among_forks_stops_nobody(goud_backup: Command, name: str) -> None:
    goud_backup("init")
    goud_backup("create")
    path = goud_backup.folder / "repository" / layout.FORKS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    for verb in (("list",), ("status",), ("create",), ("prune", "--dry-run"), ("restore",)):
        goud_backup(*verb)
    seen = not name.startswith(".")  # a directory has hidden files of its own
    goud_backup("verify", code=11 if seen else 0)


def test_a_fork_whose_name_was_spoiled_stops_all_work(goud_backup: Command) -> None:
    goud_backup("init")
    goud_backup("create")
    path = goud_backup.folder / "repository" / layout.FORKS / f"{20:012d}-{'0' * 64}.json.conflict"
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    goud_backup("create", code=10)
