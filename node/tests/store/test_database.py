"""Locks, crashes, full and read-only disks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rocksdict import WriteOptions

from goud_node.errors import CorruptStore, StoreError, StoreFull
from goud_node.store import FRESH_KEY, Batch, Family, RocksStore
from goud_node.store.failures import classified, translate

from .support import in_mount_namespace, put_rows


def test_close_releases_the_lock_even_with_a_scan_half_read(tmp_path: Path) -> None:
    store = RocksStore.create(tmp_path / "rocksdb")
    put_rows(store, 0, 1000)
    half_read = store.scan(Family.BLOCKS)
    next(half_read)
    store.close()
    again = RocksStore.open(tmp_path / "rocksdb")
    assert len(list(again.scan(Family.BLOCKS))) == 1000
    again.close()


def test_a_second_opener_is_told_who_is_in_the_way(tmp_path: Path) -> None:
    store = RocksStore.create(tmp_path / "rocksdb")
    with pytest.raises(StoreError, match="in use by another process"):
        RocksStore.open(tmp_path / "rocksdb")
    store.close()


def test_creation_is_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "rocksdb.initializing").mkdir()
    (tmp_path / "rocksdb.initializing" / "000009.sst").write_bytes(b"half")
    store = RocksStore.create(tmp_path / "rocksdb")
    assert store.get(Family.METADATA, FRESH_KEY) is not None
    assert [entry.name for entry in tmp_path.iterdir()] == ["rocksdb"]
    batch = Batch()
    batch.delete(Family.METADATA, FRESH_KEY)
    store.write(batch)
    assert not store.fresh
    store.close()
    with pytest.raises(StoreError, match="exists already"):
        RocksStore.create(tmp_path / "rocksdb")


def test_read_only_reads_the_log_and_refuses_writes(tmp_path: Path) -> None:
    store = RocksStore.create(tmp_path / "rocksdb")
    rows = put_rows(store, 0, 20)
    reader = RocksStore.open(tmp_path / "rocksdb", read_only=True)
    assert dict(reader.scan(Family.BLOCKS)) == rows
    with pytest.raises(StoreError, match="read-only"):
        reader.write(Batch())
    reader.close()
    store.close()


def test_every_write_asks_for_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A killed process cannot tell a synced write from one in the page cache; only a power cut could.
    store = RocksStore.create(tmp_path / "rocksdb")
    asked: list[bool] = []

    class Spy:
        def write(self, _: object, options: WriteOptions | None = None) -> None:
            asked.append(options is not None and options.sync)

    with monkeypatch.context() as patched:
        patched.setattr(store, "_database", Spy())
        store.write(Batch())
    assert asked == [True]
    store.close()


WRITER = """
import sys
from pathlib import Path
from goud_node.store import Batch, Family, RocksStore
store = RocksStore.open(Path(sys.argv[1]))
for number in range(1_000_000):
    batch = Batch()
    for family in (Family.BLOCKS, Family.METADATA):
        batch.put(family, number.to_bytes(8, "big"), bytes(100))
    store.write(batch)
    print(number, flush=True)
"""


def test_sigkill_loses_no_acknowledged_write(tmp_path: Path) -> None:
    path = tmp_path / "rocksdb"
    RocksStore.create(path).close()
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(300)]
        child.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in child.stdout if line.endswith("\n")]
    store = RocksStore.open(path)
    blocks = [int.from_bytes(key, "big") for key, _ in store.scan(Family.BLOCKS)]
    assert blocks == list(range(len(blocks)))
    assert len(blocks) > acknowledged[-1]
    # Two families, one batch: never one without the other.
    assert len([key for key, _ in store.scan(Family.METADATA) if len(key) == 8]) == len(blocks)
    store.close()


FILL = """
import os, sys, time
from pathlib import Path
from goud_node.errors import StoreFull
from goud_node.store import Batch, Family, RocksStore, tuning
from goud_node.store.checkpoint import Checkpoints
root, left = Path(sys.argv[1]), int(sys.argv[2])
def free():
    disk = os.statvfs(root)
    return disk.f_bavail * disk.f_frsize
store = RocksStore.create(root / "rocksdb")
def put(number):
    batch = Batch()
    batch.put(Family.BLOCKS, number.to_bytes(8, "big"), os.urandom(400_000))
    store.write(batch)
acknowledged = 0
while acknowledged < 5:
    put(acknowledged)
    acknowledged += 1
ballast = (root / "ballast").open("ab", buffering=0)
while free() > left:
    ballast.write(bytes(min(free() - left, 1 << 20) or 1))
try:
    while True:
        put(acknowledged)
        acknowledged += 1
except StoreFull as error:
    assert str(root) in str(error)
assert store.refused
assert len(list(store.scan(Family.BLOCKS))) >= acknowledged
try:
    Checkpoints(store, root / "checkpoints").create("a", 60)
    raise SystemExit("a checkpoint succeeded on a full disk")
except StoreFull:
    assert not (root / "checkpoints" / "a").exists()
needed = tuning.room_of(tuning.capacity_of(root)) + 1_000_000
while free() < needed:
    os.truncate(root / "ballast", (root / "ballast").stat().st_size - 100_000)
began = time.monotonic()
while True:
    try:
        put(acknowledged)
        break
    except StoreFull:
        assert time.monotonic() - began < 30, "it does not resume"
        time.sleep(0.1)
acknowledged += 1
assert not store.refused
store.close()
store = RocksStore.open(root / "rocksdb")
keys = [int.from_bytes(key, "big") for key, _ in store.scan(Family.BLOCKS)]
assert keys == list(range(acknowledged)), keys
print("recovered", acknowledged)

"""


@pytest.mark.parametrize(("size", "left"), [(40, 1_000_000), (90, 500_000), (90, 3_000_000), (220, 2_000_000)])
def test_a_full_disk_refuses_writes_loses_none_and_recovers(tmp_path: Path, size: int, left: int) -> None:
    """`left` bytes decide whether the log or a table file is the first that has no room."""
    script = f"mount -t tmpfs -o size={size}m tmpfs '{tmp_path}'"
    result = in_mount_namespace(script, FILL, str(tmp_path), str(left))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("recovered")


READ = """
import sys
from pathlib import Path
from goud_node.errors import StoreError
from goud_node.store import RocksStore
try:
    RocksStore.open(Path(sys.argv[1]), read_only=True)
except StoreError as error:
    print(error)
"""


def test_a_read_only_mount_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "rocksdb"
    RocksStore.create(path).close()
    script = f"mount --bind '{tmp_path}' '{tmp_path}'\nmount -o remount,bind,ro '{tmp_path}'"
    result = in_mount_namespace(script, READ, str(path))
    assert result.returncode == 0, result.stderr
    assert "copy it first" in result.stdout


def test_memory_stays_within_the_budget_while_writing(tmp_path: Path) -> None:
    store = RocksStore.create(tmp_path / "rocksdb")
    peak = 0
    block = bytes(500_000)
    for number in range(300):
        batch = Batch()
        batch.put(Family.BLOCKS, number.to_bytes(8, "big"), block)
        store.write(batch)
        peak = max(peak, store.total("rocksdb.cur-size-all-mem-tables"))
    assert peak < 80 * 1024 * 1024
    assert (tmp_path / "rocksdb" / "LOG").stat().st_size < 4 * 1024 * 1024
    store.close()


@pytest.mark.parametrize(
    ("text", "kind", "part"),
    [
        ("IO error: No space left on device: While appending to file: /d/000009.log: x", StoreFull, "Free space"),
        ("IO error: While appending to file: /d/000009.log: Disk quota exceeded", StoreFull, "Free space"),
        ("IO error: While lock file: /d/LOCK: Resource temporarily unavailable", StoreError, "Stop that process"),
        (
            "Corruption: block checksum mismatch: stored = 1 in /d/000009.sst offset 0",
            CorruptStore,
            "000009.sst",
        ),
        (
            "IO error: No such file or directory: While open a file: /d/000012.sst",
            CorruptStore,
            "000012.sst",
        ),
        ("Invalid argument: Column family not found: audit", CorruptStore, "audit"),
        ("Read-only file system (os error 30)", StoreError, "copy it first"),
        ("Busy: something else", StoreError, "something else"),
    ],
)
def test_library_texts_become_errors_with_a_next_step(text: str, kind: type[StoreError], part: str) -> None:
    error = translate(Path("/d"), text, Family.BLOCKS)
    assert type(error) is kind
    assert part in str(error)


def test_our_own_mistakes_are_not_dressed_up_as_storage_errors() -> None:
    with pytest.raises(TypeError), classified(Path("/d")):
        raise TypeError("a bug")


def test_opening_is_quick(tmp_path: Path) -> None:
    store = RocksStore.create(tmp_path / "rocksdb")
    put_rows(store, 0, 2000)
    store.close()
    began = time.perf_counter()
    RocksStore.open(tmp_path / "rocksdb").close()
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("end", ["room", "no room"])
def test_a_write_that_the_database_puts_off_waits_outside_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Inside, it would hold the interpreter's lock: on a full disk for as long as nobody frees space."""
    store = RocksStore.create(tmp_path / "rocksdb")
    library, answers = store.database, ["Result incomplete: Write stall"] * 3
    if end == "no room":
        answers.append("IO error: No space left on device")

    class Reluctant:
        def write(self, changes: Any, options: Any) -> None:
            assert options.no_slowdown, "it would wait"
            if answers:
                raise Exception(answers.pop(0))  # noqa: TRY002  # the library raises nothing else
            library.write(changes, options)

        def latest_sequence_number(self) -> int:
            return library.latest_sequence_number()

    batch = Batch()
    batch.put(Family.BLOCKS, b"key", b"value")
    with monkeypatch.context() as patch:
        patch.setattr(RocksStore, "database", Reluctant())
        if end == "room":
            store.write(batch)
        else:
            with pytest.raises(StoreFull):
                store.write(batch)
    assert not answers
    assert (store.get(Family.BLOCKS, b"key") is None, store.refused) == ((end == "no room"),) * 2
    store.close()


BROKEN = """
import resource, sys
from pathlib import Path
from goud_node.errors import StoreError, StoreFull
from goud_node.store import Batch, Family, RocksStore

def put(key):
    batch = Batch()
    batch.put(Family.BLOCKS, key, key)
    store.write(batch)

path = Path(sys.argv[1]) / "rocksdb"
store = RocksStore.create(path)
put(b"before")
most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, most[1]))
for _ in range(2):
    try:
        put(b"lost")
        sys.exit("written")
    except StoreFull:
        sys.exit("called full")
    except StoreError:
        pass
resource.setrlimit(resource.RLIMIT_FSIZE, most)
assert store.failure and not store.refused, (store.failure, store.refused)
store.close()
store = RocksStore.open(path)
put(b"after")
assert store.failure is None
rows = [store.get(Family.BLOCKS, key) for key in (b"before", b"after")]
store.close()
print(rows)
"""


def test_a_database_that_broke_says_so_closes_and_opens_whole(tmp_path: Path) -> None:
    """Here by a limit of the size of files, lifted again; a device or a file system may fail alike."""
    result = subprocess.run([sys.executable, "-c", BROKEN, tmp_path], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "[b'before', b'after']\n"), result.stderr


INODES = """
import os, sys
from pathlib import Path
from goud_node.errors import StoreFull
from goud_node.store import RocksStore

path = Path(sys.argv[1]) / "rocksdb"
try:
    RocksStore.create(path)
    sys.exit("created")
except StoreFull:
    os.system(f"mount -o remount,nr_inodes=1000 '{sys.argv[1]}'")
RocksStore.create(path).close()
print("created later")
"""


@pytest.mark.parametrize("inodes", [1, 2, 6])
def test_a_disk_without_inodes_is_full_and_leaves_nothing_in_the_way(tmp_path: Path, inodes: int) -> None:
    result = in_mount_namespace(f"mount -t tmpfs -o nr_inodes={inodes} tmpfs '{tmp_path}'", INODES, str(tmp_path))
    assert (result.returncode, result.stdout) == (0, "created later\n"), result.stderr
