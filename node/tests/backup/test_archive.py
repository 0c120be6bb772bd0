"""The guide's archive: plain tools read it, and what comes back is proven."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyrage
import pytest

from goud_backup import archive, walk
from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, NoSuchBackup, NotVerified, SourceError
from goud_backup.progress import Progress, Silent
from goud_backup.repository import layout
from goud_backup.repository.repository import Repository
from goud_node.errors import ConfigurationError

from .support import GENESIS, backup, make_repository, redone

IDENTITY = pyrage.x25519.Identity.generate()


def exported(
    repository: Repository, folder: Path, opener: Opener | None = None, progress: Progress | None = None
) -> archive.Exported:
    return archive.export(
        repository,
        repository.find("latest"),
        folder,
        environment="local",
        volume="node1_data",
        opener=opener,
        workers=2,
        progress=progress or Silent(),
    )


@pytest.fixture
def made(repository: Repository, chain: Path, cache: Path, tmp_path: Path) -> archive.Exported:
    backup(repository, chain, cache)
    return exported(repository, tmp_path / "backups")


def test_plain_tools_read_it(made: archive.Exported, tmp_path: Path) -> None:
    folder = made.path.parent
    assert made.path.name.startswith("goud-chain-backup-local-")
    assert made.checksum.name == made.path.name.replace(".tar.gz", ".sha256")
    subprocess.run(["sha256sum", "-c", made.checksum.name], cwd=folder, check=True, capture_output=True)
    listed = subprocess.run(["tar", "-tzf", made.path.name], cwd=folder, check=True, capture_output=True, text=True)
    base = made.path.name.removesuffix(".tar.gz")
    assert listed.stdout.split() == [
        f"{base}/{n}" for n in ("metadata.txt", "metadata.json", "node1_data.tar", "SHA256SUMS")
    ]
    shown = subprocess.run(
        ["tar", "--wildcards", "-xzOf", made.path.name, "*/metadata.txt"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "schema_version=1\n" in shown.stdout
    assert "chain_length=61\n" in shown.stdout
    subprocess.run(["tar", "-xzf", str(made.path)], cwd=tmp_path, check=True)
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / base, check=True, capture_output=True)
    (tmp_path / "volume").mkdir()
    subprocess.run(["tar", "-xf", str(tmp_path / base / "node1_data.tar")], cwd=tmp_path / "volume", check=True)
    assert walk.prove(tmp_path / "volume/rocksdb", GENESIS, 1).height == 60


def test_it_comes_back(made: archive.Exported, tmp_path: Path) -> None:
    archive.check_checksum(made.path)
    unpacked = archive.unpack(made.path, tmp_path / "out", None)
    assert (unpacked.volume, unpacked.metadata["height"]) == ("node1_data", 60)
    proven = walk.prove(tmp_path / "out/rocksdb", GENESIS, 1)
    archive.compare(unpacked, proven.height, proven.tip_hash.hex())
    with pytest.raises(NotVerified, match="height is 60"):
        archive.compare(unpacked, 59, proven.tip_hash.hex())
    with pytest.raises(SourceError, match="node1_data"):
        archive.unpack(made.path, tmp_path / "none", "node7_data")


def test_secrets_are_not_in_it(tmp_path: Path, chain: Path, cache: Path) -> None:
    recipients = (str(IDENTITY.to_public()),)
    sealed = make_repository(tmp_path / "sealed", recipients)
    secret = tmp_path / "jwt_secret"
    secret.write_bytes(os.urandom(64))
    backup(sealed, chain, cache, recipients, secrets=(secret,))
    made = exported(sealed, tmp_path / "backups", Opener([IDENTITY]))
    assert secret.read_bytes() not in gzip.decompress(made.path.read_bytes())


@pytest.mark.parametrize("kind", ["flip", "cut", "no checksum", "other checksum"])
def test_damage(made: archive.Exported, tmp_path: Path, kind: str) -> None:
    if kind == "flip":
        content = bytearray(made.path.read_bytes())
        content[len(content) // 2] ^= 1
        made.path.write_bytes(content)
    elif kind == "cut":
        os.truncate(made.path, made.size // 2)
    elif kind == "no checksum":
        made.checksum.unlink()
    else:
        made.checksum.write_text(f"{'0' * 64}  x\n")
    with pytest.raises((Damaged, SourceError), match=r"sha256|SHA-256"):
        archive.check_checksum(made.path)
    if kind in {"flip", "cut"}:
        with pytest.raises(Damaged):
            archive.unpack(made.path, tmp_path / "out", None)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_flipped_bit_anywhere_is_damage_or_changes_nothing_even_without_the_checksum_beside_it(
    made: archive.Exported, tmp_path: Path
) -> None:
    whole = made.path.read_bytes()
    right = contents(archive.unpack(made.path, tmp_path / "right", None).data_dir)
    damaged = 0
    edges = {*range(20), *range(len(whole) - 20, len(whole))}
    for at in sorted(edges | set(range(0, len(whole), max(1, len(whole) // 400)))):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        made.path.write_bytes(changed)
        try:
            unpacked = archive.unpack(made.path, tmp_path / f"out-{at}", None)
        except Damaged:
            damaged += 1
            continue
        # The stream's own time, or the bits that fill its last byte.
        assert contents(unpacked.data_dir) == right, at
    assert damaged > 400


def test_an_archive_of_the_guides_own_scripts_is_read(
    tmp_path: Path, chain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A tar.gz for each volume within, paths with ./, and secrets that must not come along."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as volume:
        volume.add(chain, arcname=".")
        entry = tarfile.TarInfo("./jwt_secret")
        entry.size = 6
        volume.addfile(entry, io.BytesIO(b"secret"))
    path = tmp_path / "old.tar.gz"
    with tarfile.open(path, "w:gz") as outer:
        entry = tarfile.TarInfo("old/node2_data.tar.gz")
        entry.size = len(inner.getvalue())
        outer.addfile(entry, io.BytesIO(inner.getvalue()))
    with caplog.at_level("WARNING"):
        unpacked = archive.unpack(path, tmp_path / "out", None)
    assert "jwt_secret" in caplog.text, "what stays out is said"
    assert unpacked.volume == "node2_data"
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"chain_id", "rocksdb"}
    assert walk.prove(tmp_path / "out/rocksdb", GENESIS, 1).height == 60


def test_a_failed_export_leaves_nothing(
    repository: Repository, chain: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(repository, chain, cache)

    def broken(*_: object) -> None:
        raise Damaged("objects/xx is damaged")

    monkeypatch.setattr(repository, "get_object", broken)
    with pytest.raises(Damaged, match="objects/xx"):
        exported(repository, tmp_path / "backups")
    assert not list((tmp_path / "backups").iterdir())


@pytest.mark.parametrize(
    "facts",
    [
        '{"schema_version": "one"}',
        '{"timestamp": "yesterday"}',
        '{"timestamp": "2026-01-01"}',
        '{"timestamp": null}',
        "[]",
        "{",
    ],
)
def test_metadata_of_the_wrong_kind_is_damage(tmp_path: Path, facts: str) -> None:
    path = tmp_path / "old.tar.gz"
    with tarfile.open(path, "w:gz") as outer:
        entry = tarfile.TarInfo("old/metadata.json")
        entry.size = len(facts)
        outer.addfile(entry, io.BytesIO(facts.encode()))
    with pytest.raises(Damaged, match=r"metadata\.json"):
        archive.metadata(path)


def rewritten(repository: Repository, change: Callable[[dict[str, Any]], None]) -> None:
    """The latest manifest with a change, and a right hash."""
    latest = repository.find("latest")
    key = layout.manifest_key(latest.sequence, latest.id)
    document = json.loads(bytes(repository.target.get(key)))
    change(document)
    repository.target.put(key, redone(document))


@pytest.mark.parametrize(
    "name",
    [
        letter * length
        for letter, length in (("n", 92), ("n", 93), ("n", 150), ("n", 255), ("\u00e4", 127), ("\u6f22", 85))
    ],
)
def test_a_long_name_comes_back(repository: Repository, chain: Path, cache: Path, tmp_path: Path, name: str) -> None:
    """A header has room for 100 bytes; what it takes more belongs to the size of the volume."""
    backup(repository, chain, cache)
    rewritten(repository, lambda document: document["files"][-1].update(path=f"rocksdb/{name}"))
    path = exported(repository, tmp_path / "backups").path
    archive.unpack(path, tmp_path / "out", None)
    assert (tmp_path / "out/rocksdb" / name).is_file()


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["files"][0]["parts"][0].__setitem__(0, "0" * 64),
        lambda document: document["files"][0]["parts"][0].__setitem__(1, 1 << 40),
        lambda document: document["objects"].clear(),
        lambda document: document["files"][-1].update(path="rocksdb/" + "n" * 256),
        lambda document: document["files"][-1].update(path="rocksdb/" + "\u6f22" * 86),
        lambda document: document["files"][-1].update(path="rocksdb/" + "\U0001f600" * 255),
    ],
    ids=["unknown object", "behind an object", "no objects", "long name", "long name of two", "long name of four"],
)
def test_what_cannot_be_exported_is_named_before_anything_is_written(
    repository: Repository, chain: Path, cache: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    manifest = backup(repository, chain, cache)
    rewritten(repository, change)
    with pytest.raises((Damaged, NoSuchBackup), match=manifest.id):
        exported(repository, tmp_path / "backups")
    assert not list(tmp_path.glob("backups/*"))


def test_a_version_does_not_stand_for_a_fact(repository: Repository, chain: Path, cache: Path, tmp_path: Path) -> None:
    backup(repository, chain, cache)
    rewritten(repository, lambda document: document["versions"].update(schema="x", other="y"))
    facts = archive.metadata(exported(repository, tmp_path / "backups").path)
    assert (facts["schema_version"], facts["other_version"]) == (1, "y")


class Meanwhile(Silent):
    """Does something once, while an archive is written."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._acts = [act]

    def advance(self, units: int) -> None:
        del units
        while self._acts:
            self._acts.pop()()


@pytest.mark.parametrize("first", ["ends while the other writes", "begins while the other writes"])
def test_exports_into_one_folder_at_once_spoil_nothing(
    repository: Repository, chain: Path, cache: Path, tmp_path: Path, first: str
) -> None:
    backup(repository, chain, cache)
    folder, results = tmp_path / "backups", list[archive.Exported]()
    begun, going_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert going_on.wait(60)

    def other() -> None:
        if first.startswith("ends"):
            results.append(exported(repository, folder))
            return
        executor.submit(exported, repository, folder, None, Meanwhile(wait))
        assert begun.wait(60)

    with ThreadPoolExecutor(1) as executor:
        with suppress(ConfigurationError):
            results.append(exported(repository, folder, None, Meanwhile(other)))
        assert len(results) == 1
        archive.check_checksum(results[0].path)
        archive.unpack(results[0].path, tmp_path / "out", None)
        going_on.set()
    archive.check_checksum(results[0].path)
    assert sorted(folder.iterdir()) == [results[0].checksum, results[0].path]


def test_an_export_replaces_no_archive(made: archive.Exported, repository: Repository) -> None:
    with pytest.raises(ConfigurationError, match="exists already"):
        exported(repository, made.path.parent)
    archive.check_checksum(made.path)


@pytest.mark.parametrize("step", range(6))
def test_an_archive_of_an_export_that_ended_anywhere_has_its_checksum(
    repository: Repository, chain: Path, cache: Path, tmp_path: Path, step: int
) -> None:
    backup(repository, chain, cache)
    folder = tmp_path / "backups"
    script = (
        "import os, sys; from pathlib import Path\n"
        "steps = [int(sys.argv.pop())]\n"
        "def cut(method):\n"
        "    def counted(path, *arguments, **options):\n"
        "        if 'goud-chain-backup-' in str(path):\n"
        "            steps[0] -= 1\n"
        "        return method(path, *arguments, **options) if steps[0] >= 0 else os._exit(9)\n"
        "    return counted\n"
        "for name in ('open', 'rename', 'replace', 'unlink'):\n"
        "    setattr(Path, name, cut(getattr(Path, name)))\n"
        "from goud_backup.cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "export", "--to", str(folder), str(step)]
    subprocess.run(
        command, check=False, capture_output=True, env={**os.environ, "GOUD_BACKUP_REPOSITORY": repository.url}
    )
    for path in folder.glob("*.tar.gz"):
        archive.check_checksum(path)
    for path in folder.glob("*.sha256"):
        if not list(folder.glob("*.tar.gz")):
            path.unlink()
    if not list(folder.glob("*.tar.gz")):
        archive.check_checksum(exported(repository, folder).path)
    assert not list(folder.glob(".*"))
