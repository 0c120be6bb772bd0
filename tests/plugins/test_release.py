"""The module that writes releases: whole, in one step, whoever else writes beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import goud_release
import pytest


def parameters_of(path: Path) -> dict[str, Any]:
    own = {"owner": os.getuid(), "group": os.getgid()}
    return {"path": str(path), **own, "documents": {"a.yml": "a"}, "secrets": {"key": "k"}}


def test_a_release_is_written_once(tmp_path: Path) -> None:
    parameters = parameters_of(tmp_path / "state/etcd1/releases/1")
    assert goud_release.apply(parameters, check=True)["changed"]
    assert not (tmp_path / "state").exists()
    assert goud_release.apply(parameters, check=False)["files"] == ["a.yml", "key"]
    assert (tmp_path / "state/etcd1/releases/1/key").stat().st_mode & 0o777 == goud_release.SECRET_MODE
    assert not goud_release.apply(parameters, check=False)["changed"]


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        goud_release.apply(parameters_of(tmp_path / "state/local/etcd1/releases/1"), check=False)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").rglob("*")}
    assert modes == {
        "local": 0o755,
        "etcd1": goud_release.DIRECTORY_MODE,
        "releases": goud_release.DIRECTORY_MODE,
        "1": goud_release.DIRECTORY_MODE,
        "a.yml": goud_release.DOCUMENT_MODE,
        "key": goud_release.SECRET_MODE,
    }


def test_another_host_on_the_same_machine_may_make_the_parents_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = goud_release.missing_directories

    def raced(path: Path) -> list[Path]:
        missing: list[Path] = look(path)
        (tmp_path / "state").mkdir()
        return missing

    monkeypatch.setattr(goud_release, "missing_directories", raced)
    assert goud_release.apply(parameters_of(tmp_path / "state/etcd1/releases/1"), check=False)["changed"]
    assert (tmp_path / "state/etcd1/releases/1/a.yml").read_text(encoding="utf-8") == "a"
