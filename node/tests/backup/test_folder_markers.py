"""Consoles and sync tools put an empty object where they show a folder: it is nobody's, in every folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.prune import prune
from goud_backup.repository import layout
from goud_backup.repository.repository import initialize
from goud_backup.repository.retention import Policy
from goud_backup.targets import Target
from goud_backup.targets.file import FileTarget

from .support import GENESIS, backup, grow, restore, ship

FAMILIES = sorted(value for value in vars(layout).values() if isinstance(value, str) and value.endswith("/"))
MARKERS = ["", *FAMILIES, "objects/ab/", "trash/manifests/", "segments/old/"]


def mark(target: Target, marker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(target, FileTarget):
        Path(target.url.removeprefix("file://"), marker).mkdir(parents=True, exist_ok=True)
        return
    with monkeypatch.context() as patch:
        for kind in ("s3", "gs"):
            patch.setattr(f"goud_backup.targets.{kind}.check_key", str)
        target.put(marker, b"")


def test_every_family_is_here() -> None:
    assert {"checks/", "damaged/", "forks/", "keep/", "locks/", "manifests/", "objects/", "segments/"} <= set(FAMILIES)
    assert {"signatures/", "trash/"} <= set(FAMILIES)


@pytest.mark.parametrize("marker", MARKERS)
def test_no_list_has_it(target: Target, marker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mark(target, marker, monkeypatch)
    target.put(f"{marker}x", b"1")
    for prefix in ("", marker):
        assert [stat.key for stat in target.list(prefix)] == [f"{marker}x"]


def test_every_verb_works_beside_them(
    target: Target, data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for marker in MARKERS:
        mark(target, marker, monkeypatch)
    repository = initialize(target, GENESIS, encrypted=False)
    backup(repository, data, cache)
    grow(data, 5)
    ship(repository, data)
    assert repository.forks() == []
    assert repository.kept() == set()
    assert verifying.verify(repository, verifying.Depth(), restoring.Tools(None)).ok
    for _ in range(2):
        prune(repository, Policy(), grace=0)
    assert restore(repository, tmp_path / "out").height == 65
