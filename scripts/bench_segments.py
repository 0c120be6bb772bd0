"""Measure a restore from many small segments, and an idle `ship` beside them, at a store that takes its time.

Run it as `.venv/bin/python scripts/bench_segments.py`. The store is a directory whose every request waits; a list is
one request for each thousand keys, as at the clouds. Each segment holds one block. The idle run has a backup near the
tip and, below it, so many more names of segments that `--listed` are there: nothing that it does may depend on them.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from goud_backup import create, restore, ship
from goud_backup.codec.encoding import Bytes
from goud_backup.plan import Wish, make
from goud_backup.repository import layout, segments
from goud_backup.repository.repository import Repository, initialize
from goud_backup.seen import Memory
from goud_backup.source import DirectorySource
from goud_backup.targets import Stat
from goud_backup.targets.file import FileTarget
from goud_node.chain.block import build
from goud_node.chain.certificate import Certificate, countersign
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Ledger
from goud_node.chain.transactions import AccountCreate
from goud_node.chain.volume import initialize_volume
from goud_node.store import RocksStore

T = TypeVar("T")
KEYS = {f"n{number}": SigningKey.from_seed(bytes([number]) * 32) for number in (1, 2, 3)}
GENESIS = Genesis("bench", 0, tuple(Validator(name, key.public) for name, key in KEYS.items()))
PAGE = 1000
BACKED = 10
"""Blocks above the backup."""


class Slow(FileTarget):
    """A directory that counts its requests, and waits before each while it is `on`."""

    def __init__(self, root: Path, seconds: float) -> None:
        super().__init__(root)
        self.requests: Counter[str] = Counter()
        self.on = False
        self._seconds = seconds
        self._counting = threading.Lock()

    def _ask(self, verb: str) -> None:
        if self.on:
            with self._counting:
                self.requests[verb] += 1
            time.sleep(self._seconds)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | bytearray:
        self._ask("get")
        return super().get(key, start, length)

    def stat(self, key: str) -> Stat | None:
        self._ask("stat")
        return super().stat(key)

    def put(self, key: str, data: Bytes, *, if_absent: bool = False, if_version: str | None = None) -> Stat:
        self._ask("lock" if key.startswith(layout.LOCKS) else "put")
        return super().put(key, data, if_absent=if_absent, if_version=if_version)

    def list(self, prefix: str, after: str = "") -> Iterator[Stat]:
        self._ask("list")
        for number, stat in enumerate(super().list(prefix, after), 1):
            yield stat
            if number % PAGE == 0:
                self._ask("list")


def grow(data: Path, repository: Repository, count: int) -> None:
    """A chain of so many blocks, each of them in a segment of its own."""
    initialize_volume(data, GENESIS)
    store = RocksStore.open(data / "rocksdb")
    ledger = Ledger(store, GENESIS)
    pairs: list[segments.Pair] = []
    tip = ledger.tip
    for height in range(1, count + 1):
        digest = hashlib.sha256(height.to_bytes(8, "big")).digest()
        body = [AccountCreate(f"a{height}", digest, digest[:16], height).encode()]
        block = build(tip, body, proposer="n1", key=KEYS["n1"], timestamp_ms=height * 1000)
        signatures = {name: countersign(KEYS[name], block.hash) for name in ("n1", "n2")}
        pairs.append((block, Certificate(height, block.hash, signatures)))
        repository.put_once(*segments.build(pairs[-1:], None))
        tip = block.header
        if len(pairs) == PAGE or height == count:
            ledger.append([block for block, _ in pairs], [certificate for _, certificate in pairs])
            pairs = []
    store.close()


def fill(root: Path, count: int, limit: int) -> None:
    """Names of segments below a height, as a listing shows them; nobody reads what they hold."""
    for number in range(count):
        height = 1 + number % limit
        (root / layout.segment_key(height, height, hashlib.sha256(b"%d" % number).hexdigest())).touch()


def measure(target: Slow, title: str, work: Callable[[], T]) -> T:
    target.requests.clear()
    target.on = True
    start, processor_start = time.perf_counter(), time.process_time()
    result = work()
    target.on = False
    seconds, processor = time.perf_counter() - start, time.process_time() - processor_start
    counts = ", ".join(f"{count} {verb}" for verb, count in sorted(target.requests.items()))
    print(f"{title:<10} {seconds:8.2f} s {processor:8.2f} s processor {target.requests.total():7} requests ({counts})")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--listed", type=int, default=100_000)
    parser.add_argument("--milliseconds", type=float, default=20.0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="goud-bench-") as folder:
        root, data = Path(folder) / "repository", Path(folder) / "data"
        target = Slow(root, options.milliseconds / 1000)
        repository = initialize(target, GENESIS, encrypted=False)
        grow(data, repository, options.segments)

        tools = restore.Tools(None)
        destination = Path(folder) / "again"
        destination.mkdir()
        outcome = measure(
            target, "restore", lambda: restore.restore(repository, make(repository, Wish(), None), destination, tools)
        )
        if outcome.height != options.segments:
            raise SystemExit(f"The restore ended at block {outcome.height}.")

        base = Path(folder) / "base"
        base.mkdir()
        base_height = options.segments - BACKED
        restore.restore(repository, make(repository, Wish(to_height=base_height), None), base, tools)
        create.create(repository, DirectorySource(base), create.Options(cache_dir=Path(folder) / "cache"))
        blocks, memory = ship.DirectoryBlocks(data, GENESIS), Memory(Path(folder) / "seen.json")
        measure(target, "first ship", lambda: ship.ship(repository, blocks, (), memory=memory))
        # Afterwards: whoever remembers nothing asks every segment that overlaps another for its history.
        fill(root, options.listed - options.segments, base_height)
        idle = measure(target, "idle ship", lambda: ship.ship(repository, blocks, (), memory=memory))
        if idle.segments:
            raise SystemExit("The idle run was not idle.")


if __name__ == "__main__":
    main()
