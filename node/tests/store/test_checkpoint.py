"""Checkpoints hold everything, pin space only for their time, and leave nothing behind when they fail."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goud_node.errors import StoreError, StoreFull
from goud_node.store import Batch, Family, RocksStore
from goud_node.store.checkpoint import Checkpoints

from .support import put_rows


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksStore]:
    opened = RocksStore.create(tmp_path / "rocksdb")
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def checkpoints(store: RocksStore, tmp_path: Path, clock: Clock) -> Checkpoints:
    return Checkpoints(store, tmp_path / "checkpoints", clock)


def test_a_checkpoint_opens_by_itself_and_holds_unflushed_rows_of_every_family(
    store: RocksStore, checkpoints: Checkpoints
) -> None:
    rows = put_rows(store, 0, 50)
    batch = Batch()
    for family in Family:
        batch.put(family, b"present", family.value.encode())
    store.write(batch)
    info = checkpoints.create("first", 60)
    put_rows(store, 50, 10)
    assert info.files == {file.name: file.stat().st_size for file in info.path.iterdir()}
    copy = RocksStore.open(info.path)
    assert len(list(copy.scan(Family.BLOCKS))) == len(rows) + 1
    assert all(copy.get(family, b"present") == family.value.encode() for family in Family)
    copy.close()


def test_every_family_is_flushed_before_the_checkpoint(store: RocksStore, checkpoints: Checkpoints) -> None:
    batch = Batch()
    for family in Family:
        batch.put(family, b"k", bytes(1000))
    store.write(batch)
    info = checkpoints.create("flushed", 60)
    # Everything is in data files: the log of the copy has nothing left to say.
    assert sum(size for name, size in info.files.items() if name.endswith(".log")) == 0


def test_families_agree_while_a_writer_runs(store: RocksStore, checkpoints: Checkpoints) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            batch = Batch()
            batch.put(Family.BLOCKS, number.to_bytes(8, "big"), bytes(200))
            batch.put(Family.METADATA, b"tip", str(number).encode())
            store.write(batch)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        paths = [checkpoints.create(f"c{number}", 60).path for number in range(8)]
    finally:
        stop.set()
        writer.join()
    for path in paths:
        copy = RocksStore.open(path)
        tip = copy.get(Family.METADATA, b"tip")
        last = next(copy.scan(Family.BLOCKS, reverse=True, limit=1), None)
        copy.close()
        assert (tip is None) == (last is None)
        assert tip is None or last is None or int(tip) == int.from_bytes(last[0], "big")


def test_release_removes_and_is_told_apart_from_unknown(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.create("a", 60)
    assert [info.id for info in checkpoints.list()] == ["a"]
    assert checkpoints.release("a")
    assert not checkpoints.release("a")
    assert not checkpoints.release("../rocksdb")
    assert checkpoints.list() == []
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_sweep_drops_expired_unfinished_and_unleased_ones_only(
    checkpoints: Checkpoints, clock: Clock, tmp_path: Path, store: RocksStore
) -> None:
    directory = tmp_path / "checkpoints"
    assert checkpoints.sweep() == []
    checkpoints.create("short", 10)
    checkpoints.create("long", 1000)
    (directory / "crashed.tmp").mkdir()
    (directory / "unleased").mkdir()
    (directory / "unreadable").mkdir()
    (directory / "unreadable.json").write_text("{")
    (directory / "vanished.json").write_text('{"expires_at": 9999999999}')
    clock.now += 11
    # A new process knows the leases from the disk.
    after_restart = Checkpoints(store, directory, clock)
    assert after_restart.sweep() == ["crashed.tmp", "short", "unleased", "unreadable"]
    assert sorted(entry.name for entry in directory.iterdir()) == ["long", "long.json"]


def _link_to_a_folder(directory: Path) -> None:
    (directory / "odd").symlink_to(directory.parent)


def _link_to_itself(directory: Path) -> None:
    (directory / "odd").symlink_to("odd")
    (directory / "odd.json").symlink_to("odd.json")


def _folder_as_a_lease(directory: Path) -> None:
    (directory / "odd.json").mkdir()


def _file_beside_its_lease(directory: Path) -> None:
    (directory / "odd").write_bytes(b"")
    (directory / "odd.json").write_bytes(b"{}")


def _pipe(directory: Path) -> None:
    os.mkfifo(directory / "odd.json")
    os.mkfifo(directory / "odd")


@pytest.mark.parametrize("odd", [_link_to_a_folder, _link_to_itself, _folder_as_a_lease, _file_beside_its_lease, _pipe])
def test_an_odd_entry_keeps_no_expired_checkpoint(
    checkpoints: Checkpoints, clock: Clock, tmp_path: Path, odd: Callable[[Path], None]
) -> None:
    for name in ("m", "p"):
        checkpoints.create(name, 10)
    odd(tmp_path / "checkpoints")
    clock.now += 11
    swept: list[str] = []
    sweep = threading.Thread(target=lambda: swept.extend(checkpoints.sweep()), daemon=True)
    sweep.start()
    sweep.join(5)
    assert {"m", "p"} <= set(swept)
    assert not {"m", "p", "m.json", "p.json"} & {entry.name for entry in (tmp_path / "checkpoints").iterdir()}
    assert checkpoints.list() == []
    assert not checkpoints.release("odd")
    assert tmp_path.is_dir()


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), RecursionError("too deep")])
def test_a_checkpoint_that_cannot_be_removed_keeps_no_other(
    checkpoints: Checkpoints,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    for name in ("a", "m", "z"):
        checkpoints.create(name, 10)
    clock.now += 11
    remove = shutil.rmtree

    def fail(path: Path) -> None:
        if path.name == "m":
            raise error
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", fail)
    assert checkpoints.sweep() == ["a", "z"]
    assert "checkpoints/m" in caplog.text
    monkeypatch.undo()
    assert checkpoints.sweep() == ["m"]


@pytest.mark.parametrize("hours", [-7.0, 7.0])
def test_a_step_of_the_wall_clock_ends_no_lease(
    checkpoints: Checkpoints, store: RocksStore, clock: Clock, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    info = checkpoints.create("reading", 6 * 3600)
    stepped = time.time() + hours * 3600
    monkeypatch.setattr(time, "time", lambda: stepped)
    clock.now += 6 * 3600 - 1
    for leases in (checkpoints, Checkpoints(store, info.path.parent, clock)):
        assert leases.sweep() == []
        assert [found.expires_at for found in leases.list()] == [stepped + 1]
    clock.now += 1
    assert checkpoints.sweep() == ["reading"]


def test_a_restart_of_the_machine_ends_every_lease(checkpoints: Checkpoints, store: RocksStore, clock: Clock) -> None:
    info = checkpoints.create("reading", 6 * 3600)
    clock.now = 5.0
    rebooted = Checkpoints(store, info.path.parent, clock, lambda: "another boot")
    assert rebooted.sweep() == ["reading"]


def test_a_lease_of_an_earlier_release_ends_by_the_wall_clock(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.create("old", 60)
    lease = tmp_path / "checkpoints" / "old.json"
    lease.write_text(json.dumps({"expires_at": time.time() + 30}))
    assert checkpoints.sweep() == []
    lease.write_text(json.dumps({"expires_at": time.time() - 1}))
    assert checkpoints.sweep() == ["old"]


def test_bad_requests_leave_nothing(checkpoints: Checkpoints, tmp_path: Path) -> None:
    for bad in ("", "../x", "a/b", "a.b", "x" * 65):
        with pytest.raises(StoreError, match="checkpoint id"):
            checkpoints.create(bad, 60)
    for ttl in (0, -1, 1e9):
        with pytest.raises(StoreError, match="seconds"):
            checkpoints.create("a", ttl)
    assert not (tmp_path / "checkpoints").exists()
    checkpoints.create("a", 60)
    with pytest.raises(StoreError, match="exists already"):
        checkpoints.create("a", 60)
    assert [info.id for info in checkpoints.list()] == ["a"]


def test_a_failed_checkpoint_leaves_nothing_behind(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StoreError("interrupted after linking")

    monkeypatch.setattr("goud_node.store.floor.raise_to", fail)
    with pytest.raises(StoreError, match="interrupted"):
        checkpoints.create("a", 60)
    monkeypatch.undo()
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_no_checkpoint_is_named(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("goud_node.store.durable.adopt_all", fail)
    with pytest.raises(StoreError, match="Cannot write") as caught:
        checkpoints.create("a", 60)
    monkeypatch.undo()
    assert isinstance(caught.value, StoreFull) == (number != errno.EROFS)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_another_file_system_is_refused(store: RocksStore) -> None:
    elsewhere = Path("/dev/shm")  # noqa: S108  any second file system will do; nothing is created in it
    assert elsewhere.stat().st_dev != store.path.stat().st_dev
    with pytest.raises(StoreError, match="different file systems"):
        Checkpoints(store, elsewhere).create("goud-test", 60)
    assert not (elsewhere / "goud-test").exists()
