"""Old archives go by the policy of a repository; the first run only lists, and nothing else is touched."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from goud_backup import archive, shelf
from goud_backup.errors import SourceError
from goud_backup.progress import Silent
from goud_backup.repository.repository import Repository
from goud_backup.repository.retention import Policy

from .command import Command
from .support import backup, grow

NEWEST = Policy(days=0, last=1)


@pytest.fixture
def exports(repository: Repository, cache: Path, tmp_path: Path) -> list[Path]:
    """Four archives, oldest first, one a day, in a folder where old ones were listed before."""
    grow(tmp_path / "small", 5)
    manifest = backup(repository, tmp_path / "small", cache)
    made = []
    for days in range(4):
        when = datetime(2026, 1, 1, 2, tzinfo=UTC) + timedelta(days=days)
        dated = replace(manifest, created=when.isoformat(), id=f"202601{days:02d}T020000Z-{days:06x}")
        options = {"environment": "local", "volume": "v", "opener": None, "workers": 1, "progress": Silent()}
        made.append(archive.export(repository, dated, tmp_path / "backups", **options).path)  # type: ignore[arg-type]  # as they are
    shelf.prune(tmp_path / "backups", NEWEST)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def pair(path: Path) -> set[str]:
    return {path.name, path.name.removesuffix(".tar.gz") + ".sha256"}


def test_the_first_run_only_lists(exports: list[Path], folder: Path) -> None:
    (folder / ".goud-backup-retention").unlink()
    before = left(folder)
    for dry_run in (True, True, False):
        outcome = shelf.prune(folder, NEWEST, dry_run=dry_run)
        assert outcome.announced
        assert outcome.remove == [path.name for path in exports[:3]]
        assert left(folder) == before
    again = shelf.prune(folder, NEWEST)
    assert not again.announced
    assert again.remove == outcome.remove
    assert left(folder) == pair(exports[3])


def test_the_policy_is_that_of_a_repository(exports: list[Path], folder: Path) -> None:
    assert not shelf.prune(folder, Policy(days=4)).remove
    assert shelf.prune(folder, Policy(days=3)).remove == [exports[0].name]
    assert shelf.prune(folder, Policy(days=0, last=2)).remove == [exports[1].name]
    assert left(folder) == pair(exports[2]) | pair(exports[3])


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_the_newest_that_verifies_stays(exports: list[Path], folder: Path, damaged: int) -> None:
    for path in exports[4 - damaged :]:
        path.with_name(path.name.removesuffix(".tar.gz") + ".sha256").write_text(f"{'0' * 64}  {path.name}\n")
    outcome = shelf.prune(folder, NEWEST)
    good = exports[3 - damaged]
    assert outcome.keep[good.name] == ["last good"]
    assert left(folder) == pair(good) | pair(exports[3])


@pytest.mark.parametrize("at", [0, 20, -1])
def test_one_that_cannot_be_read_stands_for_nothing(exports: list[Path], folder: Path, at: int) -> None:
    content = bytearray(exports[3].read_bytes())
    content[at] ^= 255
    exports[3].write_bytes(content)
    outcome = shelf.prune(folder, NEWEST)
    assert exports[3].name in outcome.left
    assert left(folder) == pair(exports[2]) | pair(exports[3])


def test_nothing_goes_when_none_verifies(exports: list[Path], folder: Path) -> None:
    for path in exports:
        path.with_name(path.name.removesuffix(".tar.gz") + ".sha256").write_text(f"{'0' * 64}  {path.name}\n")
    before = left(folder)
    assert not shelf.prune(folder, NEWEST).remove
    assert left(folder) == before


def test_one_that_is_marked_stays(exports: list[Path], folder: Path) -> None:
    marked = folder / (exports[0].name.removesuffix(".tar.gz") + shelf.KEEP)
    marked.touch()
    outcome = shelf.prune(folder, NEWEST, protected=["20260101T020000Z-000001"])
    assert outcome.remove == [exports[2].name]
    assert left(folder) == {marked.name} | pair(exports[0]) | pair(exports[1]) | pair(exports[3])


def test_what_another_hand_wrote_is_left_alone(exports: list[Path], folder: Path, tmp_path: Path) -> None:
    """Whatever its name: a note, another tool's archive, one without its checksum, a link, a directory."""
    name = "goud-chain-backup-local-2020010{}-020000.tar.gz"
    (folder / "notes.txt").write_text("mine")
    shutil.copy(exports[0], folder / name.format(1))
    (folder / name.format(2)).write_bytes(b"no archive")
    (folder / name.format(2).replace(".tar.gz", ".sha256")).write_text("x")
    outside = Path(shutil.copy(exports[0], tmp_path / "outside.tar.gz"))
    (folder / name.format(3)).symlink_to(outside)
    (folder / name.format(3).replace(".tar.gz", ".sha256")).write_text("x")
    (folder / name.format(4)).mkdir()
    (folder / "goud-chain-backup-local.tar.gz").write_bytes(b"renamed by hand")
    mine = left(folder) - {one for path in exports for one in pair(path)}
    outcome = shelf.prune(folder, NEWEST)
    assert left(folder) == mine | pair(exports[3])
    assert set(outcome.left) == {name.format(1), name.format(2)}
    assert outside.exists()


def test_every_environment_keeps_its_own(exports: list[Path], folder: Path) -> None:
    for suffix in (".tar.gz", ".sha256"):
        old = folder / (exports[0].name.removesuffix(".tar.gz") + suffix)
        new = folder / old.name.replace("-local-", "-gcp-")
        new.write_text(old.read_text().replace("-local-", "-gcp-")) if suffix == ".sha256" else old.rename(new)
        old.unlink(missing_ok=True)
    outcome = shelf.prune(folder, NEWEST)
    assert outcome.remove == [path.name for path in exports[1:3]]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="none does not exist"):
        shelf.prune(tmp_path / "none", NEWEST)


def test_by_hand(goud_backup: Command, exports: list[Path], folder: Path) -> None:
    words = ["prune-archives", str(folder), "--keep-days", "0", "--json"]
    assert goud_backup(*words, "--dry-run")["remove"] == [path.name for path in exports[:3]]
    assert goud_backup(*words, "--kept", "20260100T020000Z-000000")["remove"] == [path.name for path in exports[1:3]]
    assert left(folder) == pair(exports[0]) | pair(exports[3])


def test_a_repository_that_was_never_pruned_is_only_listed_first(
    goud_backup: Command, data: Path, tmp_path: Path
) -> None:
    goud_backup("init")
    for _ in range(2):
        goud_backup("create")
        grow(data, 5)
    words = ["prune", "--announce-first", "--keep-days", "0", "--json"]
    first = goud_backup(*words)
    assert (first["announced"], first["dry_run"], len(first["forget"])) == (True, True, 1)
    assert len(goud_backup("list", "--json")) == 2
    second = goud_backup(*words)
    assert (second["announced"], second["forget"]) == (False, first["forget"])
    assert len(goud_backup("list", "--json")) == 1
    assert tmp_path.is_dir()
