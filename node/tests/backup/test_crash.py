"""kill -9 at dozens of points of create, ship, prune and restore: nothing is lost, and the next run needs no hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.plan import Wish
from goud_backup.prune import prune
from goud_backup.repository.repository import Repository
from goud_backup.repository.retention import Policy
from goud_backup.targets import open_target
from goud_node.chain.inspect import inspect

from .support import GENESIS, backup, grow, make_repository, reopened, restore, ship, tip_of

SCRIPT = Path(__file__).with_name("crash.py")
EVERY = int(os.environ.get("GOUD_BACKUP_CRASH_EVERY", "1"))
"""Try every so-manieth step: 1 is all of them."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two backups, shipped segments, one more of each to be made; a live directory of another height."""
    folder = tmp_path_factory.mktemp("world")
    data = folder / "data"
    grow(data, 40, size=2000)
    repository = make_repository(folder / "repository")
    backup(repository, data, folder / "cache")
    grow(data, 10)
    ship(repository, data)
    backup(repository, data, folder / "cache")
    grow(folder / "live", 7)
    grow(data, 30)
    return folder


class Killer:
    """The process whose forks are killed."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._errors = log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def close(self) -> None:
        self._errors.close()

    def __call__(self, verb: str, step: int, folder: Path) -> bool:
        """True when the verb was killed at the step; False when it ended before it got there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{verb} {step} {folder}\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        assert status in {0, -9}, self.log.read_text()
        return status == -9


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killer]:
    killer = Killer(tmp_path_factory.mktemp("killer") / "log")
    yield killer
    killer.process.communicate(timeout=30)
    killer.close()


def copies(world: Path, tmp_path: Path, step: int) -> Path:
    folder = tmp_path / str(step)
    shutil.copytree(world, folder, copy_function=os.link)
    # Linked for speed; what is changed in place must be a file of its own.
    for path in (folder / "live", folder / "data"):
        shutil.rmtree(path)
        shutil.copytree(world / path.name, path)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """What a run may not change; RocksDB's lock and its diary are none of it."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("LO"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def opened(folder: Path) -> Repository:
    return reopened(open_target(f"file://{folder / 'repository'}"))


def check(repository: Repository) -> None:
    report = verifying.verify(repository, verifying.Depth(record=False), restoring.Tools(None))
    assert report.ok, report.problems


@pytest.mark.parametrize("verb", ["create", "ship", "prune"])
def test_killed_at_every_change_of_the_store(world: Path, tmp_path: Path, run: Killer, verb: str) -> None:
    killed = 0
    first = opened(world).manifests().good[0]
    source = contents(world / "data")
    for step in range(1, 200, EVERY):
        folder = copies(world, tmp_path, step)
        if not run(verb, step, folder):
            break
        killed += 1
        repository = opened(folder)
        check(repository)
        newest = repository.find("latest")
        assert newest.chain.height in {50, 80}
        assert contents(folder / "data") == source
        if step % 5 == 1:
            assert restore(repository, folder / "out", Wish(exact=True)).height == newest.chain.height
            if verb != "prune":
                assert restore(repository, folder / "before", Wish(first.id)).height == first.chain.height
        # The same verb again, by somebody who knows nothing of the first.
        assert not run(verb, 10_000, folder)
        check(repository)
        if verb == "create":
            assert repository.find("latest").chain.height == 80
        if verb == "ship":
            assert restore(repository, folder / "out").height == 80
        shutil.rmtree(folder)
    else:
        pytest.fail("it never ended")
    assert killed * EVERY >= {"create": 40, "ship": 24, "prune": 10}[verb]


def test_a_restore_killed_anywhere_leaves_the_old_or_the_new(world: Path, tmp_path: Path, run: Killer) -> None:
    killed = 0
    for step in range(1, 2000, EVERY):
        folder = copies(world, tmp_path, step)
        if not run("restore", step, folder):
            break
        killed += 1
        height = tip_of(folder / "live").height if (folder / "live/rocksdb/CURRENT").exists() else None
        assert height in {7, 50}, "live data is as it was, or wholly restored"
        done = restore(opened(folder), folder / "live")
        assert (done.height, tip_of(folder / "live").height) == (50, 50)
        if killed % 6 == 0:
            assert inspect(folder / "live", GENESIS).ok
            check(opened(folder))
        kept = [path for path in (folder / "live").iterdir() if path.name.startswith("rocksdb.before-")]
        assert kept, "what was live before is kept"
        shutil.rmtree(folder)
    else:
        pytest.fail("it never ended")
    assert killed * EVERY >= 50


def test_what_killed_runs_left_is_collected(world: Path, tmp_path: Path, run: Killer) -> None:
    folder = copies(world, tmp_path, 0)
    assert run("create", 7, folder), "it is killed when it has stored one object"
    repository = opened(folder)
    named = {name for one in repository.manifests().good for name in one.objects}
    assert set(repository.object_sizes()) - named, "the killed run stored an object that nothing names"
    backup(repository, folder / "data", folder / "cache2")
    for _ in range(2):
        prune(repository, Policy(), grace=0)
    named = {name for one in repository.manifests().good for name in one.objects}
    assert set(repository.object_sizes()) == named
    check(repository)
