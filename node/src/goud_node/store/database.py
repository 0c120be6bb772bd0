"""RocksDB through rocksdict: one column family per `Family`, raw bytes, synced batches, checked scans."""

from __future__ import annotations

import gc
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocksdict import AccessType, Rdict, ReadOptions, WriteBatch, WriteOptions

from goud_node.errors import CorruptStore, StoreError, StoreFull
from goud_node.store import durable, floor, holding, tuning
from goud_node.store.base import FRESH_KEY, SCHEMA_KEY, SCHEMA_VERSION, Batch, Family
from goud_node.store.failures import classified

logger = logging.getLogger(__name__)

_TABLE = re.compile(r"^ (\d+):\d+\[", re.MULTILINE)
_COUNTS = re.compile(r"# entries=(\d+); # deletions=(\d+);")
_MEMORY = ("active-mem-table", "imm-mem-tables")
_STALLED = "Write stall"
_STALL_SECONDS = 0.005
SCAN_ROWS = 512
SCAN_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Table:
    """A data file: its family, the first and the last key in it, and its size in bytes."""

    family: Family
    first: bytes
    last: bytes
    size: int


class RocksStore:
    """Implements Store. Use `create` (first boot only) or `open`, never the constructor."""

    def __init__(self, path: Path, database: Rdict, *, read_only: bool) -> None:
        self.path = path
        self._database: Rdict | None = database
        self._read_only = read_only
        self._families = {family: database.get_column_family(family.value) for family in Family}
        self._handles = {family: database.get_column_family_handle(family.value) for family in Family}
        self.floor = floor.Floor(path)
        self._write_options = WriteOptions()
        self._write_options.sync = True
        # A write that would have to wait fails at once instead: it would wait inside the library, which holds the
        # interpreter's lock meanwhile, and on a full disk that would be until space is freed.
        self._write_options.no_slowdown = True
        self.refused = False
        """Whether the last write failed for want of space. Only a write that succeeds shows that this is over."""
        self.failure: str | None = None
        """Why it failed, if for anything else: after that the library does not resume by itself."""

    @classmethod
    def create(cls, path: Path) -> RocksStore:
        """An empty database where there is none; whole or not at all. Raises StoreError when `path` is taken."""
        staging_path = path.with_name(f"{path.name}.initializing")
        with durable.named(path):
            if path.exists():
                raise StoreError(f"{path} exists already: a database is only created where there is none.")
            if staging_path.exists():  # left by a creation that was cut: it never held more than the two records below
                shutil.rmtree(staging_path)
            durable.make_folder(staging_path)
        store = cls._open_database(staging_path, create=True, read_only=False)
        batch = Batch()
        batch.put(Family.METADATA, SCHEMA_KEY, str(SCHEMA_VERSION).encode())
        batch.put(Family.METADATA, FRESH_KEY, b"")
        try:
            store.write(batch)
        finally:
            store.close()
        with durable.named(path):
            staging_path.rename(path)
            durable.sync_directory(path.parent)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, read_only: bool = False) -> RocksStore:
        """The database at `path`. Raises CorruptStore when it is damaged or missing, StoreError when it is locked.

        Nothing is ever created: RocksDB, asked to create what is missing, deletes every data file when CURRENT is gone.
        Read-only still needs a writable directory, because the library writes its own file beside the data.
        """
        if read_only:
            with holding.undisturbed(path):
                return cls._open_read_only(path)
        # A writable open merges files at once and deletes those it does not name: judge what exists before.
        cls.open(path, read_only=True).close()
        store = cls._open_database(path, create=False, read_only=False)
        try:
            floor.check(path, store.sequence_number())
            floor.raise_to(path, store.sequence_number())
        except BaseException:
            store._release()
            raise
        return store

    @classmethod
    def _open_read_only(cls, path: Path) -> RocksStore:
        """The database read-only, when it is whole as far as can be seen."""
        if not (path / "CURRENT").is_file():
            raise CorruptStore(
                f"{path / 'CURRENT'} is missing, so there is no readable database in {path}. Nothing was changed. "
                "Check that the right volume is mounted; if the file was lost, restore a backup or let the node refill "
                "from its peers on an empty volume (`goud-node init`)."
            )
        store = cls._open_database(path, create=False, read_only=True)
        try:
            store._check_freshness()
            floor.check(path, store.sequence_number())
        except BaseException:
            store._release()
            raise
        return store

    @classmethod
    def _open_database(cls, path: Path, *, create: bool, read_only: bool) -> RocksStore:
        access = AccessType.read_only(False) if read_only else AccessType.read_write()
        if not read_only:
            holding.take(path)
        try:
            capacity = tuning.capacity_of(path)
            options = tuning.database_options(create=create, capacity=capacity)
            with classified(path):
                database = Rdict(str(path), options, tuning.family_options(capacity=capacity), access)
        except BaseException:
            if not read_only:
                holding.leave(path)
            raise
        return cls(path, database, read_only=read_only)

    @property
    def fresh(self) -> bool:
        """True from `create` until the first ledger is written."""
        return self.get(Family.METADATA, FRESH_KEY) is not None

    def get(self, family: Family, key: bytes) -> bytes | None:
        with classified(self.path, family):
            value: bytes | None = self._family(family).get(key)
        return value

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        with classified(self.path, family):
            values: list[bytes | None] = self._family(family).get(list(keys)) or []
        return values

    def scan(
        self,
        family: Family,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        row_budget = limit
        while row_budget is None or row_budget > 0:
            rows, has_more = self._chunk(family, start, end, reverse, SCAN_ROWS if row_budget is None else row_budget)
            yield from rows
            if not has_more or not rows:
                return
            # The next chunk starts just after the last key, or ends just before it.
            start, end = (start, rows[-1][0]) if reverse else (rows[-1][0] + b"\0", end)
            row_budget = None if row_budget is None else row_budget - len(rows)

    def _chunk(
        self, family: Family, start: bytes, end: bytes | None, reverse: bool, limit: int
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        # No iterator outlives this call: one that did would keep the lock file held after close().
        options = ReadOptions()
        options.set_verify_checksums(True)
        # No lower bound is set: the library's set_iterate_lower_bound sets the upper one. `start` is compared here.
        if end is not None:
            options.set_iterate_upper_bound(end)
        rows: list[tuple[bytes, bytes]] = []
        size = 0
        with classified(self.path, family):
            iterator = self._family(family).iter(options)
            advance = iterator.prev if reverse else iterator.next
            if reverse:
                iterator.seek_to_last()
            else:
                iterator.seek(start)
            while iterator.valid() and len(rows) < min(limit, SCAN_ROWS) and size < SCAN_BYTES:
                key: bytes = iterator.key()
                if key < start:
                    break
                value: bytes = iterator.value()
                rows.append((key, value))
                size += len(key) + len(value)
                advance()
            has_more = iterator.valid() and iterator.key() >= start
            # A damaged block only makes the iterator invalid; the status tells it from the end.
            iterator.status()
        return rows, has_more

    def count(self, family: Family) -> int:
        return self.read_through(family, b"", None)

    def rows_at_most(self, family: Family) -> int:
        return self._changes(family)[0]

    def deletions(self, family: Family) -> int:
        """The number of removals in files and memory."""
        return self._changes(family)[1]

    def _changes(self, family: Family) -> tuple[int, int]:
        # Not estimate-num-keys: after a reopen it samples twenty files and extrapolates.
        with classified(self.path, family):
            handle = self._family(family)
            counts = _COUNTS.search(tables := handle.property_value("rocksdb.aggregated-table-properties") or "")
            if counts is None:
                raise StoreError(f"RocksDB does not tell the number of entries of family {family.value}: {tables!r}.")
            names = (f"rocksdb.num-{kind}-{memory}" for memory in _MEMORY for kind in ("entries", "deletes"))
            numbers = [handle.property_int_value(name) or 0 for name in names]
        return int(counts[1]) + sum(numbers[::2]), int(counts[2]) + sum(numbers[1::2])

    def write(self, batch: Batch) -> None:
        if self._read_only:
            raise StoreError(f"{self.path} was opened read-only.")
        try:
            while not self._try_write(batch):
                time.sleep(_STALL_SECONDS)
        except StoreError as error:
            # After a full disk the library may say something else until it has resumed.
            self.refused = self.refused or isinstance(error, StoreFull)
            self.failure = None if self.refused else str(error)
            raise
        self.refused, self.failure = False, None
        self.floor.reach(self.sequence_number() if len(batch) else 0)

    def _try_write(self, batch: Batch) -> bool:
        """Write, unless the database has to catch up first; then nothing was written."""
        changes = WriteBatch(raw_mode=True)  # the library takes each only once
        handles = self._handles
        if not handles:
            raise self._closed_error()
        for family, key, value in batch.changes():
            if value is None:
                changes.delete(key, handles[family])
            else:
                changes.put(key, value, handles[family])
        with classified(self.path):
            try:
                self.database.write(changes, self._write_options)
            except Exception as error:
                if _STALLED not in str(error):
                    raise
                return False
        return True

    def flush(self) -> None:
        """Write every family's memory to files. The library's own flush covers only the default family."""
        for family in Family:
            with classified(self.path, family):
                self._family(family).flush(True)

    def sequence_number(self) -> int:
        """RocksDB's count of changes ever written; it only grows."""
        return self.database.latest_sequence_number()

    def live_files(self) -> list[dict[str, Any]]:
        """RocksDB's own list of data files: name, size, level, num_entries and more."""
        with classified(self.path):
            return self.database.live_files()

    def tables(self) -> dict[str, Table]:
        """Every data file by its name."""
        families: dict[int, Family] = {}
        for family in Family:
            with classified(self.path, family):
                listing = self._family(family).property_value("rocksdb.sstables") or ""
            families |= {int(number): family for number in _TABLE.findall(listing)}
        tables = {}
        for file in self.live_files():
            name = str(file["name"]).lstrip("/")
            tables[name] = Table(families[int(name[:-4])], file["start_key"], file["end_key"], file["size"])
        return tables

    def read_through(self, family: Family, start: bytes, end: bytes | None) -> int:
        """Read all that any file holds of start <= key < end, checksums and all: the rows. Raises CorruptStore."""
        options = ReadOptions()
        options.set_verify_checksums(True)
        options.set_readahead_size(SCAN_BYTES)
        if end is not None:
            options.set_iterate_upper_bound(end)
        rows = 0
        with classified(self.path, family):
            iterator = self._family(family).iter(options)
            iterator.seek(start)
            while iterator.valid():
                rows += 1
                iterator.next()
            iterator.status()
        return rows

    def keys(self, family: Family, start: bytes) -> Iterator[bytes]:
        """Keys from `start` on, without copying their values."""
        has_more = True
        while has_more:
            with classified(self.path, family):
                options = ReadOptions()
                options.set_verify_checksums(True)
                iterator = self._family(family).iter(options)
                iterator.seek(start)
                keys: list[bytes] = []
                while (has_more := iterator.valid()) and len(keys) < SCAN_ROWS:
                    keys.append(iterator.key())
                    iterator.next()
                iterator.status()
                # No iterator outlives its chunk: one that did would keep the lock file held after close().
                del iterator
            yield from keys
            start = keys[-1] + b"\0" if keys else start

    def total(self, name: str) -> int:
        """The sum over all families of an integer property such as `rocksdb.live-sst-files-size`."""
        with classified(self.path):
            return sum(self._family(family).property_int_value(name) or 0 for family in Family)

    @property
    def database(self) -> Rdict:
        """The library's object, for checkpoints and properties; do not keep it."""
        if self._database is None:
            raise self._closed_error()
        return self._database

    def close(self) -> None:
        if self._database is None:
            return
        try:
            if not self._read_only:
                self.flush()
                floor.raise_to(self.path, self.sequence_number())
        except StoreError as error:
            self._excuse(error)
            logger.warning("closed without flushing: %s", error)
        finally:
            self._release()

    def _excuse(self, error: StoreError) -> None:
        """Nothing is lost on a full or broken disk: what was acknowledged is synced, and the next open replays it."""
        # A log file that a write failed on refuses everything later for that reason, whatever the present error says.
        if not (isinstance(error, StoreFull) or self.refused or self.failure):
            raise error

    def _check_freshness(self) -> None:
        """A MANIFEST cut back to the creation looks like a new database; files it no longer names tell otherwise."""
        file_names = {file.name for file in self.path.glob("*.sst")}
        unnamed_files = file_names - {str(file["name"]).lstrip("/") for file in self.live_files()}
        if self.fresh and unnamed_files:
            raise CorruptStore(
                f"The database in {self.path} looks new, but holds data files that its MANIFEST does not name "
                f"({', '.join(sorted(unnamed_files)[:3])}). Move the directory aside and restore a backup, or let the "
                "node refill from its peers on an empty volume."
            )

    def _release(self) -> None:
        # The lock file stays held while any handle of a family lives, whatever close() returns.
        database, self._database = self._database, None
        self._families.clear()
        self._handles.clear()
        gc.collect()
        if database is None:
            return
        try:
            # The library flushes once more, and is closed whether that succeeds or not.
            with classified(self.path):
                database.close()
        except StoreError as error:
            self._excuse(error)
        finally:
            if not self._read_only:
                holding.leave(self.path)
            _give_back(self.path)

    def _family(self, family: Family) -> Rdict:
        try:
            return self._families[family]
        except KeyError:
            raise self._closed_error() from None

    def _closed_error(self) -> StoreError:
        return StoreError(f"{self.path} is closed: this process is shutting down.")


def _give_back(path: Path) -> None:
    """What the library wrote while root had the database open is the node's, like the rest of it."""
    if os.geteuid() == 0 and path.stat().st_uid != 0:
        durable.adopt_all(path, path)
