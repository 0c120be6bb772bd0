"""What counts as proven by a restore: the last deep verification, whatever shallower ones say after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.errors import NotVerified
from goud_backup.prune import prune
from goud_backup.repository import layout
from goud_backup.repository.repository import Repository
from goud_backup.repository.retention import Policy
from goud_backup.verify import Depth

from .support import backup, grow

SHALLOW = {"data": Depth(), "listing": Depth(data=False)}
Look = Callable[[Depth], bool]


@pytest.fixture
def two(repository: Repository, data: Path, cache: Path) -> Repository:
    for _ in range(2):
        backup(repository, data, cache)
        grow(data, 5)
    return repository


@pytest.fixture
def look(two: Repository) -> Look:
    return lambda depth: verifying.verify(two, depth, restoring.Tools(None)).ok


def refuted(patch: pytest.MonkeyPatch) -> None:
    """As where an index contradicts the blocks: every hash is right."""

    def prepare(*_: object) -> None:
        raise NotVerified("the database is not what its blocks say")

    patch.setattr(restoring, "prepare", prepare)


def reasons(repository: Repository, number: int) -> list[str]:
    plan = prune(repository, Policy(days=0), dry_run=True)
    return plan.keep.get(repository.manifests().good[number].id, [])


@pytest.mark.parametrize("shallow", SHALLOW)
def test_a_failed_deep_verification_is_no_proof_after_a_shallow_one(two: Repository, look: Look, shallow: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        refuted(patch)
        assert not look(Depth(deep=True))
    for _ in range(2):
        assert look(SHALLOW[shallow]), "every hash is right"
    assert "last proven by a restore" not in reasons(two, 1)
    assert "last good" in reasons(two, 0), "the newest one is refuted, whatever its hashes say"
    assert look(Depth(deep=True))
    assert {"last good", "last proven by a restore"} <= set(reasons(two, 1))


@pytest.mark.parametrize("shallow", SHALLOW)
def test_a_proof_outlives_shallow_verifications(two: Repository, look: Look, shallow: str) -> None:
    assert look(Depth(deep=True))
    for _ in range(2):
        assert look(SHALLOW[shallow])
    assert "last proven by a restore" in reasons(two, 1)


@pytest.mark.parametrize("better", [Depth(), Depth(deep=True)], ids=["data", "deep"])
@pytest.mark.parametrize("rotten", [False, True])
def test_a_listing_changes_nothing_in_the_note_of_a_better_look(
    two: Repository, look: Look, better: Depth, *, rotten: bool
) -> None:
    if rotten:
        key = layout.object_key(max(two.manifests().good[1].objects))
        content = bytearray(two.target.get(key))
        content[len(content) // 2] ^= 1
        two.target.put(key, bytes(content))
    assert look(better) is not rotten
    notes = two.checks()
    assert look(SHALLOW["listing"]), "everything is there, as long as it was"
    assert two.checks() == notes


@pytest.mark.parametrize("shallow", SHALLOW)
def test_a_proof_ends_with_damage(two: Repository, look: Look, shallow: str) -> None:
    assert look(Depth(deep=True))
    newest, before = two.manifests().good[1], two.manifests().good[0]
    (own, *_) = sorted(set(newest.objects) - set(before.objects))
    key = layout.object_key(own)
    content = bytes(two.target.get(key))
    two.target.put(key, content[:-1])
    assert not look(SHALLOW[shallow])
    assert "last good" in reasons(two, 0)
    two.target.put(key, content)
    assert look(Depth())
    assert "last good" in reasons(two, 1), "whole again"
    assert "last proven by a restore" not in reasons(two, 1), "nobody has restored it since"


def test_a_restore_from_damaged_objects_is_over_when_they_are_whole_again(two: Repository, look: Look) -> None:
    (own, *_) = sorted(two.manifests().good[1].objects)
    key = layout.object_key(own)
    content = bytes(two.target.get(key))
    two.target.put(key, content[:-1])
    assert not look(Depth(deep=True))
    two.target.put(key, content)
    assert look(Depth())
    assert "last good" in reasons(two, 1)
