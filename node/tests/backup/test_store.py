"""kill -9 of the store while it is written to: a store that returns is waited for, one that does not loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from google.cloud.storage.retry import DEFAULT_RETRY

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.errors import TargetError
from goud_backup.repository.repository import Repository, initialize
from goud_backup.targets import open_target
from goud_backup.upload import units

from .store import BUCKET, Mortal
from .support import GENESIS, backup, grow, reopened, restore

REFUSED = 7
MOMENTS = (1, 9, 18, 30)
"""So many objects into the backup, of some forty, the store is killed."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    found = Mortal(tmp_path_factory.mktemp("store"))
    yield found
    found.kill()


@pytest.fixture
def repository(store: Mortal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path) -> Iterator[Repository]:
    """A repository with a backup at 60, of a source that has grown to 100, in many small objects."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.endpoint)
    monkeypatch.setattr("goud_backup.create.units", partial(units, part=16_384, pack=4_096))
    found = initialize(open_target(f"gs://{BUCKET}/{tmp_path.name}"), GENESIS, encrypted=False)
    backup(found, data, tmp_path / "cache")
    grow(data, 40, size=8000)
    yield found
    found.close()


def assert_whole(repository: Repository, folder: Path, height: int) -> None:
    report = verifying.verify(repository, verifying.Depth(record=False), restoring.Tools(None))
    assert report.ok, report.problems
    assert restore(repository, folder).height == height
    shutil.rmtree(folder)


def refused(url: str, data: Path, cache: Path) -> None:
    """A backup that ends because the store is away."""
    try:
        backup(reopened(open_target(url)), data, cache)
    except TargetError as error:
        os._exit(REFUSED if "Check the network" in str(error) else 1)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_store_that_comes_back_is_waited_for(
    store: Mortal, repository: Repository, data: Path, tmp_path: Path, moment: int
) -> None:
    before = store.deaths
    killing = store.kill_after(moment, back_after=0.5)
    made = backup(repository, data, tmp_path / "cache")
    assert store.deaths == before + 1, "the backup was done before the store died"
    killing.join()
    assert made.chain.height == 100
    assert_whole(repository, tmp_path / "out", 100)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits two minutes for a store here."""
    monkeypatch.setattr("goud_backup.targets.gs._PATIENCE", DEFAULT_RETRY.with_timeout(1.0))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_store_that_stays_away_ends_the_backup_and_loses_nothing(
    store: Mortal, repository: Repository, data: Path, tmp_path: Path, moment: int
) -> None:
    killing = store.kill_after(moment)
    # A process of its own: the lock that it can not give back is that of somebody who is gone.
    run = multiprocessing.get_context("fork").Process(target=refused, args=(repository.url, data, tmp_path / "cache"))
    run.start()
    run.join(60)
    assert run.exitcode == REFUSED
    killing.join()
    store.start()
    again = reopened(open_target(repository.url))
    assert_whole(again, tmp_path / "out", 60)
    assert backup(again, data, tmp_path / "cache").chain.height == 100
    assert_whole(again, tmp_path / "out", 100)
    again.close()
