"""A repository in a directory: what else is on the disk, who stands still, and paths that no person could type."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goud_backup.errors import AccessRefused, TargetError
from goud_backup.targets import file as directory
from goud_backup.targets import open_target
from goud_node.errors import ConfigurationError

from .command import Command


def closed(folder: Path) -> Callable[[str], Any]:
    """`os.scandir` of an account that may not look into the folder, as root may into any."""
    real = os.scandir

    def scandir(path: str) -> Any:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    return scandir


@pytest.mark.parametrize("place", ["lost+found", ".snapshots/a", "a/b"])
def test_a_folder_that_nobody_may_look_into_has_nothing_unfinished(
    goud_backup: Command, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Such as a disk has in its root, whatever its file system calls it."""
    goud_backup("init")
    goud_backup("create")
    folder = goud_backup.folder / "repository" / place
    folder.mkdir(parents=True)
    monkeypatch.setattr(os, "scandir", closed(folder))
    goud_backup("status")
    goud_backup("prune")


def test_a_family_that_cannot_be_listed_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = open_target(f"file://{tmp_path}/r")
    target.create()
    target.put("segments/a", b"")
    monkeypatch.setattr(os, "scandir", closed(tmp_path / "r/segments"))
    with pytest.raises(AccessRefused):
        list(target.list("segments/"))


def test_a_process_that_stands_still_stops_no_host_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "_PATIENCE", 0.2)
    target = open_target(f"file://{tmp_path}/r")
    target.create()
    stat = target.put("locks/backup.json", b"1", if_absent=True)
    with (tmp_path / "r/.exclusive").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TargetError, match=r"\.exclusive was locked by another process for 0\.2 s"):
            target.put("locks/backup.json", b"2", if_version=stat.version)
    assert target.get("locks/backup.json") == b"1"
    target.put("locks/backup.json", b"2", if_version=stat.version)


@pytest.mark.parametrize("path", ["%00x", "a%0Ab", "%ff", "%1b%5b2J", "%07"])
def test_a_path_that_cannot_be_shown_is_refused(goud_backup: Command, tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigurationError, match="characters that cannot be shown"):
        open_target(f"file://{tmp_path}/{path}")
    goud_backup("list", "-r", f"file://{tmp_path}/{path}", code=3)
