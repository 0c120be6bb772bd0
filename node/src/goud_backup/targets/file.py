"""A directory as target: what is written is durable and whole, or absent."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import secrets
import stat as modes
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path

from goud_backup.codec.encoding import Bytes
from goud_backup.errors import AccessRefused, Missing, PreconditionFailed, TargetError, TargetFull
from goud_backup.targets.base import Stat, check_key

_log = logging.getLogger(__name__)

_TEMPORARY = ".tmp-"
_UNFINISHED = re.compile(r"\.tmp-[0-9a-f]+")
_EXCLUSIVE = ".exclusive"
_RESERVE = ".reserve"
_PATIENCE = 60.0
_CHUNK = 1024 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
_ABSENT = {errno.ENOENT, errno.ELOOP}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class FileTarget:
    """Keys are paths below `root`. Unfinished files, and those of this class, have names that no key can have.

    What is no regular file, nor a link to one, is no object: it is named and passed over.
    """

    independent_clock = False

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        self.url = f"file://{self._root}"
        self._root_identity: tuple[int, int] | None = None

    def create(self) -> None:
        try:
            with self._errors("create", "the directory"):
                self._root.mkdir(mode=0o700, exist_ok=True)
        except Missing as error:
            raise TargetError(
                f"Cannot create {self._root}: the directory {self._root.parent} does not exist. Mount the disk that is "
                "to hold the repository, or correct the URL."
            ) from error

    def put(self, key: str, data: Bytes, *, if_absent: bool = False, if_version: str | None = None) -> Stat:
        path = self._path(key)
        with self._errors("write", key):
            self._require_root()
            self._make_folder(path.parent)
            if path.exists() and not path.is_file():
                raise TargetError(f"{path} is no regular file, and {key} cannot be written there. Move it away.")
            temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
            try:
                self._write(temporary, data)
                self._publish(temporary, path, key, if_absent=if_absent, if_version=if_version)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_directory(path.parent)
            stat = _stat(path.stat(), key)
        if stat is None or stat.size != len(data):
            size = 0 if stat is None else stat.size
            raise TargetError(f"{path} has {size} bytes after writing {len(data)}: the file system cut it short.")
        return stat

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_directory(folder.parent)

    def _write(self, path: Path, data: Bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _publish(self, temporary: Path, path: Path, key: str, *, if_absent: bool, if_version: str | None) -> None:
        if if_absent:
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                raise PreconditionFailed(f"{key} exists already in {self.url}.") from None
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                raise TargetError(
                    f"Cannot write {key} in {self.url}: its file system has no hard links ({error.strerror}), without "
                    "which two writers cannot be kept apart. Use a disk with ext4, xfs or the like, NFS, or a bucket."
                ) from error
        elif if_version is not None:
            with self._exclusive():
                stat = self.stat(key)
                if stat is None or stat.version != if_version:
                    raise PreconditionFailed(f"{key} in {self.url} was changed by somebody else.")
                temporary.replace(path)
        else:
            temporary.replace(path)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | bytearray:
        path = self._path(key)
        with self._errors("read", key):
            # Who opened a pipe would wait for a writer; for a regular file this flag changes nothing.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                if (stat := _stat(os.fstat(descriptor), key)) is None:
                    raise Missing(f"{path} is no regular file, so {key} is not in {self.url}.")
                span = max(0, stat.size - start if length is None else min(length, stat.size - start))
                data = bytearray(span)
                view, at = memoryview(data), start
                while view:
                    count = os.preadv(descriptor, [view], at)
                    if not count:
                        raise TargetError(f"{path} became shorter while it was read.")
                    view, at = view[count:], at + count
            finally:
                os.close(descriptor)
        return data

    def stat(self, key: str) -> Stat | None:
        try:
            with self._errors("look at", key):
                return _stat(self._path(key).stat(), key)
        except Missing:
            return None

    def list(self, prefix: str, after: str = "") -> Iterator[Stat]:
        with self._errors("list", prefix or "the directory"):
            self._require_root()
            parent = prefix.rpartition("/")[0]
            folder = self._root / parent
            stats = _walk(str(folder), f"{parent}/" if parent else "") if folder.is_dir() else iter(())
            matches = (stat for stat in stats if stat.key.startswith(prefix) and stat.key > after)
            ordered = sorted(matches, key=attrgetter("key"))
        yield from ordered

    def delete(self, key: str) -> None:
        folder, _, name = key.rpartition("/")
        path = (self._path(folder) if folder else self._root) / name if _UNFINISHED.fullmatch(name) else self._path(key)
        with self._errors("remove", key):
            try:
                path.unlink()
            except FileNotFoundError:
                return
            _sync_directory(path.parent)

    def unfinished(self) -> Iterator[Stat]:
        with self._errors("list", "the directory"):
            self._require_root()
            yield from sorted(_walk(str(self._root), "", hidden=True), key=attrgetter("key"))

    def now(self) -> float:
        # A file that is touched gets the time of whoever keeps the file system; this takes no room.
        clock = self._root / _EXCLUSIVE
        try:
            clock.touch(0o600)
            return clock.stat().st_mtime
        except OSError:
            return time.time()

    def reserve(self, size: int) -> int:
        path = self._root / _RESERVE
        with self._errors("set room aside as", _RESERVE):
            if size == 0:
                path.unlink(missing_ok=True)
                return 0
            with suppress(FileExistsError):
                path.touch(0o600, exist_ok=False)
            with path.open("r+b", buffering=0) as file:
                self._fill(file.fileno(), size)
                return os.fstat(file.fileno()).st_size

    def _fill(self, descriptor: int, size: int) -> None:
        try:
            while (gap := size - os.fstat(descriptor).st_size) > 0:
                # Bytes that no file system stores in less room than they take.
                os.pwrite(descriptor, os.urandom(min(gap, _CHUNK)), size - gap)
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _FULL:
                raise

    def close(self) -> None:
        """Nothing stays open."""

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _identity(self) -> tuple[int, int] | None:
        """Which directory it is: what a disk was mounted on is another one than the disk's own."""
        try:
            status = self._root.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _require_same_root(self) -> None:
        if self._root_identity not in {None, self._identity()}:
            raise TargetError(
                f"{self._root} is not the directory any more that it was when this began. Is its disk still mounted? "
                "Mount it again."
            )

    def _require_root(self) -> None:
        self._require_same_root()
        if not self._root.is_dir():
            raise TargetError(
                f"The directory {self._root} does not exist. Mount the disk that holds the repository, or make a new "
                "repository with `goud-backup init`."
            )

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        # Compare and replace are two steps on a file system: a lock of the kernel's makes them one.
        descriptor = os.open(self._root / _EXCLUSIVE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        """Held for one write at a time. Raises TargetError: a process that stands still must not stop every host."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise TargetError(
                        f"{self._root / _EXCLUSIVE} was locked by another process for {_PATIENCE:g} s, where a write "
                        "takes a moment. Find who holds it (`fuser`), whether it stands still, and end it; try again."
                    ) from error
                time.sleep(0.01)
            else:
                return

    @contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        self._root_identity = self._root_identity or self._identity()
        try:
            yield
        except FileNotFoundError as error:
            self._require_same_root()
            raise Missing(f"{key} is not in {self.url}.") from error
        except OSError as error:
            where = f"Cannot {verb} {key} in {self.url}: {error.strerror or error}."
            if error.errno in _FULL:
                raise TargetFull(f"{where} Free space there or grow the disk; nothing was half-written.") from error
            if error.errno in _REFUSED:
                raise AccessRefused(f"{where} Check the owner and the mount of the directory.") from error
            raise TargetError(f"{where} Check the disk.") from error


@contextmanager
def _scan(folder: str, *, hidden: bool) -> Iterator[Iterator[os.DirEntry[str]]]:
    try:
        entries = os.scandir(folder)
    except PermissionError:
        if not hidden:
            raise
        # What this account may not look into (`lost+found` in the root of a disk) has no file that it left unfinished.
        yield iter(())
    else:
        with entries:
            yield entries


def _walk(folder: str, prefix: str, *, hidden: bool = False) -> Iterator[Stat]:
    """The objects below a folder; `hidden`: what is unfinished instead."""
    # A repository has thousands of objects and every backup lists them: no Path is made for each.
    with _scan(folder, hidden=hidden) as entries:
        for entry in entries:
            key = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith("."):
                    yield from _walk(entry.path, f"{key}/", hidden=hidden)
                continue
            if bool(_UNFINISHED.fullmatch(entry.name)) is not hidden or (entry.name.startswith(".") and not hidden):
                continue
            try:
                stat = _stat(entry.stat(), key)
            except OSError as error:
                # Removed since the directory was read, or a link that leads nowhere: it does not exist.
                if error.errno not in _ABSENT:
                    raise
            else:
                if stat is not None:
                    yield stat


def _stat(status: os.stat_result, key: str) -> Stat | None:
    if not modes.S_ISREG(status.st_mode):
        _log.warning("%s is no regular file, so it is no object: look what it is, and move it away", key)
        return None
    return Stat(key, status.st_size, f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
