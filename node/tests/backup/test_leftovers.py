"""What a run leaves behind when it ends in any way: nothing but what somebody needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from goud_backup import restore as restoring
from goud_backup import swap
from goud_backup.errors import Damaged
from goud_backup.repository import layout
from goud_backup.repository.repository import Repository

from .command import Command
from .support import backup, restore, tip_of


@pytest.fixture
def stored(repository: Repository, data: Path, cache: Path) -> Repository:
    backup(repository, data, cache)
    return repository


def broken(*_: object, **__: object) -> object:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("place", ["staging.stage", "check_facts", "walk.prove", "staging.make_durable", "swap.swap"])
def test_a_failed_restore_leaves_nothing_beside_the_live_data(
    stored: Repository, data: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    before = tip_of(data)
    monkeypatch.setattr(f"goud_backup.restore.{place}", broken)
    if place == "check_facts":
        monkeypatch.setattr(restoring, "make_ready", broken)
    with pytest.raises(OSError, match="Input/output"):
        restore(stored, data)
    assert not (data / swap.STAGING).exists()
    assert tip_of(data) == before


def test_what_a_killed_restore_left_goes_with_the_next_one_that_fails(stored: Repository, data: Path) -> None:
    left = data / swap.STAGING / "rocksdb"
    left.mkdir(parents=True)
    (left / "000001.sst").write_bytes(bytes(1000))
    name = next(iter(stored.find("latest").objects))
    stored.target.put(layout.object_key(name), b"?")
    with pytest.raises(Damaged):
        restore(stored, data)
    assert not (data / swap.STAGING).exists()


def test_a_swap_that_was_cut_short_keeps_what_it_needs(
    stored: Repository, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(swap, "_exchange", broken)
        with pytest.raises(OSError, match="Input/output"):
            restore(stored, data)
    assert (data / swap.STAGING).exists()
    assert restore(stored, data).height == 60
    assert not (data / swap.STAGING).exists()


def test_imports_leave_no_memory_of_files_that_are_gone(goud_backup: Command, tmp_path: Path) -> None:
    goud_backup("init")
    goud_backup("create")
    files = list((tmp_path / "cache").glob("*.jsonl"))
    archive = goud_backup("export", "--to", str(tmp_path / "archives"), "--json")["archive"]
    goud_backup("import", archive)
    assert list((tmp_path / "cache").glob("*.jsonl")) == files
