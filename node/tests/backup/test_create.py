"""Making backups: what is stored, what is not stored twice, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyrage
import pytest

from goud_backup import create as creating
from goud_backup.errors import EmptyBackup, InUse, Locked, SecretsRefused, SourceError, TargetError
from goud_backup.identity import identify
from goud_backup.plan import Wish
from goud_backup.repository import layout, locks
from goud_backup.repository.repository import Repository
from goud_backup.source import DirectorySource
from goud_backup.targets import Target
from goud_node.chain.genesis import Genesis, Validator
from goud_node.errors import ConfigurationError, CorruptStore, UninitializedVolume, WrongChain
from goud_node.store import RocksStore

from .support import KEYS, backup, grow, leave_a_log, make_repository, restore, tip_of

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())


@pytest.mark.parametrize("recipients", [(), (RECIPIENT,)], ids=["plain", "encrypted"])
def test_the_second_time_stores_nothing(tmp_path: Path, data: Path, cache: Path, recipients: tuple[str, ...]) -> None:
    repository = make_repository(tmp_path / "r", recipients)
    first = backup(repository, data, cache, recipients)
    assert first.totals["new_objects"] > 0
    objects = repository.object_sizes()
    second = backup(repository, data, cache, recipients)
    assert (second.totals["new_objects"], second.totals["new_bytes"]) == (0, 0)
    assert repository.object_sizes() == objects
    assert second.previous == (first.id, repository.find(first.id).sha256)
    assert (second.sequence, second.chain.height) == (2, 60)


def test_without_the_cache_nothing_is_stored_twice_either(repository: Repository, data: Path, tmp_path: Path) -> None:
    backup(repository, data, tmp_path / "one")
    assert backup(repository, data, tmp_path / "two").totals["new_bytes"] == 0


def test_known_files_are_never_read_again(
    repository: Repository, data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(repository, data, cache)
    read: list[str] = []
    real = os.preadv

    def seen(descriptor: int, *rest: object) -> int:
        read.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        return real(descriptor, *rest)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(os, "preadv", seen)
    backup(repository, data, cache)
    assert not [name for name in read if name.endswith(".sst")]
    grow(data, 20, size=4000)
    new = set((data / "rocksdb").glob("*.sst"))
    old_size = sum(path.stat().st_size for path in new)
    third = backup(repository, data, cache)
    assert 0 < third.totals["new_bytes"] < old_size


def test_a_file_in_the_place_of_a_known_one_is_read(repository: Repository, data: Path, cache: Path) -> None:
    """Same name, size and times: only the identity inside tells them apart."""
    backup(repository, data, cache)
    path = max((data / "rocksdb").glob("*.sst"), key=lambda one: one.stat().st_size)
    before, identity = path.stat(), identify(path)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"session.identity") + 20
    content[place] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_ino, after.st_mtime_ns) == (before.st_size, before.st_ino, before.st_mtime_ns)
    assert identify(path) != identity


def test_what_has_no_identity_inside_is_not_taken_for_known(tmp_path: Path) -> None:
    (tmp_path / "000001.sst").write_bytes(b"x" * 5000)
    assert identify(tmp_path / "000001.sst") is None
    (tmp_path / "large.log").write_bytes(b"x" * 2_000_000)
    assert identify(tmp_path / "large.log") is None


def test_an_object_that_the_cache_promises_but_the_store_lost_is_stored_again(
    repository: Repository, data: Path, cache: Path, tmp_path: Path
) -> None:
    first = backup(repository, data, cache)
    for name in first.objects:
        repository.target.delete(layout.object_key(name))
    second = backup(repository, data, cache)
    assert second.totals["new_objects"] > 0
    assert not [name for name in second.objects if name not in repository.object_sizes()]
    assert restore(repository, tmp_path / "out", Wish(exact=True)).height == 60


def test_an_object_cut_short_is_stored_again(repository: Repository, data: Path, cache: Path, tmp_path: Path) -> None:
    first = backup(repository, data, cache)
    name = max(first.objects, key=lambda one: first.objects[one].stored)
    key = layout.object_key(name)
    repository.target.put(key, bytes(repository.target.get(key))[:-1])
    backup(repository, data, cache)
    assert restore(repository, tmp_path / "out", Wish(exact=True)).height == 60


def test_a_damaged_cache_is_forgotten(repository: Repository, data: Path, cache: Path, tmp_path: Path) -> None:
    backup(repository, data, cache)
    (path,) = cache.glob("*.jsonl")
    content = bytearray(path.read_bytes())
    for place in range(200, len(content), 97):
        content[place] ^= 0x04
    path.write_bytes(content)
    backup(repository, data, cache)
    assert restore(repository, tmp_path / "out", Wish(exact=True)).height == 60


class Forgetful:
    """A store that says it wrote an object, and did not keep all of it."""

    def __init__(self, target: Target, times: int) -> None:
        self._target = target
        self.times = times

    def __getattr__(self, name: str) -> object:
        return getattr(self._target, name)

    def put(self, key: str, data: bytes, **more: object) -> object:
        stat = self._target.put(key, data, **more)  # type: ignore[arg-type]  # handed on as it came
        if key.startswith("objects/") and self.times > 0:
            self.times -= 1
            self._target.put(key, bytes(data)[: len(data) // 2])
        return stat


def test_an_upload_that_the_store_cut_short_is_noticed_and_repeated(
    repository: Repository, data: Path, cache: Path, tmp_path: Path
) -> None:
    forgetful = Forgetful(repository.target, 1)
    repository.target = forgetful  # type: ignore[assignment]  # looks like one
    backup(repository, data, cache)
    assert forgetful.times == 0
    assert restore(repository, tmp_path / "out", Wish(exact=True)).height == 60


def test_a_store_that_keeps_cutting_ends_red_without_a_manifest(
    repository: Repository, data: Path, cache: Path
) -> None:
    repository.target = Forgetful(repository.target, 1000)  # type: ignore[assignment]  # looks like one
    with pytest.raises(TargetError, match="does not keep what is written"):
        backup(repository, data, cache)
    assert repository.manifest_keys() == []


def test_two_at_once_the_second_is_told(repository: Repository, data: Path, cache: Path) -> None:
    with locks.Lock(repository.target, locks.BACKUP, "create"), pytest.raises(Locked, match="create on"):
        backup(repository, data, cache)


def test_a_chain_without_blocks_is_no_backup(repository: Repository, tmp_path: Path, cache: Path) -> None:
    grow(tmp_path / "empty", 0)
    with pytest.raises(EmptyBackup, match="nothing but the genesis block"):
        backup(repository, tmp_path / "empty", cache)
    assert not repository.object_sizes()


def test_an_empty_directory_is_no_source(repository: Repository, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(UninitializedVolume, match="mount the right volume"):
        backup(repository, tmp_path / "none", cache)
    with pytest.raises(ConfigurationError, match="does not exist"):
        backup(repository, tmp_path / "nowhere", cache)


def test_a_directory_that_should_be_a_mount_is_refused(repository: Repository, data: Path, cache: Path) -> None:
    source = DirectorySource(data, must_be_mount=True)
    with pytest.raises(ConfigurationError, match="not a mount point"):
        creating.create(repository, source, creating.Options(cache_dir=cache))


def test_a_lost_current_is_an_error_and_deletes_nothing(repository: Repository, data: Path, cache: Path) -> None:
    (data / "rocksdb/CURRENT").unlink()
    before = sorted(path.name for path in (data / "rocksdb").iterdir())
    with pytest.raises(CorruptStore, match="CURRENT is missing"):
        backup(repository, data, cache)
    assert sorted(path.name for path in (data / "rocksdb").iterdir()) == before


def test_another_chain_is_refused(repository: Repository, tmp_path: Path, cache: Path) -> None:
    other = Genesis("other", 5, tuple(Validator(name, key.public) for name, key in KEYS.items()))
    grow(tmp_path / "other", 3, genesis=other)
    with pytest.raises(WrongChain, match="belongs to chain"):
        backup(repository, tmp_path / "other", cache)


def test_a_database_that_a_node_holds_is_refused(repository: Repository, data: Path, cache: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from goud_node.store import RocksStore; "
        "s = RocksStore.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(data / "rocksdb")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(InUse, match="running process holds"):
            backup(repository, data, cache)
    finally:
        holder.communicate(timeout=20)
    assert backup(repository, data, cache).chain.height == 60


def test_a_directory_left_by_a_kill_is_backed_up_with_its_log(
    repository: Repository, data: Path, cache: Path, tmp_path: Path
) -> None:
    leave_a_log(data / "rocksdb", 5)
    assert backup(repository, data, cache).chain.height == 65
    assert restore(repository, tmp_path / "out").height == 65


def test_a_damaged_log_of_the_source_does_not_become_a_backup(repository: Repository, data: Path, cache: Path) -> None:
    leave_a_log(data / "rocksdb", 5)
    (log,) = (data / "rocksdb").glob("*.log")
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 0xFF
    log.write_bytes(content)
    with pytest.raises(CorruptStore, match=re.escape(str(data / "rocksdb"))):
        backup(repository, data, cache)
    assert repository.manifest_keys() == []


def test_the_source_is_not_changed(repository: Repository, data: Path, cache: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        files = (path for path in data.rglob("*") if path.is_file() and path.name != "LOCK")
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = state()
    backup(repository, data, cache)
    assert state() == before


def test_secrets_only_go_into_an_encrypted_repository(tmp_path: Path, data: Path, cache: Path) -> None:
    secret = tmp_path / "jwt_secret"
    secret.write_text("the secret of all secrets")
    (data / "jwt_secret").write_text("the secret of all secrets")
    plain = make_repository(tmp_path / "plain")
    with pytest.raises(SecretsRefused, match="not encrypted"):
        backup(plain, data, cache, secrets=(secret,))
    backup(plain, data, cache)
    sealed = make_repository(tmp_path / "sealed", (RECIPIENT,))
    backup(sealed, data, cache, (RECIPIENT,), secrets=(secret,))
    for name, entry in plain.find("latest").objects.items():
        assert b"the secret of all secrets" not in bytes(plain.get_object(name, entry, None)), "packed or compressed"
    for folder in ("plain", "sealed"):
        for path in (tmp_path / folder).rglob("*"):
            assert path.is_dir() or b"the secret of all secrets" not in path.read_bytes()


def test_recipients_come_from_the_host_alone(tmp_path: Path, data: Path, cache: Path) -> None:
    sealed = make_repository(tmp_path / "sealed", (RECIPIENT,))
    with pytest.raises(ConfigurationError, match="is encrypted, but no recipient"):
        backup(sealed, data, cache)
    plain = make_repository(tmp_path / "plain")
    with pytest.raises(ConfigurationError, match="is not encrypted, but recipients"):
        backup(plain, data, cache, (RECIPIENT,))
    with pytest.raises(ConfigurationError, match="never give one here"):
        backup(sealed, data, cache, (str(IDENTITY),))


def test_an_interrupted_run_is_resumed_without_reading_again(
    repository: Repository, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "large"
    grow(data, 60, size=60_000)
    real, count = repository.put_object, 0

    def failing(name: str, content: bytes) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise TargetError("the network is gone")
        real(name, content)

    monkeypatch.setattr("goud_backup.upload.PART_BYTES", 1_000_000)
    monkeypatch.setattr(repository, "put_object", failing)
    with pytest.raises(TargetError, match="network is gone"):
        backup(repository, data, cache)
    monkeypatch.undo()
    kept = repository.object_sizes()
    assert len(kept) == 1
    done = backup(repository, data, cache)
    assert set(kept) & set(repository.object_sizes()) == set(kept)
    assert done.chain.height == 60


def test_a_damaged_manifest_does_not_keep_new_backups_from_being_made(
    repository: Repository, data: Path, cache: Path, tmp_path: Path
) -> None:
    first = backup(repository, data, cache)
    second = backup(repository, data, cache)
    key = layout.manifest_key(second.sequence, second.id)
    repository.target.put(key, bytes(repository.target.get(key))[:-20])
    third = backup(repository, data, cache)
    assert (third.sequence, third.previous) == (3, (first.id, repository.find(first.id).sha256))
    assert restore(repository, tmp_path / "out").height == 60
    assert key in repository.manifests().bad


@pytest.fixture(params=[1 << 30, 0], ids=["in this process", "in another"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way of reading the source through."""
    monkeypatch.setattr("goud_backup.reading._LITTLE", request.param)


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize("kind", ["flip", "cut", "remove"])
def test_damage_in_the_source_does_not_become_a_backup(
    repository: Repository, data: Path, cache: Path, kind: str
) -> None:
    path = max((data / "rocksdb").glob("*.sst"), key=lambda one: one.stat().st_size)
    if kind == "flip":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    elif kind == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()
    with pytest.raises(CorruptStore, match=re.escape(str(data / "rocksdb"))):
        backup(repository, data, cache)
    assert repository.manifest_keys() == []


def test_a_cut_manifest_of_the_source_does_not_become_a_backup(repository: Repository, data: Path, cache: Path) -> None:
    (path,) = (data / "rocksdb").glob("MANIFEST-*")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CorruptStore):
        backup(repository, data, cache)


def test_the_copy_that_tests_use_is_a_whole_chain(data: Path) -> None:
    assert tip_of(data).height == 60
    store = RocksStore.open(data / "rocksdb", read_only=True)
    store.close()
    shutil.rmtree(data)


@pytest.mark.parametrize(
    "names", [("etcd/tls.key", "node/tls.key"), ("tls.key", "tls.key"), ("tls.key", "x/../tls.key"), ("a\nb", "c")]
)
def test_secrets_that_could_not_both_come_back_are_refused(
    tmp_path: Path, data: Path, cache: Path, names: tuple[str, str]
) -> None:
    sealed = make_repository(tmp_path / "sealed", (RECIPIENT,))
    (tmp_path / "x").mkdir()
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(path))
    with pytest.raises(SecretsRefused, match="Rename"):
        backup(sealed, data, cache, (RECIPIENT,), secrets=tuple(paths))
    assert not sealed.manifest_keys()
    assert not sealed.object_sizes()


@pytest.mark.parametrize("name", [b"notes\twith tab.txt", b"\xff.txt", b"line\nbreak", "\u202e.sst".encode()])
def test_a_file_that_cannot_be_named_is_refused_before_anything_is_stored(
    repository: Repository, data: Path, cache: Path, name: bytes
) -> None:
    (data / "rocksdb" / os.fsdecode(name)).write_bytes(b"x")
    with pytest.raises(SourceError, match="cannot be stored"):
        backup(repository, data, cache)
    assert repository.object_sizes() == {}
