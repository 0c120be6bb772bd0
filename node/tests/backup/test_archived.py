"""What a lifecycle rule moved to an archive storage class cannot be read: it does not count as whole."""

from __future__ import annotations

import os
from pathlib import Path

import boto3  # type: ignore[import-untyped]  # it has no types
import pytest

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.errors import TargetError
from goud_backup.prune import prune
from goud_backup.repository import layout
from goud_backup.repository.repository import Repository, initialize, open_repository
from goud_backup.repository.retention import Policy
from goud_backup.targets import open_target

from .support import GENESIS, backup, grow, restore


def move(repository: Repository, key: str, storage: str) -> None:
    """As a lifecycle rule does."""
    bucket, _, prefix = repository.url.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    place = {"Bucket": bucket, "Key": f"{prefix}/{key}"}
    client.copy_object(**place, CopySource=place, StorageClass=storage, MetadataDirective="REPLACE")
    client.close()


@pytest.fixture
def two(s3_url: str, data: Path, cache: Path) -> Repository:
    repository = initialize(open_target(s3_url), GENESIS, encrypted=False)
    for _ in range(2):
        backup(repository, data, cache)
        grow(data, 5)
    return repository


def own(repository: Repository) -> str:
    """An object of the newest backup alone."""
    before, newest = repository.manifests().good
    return sorted(set(newest.objects) - set(before.objects))[0]


@pytest.mark.parametrize("storage", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_object_is_missing_until_it_is_brought_back(
    two: Repository, data: Path, tmp_path: Path, storage: str
) -> None:
    name = own(two)
    move(two, layout.object_key(name), storage)
    for depth in (verifying.Depth(record=False), verifying.Depth(data=False, record=False)):
        report = verifying.verify(two, depth, restoring.Tools(None))
        assert [problem.thing for problem in report.problems] == [layout.object_key(name)]
        assert "archive storage class" in report.problems[0].message
    before, newest = two.manifests().good
    assert "last good" in prune(two, Policy(days=0), dry_run=True).keep[before.id]
    with pytest.raises(TargetError, match="archive storage class"):
        restore(two, tmp_path / "out")
    # The next backup stores it again, where it still has it.
    backup(two, data, tmp_path / "other-cache")
    assert verifying.verify(two, verifying.Depth(record=False), restoring.Tools(None)).objects
    assert newest.id in prune(two, Policy(days=9), dry_run=True).keep


@pytest.mark.parametrize("storage", ["STANDARD_IA", "GLACIER_IR", "INTELLIGENT_TIERING"])
def test_what_is_read_at_once_is_whole(two: Repository, tmp_path: Path, storage: str) -> None:
    move(two, layout.object_key(own(two)), storage)
    assert verifying.verify(two, verifying.Depth(record=False), restoring.Tools(None)).ok
    assert restore(two, tmp_path / "out").height == 65


def test_an_archived_object_is_stored_again(two: Repository) -> None:
    name = own(two)
    content = bytes(two.target.get(layout.object_key(name)))
    move(two, layout.object_key(name), "GLACIER")
    two.put_object(name, content)
    assert two.object_sizes()[name] == len(content)


@pytest.mark.parametrize("place", [layout.CONFIG, layout.MANIFESTS])
def test_what_a_verb_needs_first_is_told_as_such(two: Repository, tmp_path: Path, place: str) -> None:
    (*_, key) = [stat.key for stat in two.target.list(place)]
    move(two, key, "GLACIER")
    with pytest.raises(TargetError, match=rf"{Path(key).name}.*archive storage class"):
        restore(open_repository(two.target), tmp_path / "out")
