"""What a later release wrote: told as that, and nothing that it may need is removed or abandoned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from goud_backup import verify as verifying
from goud_backup.errors import Damaged, LaterFormat, NotVerified
from goud_backup.fork import fork
from goud_backup.prune import prune
from goud_backup.repository import layout
from goud_backup.repository.repository import Repository
from goud_backup.repository.retention import Policy
from goud_backup.restore import Tools

from .support import backup, grow, redone, tip_of


def written_with(repository: Repository, data: Path, cache: Path, form: object) -> str:
    """The key of a newest manifest that has that format."""
    backup(repository, data, cache)
    grow(data, 10)
    manifest = backup(repository, data, cache)
    key = layout.manifest_key(manifest.sequence, manifest.id)
    document = json.loads(bytes(repository.target.get(key)))
    repository.target.put(key, redone(document | {"format": form, "of a later release": 1}))
    return key


def content(repository: Repository) -> dict[str, bytes]:
    """All but the locks, which a refused verb takes, too."""
    keys = (stat.key for stat in repository.target.list("") if not stat.key.startswith(layout.LOCKS))
    return {key: bytes(repository.target.get(key)) for key in keys}


@pytest.mark.parametrize("form", ["goud-backup/2", "goud-backup/10"])
def test_nothing_that_a_later_release_may_need_goes(repository: Repository, data: Path, cache: Path, form: str) -> None:
    key = written_with(repository, data, cache, form)
    before, tip = content(repository), tip_of(data)
    with pytest.raises(LaterFormat, match=f"Nothing was changed.*{key}.*Update goud-backup") as pruned:
        prune(repository, Policy(days=0), grace=0)
    with pytest.raises(LaterFormat, match="Update goud-backup"):
        fork(repository, tip.height - 5, "0" * 64)
    assert "move" not in str(pruned.value)
    assert content(repository) == before
    report = verifying.verify(repository, verifying.Depth(record=False), Tools(None))
    assert any("later release" in str(problem) and key in str(problem) for problem in report.problems)


@pytest.mark.parametrize("form", ["goud-backup/0", "goud-backup/2x", "other/2", "goud-backup/", None, 2, [], {"a": 1}])
def test_what_is_no_format_of_ours_is_damage(repository: Repository, data: Path, cache: Path, form: object) -> None:
    key = written_with(repository, data, cache, form)
    with pytest.raises(Damaged, match="has the format") as error:
        repository.read_manifest(key)
    assert not isinstance(error.value, LaterFormat)
    with pytest.raises(NotVerified, match=key):
        prune(repository, Policy(days=0), grace=0)
