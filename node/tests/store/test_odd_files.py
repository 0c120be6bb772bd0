"""What is no regular file where a node reads one: it is named, and never waited for."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from goud_node.api.secrets import Keyring
from goud_node.chain import genesis
from goud_node.chain.keys import SigningKey
from goud_node.documents import Malformed, read_bytes
from goud_node.errors import ConfigurationError, CorruptStore, GoudError
from goud_node.service import ordering
from goud_node.store import RocksStore, durable, marker

from .support import filled


def _secret(path: Path) -> None:
    Keyring.load(path, generate=False)


def _marker(path: Path) -> None:
    path.rename(path.with_name(marker.MARKER))
    marker.read(path.parent, "goud-1")


READERS: list[Callable[[Path], object]] = [
    genesis.load,
    SigningKey.load,
    ordering._read,
    _secret,
    _marker,
    read_bytes,
]


def _folder(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)
    path.chmod(0o600)


def outcome_of(work: Callable[[], object]) -> list[BaseException | object]:
    """What it returned or raised; nothing if it waits."""
    outcomes: list[BaseException | object] = []

    def run() -> None:
        try:
            outcomes.append(work())
        except BaseException as error:  # noqa: BLE001  # the test looks at its kind
            outcomes.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    return outcomes


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("odd", [_folder, _pipe, _endless, _large])
def test_what_is_no_small_file_is_named(
    tmp_path: Path, read: Callable[[Path], object], odd: Callable[[Path], None]
) -> None:
    path = tmp_path / "file"
    odd(path)
    (outcome,) = outcome_of(lambda: read(path))
    assert isinstance(outcome, ConfigurationError if read is not read_bytes else OSError | Malformed)
    assert str(tmp_path) in str(outcome) or isinstance(outcome, Malformed)


def test_a_pipe_in_the_place_of_a_temporary_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "floor.tmp")
    (outcome,) = outcome_of(lambda: durable.replace(tmp_path / "floor", b"1"))
    assert isinstance(outcome, GoudError)
    assert "floor" in str(outcome)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    filled(tmp_path / "rocksdb", rows=50, rounds=1, tail=5)
    return tmp_path / "rocksdb"


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("odd", [_pipe, _socket, _endless])
@pytest.mark.parametrize("pattern", ["LOCK", "*.sst", "*.log", "IDENTITY", "MANIFEST-*", "OPTIONS-*", "more"])
def test_what_is_no_file_of_a_database_is_named_before_it_is_opened(
    database: Path, pattern: str, odd: Callable[[Path], None], read_only: bool
) -> None:
    path = next(database.glob(pattern), database / pattern)
    path.unlink(missing_ok=True)
    odd(path)
    (outcome,) = outcome_of(lambda: RocksStore.open(database, read_only=read_only))
    assert isinstance(outcome, CorruptStore)
    assert str(outcome).startswith(f"{path} is no file, but ")


@pytest.mark.parametrize("read_only", [True, False])
def test_a_folder_in_the_place_of_the_lock_is_not_in_use(database: Path, read_only: bool) -> None:
    (database / "LOCK").unlink(missing_ok=True)
    (database / "LOCK").mkdir()
    (outcome,) = outcome_of(lambda: RocksStore.open(database, read_only=read_only))
    assert isinstance(outcome, CorruptStore)
    assert "LOCK is no file, but a folder" in str(outcome)


def test_links_to_files_and_folders_beside_them_are_no_hindrance(database: Path, tmp_path: Path) -> None:
    table = next(database.glob("*.sst"))
    table.rename(tmp_path / table.name)
    table.symlink_to(tmp_path / table.name)
    (database / "lost").mkdir()
    (database / "nowhere").symlink_to("gone")
    RocksStore.open(database).close()
