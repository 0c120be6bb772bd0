"""Each damage turns verification and restore red, and the message names the thing."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup import walk
from goud_backup.codec.sealing import Opener, Sealer
from goud_backup.errors import Damaged, Missing, NotVerified, SourceError, WrongIdentity
from goud_backup.plan import Wish
from goud_backup.repository import layout
from goud_backup.repository.manifest import dump, sealed
from goud_backup.repository.repository import Repository, initialize
from goud_backup.targets import open_target
from goud_node.chain import proof
from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate, countersign
from goud_node.chain.indexes import height_key
from goud_node.errors import CorruptStore, GoudError, WrongChain
from goud_node.store import Batch, Family, RocksStore

from .support import (
    GENESIS,
    KEYS,
    backup,
    certificate_of,
    grow,
    leave_a_log,
    make_repository,
    redone,
    reopened,
    restore,
    ship,
    tip_of,
)

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())
TOOLS = restoring.Tools(None)


def report_of(repository: Repository, *, deep: bool = False, tools: restoring.Tools = TOOLS) -> verifying.Report:
    return verifying.verify(repository, verifying.Depth(deep=deep, record=False), tools)


def largest(repository: Repository) -> str:
    manifest = repository.find("latest")
    return max(manifest.objects, key=lambda name: manifest.objects[name].stored)


def replace(repository: Repository, key: str, change: Callable[[bytes], bytes]) -> None:
    repository.target.put(key, change(bytes(repository.target.get(key))))


def flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


def rewritten(change: Callable[[dict[str, object]], None]) -> Callable[[bytes], bytes]:
    """A manifest changed by somebody who knows the format: its own hash is right again."""

    def apply(content: bytes) -> bytes:
        document = json.loads(content)
        change(document)
        return redone(document)

    return apply


def latest_key(repository: Repository) -> str:
    return repository.manifest_keys()[-1][2]


@pytest.mark.parametrize("at", [0, 10, 60, 400, -1], ids=["magic", "length", "age header", "key", "tag"])
def test_a_flipped_bit_anywhere_in_an_encrypted_object_is_damage_not_a_wrong_key(
    tmp_path: Path, chain: Path, cache: Path, at: int
) -> None:
    sealed = make_repository(tmp_path / "sealed", (RECIPIENT,))
    backup(sealed, chain, cache, (RECIPIENT,))
    key = layout.object_key(largest(sealed))
    content = bytearray(sealed.target.get(key))
    content[at] ^= 1
    sealed.target.put(key, content)
    with pytest.raises(Damaged, match=key):
        restore(sealed, tmp_path / "out", None, restoring.Tools(Opener([IDENTITY])))


def test_a_whole_repository_is_green(history: Repository) -> None:
    report = report_of(history, deep=True)
    assert report.ok, report.problems
    assert (report.backups, report.segments, report.height) == (2, 2, 130)
    assert report.bytes > 0


def test_an_empty_repository_does_not_verify(repository: Repository) -> None:
    assert "nothing to verify" in report_of(repository).problems[0].message


@pytest.mark.parametrize("kind", ["flip", "cut", "remove"])
def test_an_object(history: Repository, grown: Path, kind: str) -> None:
    name = largest(history)
    key = layout.object_key(name)
    if kind == "remove":
        history.target.delete(key)
    else:
        replace(history, key, flipped if kind == "flip" else lambda content: content[:-1])
    report = report_of(history)
    assert [problem.thing for problem in report.problems] == [key]
    with pytest.raises((Damaged, Missing), match=name):
        restore(history, grown, Wish(exact=True))
    assert tip_of(grown).height == 130
    assert not report_of(history, deep=True).ok


@pytest.mark.parametrize("kind", ["flip", "cut"])
def test_a_manifest(history: Repository, grown: Path, kind: str) -> None:
    key = latest_key(history)
    replace(history, key, flipped if kind == "flip" else lambda content: content[: len(content) // 2])
    assert key in {problem.thing for problem in report_of(history).problems}
    with pytest.raises(Damaged, match=key):
        restore(history, grown)
    assert tip_of(grown).height == 130


def test_a_manifest_of_another_chain(history: Repository, grown: Path) -> None:
    key = latest_key(history)

    def swap(document: dict[str, object]) -> None:
        chain = document["chain"]
        assert isinstance(chain, dict)
        chain["id"] = "goud-ffffffffffffffff"

    replace(history, key, rewritten(swap))
    assert any(problem.thing == key and "swapped" in problem.message for problem in report_of(history).problems)
    with pytest.raises(WrongChain, match=key):
        restore(history, grown)


def test_a_manifest_under_another_name(history: Repository) -> None:
    (_, _, first), (_, _, second) = history.manifest_keys()
    replace(history, second, lambda _: bytes(history.target.get(first)))
    assert [problem.thing for problem in report_of(history).problems] == [second, layout.LATEST]


def test_a_replaced_predecessor(history: Repository) -> None:
    replace(history, history.manifest_keys()[0][2], rewritten(lambda document: document.update(started="x")))
    assert "predecessor" in report_of(history).problems[0].message


@pytest.mark.parametrize("kind", ["signature", "other block", "no cbor", "valid, of another block"])
def test_a_certificate_in_the_manifest(history: Repository, kind: str, grown: Path) -> None:
    def forge(document: dict[str, object]) -> None:
        chain = document["chain"]
        assert isinstance(chain, dict)
        if kind == "no cbor":
            chain["certificate"] = base64.b64encode(b"junk").decode()
            return
        if kind == "valid, of another block":
            other = bytes(32)
            signatures = {name: countersign(key, other) for name, key in KEYS.items()}
            certificate = Certificate(chain["certified_height"], other, signatures)
            chain["certificate"] = base64.b64encode(certificate.encode()).decode()
            return
        raw = bytearray(base64.b64decode(str(chain["certificate"])))
        raw[-5 if kind == "signature" else 10] ^= 1
        chain["certificate"] = base64.b64encode(raw).decode()

    replace(history, latest_key(history), rewritten(forge))
    report = report_of(history)
    assert any("certificate" in problem.message for problem in report.problems)
    with pytest.raises(NotVerified, match=history.find("latest").id):
        restore(history, grown)
    assert tip_of(grown).height == 130


def test_a_certificate_in_the_data(tmp_path: Path, repository: Repository, cache: Path) -> None:
    """A chain whose last certificate is signed by one node alone: only the deep verification can know."""
    data = tmp_path / "data"
    grow(data, 20)
    store = RocksStore.open(data / "rocksdb")
    raw = store.get(Family.BLOCKS, height_key(11))
    assert raw is not None
    batch = Batch()
    batch.put(Family.CERTIFICATES, height_key(11), certificate_of(Block.decode(raw), ("node1",)).encode())
    store.write(batch)
    store.close()
    manifest = backup(repository, data, cache)
    assert report_of(repository).ok
    report = report_of(repository, deep=True)
    assert [problem.thing for problem in report.problems] == [manifest.id]
    assert "1 valid countersignatures" in report.problems[0].message
    with pytest.raises(GoudError, match="certificate of block 11"):
        restore(repository, tmp_path / "out")


@pytest.mark.parametrize("kind", ["flip", "cut", "remove"])
def test_a_segment(history: Repository, tmp_path: Path, kind: str) -> None:
    segment = max(history.segments(), key=lambda one: one.first)
    if kind == "remove":
        history.target.delete(segment.key)
        assert restore(history, tmp_path / "out").height == 100, "what was shipped and lost is not there"
        return
    replace(history, segment.key, flipped if kind == "flip" else lambda content: content[:-1])
    assert [problem.thing for problem in report_of(history).problems] == [segment.key]
    with pytest.raises(Damaged, match=segment.key):
        restore(history, tmp_path / "out")


def test_a_wrong_key(tmp_path: Path, chain: Path, cache: Path) -> None:
    sealed = make_repository(tmp_path / "sealed", (RECIPIENT,))
    manifest = backup(sealed, chain, cache, (RECIPIENT,))
    ship(sealed, chain, (RECIPIENT,))
    assert report_of(sealed).ok, "hashes need no key"
    assert report_of(sealed, deep=True, tools=restoring.Tools(Opener([IDENTITY]))).ok
    wrong = restoring.Tools(Opener([pyrage.x25519.Identity.generate()]))
    for tools, sentence in ((wrong, "other recipients"), (TOOLS, "Give the file with the age identity")):
        with pytest.raises(WrongIdentity, match=sentence):
            verifying.verify(sealed, verifying.Depth(deep=True), tools)
        with pytest.raises(WrongIdentity, match=sentence):
            restore(sealed, tmp_path / "out", None, tools)
    check = sealed.checks().get(manifest.id)
    assert check is None or check["ok"], "a key that is not here says nothing of the backup"


def test_every_verb_on_s3(s3_url: str, chain: Path, cache: Path, tmp_path: Path) -> None:
    repository = initialize(open_target(s3_url), GENESIS, encrypted=True, recipients=(RECIPIENT,))
    backup(repository, chain, cache, (RECIPIENT,))
    assert ship(repository, chain, (RECIPIENT,), from_genesis=True).blocks == 59
    tools = restoring.Tools(Opener([IDENTITY]))
    assert report_of(repository, deep=True, tools=tools).ok
    assert restore(repository, tmp_path / "out", Wish(to_height=33), tools).height == 33
    repository.close()


@pytest.mark.parametrize(
    "damage",
    ["flip", "footer", "cut", "remove", "manifest flip", "manifest cut", "manifest gone", "current gone", "log"],
)
def test_each_damage_of_the_restored_copy(chain: Path, tmp_path: Path, damage: str) -> None:
    """What RocksDB itself may open without a word."""
    data = Path(shutil.copytree(chain, tmp_path / "data"))
    database = data / "rocksdb"
    table = max(database.glob("*.sst"), key=lambda one: one.stat().st_size)
    (manifest,) = database.glob("MANIFEST-*")
    content = bytearray(table.read_bytes())
    if damage == "flip":
        content[len(content) // 3] ^= 0xFF
        table.write_bytes(content)
    elif damage == "footer":
        content[-10] ^= 0xFF
        table.write_bytes(content)
    elif damage == "cut":
        os.truncate(table, len(content) - 100)
    elif damage == "remove":
        table.unlink()
    elif damage == "manifest flip":
        replaced = bytearray(manifest.read_bytes())
        replaced[len(replaced) // 2] ^= 0xFF
        manifest.write_bytes(replaced)
    elif damage == "manifest cut":
        os.truncate(manifest, manifest.stat().st_size // 2)
    elif damage == "manifest gone":
        manifest.unlink()
    elif damage == "current gone":
        (database / "CURRENT").unlink()
    elif damage == "log":
        leave_a_log(database, 5)
        (log,) = database.glob("*.log")
        replaced = bytearray(log.read_bytes())
        replaced[len(replaced) // 2] ^= 0xFF
        log.write_bytes(replaced)
    with pytest.raises((CorruptStore, GoudError)):
        walk.prove(database, GENESIS, 1)


def test_many_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_INLINE", 10)
    monkeypatch.setattr(proof, "STRETCH", 16)
    data = tmp_path / "data"
    grow(data, 50)
    alone = walk.prove(data / "rocksdb", GENESIS, 1)
    assert walk.prove(data / "rocksdb", GENESIS, 2) == alone
    assert (alone.height, alone.certificates, alone.keys["blocks"]) == (50, 50, 51)
    table = max((data / "rocksdb").glob("*.sst"), key=lambda one: one.stat().st_size)
    table.write_bytes(flipped(table.read_bytes()))
    with pytest.raises(CorruptStore, match="checksum"):
        walk.prove(data / "rocksdb", GENESIS, 2)


def test_quarantine_lets_the_next_backup_heal(history: Repository, grown: Path, cache: Path, tmp_path: Path) -> None:
    key = layout.object_key(largest(history))
    replace(history, key, flipped)
    report = verifying.verify(history, verifying.Depth(), TOOLS)
    assert history.checks()[history.find("latest").id]["ok"] is False
    replace(history, key, flipped)
    assert verifying.quarantine(history, report) == [], "it was stored anew since"
    assert history.target.stat(key) is not None
    replace(history, key, flipped)
    assert verifying.quarantine(history, report) == [key]
    assert history.target.stat(key) is None
    backup(history, grown, cache)
    assert restore(history, tmp_path / "out", Wish(exact=True)).height == 130
    assert reopened(history.target).find("latest").chain.height == 130


def test_a_deep_verification_reads_the_secrets(tmp_path: Path, data: Path, cache: Path) -> None:
    """What a restore with its secrets needs is looked at, and written nowhere."""
    recipients = (RECIPIENT,)
    repository = make_repository(tmp_path / "sealed", recipients)
    (tmp_path / "jwt_secret").write_text("secret")
    manifest = backup(repository, data, cache, recipients, secrets=(tmp_path / "jwt_secret",))
    tools = restoring.Tools(Opener([IDENTITY]))
    assert report_of(repository, deep=True, tools=tools).ok
    files = manifest.listing(tools.opener)
    changed = [
        dataclasses.replace(entry, parts=tuple(dataclasses.replace(part, sha256="00" * 32) for part in entry.parts))
        if entry.path == "secrets/jwt_secret"
        else entry
        for entry in files
    ]
    draft = sealed(dataclasses.replace(manifest, files=tuple(changed), sealed_files=None), Sealer(recipients))
    repository.target.put(layout.manifest_key(manifest.sequence, manifest.id), dump(draft)[0])
    report = report_of(repository, deep=True, tools=tools)
    assert [problem.thing for problem in report.problems if "jwt_secret" in problem.message] == [manifest.id]


@pytest.mark.parametrize(
    "path",
    ["rocksdb/../chain_id", "/etc/passwd", "rocksdb/a/b", "rocksdb/..", "rocksdb/.", "rocksdb/", "..", "", "other",
     "secrets/a\0b", "rocksdb/a\nb", "rocksdb\\a", "chain_id", "./chain_id", "rocksdb//x"],
)  # fmt: skip
def test_a_manifest_names_each_path_of_a_backup_once(
    repository: Repository, data: Path, cache: Path, path: str
) -> None:
    manifest = backup(repository, data, cache)
    files = manifest.files or ()
    renamed = dataclasses.replace(files[-1], path=path)
    draft = dataclasses.replace(manifest, files=(*files, renamed))
    with pytest.raises(ValueError, match="path"):
        sealed(draft, None)
    with pytest.raises(SourceError, match="path"):
        dump(draft)
    key = layout.manifest_key(manifest.sequence, manifest.id)
    document = json.loads(bytes(repository.target.get(key)))
    document["files"].append({**document["files"][-1], "path": path})
    repository.target.put(key, redone(document))
    with pytest.raises(Damaged, match="path"):
        repository.find("latest")


def test_a_damaged_segment_does_not_make_the_backup_below_it_a_bad_one(repository: Repository, data: Path) -> None:
    manifest = backup(repository, data, data.parent / "cache")
    grow(data, 5)
    ship(repository, data)
    replace(repository, repository.segments()[-1].key, lambda content: content[:-9] + b"?" + content[-8:])
    report = verifying.verify(repository, verifying.Depth(deep=True), restoring.Tools(None))
    assert {problem.thing for problem in report.problems} == {repository.segments()[-1].key, "latest"}
    check = repository.checks()[manifest.id]
    assert (check["ok"], check["level"]) == (True, "data"), "neither condemned nor proven"


@pytest.mark.parametrize("folder", [layout.MANIFESTS, layout.SEGMENTS])
@pytest.mark.parametrize("name", ["README", "{}.bak", "old/{}", "{}x"])
def test_what_no_verb_sees_is_named(history: Repository, folder: str, name: str) -> None:
    stored = next(iter(history.target.list(folder))).key
    hidden = folder + name.format(stored.removeprefix(folder))
    history.target.put(hidden, bytes(history.target.get(stored)))
    for depth in (verifying.Depth(data=False), verifying.Depth()):
        report = verifying.verify(history, depth, TOOLS)
        assert [problem.thing for problem in report.problems] == [hidden]
