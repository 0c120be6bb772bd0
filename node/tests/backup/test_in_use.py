"""The volume of a running node, looked at from outside: "in use" is the only answer, and the node notices nothing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goud_backup import restore as restoring
from goud_backup import walk
from goud_backup.errors import InUse
from goud_backup.source import DirectorySource, held
from goud_node.chain.inspect import inspect
from goud_node.chain.volume import open_volume
from goud_node.errors import StoreInUse
from goud_node.store import RocksStore, holding

from .support import GENESIS

WRITER = """
import os, sys
from pathlib import Path
from goud_node.store import Batch, Family, RocksStore
path, again = Path(sys.argv[1]), sys.argv[2] == "again"
number = 0
store = RocksStore.open(path)
print("begun", flush=True)
while not Path(sys.argv[3]).exists():
    for _ in range(20):
        number += 1
        batch = Batch()
        batch.put(Family.SEQUENCER, number.to_bytes(8, "big"), os.urandom(2000))
        store.write(batch)
    store.flush()
    if number % 100 == 0:
        store.database.get_column_family(Family.SEQUENCER.value).compact_range(None, None)
    if again:
        store.close()
        store = RocksStore.open(path)
store.close()
print("ended", flush=True)
"""


@contextlib.contextmanager
def writing(database: Path, how: str) -> Iterator[None]:
    """Another process writes, rotates and compacts; `again`: and opens the database anew each time."""
    stop = database.parent / "stop"
    command = [sys.executable, "-c", WRITER, str(database), how, str(stop)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "begun\n"
    try:
        yield
    finally:
        stop.touch()
        out, err = writer.communicate(timeout=60)
    assert (out, writer.returncode) == ("ended\n", 0), f"the writer was disturbed: {err}"


def plan(data: Path) -> None:
    told = restoring.live_document(data, GENESIS, 7)
    if told["live_problem"] is not None:
        assert "in use by another process" in told["live_problem"], told
        raise StoreInUse(told["live_problem"])


def volume(data: Path) -> None:
    store, _ = open_volume(data, GENESIS, must_be_mount=False)
    store.close()


def read_only(data: Path) -> None:
    RocksStore.open(data / "rocksdb", read_only=True).close()


def through_a_twin(data: Path) -> None:
    with walk.opened(data / "rocksdb") as store:
        walk.height_of(store, GENESIS)


def source(data: Path) -> None:
    with DirectorySource(data).open(GENESIS):
        pass


def looked_through(data: Path) -> None:
    # The writer's rows are none of a chain: that is found out once it has ended.
    inspect(data, GENESIS)


LOOKS = (plan, volume, read_only, through_a_twin, source, looked_through)


@pytest.mark.parametrize("look", LOOKS)
def test_a_database_that_is_open_is_in_use(data: Path, look: Callable[[Path], None]) -> None:
    with writing(data / "rocksdb", "once"):
        for _ in range(50):
            with pytest.raises((StoreInUse, InUse), match=r"in use|running process"):
                look(data)
    look(data)


@pytest.mark.parametrize("look", [plan, read_only, through_a_twin])
def test_a_node_that_starts_meanwhile_is_not_disturbed(data: Path, look: Callable[[Path], None]) -> None:
    """Those who only look take no lock; they see the whole database, or that it is in use, and never damage."""
    with writing(data / "rocksdb", "again"):
        for _ in range(50):
            with contextlib.suppress(StoreInUse):
                look(data)
            time.sleep(0.001)


def test_a_process_never_asks_about_what_it_holds(data: Path) -> None:
    """Asking would end in giving up the lock."""
    ask = "import sys; from pathlib import Path; from goud_node.store import holding\n"
    ask += "print(holding.held_elsewhere(Path(sys.argv[1])))"

    def seen() -> str:
        command = [sys.executable, "-c", ask, str(data / "rocksdb")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert seen() == "False"
    with held(data / "rocksdb"):
        assert not holding.held_elsewhere(data / "rocksdb")
        assert seen() == "True"
    store = RocksStore.open(data / "rocksdb")
    assert not holding.held_elsewhere(data / "rocksdb")
    RocksStore.open(data / "rocksdb", read_only=True).close()
    assert seen() == "True"
    store.close()
    assert seen() == "False"
