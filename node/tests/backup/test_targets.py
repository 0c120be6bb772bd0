"""The contract of a target; every kind passes the same tests."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from goud_backup.errors import AccessRefused, Missing, PreconditionFailed, TargetError, TargetFull
from goud_backup.targets import Target, open_target
from goud_backup.targets.base import check_key
from goud_node.errors import ConfigurationError

from .conftest import Cloud, collect_refused
from .store import BUCKET


@pytest.mark.parametrize("size", [0, 1, 70_000, 9 * 1024 * 1024 - 1])
def test_what_was_put_comes_back(target: Target, size: int) -> None:
    content = os.urandom(size)
    if size > 8 * 1024 * 1024 and target.url.startswith("gs://"):
        content = content[: 8 * 1024 * 1024]  # the loopback server has no TLS for a session of several requests
    stat = target.put("objects/ab/abc", memoryview(bytearray(content)))
    assert (stat.key, stat.size) == ("objects/ab/abc", len(content))
    assert bytes(target.get("objects/ab/abc")) == content
    found = target.stat("objects/ab/abc")
    assert found is not None
    assert (found.size, found.version) == (len(content), stat.version)


def test_ranges(target: Target) -> None:
    target.put("x", bytes(range(100)))
    assert bytes(target.get("x", 10, 5)) == bytes(range(10, 15))
    assert bytes(target.get("x", 90)) == bytes(range(90, 100))
    assert bytes(target.get("x", 90, 50)) == bytes(range(90, 100))
    assert bytes(target.get("x", 0, 0)) == b""
    assert bytes(target.get("x", 200, 5)) == b""


def test_what_is_not_there(target: Target) -> None:
    assert target.stat("nothing") is None
    with pytest.raises(Missing, match="nothing"):
        target.get("nothing")
    target.delete("nothing")


def test_put_replaces_and_changes_the_version(target: Target) -> None:
    first = target.put("x", b"one")
    second = target.put("x", b"two!")
    assert bytes(target.get("x")) == b"two!"
    assert first.version != second.version


def test_only_the_first_creates(target: Target) -> None:
    target.put("locks/a", b"one", if_absent=True)
    with pytest.raises(PreconditionFailed):
        target.put("locks/a", b"two", if_absent=True)
    assert bytes(target.get("locks/a")) == b"one"


def test_only_the_expected_version_is_replaced(target: Target) -> None:
    first = target.put("locks/a", b"one")
    second = target.put("locks/a", b"two", if_version=first.version)
    with pytest.raises(PreconditionFailed):
        target.put("locks/a", b"three", if_version=first.version)
    assert bytes(target.get("locks/a")) == b"two"
    target.put("locks/a", b"four", if_version=second.version)
    with pytest.raises(PreconditionFailed):
        target.put("locks/none", b"five", if_version=second.version)


def test_of_many_at_once_one_creates(target: Target) -> None:
    won: list[int] = []

    def attempt(number: int) -> None:
        try:
            target.put("locks/race", str(number).encode(), if_absent=True)
        except PreconditionFailed:
            return
        won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(number).encode() for number in won] == [bytes(target.get("locks/race"))]


def test_listing_is_complete_ordered_and_below_the_prefix(target: Target) -> None:
    keys = [f"objects/{number:02x}/{number:04d}" for number in range(40)]
    for key in reversed(keys):
        target.put(key, key.encode())
    target.put("object", b"")
    target.put("manifests/1.json", b"1")
    found = list(target.list("objects/"))
    assert [stat.key for stat in found] == keys
    assert [stat.size for stat in found] == [len(key) for key in keys]
    assert [stat.key for stat in target.list("objects/03")] == ["objects/03/0003"]
    assert [stat.key for stat in target.list("nothing/")] == []
    assert len(list(target.list(""))) == 42


def test_a_listing_of_more_than_one_page(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("s3", "gs"):
        monkeypatch.setattr(f"goud_backup.targets.{kind}._PAGE", 10)
    for index in range(35):
        target.put(f"many/{index:05d}", b"")
    assert [stat.key for stat in target.list("many/")] == [f"many/{index:05d}" for index in range(35)]


def test_deleted_is_gone(target: Target) -> None:
    target.put("a/b", b"x")
    target.delete("a/b")
    assert target.stat("a/b") is None
    assert not list(target.list("a/"))


@pytest.mark.parametrize("key", ["", "/a", "a/../b", "..", "a//b", "a/", "a b", ".hidden", "a/.b", "ä"])
def test_a_key_can_not_lead_out_of_the_repository(target: Target, key: str) -> None:
    with pytest.raises(ValueError, match="not a valid object name"):
        target.put(key, b"")
    with pytest.raises(ValueError, match="not a valid object name"):
        target.get(key)
    with pytest.raises(ValueError, match="not a valid object name"):
        check_key(key)


@pytest.mark.parametrize(
    "wrong", ["", "/path", "http://x/y", "file://host/x", "file://", "s3://", "gs:///a", "s3://b/a?c=d"]
)
def test_a_url_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="URL"):
        open_target(wrong)


def test_a_missing_bucket_is_named(s3_url: str, gs_url: str) -> None:
    assert s3_url
    assert gs_url
    for wrong in ("s3://no-such-bucket-here/x", "gs://no-such-bucket-here/x"):
        target = open_target(wrong)
        with pytest.raises(TargetError, match="no-such-bucket-here"):
            target.put("x", b"")
        with pytest.raises(TargetError):
            target.create()
        target.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Google's library, see collect_refused
def test_a_refused_credential_is_told_as_such(google: Cloud, gs_url: str) -> None:
    target = open_target(gs_url)
    google.refuse()
    try:
        with pytest.raises(AccessRefused, match="renew it"):
            target.put("x", b"1")
        with pytest.raises(AccessRefused):
            target.get("x")
        with pytest.raises(AccessRefused):
            list(target.list(""))
    finally:
        google.accept()
    target.put("x", b"1")
    target.close()
    collect_refused()


def test_an_unreachable_store_is_told_as_such(monkeypatch: pytest.MonkeyPatch, s3_url: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("goud_backup.targets.s3._ATTEMPTS", 1)
    target = open_target(s3_url)
    with pytest.raises(TargetError, match="Check the network"):
        target.put("x", b"1")
    target.close()


def test_no_credential_is_told_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3_url: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    target = open_target(s3_url)
    with pytest.raises(AccessRefused, match="no credential"):
        target.put("x", b"1")
    target.close()


@pytest.mark.parametrize("prefix", ["My Backups", "präfix/日本", "_x", ".hidden", "a+b", "100%25", "a'b\"c", "x" * 800])
def test_a_prefix_may_have_any_letters(s3_url: str, gs_url: str, prefix: str) -> None:
    assert s3_url
    assert gs_url
    for scheme in ("s3", "gs"):
        target = open_target(f"{scheme}://{BUCKET}/{prefix}")
        target.put("a/b", b"1", if_absent=True)
        assert bytes(target.get("a/b")) == b"1"
        assert [stat.key for stat in target.list("a/")] == ["a/b"]
        target.delete("a/b")
        assert target.stat("a/b") is None
        target.close()


@pytest.mark.parametrize(
    "place", ["bucket/a//b", "bucket/a/../b", "bucket/./a", "bucket/a%0Ab", "bucket/\udcff", "bucket/" + "x" * 801,
              "My Bucket/a", "bücket/a", "bucket:99/a", "[x/a", "-b/a", "b*/a"]
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_place_that_cannot_be_used_is_refused_in_a_sentence(scheme: str, place: str) -> None:
    with pytest.raises(ConfigurationError, match="URL"):
        open_target(f"{scheme}://{place}")


def test_what_is_missing_in_a_bucket_that_is_called_bucket(gs_url: str) -> None:
    assert gs_url
    target = open_target("gs://a-bucket/bucket")
    target.create()
    with pytest.raises(Missing):
        target.get("bucket/none")
    target.close()


def test_a_missing_place_is_not_damage(tmp_path: Path, s3_url: str, gs_url: str) -> None:
    assert s3_url
    assert gs_url
    for url in (f"file://{tmp_path}/unmounted/r", "s3://no-such-bucket-here/x", "gs://no-such-bucket-here/x"):
        target = open_target(url)
        with pytest.raises(TargetError, match="does not exist") as raised:
            target.create()
        assert not isinstance(raised.value, Missing), "that would pass for a damaged repository"
        target.close()


def test_a_disk_that_goes_away_is_not_damage(tmp_path: Path) -> None:
    target = open_target(f"file://{tmp_path}/r")
    target.create()
    target.put("a/b", b"1")
    (tmp_path / "r").rename(tmp_path / "disk")
    (tmp_path / "r").mkdir()  # what the disk was mounted on
    calls: list[Callable[[], object]] = [
        lambda: target.get("a/b"),
        lambda: target.stat("a/b"),
        lambda: list(target.list("a/")),
        lambda: target.put("a/c", b"2"),
    ]
    for call in calls:
        with pytest.raises(TargetError, match="still mounted") as raised:
            call()
        assert not isinstance(raised.value, Missing)
    assert not list((tmp_path / "r").iterdir())
    (tmp_path / "r").rmdir()
    (tmp_path / "disk").rename(tmp_path / "r")
    assert bytes(target.get("a/b")) == b"1"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    target = open_target(f"file://{tmp_path}/t")
    target.create()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(TargetError, match="has no hard links") as raised:
        target.put("x", b"1", if_absent=True)
    assert not isinstance(raised.value, AccessRefused), "nobody's owner or right is wrong"
    assert not list((tmp_path / "t").iterdir())


def test_a_directory_that_is_not_mounted_is_never_made_by_a_write(tmp_path: Path) -> None:
    target = open_target(f"file://{tmp_path}/unmounted")
    with pytest.raises(TargetError, match="Mount the disk"):
        target.put("x", b"1")
    assert not (tmp_path / "unmounted").exists()


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = open_target(f"file://{tmp_path}/t")
    target.create()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(TargetFull, match="Free space"):
        target.put("x", b"1")
    monkeypatch.undo()
    assert target.stat("x") is None
    assert not list((tmp_path / "t").iterdir())


@pytest.mark.parametrize("key", [".tmp-0011", "objects/ab/.tmp-0123456789abcdef"])
def test_what_a_crash_left_is_no_object_and_can_be_removed(tmp_path: Path, key: str) -> None:
    target = open_target(f"file://{tmp_path}/t")
    target.create()
    half = tmp_path / "t" / key
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_bytes(b"half")
    foreign = half.with_name(".not-ours")
    foreign.write_bytes(b"of another tool")
    target.create()
    assert not list(target.list(""))
    assert [(stat.key, stat.size) for stat in target.unfinished()] == [(key, 4)]
    target.delete(key)
    assert not half.exists()
    assert foreign.exists()
    with pytest.raises(ValueError, match="not a valid object name"):
        target.delete("../.tmp-0011")


def test_the_store_says_what_time_it_is(target: Target) -> None:
    now = target.now()
    assert now is not None
    assert abs(now - time.time()) < 3600
    assert target.independent_clock is not target.url.startswith("file:")


@pytest.mark.parametrize("absent", [False, True])
def test_a_file_is_durable_before_it_has_its_name_and_the_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, absent: bool
) -> None:
    target, path = open_target(f"file://{tmp_path}/r"), tmp_path / "r/a/b"
    target.create()
    synced: list[tuple[int, bool]] = []
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        synced.append((os.fstat(descriptor).st_ino, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    target.put("a/b", b"content", if_absent=absent)
    assert (path.stat().st_ino, False) in synced
    assert synced[-1] == (path.parent.stat().st_ino, True)
