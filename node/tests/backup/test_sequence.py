"""A backup that is reported good is one that every listing shows, whatever somebody has put among the manifests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from goud_backup import verify as verifying
from goud_backup.errors import SourceError, TargetError
from goud_backup.repository import layout, locks
from goud_backup.repository.manifest import Manifest
from goud_backup.repository.recording import put_manifest
from goud_backup.repository.repository import Repository
from goud_backup.restore import Tools
from goud_backup.targets import Stat

from .support import backup, grow, redone

OTHER = "20260101T000000Z-aaaaaa"


@pytest.fixture
def first(repository: Repository, tmp_path: Path, cache: Path) -> Manifest:
    grow(tmp_path / "data", 5)
    return backup(repository, tmp_path / "data", cache)


def raised(repository: Repository, manifest: Manifest, sequence: int) -> str:
    """Give the manifest this sequence, with a right hash of its own; its new key."""
    before, key = layout.manifest_key(manifest.sequence, manifest.id), layout.manifest_key(sequence, manifest.id)
    document = json.loads(bytes(repository.target.get(before)))
    repository.target.put(key, redone({**document, "sequence": sequence}))
    repository.target.delete(before)
    return key


@pytest.mark.parametrize("junk", list(product((99_999_999, 99_999_998, 50_000_000), (b"", b"junk", b"{}"))))
def test_junk_of_a_high_number_does_not_use_the_numbers_up(
    repository: Repository, first: Manifest, tmp_path: Path, cache: Path, junk: tuple[int, bytes]
) -> None:
    repository.target.put(layout.manifest_key(junk[0], OTHER), junk[1])
    grow(tmp_path / "data", 5)
    second = backup(repository, tmp_path / "data", cache)
    assert [(one.id, one.sequence) for one in repository.manifests().good] == [(first.id, 1), (second.id, 2)]


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_a_damaged_manifest_keeps_its_number(
    repository: Repository, first: Manifest, tmp_path: Path, cache: Path, damaged: int
) -> None:
    """When it is copied back, it must not pass for one that was made later."""
    for _ in range(2):
        backup(repository, tmp_path / "data", cache)
    keys = [key for _, _, key in repository.manifest_keys()]
    for key in keys[-damaged:]:
        repository.target.put(key, bytes(repository.target.get(key))[:-40])
    assert first.sequence == 1
    assert backup(repository, tmp_path / "data", cache).sequence == 4


def test_when_the_numbers_are_used_up_no_backup_is_called_good(
    repository: Repository, first: Manifest, tmp_path: Path, cache: Path
) -> None:
    key = raised(repository, first, 99_999_999)
    with pytest.raises(SourceError, match=f"{key}.*by hand"):
        backup(repository, tmp_path / "data", cache)
    assert [stat.key for stat in repository.target.list(layout.MANIFESTS)] == [key]
    repository.target.delete(key)
    assert backup(repository, tmp_path / "data", cache).sequence == 1


@pytest.mark.parametrize("changes", [{"sequence": 10**8}, {"sequence": -1}, {"id": "x"}, {"id": f"{OTHER}/x"}])
def test_what_no_listing_would_show_is_not_stored(
    repository: Repository, first: Manifest, changes: dict[str, int | str]
) -> None:
    stored = [stat.key for stat in repository.target.list("")]
    draft = replace(first, **{"sequence": 2, **changes})  # type: ignore[arg-type]  # of two kinds
    with locks.Lock(repository.target, locks.BACKUP, "create") as lock, pytest.raises(SourceError):
        put_manifest(repository, draft, lock, lambda: None)
    assert [stat.key for stat in repository.target.list("") if not stat.key.startswith(layout.LOCKS)] == [
        key for key in stored if not key.startswith(layout.LOCKS)
    ]


def test_what_the_store_does_not_list_is_withdrawn(
    repository: Repository, first: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = repository.target.list

    def stale(prefix: str, after: str = "") -> Iterator[Stat]:
        return (stat for stat in listed(prefix, after) if "manifests/00000002-" not in stat.key)

    draft = replace(first, sequence=2, id=OTHER)
    with locks.Lock(repository.target, locks.BACKUP, "create") as lock:
        monkeypatch.setattr(repository.target, "list", stale)
        with pytest.raises(TargetError, match="does not list"):
            put_manifest(repository, draft, lock, lambda: None)
    monkeypatch.undo()
    assert [one.id for one in repository.manifests().good] == [first.id]


@pytest.mark.parametrize(
    "name", [f"100000000-{OTHER}.json", f"1-{OTHER}.json", f"00000009-{OTHER}.json.bak", "00000009-x.json", "README"]
)
@pytest.mark.parametrize("data", [False, True])
def test_verify_names_what_has_no_name_of_a_manifest(
    repository: Repository, first: Manifest, name: str, *, data: bool
) -> None:
    key, source = f"{layout.MANIFESTS}{name}", layout.manifest_key(first.sequence, first.id)
    depth = verifying.Depth(data, record=False)
    assert verifying.verify(repository, depth, Tools(None)).ok
    repository.target.put(key, bytes(repository.target.get(source)))
    problems = verifying.verify(repository, depth, Tools(None)).problems
    assert [problem.thing for problem in problems] == [key]
    assert "by hand" in problems[0].message
