"""What a later release wrote: told as that, and nothing that it may need is removed or abandoned."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from goud_backup import verify as verifying
from goud_backup.errors import Damaged, LaterFormat, NotVerified
from goud_backup.fork import fork
from goud_backup.prune import prune
from goud_backup.repository import layout
from goud_backup.repository.manifest import canonical
from goud_backup.repository.repository import Repository
from goud_backup.repository.retention import Policy
from goud_backup.restore import Tools
from goud_node.documents import MOST_LISTING

from .support import backup, grow, redone, reopened, tip_of


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


def manifest_without_a_hash_of_ours(repository: Repository) -> str:
    key = repository.manifest_keys()[-1][2]
    document = json.loads(bytes(repository.target.get(key)))
    del document["sha256"]
    repository.target.put(key, canonical(document | {"format": "goud-backup/2", "sha512": "0" * 128}))
    return key


def large_manifest(repository: Repository) -> str:
    key = repository.manifest_keys()[-1][2]
    document = json.loads(bytes(repository.target.get(key)))
    repository.target.put(key, redone(document | {"format": "goud-backup/2", "more": "x" * MOST_LISTING}))
    return key


def configuration(repository: Repository) -> str:
    document = json.loads(bytes(repository.target.get(layout.CONFIG)))
    repository.target.put(layout.CONFIG, canonical({"format": "goud-backup/2", "chain": document["chain_id"]}))
    return layout.CONFIG


def fork_of_another_shape(repository: Repository) -> str:
    raw = canonical({"format": "goud-backup/2", "at": [1, "x"]})
    key = layout.fork_key(1, sha256(raw).hexdigest())
    repository.target.put(key, raw)
    return key


def marks_of_another_shape(repository: Repository) -> str:
    repository.target.put(layout.MARKS, canonical({"format": "goud-backup/2", "marks": [{"key": "x", "since": 1}]}))
    return layout.MARKS


def marks_with_more(repository: Repository) -> str:
    repository.target.put(layout.MARKS, canonical({"format": "goud-backup/2", "marks": {}, "more": {"a": 1}}))
    return layout.MARKS


@pytest.mark.parametrize(
    "change",
    [
        manifest_without_a_hash_of_ours,
        large_manifest,
        configuration,
        fork_of_another_shape,
        marks_of_another_shape,
        marks_with_more,
    ],
)
def test_no_document_of_a_later_release_is_to_be_removed(
    repository: Repository, data: Path, cache: Path, change: Callable[[Repository], str]
) -> None:
    backup(repository, data, cache)
    key = change(repository)
    before = content(repository)
    with pytest.raises((Damaged, NotVerified), match=key) as error:
        prune(reopened(repository.target), Policy(days=0), grace=0)
    text = str(error.value)
    assert "later release" in text
    assert "pdate goud-backup" in text
    assert not any(word in text for word in ("emove it", "move it", "is damaged"))
    assert content(repository) == before
