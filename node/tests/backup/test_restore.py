"""Restores: every height and time, the swap, what is kept, and that nothing live is touched before all is proven."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pyrage
import pytest

from goud_backup import create as creating
from goud_backup import restore as restoring
from goud_backup import swap
from goud_backup.codec.sealing import Opener
from goud_backup.errors import (
    Damaged,
    InUse,
    NoSpace,
    NoSuchBackup,
    NotVerified,
    OutOfReach,
    SourceError,
    WrongIdentity,
)
from goud_backup.plan import How, Wish, make
from goud_backup.repository import layout
from goud_backup.repository.manifest import dump, load
from goud_backup.repository.repository import Repository, initialize
from goud_backup.source import DirectorySource, held
from goud_backup.targets import open_target
from goud_node.chain import genesis as documents
from goud_node.chain.inspect import inspect
from goud_node.errors import InvalidBlock, WrongChain
from goud_node.settings import Settings
from goud_node.store import durable

from .support import BLOCK_MS, GENESIS, backup, grow, make_repository, redone, restore, ship, tip_of

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())


@pytest.mark.parametrize(
    ("height", "how"),
    [
        (1, How.REBUILD),
        (30, How.REBUILD),
        (59, How.REBUILD),
        (60, How.BACKUP),
        (61, How.REPLAY),
        (90, How.REPLAY),
        (91, How.REBUILD),
        (99, How.REBUILD),
        (100, How.BACKUP),
        (101, How.REPLAY),
        (130, How.REPLAY),
    ],
)
def test_every_height_is_exact(history: Repository, tmp_path: Path, grown: Path, height: int, how: How) -> None:
    wish = Wish(to_height=height)
    assert make(history, wish, None).how is how
    done = restore(history, tmp_path / "out", wish)
    assert done.height == height
    assert tip_of(tmp_path / "out").hash.hex() == done.tip_hash
    at = GENESIS.created_ms + height * BLOCK_MS
    by_time = restore(history, tmp_path / "out2", Wish(to_ms=at + BLOCK_MS // 2))
    assert (by_time.height, by_time.tip_hash) == (height, done.tip_hash)
    assert restore(history, tmp_path / "out2", Wish(to_ms=at)).height == height
    report = inspect(tmp_path / "out", GENESIS)
    assert report.ok, report.problem
    assert tip_of(grown).height == 130


def test_latest_brings_every_shipped_block(history: Repository, tmp_path: Path) -> None:
    assert restore(history, tmp_path / "out").height == 130
    assert restore(history, tmp_path / "out", Wish(exact=True)).height == 100


def test_out_of_reach_says_what_is_in_reach(history: Repository, tmp_path: Path) -> None:
    with pytest.raises(OutOfReach, match="from block 1 to 130"):
        restore(history, tmp_path / "out", Wish(to_height=131))
    with pytest.raises(OutOfReach, match=r"earlier|later"):
        restore(history, tmp_path / "out", Wish(to_ms=GENESIS.created_ms + 1))
    assert restore(history, tmp_path / "out", Wish(to_ms=GENESIS.created_ms * 2)).height == 130
    with pytest.raises(NoSuchBackup, match="does not exist"):
        restore(history, tmp_path / "out", Wish("20000101"))


def test_from_segments_alone(repository: Repository, data: Path, tmp_path: Path) -> None:
    assert ship(repository, data).blocks == 59
    done = restore(repository, tmp_path / "out")
    assert (done.height, done.how) == (59, How.SEGMENTS.value)
    assert restore(repository, tmp_path / "out", Wish(to_height=7)).height == 7
    assert inspect(tmp_path / "out", GENESIS).ok


def test_one_backup_alone_when_it_is_named(history: Repository, tmp_path: Path) -> None:
    first = history.manifests().good[0]
    assert restore(history, tmp_path / "out", Wish(first.id)).height == 60
    assert restore(history, tmp_path / "out", Wish(first.id, to_height=75)).height == 75


def test_encrypted_needs_the_identity(tmp_path: Path, data: Path, cache: Path) -> None:
    sealed = make_repository(tmp_path / "sealed", (RECIPIENT,))
    secret = tmp_path / "jwt_secret"
    secret.write_text("s3cret")
    backup(sealed, data, cache, (RECIPIENT,), secrets=(secret,))
    grow(data, 10)
    ship(sealed, data, (RECIPIENT,))
    for tools in (restoring.Tools(None), restoring.Tools(Opener([pyrage.x25519.Identity.generate()]))):
        with pytest.raises(WrongIdentity):
            restore(sealed, tmp_path / "out", None, tools)
    assert not (tmp_path / "out/rocksdb").exists()
    tools = restoring.Tools(Opener([IDENTITY]), secrets_to=tmp_path / "secrets")
    (tmp_path / "secrets").mkdir(mode=0o755)  # one that others may enter, too
    assert restore(sealed, tmp_path / "out", None, tools).height == 70
    restored = tmp_path / "secrets/jwt_secret"
    assert (restored.read_text(), restored.stat().st_mode & 0o777) == ("s3cret", 0o600)
    assert not (tmp_path / "out/secrets").exists()
    for height in (5, 60, 65):
        at = Wish(to_ms=GENESIS.created_ms + height * BLOCK_MS)
        assert restore(sealed, tmp_path / "out", at, restoring.Tools(Opener([IDENTITY]))).height == height


def test_what_was_live_is_kept_until_it_is_cleaned(history: Repository, grown: Path) -> None:
    before = tip_of(grown).hash
    done = restore(history, grown, Wish(to_height=70))
    assert done.kept is not None
    assert tip_of(grown).height == 70
    undone = swap.undo(grown)
    assert tip_of(grown).hash == before
    assert undone.is_dir()
    assert swap.undo(grown).is_dir(), "an undo can be undone"
    assert tip_of(grown).height == 70
    assert len(swap.cleanup(grown)) == 1
    assert {path.name for path in grown.iterdir()} == {"rocksdb", "chain_id", ".restore"}
    with pytest.raises(SourceError, match="no restore to undo"):
        swap.undo(grown)


def test_without_an_exchange_in_one_step(history: Repository, grown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "_atomically", lambda *_: False)
    before = tip_of(grown).hash
    restore(history, grown, Wish(to_height=70))
    assert tip_of(grown).height == 70
    swap.undo(grown)
    assert tip_of(grown).hash == before


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("live", [True, False])
def test_a_swap_cut_anywhere_is_finished_or_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, atomic: bool, live: bool
) -> None:
    """An interruption before each step of the swap: the next run finds the old data or the new, and loses neither."""

    class Cut(BaseException):
        pass

    for limit in range(1, 40):
        where = tmp_path / str(limit)
        (where / "staging/rocksdb").mkdir(parents=True)
        (where / "staging/rocksdb/new").touch()
        if live:
            (where / "rocksdb").mkdir()
            (where / "rocksdb/old").touch()
        steps = iter(range(1, 1000))

        def counted(
            real: Callable[..., object], last: int = limit, steps: Iterator[int] = steps
        ) -> Callable[..., object]:
            def call(*arguments: object, **named: object) -> object:
                if next(steps) == last:
                    raise Cut
                return real(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(swap, "_atomically", counted(swap._atomically if atomic else lambda *_: False))
            patch.setattr(Path, "rename", counted(Path.rename))
            patch.setattr(Path, "replace", counted(Path.replace))
            patch.setattr(durable, "sync_directory", counted(durable.sync_directory))
            try:
                swap.swap(where, where / "staging/rocksdb", GENESIS.chain_id)
            except Cut:
                pass
            else:
                break
        swap.recover(where)
        # What a next run does: it empties the folder that was staged in.
        taken = (where / "rocksdb/new").exists()
        shutil.rmtree(where / "staging")
        kept = {path.name for folder in where.iterdir() if folder.is_dir() for path in folder.rglob("*")}
        assert not live or "old" in kept, "what was live before is never lost"
        assert not live or (where / "rocksdb").is_dir()
        journal = swap.read_journal(where)
        assert journal is None or journal.state == "done", "a swap is finished or forgotten"
        assert (journal is None) != taken, "once the new data is live, the journal says what was before"
        assert not taken or not live or (where / str(journal and journal.aside) / "old").exists()
        swap.recover(where)
    assert limit > 6


@pytest.mark.parametrize("wish", [Wish(), Wish(exact=True), Wish(to_height=7)])
def test_a_database_is_durable_before_it_takes_the_place_of_another(
    history: Repository, grown: Path, monkeypatch: pytest.MonkeyPatch, wish: Wish
) -> None:
    """A power cut after the swap must not find names without content: every file is synced as it is then."""
    synced: dict[tuple[int, int], tuple[int, int]] = {}
    real_sync, real_swap = os.fsync, swap.swap
    swapped = []

    def fsync(descriptor: int) -> None:
        real_sync(descriptor)
        found = os.fstat(descriptor)
        synced[found.st_dev, found.st_ino] = (found.st_size, found.st_mtime_ns)

    def swapping(data_dir: Path, staged: Path, chain_id: str, secrets_to: Path | None) -> Path | None:
        for path in (staged.parent, staged, *staged.rglob("*")):
            found = path.stat()
            assert synced.get((found.st_dev, found.st_ino)) == (found.st_size, found.st_mtime_ns), path
        swapped.append(staged)
        return real_swap(data_dir, staged, chain_id, secrets_to)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(swap, "swap", swapping)
    restore(history, grown, wish)
    assert swapped


def test_a_running_node_is_never_swapped_away(history: Repository, grown: Path) -> None:
    pid = os.fork()
    if pid == 0:
        with held(grown / "rocksdb"):
            (grown / "held").touch()
            while not (grown / "release").exists():
                time.sleep(0.01)
        os._exit(0)
    while not (grown / "held").exists():
        time.sleep(0.01)
    try:
        with pytest.raises(InUse, match="running process holds"):
            restore(history, grown, Wish(to_height=70))
    finally:
        (grown / "release").touch()
        os.waitpid(pid, 0)
    assert tip_of(grown).height == 130


def test_another_chains_volume_is_refused(history: Repository, grown: Path) -> None:
    (grown / "chain_id").write_text("goud-0000000000000000\n")
    with pytest.raises(WrongChain, match="Nothing was changed"):
        restore(history, grown)
    (grown / "chain_id").unlink()
    with pytest.raises(WrongChain, match="no chain_id marker"):
        restore(history, grown)


def test_no_room_is_told_before_anything_is_written(
    history: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goud_backup.staging.RESERVE_BYTES", 1 << 60)
    with pytest.raises(NoSpace, match="Nothing was written"):
        restore(history, tmp_path / "out")


def test_a_disk_that_fills_up_leaves_what_was_live(
    history: Repository, grown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(NoSpace, match="is full"):
            restore(history, grown, Wish(exact=True))
    assert tip_of(grown).height == 130
    assert restore(history, grown, Wish(exact=True)).height == 100


@pytest.mark.parametrize(
    "change",
    [
        {"height": 99},
        {"tip_hash": "00" * 32},
        {"certified_height": 3},
    ],
)
def test_what_differs_from_the_manifest_is_refused(history: Repository, grown: Path, change: dict[str, object]) -> None:
    manifest = history.manifests().good[-1]
    key = layout.manifest_key(manifest.sequence, manifest.id)
    document = json.loads(bytes(history.target.get(key)))
    document["chain"] |= {"tip_certificate": None, "certificate": None, **change}
    history.target.put(key, redone(document))
    with pytest.raises(NotVerified, match="not what its manifest says"):
        restore(history, grown, Wish(exact=True))
    assert tip_of(grown).height == 130


def test_a_manifest_survives_the_round_trip(history: Repository) -> None:
    for manifest in history.manifests().good:
        raw, digest = dump(manifest)
        assert load(raw, "x") == manifest
        assert digest == manifest.sha256
        with pytest.raises(Damaged):
            load(raw[:-1], "x")
        with pytest.raises(Damaged):
            load(raw.replace(b'"sequence":', b'"sequence": '), "x")


def test_a_restored_node_serves_and_goes_on(
    tmp_path: Path,
    make_settings: Callable[..., Settings],
    run_node: Callable[[Settings], AbstractContextManager[object]],
    cache: Path,
) -> None:
    """The whole way: a node writes, stops, is backed up, restored, and writes on."""
    settings = make_settings()
    genesis = documents.load(settings.genesis_file)

    def accounts(live: object, number: int) -> int:
        with live.client() as client:  # type: ignore[attr-defined]  # the fixture's own type is not importable here
            for _ in range(number):
                assert client.post("/api/accounts").status_code == 201
            return int(client.get("/health").json()["chain_length"]) - 1

    with run_node(settings) as live:
        height = accounts(live, 3)
    repository = initialize(open_target(f"file://{tmp_path}/r"), genesis, encrypted=False)
    creating.create(repository, DirectorySource(settings.data_dir), creating.Options(cache_dir=cache))
    done = restoring.restore(repository, make(repository, Wish(), None), settings.data_dir, restoring.Tools(None))
    assert done.height == height
    with run_node(settings) as live:
        assert accounts(live, 2) == height + 2


def test_a_segment_of_another_history_is_refused(history: Repository, grown: Path, tmp_path: Path) -> None:
    """After a restore to an earlier height the chain may go another way: what was shipped before does not fit it."""
    restore(history, tmp_path / "out", Wish(to_height=120))
    grow(tmp_path / "out", 15, size=77)
    with pytest.raises(InvalidBlock, match="goud-backup fork"):
        ship(history, tmp_path / "out")
    assert ship(history, grown).blocks == 0


HOLDING = """
import sys
from pathlib import Path
from goud_backup import swap
with swap.exclusive(Path(sys.argv[1])):
    print(flush=True)
    input()
"""


def test_another_restore_is_waited_for(history: Repository, grown: Path) -> None:
    """Locks of the kernel are a process's own, so the other restore has to be one."""
    other = subprocess.Popen([sys.executable, "-c", HOLDING, str(grown)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with other, ThreadPoolExecutor(1) as pool:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(InUse, match="Another restore works on"), swap.exclusive(grown, patience=0.1):
            pass
        later = pool.submit(restore, history, grown, Wish(exact=True))
        time.sleep(0.3)
        assert not later.done()
        other.communicate(b"\n")
        assert later.result().height == 100
