"""Nothing is recorded under a lock that cannot be believed, and what was recorded under a lost one is withdrawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.codec.encoding import Bytes
from goud_backup.errors import (
    AccessRefused,
    Locked,
    LockLost,
    PreconditionFailed,
    RepositoryExists,
    TargetError,
    UnsafeStore,
)
from goud_backup.fork import fork
from goud_backup.plan import Wish, make
from goud_backup.prune import keep, prune
from goud_backup.repository import layout, locks
from goud_backup.repository.recording import put_manifest, put_under, withdraw
from goud_backup.repository.repository import Repository, initialize, open_repository
from goud_backup.repository.retention import Policy
from goud_backup.targets import Stat, Target, open_target
from goud_backup.upload import units

from .support import GENESIS, backup, grow, make_repository, restore, ship

HOUR = 3600.0


class Watched:
    """A target that counts its writes and calls `before` ahead of each; some conditions may be ignored."""

    def __init__(self, target: Target, *ignored: str) -> None:
        self._target = target
        self._ignored = ignored
        self.writes: list[str] = []
        self.before: Callable[[str, str], None] = lambda *_: None
        self.after: Callable[[str, str], None] = lambda *_: None
        self.url = target.url
        self.get, self.stat, self.list, self.now = target.get, target.stat, target.list, target.now
        self.create, self.close = target.create, target.close
        self.unfinished, self.reserve = target.unfinished, target.reserve
        self.independent_clock = target.independent_clock

    def put(self, key: str, data: Bytes, **more: Any) -> Stat:
        self.writes.append(key)
        self.before("put", key)
        stat = self._target.put(key, data, **{name: value for name, value in more.items() if name not in self._ignored})
        self.after("put", key)
        return stat

    def delete(self, key: str) -> None:
        self.before("delete", key)
        self._target.delete(key)
        self.after("delete", key)


def watched(repository: Repository, *ignored: str) -> tuple[Repository, Watched]:
    target = Watched(repository.target, *ignored)
    return Repository(target, repository.config), target


def content(target: Target) -> dict[str, bytes]:
    return {stat.key: bytes(target.get(stat.key)) for stat in target.list("")}


IGNORED = [("if_absent", "if_version"), ("if_absent",), ("if_version",)]


@pytest.mark.parametrize("ignored", IGNORED)
def test_no_repository_is_made_where_conditions_are_ignored(target: Target, ignored: tuple[str, ...]) -> None:
    with pytest.raises(UnsafeStore, match="does not honour conditional writes"):
        initialize(Watched(target, *ignored), GENESIS, encrypted=False)
    assert not content(target), "it is left as it was found"


WRITERS: dict[str, Callable[[Repository, Path], object]] = {
    "create": lambda repository, folder: backup(repository, folder / "data", folder / "cache-2"),
    "ship": lambda repository, folder: ship(repository, folder / "data"),
    "fork": lambda repository, _: fork(repository, 10, "ab" * 32),
    "keep": lambda repository, _: keep(repository, "latest", mark=True),
    "prune": lambda repository, _: prune(repository, Policy(days=0)),
}
READERS: dict[str, Callable[[Repository, Path], object]] = {
    "list": lambda repository, _: repository.manifests(),
    "dry run": lambda repository, _: prune(repository, Policy(days=0), dry_run=True),
    "verify": lambda repository, _: verifying.verify(repository, verifying.Depth(record=False), restoring.Tools(None)),
    "plan": lambda repository, _: make(repository, Wish(), None),
    "restore": lambda repository, folder: restore(repository, folder / "out"),
}


@pytest.fixture
def begun(repository: Repository, tmp_path: Path) -> Repository:
    """One backup at 20, and data at 30."""
    grow(tmp_path / "data", 20)
    backup(repository, tmp_path / "data", tmp_path / "cache")
    grow(tmp_path / "data", 10)
    return repository


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.mark.parametrize("ignored", IGNORED)
@pytest.mark.parametrize("verb", WRITERS)
def test_no_writer_believes_such_a_store(
    begun: Repository, tmp_path: Path, verb: str, ignored: tuple[str, ...]
) -> None:
    before = {key: raw for key, raw in content(begun.target).items() if not key.startswith(layout.LOCKS)}
    with pytest.raises(UnsafeStore):
        WRITERS[verb](watched(begun, *ignored)[0], tmp_path)
    after = content(begun.target)
    assert {key: raw for key, raw in after.items() if not key.startswith(layout.LOCKS)} == before
    assert all(raw == b'{"free":true}' for key, raw in after.items() if key.startswith(layout.LOCKS))


@pytest.mark.parametrize("verb", READERS)
def test_readers_never_ask(begun: Repository, tmp_path: Path, verb: str) -> None:
    repository, target = watched(begun, "if_absent", "if_version")
    READERS[verb](repository, tmp_path)
    assert not target.writes


def test_a_store_is_asked_once_a_process(begun: Repository) -> None:
    repository, target = watched(begun)
    counts = []
    for _ in range(2):
        before = len(target.writes)
        with locks.Lock(target, locks.BACKUP, "create"):
            counts.append(len(target.writes) - before)
    assert counts == [3, 1], "taken, and asked twice for what must be refused; then only taken"
    assert repository.find("latest")


def test_another_failure_is_not_a_refusal(begun: Repository) -> None:
    repository, target = watched(begun)

    def refuse(_: str, key: str) -> None:
        if key.startswith(layout.LOCKS) and len(target.writes) == 2:
            raise AccessRefused("not allowed")

    target.before = refuse
    with pytest.raises(AccessRefused):
        keep(repository, "latest", mark=True)
    assert not begun.kept()


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets an hour pass in which nothing of this process runs."""
    passed = [0.0]
    monkeypatch.setattr(locks, "_now", lambda: passed[0])

    def sleep() -> None:
        passed[0] += HOUR

    return sleep


def taken_over(target: Target, name: str) -> None:
    target.put(f"{layout.LOCKS}{name}.json", b'{"free":true}')


RECORDS = {
    "create": (locks.BACKUP, layout.MANIFESTS),
    "ship": (locks.SHIP, layout.SEGMENTS),
    "fork": (locks.SHIP, layout.FORKS),
    "keep": (locks.BACKUP, layout.KEEPS),
}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("verb", RECORDS)
def test_what_was_recorded_under_a_lost_lock_is_withdrawn(
    begun: Repository, tmp_path: Path, asleep: Callable[[], None], verb: str, moment: str
) -> None:
    """It sleeps right before or right after the write that records, when it has looked at its lock already."""
    name, prefix = RECORDS[verb]
    if verb == "fork":
        ship(begun, tmp_path / "data")
    repository, target = watched(begun)
    before = {stat.key for stat in begun.target.list(prefix)}
    latest = bytes(begun.target.get(layout.LATEST))
    lost: list[str] = []

    def lose(_: str, key: str) -> None:
        if key.startswith(prefix) and not lost:
            lost.append(key)
            taken_over(begun.target, name)
            asleep()

    setattr(target, moment, lose)
    with pytest.raises(LockLost, match="which was recorded meanwhile, was withdrawn"):
        WRITERS[verb](repository, tmp_path)
    assert lost
    assert {stat.key for stat in begun.target.list(prefix)} == before
    assert bytes(begun.target.get(layout.LATEST)) == latest


def test_one_that_may_not_withdraw_says_what_is_left(
    begun: Repository, tmp_path: Path, asleep: Callable[[], None]
) -> None:
    repository, target = watched(begun)

    def lose(verb: str, key: str) -> None:
        if verb == "delete":
            raise AccessRefused("this host may not remove")
        if key.startswith(layout.MANIFESTS):
            taken_over(begun.target, locks.BACKUP)
            asleep()

    target.before = lose
    with pytest.raises(LockLost, match=r"manifests/00000002-.* could not be withdrawn"):
        backup(repository, tmp_path / "data", tmp_path / "cache")
    (left,) = [one for one in begun.manifests().good if one.sequence == 2]
    assert begun.checks()[left.id]["ok"] is False, "nobody takes it for a good one"


@pytest.mark.parametrize("moment", ["put", "look again"])
@pytest.mark.parametrize(
    "failure", [TargetError, ValueError, KeyError, AttributeError, RecursionError, KeyboardInterrupt, SystemExit]
)
def test_a_manifest_that_was_not_looked_at_again_is_withdrawn(
    begun: Repository, failure: type[BaseException], moment: str
) -> None:
    """Whatever kept it from that, and also where the store has it although its answer was none."""
    repository, target = watched(begun)
    previous = begun.find("latest")
    draft = replace(previous, sequence=2, id="20300101T000000Z-aaaaaa", previous=(previous.id, previous.sha256))

    def fail(*_: str) -> None:
        raise failure("it failed")

    def answer(_: str, key: str) -> None:
        if moment == "put" and key == layout.manifest_key(2, draft.id):
            fail()

    target.after = answer
    with locks.Lock(target, locks.BACKUP, "create") as lock, pytest.raises(failure, match="it failed"):
        put_manifest(repository, draft, lock, fail)
    assert [manifest.sequence for manifest in begun.manifests().good] == [1]


def test_a_manifest_of_somebody_else_is_not_withdrawn(begun: Repository) -> None:
    repository, target = watched(begun)
    previous = begun.find("latest")
    with locks.Lock(target, locks.BACKUP, "create") as lock, pytest.raises(PreconditionFailed):
        put_manifest(repository, replace(previous, started="2030-01-01T00:00:00+00:00"), lock, lambda: None)
    assert begun.find("latest") == previous


def test_what_can_be_withdrawn_is_although_something_else_cannot(begun: Repository) -> None:
    repository, target = watched(begun)
    keys = [f"{layout.SEGMENTS}{letter}" for letter in "abc"]
    for key in keys:
        begun.target.put(key, b"x")

    def lose(verb: str, key: str) -> None:
        if (verb, key) == ("delete", keys[0]):
            raise AccessRefused("this host may not remove")

    target.before = lose
    assert withdraw(repository, keys).startswith(f"{keys[0]} was recorded meanwhile and could not be withdrawn")
    assert [key for key in keys if begun.target.stat(key) is not None] == keys[:1]


def test_what_was_there_before_is_not_withdrawn(begun: Repository, tmp_path: Path, asleep: Callable[[], None]) -> None:
    ship(begun, tmp_path / "data")
    (stored,) = begun.segments()
    repository, target = watched(begun)

    def lose(*_: str) -> None:
        taken_over(begun.target, locks.SHIP)
        asleep()

    target.before = lose
    with locks.Lock(begun.target, locks.SHIP, "ship") as lock:
        put_under(repository, [lock], stored.key, bytes(begun.target.get(stored.key)))
    assert begun.segments() == [stored]


@pytest.mark.parametrize(
    ("name", "step"),
    [*((locks.BACKUP, step) for step in (1, 2, 5, 8, -4, -3, -2, -1)), (locks.SHIP, 2), (locks.SHIP, -1)],
)
def test_prune_looks_at_its_locks_before_every_change(
    repository: Repository,
    tmp_path: Path,
    asleep: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    name: str,
    step: int,
) -> None:
    """It sleeps after its n-th change, or the n-th from the end: nothing more is changed, however many are left."""
    monkeypatch.setattr("goud_backup.create.units", partial(units, part=8_192, pack=2_048))
    for node in ("a", "b", "c"):
        grow(tmp_path / node, 30)
        backup(repository, tmp_path / node, tmp_path / f"cache-{node}")
    prune(repository, Policy(days=0, last=2), grace=0)
    planned = prune(repository, Policy(days=0, last=1), grace=0, dry_run=True)
    # A forgotten manifest is copied to the trash and then removed.
    changes = len(planned.sweep) + 1 + 2 * len(planned.forget)
    assert changes > 10
    last = step if step > 0 else changes + 1 + step
    fragile, target = watched(repository)
    changed: list[str] = []

    def lose(verb: str, key: str) -> None:
        if key.startswith(layout.LOCKS):
            return
        changed.append(f"{verb} {key}")
        if len(changed) == last:
            taken_over(repository.target, name)
            asleep()

    target.after = lose
    with pytest.raises(LockLost, match=r"steps of its plan were done"):
        prune(fragile, Policy(days=0, last=1), grace=0)
    assert len(changed) <= last + (changed[-1].startswith("delete manifests/"))


def test_keep_waits_for_a_prune_that_has_decided(begun: Repository) -> None:
    with locks.Lock(begun.target, locks.BACKUP, "prune"), pytest.raises(Locked, match="prune on"):
        keep(begun, "latest", mark=True)
    assert not begun.kept()


def test_init_touches_nothing_of_a_repository(tmp_path: Path, repository: Repository) -> None:
    half = tmp_path / "repository/objects/ab/.tmp-0123456789abcdef"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"an upload under way")
    target = Watched(open_target(repository.url))
    with pytest.raises(RepositoryExists):
        initialize(target, GENESIS, encrypted=False)
    assert half.exists()
    assert not target.writes
    assert open_repository(target).config == repository.config
    assert make_repository(tmp_path / "other").config != repository.config


def test_a_lock_removed_by_force_is_noticed_after_the_write(begun: Repository, tmp_path: Path) -> None:
    """`unlock --force` beside a living holder: no time has passed, so only the store knows."""
    repository, target = watched(begun)

    def lose(_: str, key: str) -> None:
        if key.startswith(layout.MANIFESTS):
            taken_over(begun.target, locks.BACKUP)

    target.after = lose
    with pytest.raises(LockLost, match="was withdrawn"):
        backup(repository, tmp_path / "data", tmp_path / "cache")
    assert [manifest.sequence for manifest in begun.manifests().good] == [1]


@pytest.mark.parametrize("error", [TargetError("reset"), OSError("reset"), ValueError("odd")])
def test_a_failure_while_a_renewal_is_looked_for_is_not_the_end_of_renewing(tmp_path: Path, error: Exception) -> None:
    """The answer to a renewal is lost, its repeat finds its own write, and the look at that fails, once."""
    repository = make_repository(tmp_path / "r")
    target = Watched(repository.target)
    lock = locks.Lock(target, locks.BACKUP, "create", renew=0.05, expiry=5.0)
    failures: list[str] = []

    def lose(verb: str, key: str) -> None:
        del verb, key
        if not failures:
            failures.append("answer")
            raise PreconditionFailed("412")

    def stat(key: str) -> Stat | None:
        if failures == ["answer"]:
            failures.append("look")
            raise error
        return repository.target.stat(key)

    with lock:
        target.after, target.stat = lose, stat
        deadline = time.monotonic() + 10
        writes = len(target.writes)
        while time.monotonic() < deadline and len(target.writes) < writes + 4:
            time.sleep(0.01)
        assert failures == ["answer", "look"]
        assert len(target.writes) >= writes + 4, "it is renewed again and again"
        lock.check(certain=True)
