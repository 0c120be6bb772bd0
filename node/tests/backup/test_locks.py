"""Locks name their holder, end with it, and are not fooled by clocks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from goud_backup.errors import Locked, LockLost, TargetError
from goud_backup.repository import locks
from goud_backup.repository.locks import BACKUP, Holder, Lock, is_gone, process_identity
from goud_backup.repository.manifest import canonical
from goud_backup.targets import Target, open_target

KEY = "locks/backup.json"


def held_by(target: Target, *, renewed: float, host: str = "elsewhere", process: str = "") -> None:
    holder = Holder("t", "create", host, 4711, process, "2026-01-01T00:00:00+00:00", renewed)
    target.put(KEY, canonical(asdict(holder)))


def test_the_second_is_told_who_holds_it(target: Target) -> None:
    with Lock(target, BACKUP, "create"), pytest.raises(Locked, match=rf"create on .*process {os.getpid()}"):
        Lock(target, BACKUP, "prune").__enter__()
    with Lock(target, BACKUP, "prune"):
        pass


def test_locks_of_other_names_do_not_meet(target: Target) -> None:
    with Lock(target, BACKUP, "create"), Lock(target, locks.SHIP, "ship"):
        pass


def test_waiting_gets_it_when_it_is_free(target: Target) -> None:
    first = Lock(target, BACKUP, "create")
    first.__enter__()
    threading.Timer(0.3, lambda: first.__exit__(None, None, None)).start()
    with Lock(target, BACKUP, "prune", wait=10):
        pass


@pytest.fixture
def local(tmp_path: Path) -> Target:
    found = open_target(f"file://{tmp_path}/locks")
    found.create()
    return found


def test_a_killed_holder_on_this_machine_is_gone_at_once(local: Target, tmp_path: Path) -> None:
    script = (
        "import sys, os, signal; from goud_backup.targets import open_target; "
        "from goud_backup.repository.locks import Lock; "
        "Lock(open_target(sys.argv[1]), 'backup', 'create').__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, local.url], check=False, cwd=tmp_path)
    assert done.returncode == -9
    began = time.monotonic()
    with Lock(local, BACKUP, "create"):
        assert time.monotonic() - began < 2


def test_a_living_process_is_not_gone() -> None:
    mine = process_identity()
    assert len(mine.split()) == 4
    assert not is_gone(Holder("t", "x", "h", 1, mine, "", 0))
    boot, namespace, _, _ = mine.split()
    assert is_gone(Holder("t", "x", "h", 1, f"{boot} {namespace} {os.getpid()} 1", "", 0))
    assert not is_gone(Holder("t", "x", "h", 1, f"other {namespace} 1 1", "", 0))
    assert not is_gone(Holder("t", "x", "h", 1, "", "", 0))


@pytest.mark.parametrize("hidden", [FileNotFoundError, PermissionError])
def test_a_process_that_is_only_hidden_is_not_gone(monkeypatch: pytest.MonkeyPatch, hidden: type[OSError]) -> None:
    """/proc shows nothing of another user's process under hidepid and ProtectProc; the kernel knows of it."""
    mine = process_identity()
    ended = subprocess.Popen(["true"])
    ended.wait()
    boot, namespace, _, _ = mine.split()
    real = locks._start_time

    def start_time(pid: int) -> str:
        if asked:
            raise hidden
        return real(pid)

    asked: list[int] = []
    monkeypatch.setattr(locks, "_start_time", start_time)
    monkeypatch.setattr(locks, "process_identity", lambda: mine)
    asked.append(1)
    assert not is_gone(Holder("t", "x", "h", 1, mine, "", 0))
    assert is_gone(Holder("t", "x", "h", 1, f"{boot} {namespace} {ended.pid} 1", "", 0))
    monkeypatch.setattr(os, "kill", refused)
    assert not is_gone(Holder("t", "x", "h", 1, mine, "", 0))


def refused(_pid: int, _signal: int) -> None:
    raise PermissionError


def test_a_silent_holder_elsewhere_is_watched_before_it_is_replaced(local: Target) -> None:
    held_by(local, renewed=time.time() - 3600)
    watched: list[float] = []
    with Lock(local, BACKUP, "create", sleep=watched.append):
        assert watched == [2 * locks.RENEW_SECONDS]


def test_a_clock_that_jumped_does_not_take_a_living_lock(local: Target) -> None:
    held_by(local, renewed=time.time() - 3600)  # as it looks to a machine whose clock is an hour ahead

    def meanwhile(_: float) -> None:
        held_by(local, renewed=time.time() - 3600)  # the holder, alive, renews it by its own clock

    with pytest.raises(Locked, match="create on elsewhere"):
        Lock(local, BACKUP, "create", sleep=meanwhile).__enter__()


def test_one_whose_lock_was_taken_writes_no_more(local: Target) -> None:
    with Lock(local, BACKUP, "create", renew=0.05) as lock:
        lock.check()
        held_by(local, renewed=time.time())
        time.sleep(0.3)
        with pytest.raises(LockLost, match="took it over"):
            lock.check()
    assert b"elsewhere" in bytes(local.get(KEY)), "it must not release what is another's"


def test_it_is_renewed_while_it_is_held(local: Target) -> None:
    with Lock(local, BACKUP, "create", renew=0.05) as lock:
        before = local.stat(KEY)
        time.sleep(0.3)
        assert local.stat(KEY) != before
        lock.check()


def test_a_damaged_lock_protects_nobody(local: Target) -> None:
    local.put(KEY, b"{half")
    with Lock(local, BACKUP, "create"):
        pass


def test_an_hour_of_sleep_counts(local: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a machine sleeps its monotonic clock stands still; the time since boot goes on."""
    with Lock(local, BACKUP, "create") as lock:
        lock.check()
        held_by(local, renewed=time.time())
        real = time.clock_gettime
        monkeypatch.setattr(time, "clock_gettime", lambda clock: real(clock) + 3600 * (clock == time.CLOCK_BOOTTIME))
        with pytest.raises(LockLost, match="took it over"):
            lock.check()


def test_one_that_cannot_be_renewed_is_lost_before_another_may_take_it(
    local: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0.0]
    monkeypatch.setattr(locks, "_now", lambda: passed[0])

    def unreachable(*_: object, **__: object) -> None:
        raise TargetError("no connection")

    with Lock(local, BACKUP, "create") as lock:
        monkeypatch.setattr(local, "put", unreachable)
        passed[0] = locks.RENEW_SECONDS + 1
        lock.check()
        passed[0] = locks.EXPIRY_SECONDS + 1
        with pytest.raises(LockLost, match="could not be renewed"):
            lock.check()
