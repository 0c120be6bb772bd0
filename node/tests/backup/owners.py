"""Everything that writes into a data directory, as root under some umask; then the node's account works there.

`main` runs as root with an empty folder, and prints a line of JSON for each writer and umask. Every step runs in a
fork of this process, which has imported everything and opened nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from goud_backup import archive, swap
from goud_backup import restore as restoring
from goud_backup.cli import archiving
from goud_backup.plan import Wish
from goud_backup.progress import Silent
from goud_backup.repository.repository import Repository
from goud_backup.source import DirectorySource
from goud_backup.targets import open_target
from goud_node.chain import genesis as documents
from goud_node.chain.inspect import inspect
from goud_node.chain.volume import initialize_volume, open_volume
from goud_node.store.checkpoint import Checkpoints

from .support import GENESIS, backup, grow, make_repository, reopened, restore, ship
from .test_restore_schema import make_foreign

NODE = 10001
UMASKS = (0o022, 0o027, 0o077)


class World:
    """A repository with a backup and segments, one of a foreign schema, an archive, and the data they are of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"

    @property
    def repository(self) -> Repository:
        return reopened(open_target(f"file://{self.folder}/repository"))

    @property
    def foreign(self) -> Repository:
        return reopened(open_target(f"file://{self.folder}/foreign"))

    @property
    def archive(self) -> Path:
        return next((self.folder / "archives").glob("*.tar.gz"))

    def make(self) -> None:
        grow(self.data, 20)
        repository, foreign = (make_repository(self.folder / name) for name in ("repository", "foreign"))
        backup(repository, self.data, self.folder / "cache")
        backup(foreign, self.data, self.folder / "cache2")
        make_foreign(foreign)
        grow(self.data, 5)
        ship(repository, self.data)
        documents.dump(GENESIS, self.folder / "genesis.json")
        archive.export(
            repository,
            repository.find("latest"),
            self.folder / "archives",
            environment="local",
            volume="node1_data",
            opener=None,
            workers=1,
            progress=Silent(),
        )
        stored = self.folder / "repository"
        for path in (stored, *stored.rglob("*")):
            os.chown(path, NODE, NODE)
        work_on(self, self.volume("rehearsal", filled=True))
        (self.folder / "modules").write_text("\n".join(sys.modules))

    def volume(self, name: str, *, filled: bool) -> Path:
        path = self.folder / "volumes" / name
        path.parent.mkdir(exist_ok=True)
        if filled:
            shutil.copytree(self.data, path)
        else:
            path.mkdir()
        path.chmod(0o750)
        for entry in (path, *path.rglob("*")):
            os.chown(entry, NODE, NODE)
        return path

    def another_repository(self, volume: Path) -> Repository:
        return make_repository(self.folder / f"repository-{volume.name}")


def no_lock(volume: Path) -> Path:
    (volume / "rocksdb/LOCK").unlink()
    return volume


def killed_at(step: str, world: World, volume: Path) -> None:
    def end(*_: object, **__: object) -> None:
        os._exit(0)

    setattr(swap, step, end)
    restore(world.repository, volume)


def restore_archive(world: World, volume: Path) -> None:
    archiving.restore_archive(world.archive, world.folder / "genesis.json", volume, confirm=True, workers=1)


def restored_and(then: Callable[[Path], Any]) -> Callable[[World, Path], Any]:
    def work(world: World, volume: Path) -> None:
        restore(world.repository, volume)
        then(volume)

    return work


def ship_it(world: World, volume: Path) -> None:
    no_lock(volume)
    ship(world.another_repository(volume), volume)


def checkpoint(_: World, volume: Path) -> None:
    store, _ledger = open_volume(volume, GENESIS, must_be_mount=False)
    Checkpoints(store, volume / "checkpoints").create("c1", 1000)
    store.close()


WRITERS: dict[str, tuple[bool, Callable[[World, Path], Any]]] = {
    "restore into an empty one": (False, lambda w, v: restore(w.repository, v)),
    "restore": (True, lambda w, v: restore(w.repository, v)),
    "restore of the backup alone": (True, lambda w, v: restore(w.repository, v, Wish(exact=True))),
    "rebuild": (True, lambda w, v: restore(w.repository, v, Wish(to_height=7))),
    "reinitialize": (True, lambda w, v: restore(w.foreign, v, Wish(reinitialize=True))),
    "plan": (True, lambda w, v: restoring.live_document(no_lock(v), w.repository.config.genesis, 7)),
    "restore-archive": (True, restore_archive),
    "create": (True, lambda w, v: backup(w.another_repository(v), no_lock(v), w.folder / "cache3")),
    "ship": (True, ship_it),
    "directory source": (True, lambda _, v: DirectorySource(no_lock(v)).open(GENESIS).__enter__()),
    "undo": (True, restored_and(swap.undo)),
    "undo of an undo": (True, restored_and(lambda v: swap.undo(v) and swap.undo(v))),
    "cleanup": (True, restored_and(swap.cleanup)),
    "restore killed before the swap": (True, lambda w, v: killed_at("swap", w, v)),
    "restore killed in the swap": (True, lambda w, v: killed_at("_exchange", w, v)),
    "restore killed after the swap": (True, lambda w, v: killed_at("_finish", w, v)),
    "goud-node init": (False, lambda _, v: initialize_volume(v, GENESIS)),
    "goud-node epoch": (True, lambda _, v: open_volume(no_lock(v), GENESIS, must_be_mount=False)[0].close()),
    "goud-node inspect": (True, lambda _, v: inspect(no_lock(v), GENESIS)),
    "checkpoint": (True, checkpoint),
}


def forked(work: Callable[[], Any], *, umask: int = 0o022, account: int | None = None) -> str:
    """Why the work failed in a process of its own; empty when it did not."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.umask(umask)
            if account is not None:
                os.setgroups([])
                os.setresgid(account, account, account)
                os.setresuid(account, account, account)
            # What commands print is not ours.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
        finally:
            problem = traceback.format_exc() if sys.exc_info()[0] is not None else ""
            os.write(writing, problem[-2000:].encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def use_everything(volume: Path) -> None:
    for path in sorted(volume.rglob("*")):
        wanted = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
        assert os.access(path, wanted), f"{path.relative_to(volume)} cannot be used"


def work_on(world: World, volume: Path) -> None:
    """What the node's account does next: recover, serve, undo, restore and clean up."""
    with swap.exclusive(volume):
        pass
    initialize_volume(volume, GENESIS)
    open_volume(volume, GENESIS, must_be_mount=False)[0].close()
    journal = swap.read_journal(volume)
    if journal is not None and journal.aside:
        swap.undo(volume)
    restore(world.repository, volume)
    swap.cleanup(volume)
    open_volume(volume, GENESIS, must_be_mount=False)[0].close()


def modes(volume: Path) -> dict[str, int]:
    """By name without what differs from run to run."""
    return {
        "".join(letter for letter in str(path.relative_to(volume)) if not letter.isdigit()): path.lstat().st_mode
        for path in volume.rglob("*")
        if not path.name.startswith("LOG")
    }


def main(folder: Path) -> None:
    os.umask(0o022)
    folder.chmod(0o755)
    world = World(folder)
    failed = forked(world.make)
    if failed:
        sys.exit(failed)
    # The account may not be able to read the interpreter's folder: what is imported late is imported now.
    for name in (folder / "modules").read_text().splitlines():
        if name != "__main__":
            import_module(name)
    for number, (name, (filled, write)) in enumerate(WRITERS.items()):
        for umask in UMASKS:
            volume = world.volume(f"{number}-{umask:03o}", filled=filled)
            problems = [forked(lambda v=volume, w=write: w(world, v), umask=umask)]  # type: ignore[misc]  # bound now
            found = modes(volume)
            if "killed" not in name:
                problems.append(forked(lambda v=volume: use_everything(v), account=NODE))  # type: ignore[misc]  # bound now
            problems.append(forked(lambda v=volume: work_on(world, v), account=NODE))  # type: ignore[misc]  # bound now
            strangers = [str(path) for path in volume.rglob("*") if path.lstat().st_uid != NODE]
            line = {"writer": name, "umask": umask, "problems": [*filter(None, problems), *strangers], "modes": found}
            print(json.dumps(line), flush=True)
