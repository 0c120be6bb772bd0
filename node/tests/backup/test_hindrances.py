"""What keeps a verb from its work damages nothing, and nothing is noted as damaged."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from goud_backup import create as creating
from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.codec.encoding import Bytes
from goud_backup.errors import AccessRefused, NoSpace, TargetError
from goud_backup.plan import Wish
from goud_backup.progress import Silent
from goud_backup.repository import layout, locks
from goud_backup.repository.repository import Repository, initialize
from goud_backup.source import DirectorySource
from goud_backup.targets import open_target
from goud_backup.upload import units

from .conftest import Cloud, collect_refused
from .support import GENESIS, backup, grow, restore, ship, tip_of
from .test_verify import TOOLS, flipped, largest, replace, report_of


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Google's library, see collect_refused
def test_an_expired_credential(google: Cloud, gs_url: str, chain: Path, cache: Path, tmp_path: Path) -> None:
    repository = initialize(open_target(gs_url), GENESIS, encrypted=False)
    backup(repository, chain, cache)
    google.refuse()
    try:
        for attempt in (
            lambda: backup(repository, chain, cache),
            lambda: restore(repository, tmp_path / "out"),
            lambda: report_of(repository),
            lambda: ship(repository, chain),
        ):
            with pytest.raises(AccessRefused, match="renew"):
                attempt()
    finally:
        google.accept()
    assert restore(repository, tmp_path / "out").height == 60
    repository.close()
    collect_refused()


class Ending(Silent):
    """Calls `end` when the first object is done."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    def advance(self, units: int) -> None:
        if units:
            self._end()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # as above
def test_a_credential_that_expires_midway(
    google: Cloud, gs_url: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It damages nothing, and nothing is noted as damaged."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("goud_backup.create.units", partial(units, part=16_384, pack=4_096))
    repository = initialize(open_target(gs_url), GENESIS, encrypted=False)
    backup(repository, data, cache)
    grow(data, 40, size=8000)
    ending = Ending(google.refuse)
    tools = restoring.Tools(None, progress=ending)
    given = creating.Options(cache_dir=cache)
    for attempt in (
        lambda: report_of(repository, tools=tools),
        lambda: restore(repository, tmp_path / "out", None, tools),
        lambda: creating.create(repository, DirectorySource(data), given, ending),
    ):
        try:
            with pytest.raises(AccessRefused, match="renew"):
                attempt()
        finally:
            google.accept()
        collect_refused()
        assert not repository.checks()
        assert [one.sequence for one in repository.manifests().good] == [1]
    # A process that has ended leaves its lock to the next one; this one lives.
    repository.target.delete(f"{layout.LOCKS}{locks.BACKUP}.json")
    assert verifying.verify(repository, verifying.Depth(), TOOLS).ok
    assert backup(repository, data, cache).chain.height == 100
    assert restore(repository, tmp_path / "out").height == 100
    repository.close()


class Full(FileIO):
    """A file on a disk that has room for so many bytes more."""

    room = 0

    def write(self, content: Any, /) -> int:
        taken = min(len(content), Full.room)
        Full.room -= taken
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content[:taken])


def no_folder(cache: Path, _: pytest.MonkeyPatch) -> None:
    cache.write_bytes(b"")


def read_only(cache: Path, patch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def refusing(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        if path.is_relative_to(cache) and mode != "rb":
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, mode, *more, **options)

    patch.setattr(Path, "open", refusing)


def full_after(room: int) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def hinder(cache: Path, patch: pytest.MonkeyPatch) -> None:
        real = Path.open
        patch.setattr(Full, "room", room)

        def limited(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
            if path.is_relative_to(cache) and mode != "rb":
                return Full(str(path), mode.replace("b", ""))
            return real(path, mode, *more, **options)

        patch.setattr(Path, "open", limited)

    return hinder


HINDERED_CACHES = {"no folder": no_folder, "read-only": read_only, "full": full_after(0), "full soon": full_after(700),
                   "full at the end": full_after(4000)}  # fmt: skip


@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
@pytest.mark.parametrize("hinder", HINDERED_CACHES.values(), ids=HINDERED_CACHES)
def test_a_cache_that_cannot_be_kept_hinders_no_backup(
    repository: Repository,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hinder: Callable[[Path, pytest.MonkeyPatch], None],
    *,
    begun: bool,
) -> None:
    cache, out = data.parent / "hints", data.parent / "out"
    if begun and hinder is not no_folder:
        backup(repository, data, cache)
        grow(data, 5)
    with monkeypatch.context() as patch:
        hinder(cache, patch)
        backup(repository, data, cache)
    assert f"the cache {cache}/" in caplog.text
    assert "--cache-dir" in caplog.text
    tip = tip_of(data)
    assert restore(repository, out, Wish(exact=True)).tip_hash == tip.hash.hex()
    if hinder is no_folder:
        cache.unlink()
    # Whatever was left of it is believed as far as it goes.
    assert backup(repository, data, cache).chain.height == tip.height
    assert restore(repository, out, Wish(exact=True)).tip_hash == tip.hash.hex()


def test_an_object_that_cannot_be_fetched_is_no_damage(history: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, key, get = history.find("latest").id, layout.object_key(largest(history)), history.target.get

    def lost(wanted: str, *bounds: int) -> Bytes:
        if wanted == key:
            raise TargetError("the connection was lost")
        return get(wanted, *bounds)

    monkeypatch.setattr(history.target, "get", lost)
    before = history.checks().get(newest)
    with pytest.raises(TargetError, match="connection was lost"):
        verifying.verify(history, verifying.Depth(), TOOLS)
    assert history.checks().get(newest) == before


def test_a_full_scratch_is_no_damage(history: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = history.find("latest").id
    with monkeypatch.context() as patch:
        patch.setattr("goud_backup.staging.RESERVE_BYTES", 1 << 60)
        with pytest.raises(NoSpace, match="Nothing was written"):
            verifying.verify(history, verifying.Depth(deep=True), TOOLS)
    assert (history.checks()[newest]["ok"], history.checks()[newest]["level"]) == (True, "data")
    replace(history, layout.object_key(largest(history)), flipped)
    with monkeypatch.context() as patch:
        patch.setattr("goud_backup.staging.RESERVE_BYTES", 1 << 60)
        with pytest.raises(NoSpace):
            verifying.verify(history, verifying.Depth(deep=True), TOOLS)
    assert history.checks()[newest]["ok"] is False, "what the hashes told holds"
