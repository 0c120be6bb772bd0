"""Which directories a node accepts as its volume."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from goud_node.errors import ConfigurationError, UninitializedVolume, WrongChain
from goud_node.store import marker


@dataclass(frozen=True)
class Chain:
    chain_id: str


OURS = Chain("goud-1111111111111111")
OTHER = Chain("goud-2222222222222222")


def test_an_initialized_directory_is_accepted_and_initializing_again_changes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    marker.initialize(data, OURS)
    marker.require(data, OURS.chain_id, must_be_mount=False)
    before = (data / "chain_id").stat().st_mtime_ns
    marker.initialize(data, OURS)
    assert (data / "chain_id").stat().st_mtime_ns == before
    assert [entry.name for entry in data.iterdir()] == ["chain_id"]


def test_another_chains_volume_is_refused_and_left_alone(tmp_path: Path) -> None:
    marker.initialize(tmp_path, OTHER)
    with pytest.raises(WrongChain, match=OTHER.chain_id):
        marker.initialize(tmp_path, OURS)
    with pytest.raises(WrongChain, match=OTHER.chain_id):
        marker.require(tmp_path, OURS.chain_id, must_be_mount=False)
    assert (tmp_path / "chain_id").read_text().strip() == OTHER.chain_id


def test_data_without_a_marker_is_refused_by_both(tmp_path: Path) -> None:
    (tmp_path / "rocksdb").mkdir()
    with pytest.raises(WrongChain, match="no chain_id marker"):
        marker.initialize(tmp_path, OURS)
    with pytest.raises(WrongChain, match="no chain_id marker"):
        marker.require(tmp_path, OURS.chain_id, must_be_mount=False)
    assert not (tmp_path / "chain_id").exists()


def test_an_empty_directory_is_not_a_volume(tmp_path: Path) -> None:
    with pytest.raises(UninitializedVolume, match="goud-node init"):
        marker.require(tmp_path, OURS.chain_id, must_be_mount=False)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_and_a_missing_mount_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        marker.require(tmp_path / "typo", OURS.chain_id, must_be_mount=False)
    marker.initialize(tmp_path, OURS)
    with pytest.raises(ConfigurationError, match="not a mount point"):
        marker.require(tmp_path, OURS.chain_id, must_be_mount=True)
    with pytest.raises(ConfigurationError, match="Cannot create"):
        marker.initialize(tmp_path / "no" / "parent", OURS)


UNREADABLE: dict[str, bytes | None] = {
    "no text": b"\xff\xfe\x80goud",
    "empty": b"",
    "blank": b" \n",
    "zeros": bytes(4096),
    "control characters": b"goud-\x1b[2J1111111",
    "two lines": b"goud-1111111111111111\ngoud-2222222222222222\n",
    "long": b"g" * 10_000_000,
    "a folder": None,
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize(
    "read",
    [
        lambda data: marker.require(data, OURS.chain_id, must_be_mount=False),
        lambda data: marker.initialize(data, OURS),
    ],
    ids=["serve", "initialize"],
)
def test_an_unreadable_marker_is_no_missing_marker(
    tmp_path: Path, content: bytes | None, read: Callable[[Path], None]
) -> None:
    path = tmp_path / "chain_id"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="Cannot read the marker") as caught:
        read(tmp_path)
    message = str(caught.value)
    assert str(path) in message
    assert f"write {OURS.chain_id} into it" in message
    assert message.isprintable()
    assert len(message) < 1000


def test_a_read_only_file_system_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose it is does not matter where nobody can write."""
    marker.initialize(tmp_path, OURS)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigurationError, match="Change its owner"):
        marker.require(tmp_path, OURS.chain_id, must_be_mount=False)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(ConfigurationError, match="read-only file system"):
        marker.require(tmp_path, OURS.chain_id, must_be_mount=False)
