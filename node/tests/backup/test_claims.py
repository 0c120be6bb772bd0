"""Two manifests that name one object: each is judged by what it says itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyrage import x25519

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged
from goud_backup.plan import Wish
from goud_backup.repository import layout
from goud_backup.repository.manifest import Manifest
from goud_backup.repository.repository import Repository

from .support import backup, grow, make_repository, redone, restore

IDENTITY = x25519.Identity.generate()
CHANGES = {"stored": (0, 1), "plain": (1, 1)}


def altered(repository: Repository, manifest: Manifest, change: str, **more: Any) -> None:
    """What somebody could write who may write to the store."""
    document = json.loads(bytes(repository.target.get(layout.manifest_key(manifest.sequence, manifest.id))))
    place, difference = CHANGES[change]
    for entry in document["objects"].values():
        entry[place] += difference
    document |= more
    repository.target.put(layout.manifest_key(document["sequence"], document["id"]), redone(document))


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", ["earlier", "later", "junk"])
def test_the_one_that_is_wrong_is_named_and_no_other(tmp_path: Path, place: str, change: str, *, sealed: bool) -> None:
    recipients = (str(IDENTITY.to_public()),) if sealed else ()
    repository, data = make_repository(tmp_path / "repository", recipients), tmp_path / "data"
    grow(data, 10)
    backups = [backup(repository, data, tmp_path / "cache", recipients) for _ in range(2)]
    assert set(backups[0].objects) & set(backups[1].objects)
    if place == "junk":
        wrong = "20990101T000000Z-aaaaaa"
        altered(repository, backups[1], change, sequence=3, id=wrong)
    else:
        manifest = backups[place == "later"]
        wrong = manifest.id
        altered(repository, manifest, change)
    tools = restoring.Tools(Opener([IDENTITY]))
    report = verifying.verify(repository, verifying.Depth(), tools)
    checks = repository.checks()
    right = {manifest.id for manifest in backups} - {wrong}
    assert wrong in {problem.thing for problem in report.problems}
    assert not any(problem.thing.startswith(layout.OBJECTS) for problem in report.problems)
    assert {backup_id for backup_id, check in checks.items() if check["ok"]} >= right - (
        # Its predecessor was replaced, which is said of the later one.
        {backups[1].id} if place == "earlier" else set()
    )
    with pytest.raises(Damaged):
        restore(repository, tmp_path / "wrong", Wish(wrong), tools)
    for backup_id in right:
        assert restore(repository, tmp_path / backup_id, Wish(backup_id), tools).height == 10


def test_what_cannot_be_told_without_a_key_is_said_of_the_object(tmp_path: Path) -> None:
    recipients = (str(IDENTITY.to_public()),)
    repository, data = make_repository(tmp_path / "repository", recipients), tmp_path / "data"
    grow(data, 10)
    for _ in range(2):
        newest = backup(repository, data, tmp_path / "cache", recipients)
    altered(repository, newest, "plain")
    report = verifying.verify(repository, verifying.Depth(), restoring.Tools(None))
    assert {problem.thing for problem in report.problems} >= {layout.object_key(name) for name in newest.objects}
    assert verifying.quarantine(repository, report) == [], "its bytes are right"
