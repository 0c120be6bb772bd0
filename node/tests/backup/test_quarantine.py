"""What stops backups is moved aside, whatever is wrong with it; what holds blocks that exist nowhere else is kept."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from goud_backup import restore as restoring
from goud_backup import ship as shipping
from goud_backup import verify as verifying
from goud_backup.errors import AccessRefused, Damaged, LaterFormat, LockLost, TargetError
from goud_backup.plan import Wish
from goud_backup.prune import prune
from goud_backup.repository import layout, locks, segments
from goud_backup.repository.manifest import canonical
from goud_backup.repository.repository import Repository
from goud_backup.repository.retention import Policy
from goud_backup.seen import Memory
from goud_backup.targets import open_target
from goud_backup.targets.file import FileTarget

from .command import Command
from .support import GENESIS, backup, grow, reopened, restore, ship

Header = dict[str, Any]


def written(repository: Repository, header: Header, payload: bytes) -> str:
    """Store a segment whose name is right for its bytes; its key."""
    head = canonical(header)
    raw = b"".join((segments.MAGIC, len(head).to_bytes(4, "big"), head, payload))
    key = layout.segment_key(header["first"], header["last"], sha256(raw).hexdigest())
    repository.target.put(key, raw)
    return key


def parts(raw: bytes) -> tuple[Header, bytes]:
    end = 12 + int.from_bytes(raw[8:12], "big")
    return json.loads(raw[12:end]), raw[end:]


def verify(repository: Repository) -> verifying.Report:
    return verifying.verify(repository, verifying.Depth(), restoring.Tools(None))


def quarantined(repository: Repository) -> set[str]:
    return {stat.key for stat in repository.target.list(layout.DAMAGED)}


def swept(repository: Repository) -> set[str]:
    """What is below `damaged/` when prune has had time for everything."""
    for _ in range(3):
        prune(repository, Policy(days=30), grace=0)
    return quarantined(repository)


@pytest.fixture
def newest(repository: Repository, data: Path, cache: Path) -> str:
    """The key of the only segment, of blocks 60 to 64 or so, above a backup."""
    backup(repository, data, cache)
    grow(data, 5)
    ship(repository, data)
    return repository.segments()[-1].key


PAYLOADS: dict[str, Callable[[Header, bytes], tuple[Header, bytes]]] = {
    "no stream": lambda header, payload: (header, b"?" + payload),
    "no blocks": lambda header, _: ({**header, "encoding": "gzip", "size": 5}, gzip.compress(b"\x80" * 5)),
    "a wrong size": lambda header, payload: ({**header, "size": header["size"] + 1}, payload),
    "a wrong hash": lambda header, payload: ({**header, "last_hash": "0" * 64}, payload),
    "another chain's": lambda header, payload: ({**header, "chain": "another"}, payload),
}


@pytest.mark.parametrize("change", PAYLOADS.values(), ids=PAYLOADS)
def test_what_has_the_hash_of_its_name_and_cannot_be_read_is_moved_and_kept(
    repository: Repository,
    data: Path,
    cache: Path,
    newest: str,
    change: Callable[[Header, bytes], tuple[Header, bytes]],
) -> None:
    key = written(repository, *change(*parts(bytes(repository.target.get(newest)))))
    repository.target.delete(newest)
    report = verify(repository)
    assert key in {problem.thing for problem in report.problems}
    assert all("`goud-backup verify --quarantine`" in one.message for one in report.problems if one.thing == key)
    assert verifying.quarantine(repository, report) == [key]
    grow(data, 5)
    assert ship(repository, data).last == 70
    backup(repository, data, cache)
    assert verify(repository).ok
    assert swept(repository) == {f"{layout.DAMAGED}{sha256_of(key)}"}, "somebody may be able to read it"


def test_blocks_under_a_wrong_name_are_kept(repository: Repository, newest: str) -> None:
    """They may exist nowhere else."""
    raw = repository.target.get(newest)
    wrong = newest.replace("-0000000000", "-0000000001", 1)
    repository.target.put(wrong, raw)
    repository.target.delete(newest)
    assert verifying.quarantine(repository, verify(repository)) == [wrong]
    assert swept(repository) == {f"{layout.DAMAGED}{sha256_of(wrong)}"}
    repository.target.put(newest, repository.target.get(swept(repository).pop()))
    assert verify(repository).ok, "it can be put back"


def other_rot(raw: bytes) -> bytes:
    return raw[:-9] + b"?" * 9


KEPT: dict[str, tuple[Callable[[bytes], bytes], bool]] = {
    "whole": (lambda raw: raw, True),
    "rotten, too": (other_rot, False),
    "empty": (lambda _: b"", False),
}


@pytest.mark.parametrize(("kept", "stays"), KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("kind", ["segment", "object"])
def test_rot_replaces_no_whole_copy(
    repository: Repository, newest: str, kind: str, kept: Callable[[bytes], bytes], *, stays: bool
) -> None:
    """Somebody put back what had been moved, and it rots later."""
    target = repository.target
    key = newest if kind == "segment" else layout.object_key(next(iter(repository.find("latest").objects)))
    copy = f"{layout.DAMAGED}{layout.object_name(key) or sha256_of(key)}"
    raw = bytes(target.get(key))
    target.put(copy, kept(raw))
    rot = raw[: len(raw) // 2] + b"?" * (len(raw) - len(raw) // 2)
    target.put(key, rot)
    assert verifying.quarantine(repository, verify(repository)) == [key]
    assert target.stat(key) is None
    assert bytes(target.get(copy)) == (raw if stays else rot)


def test_a_whole_copy_replaces_rot(repository: Repository, newest: str) -> None:
    target = repository.target
    raw = bytes(target.get(newest))
    copy = f"{layout.DAMAGED}{sha256_of(newest)}"
    target.put(copy, b"?" * len(raw))
    target.put(newest.replace("-0000000000", "-0000000001", 1), raw)
    assert len(verifying.quarantine(repository, verify(repository))) == 1
    assert bytes(target.get(copy)) == raw


def test_a_copy_that_cannot_be_read_stops_it(
    repository: Repository, newest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be whole, and it may be rotten: neither of both goes."""
    target = repository.target
    copy = f"{layout.DAMAGED}{sha256_of(newest)}"
    target.put(copy, bytes(target.get(newest)))
    target.put(newest, b"?")
    report = verify(repository)
    get = FileTarget.get

    def refusing(self: FileTarget, key: str, start: int = 0, length: int | None = None) -> bytes | bytearray:
        if key == copy:
            raise TargetError("Input/output error")
        return get(self, key, start, length)

    with monkeypatch.context() as patch:
        patch.setattr(FileTarget, "get", refusing)
        with pytest.raises(TargetError, match="Input/output"):
            verifying.quarantine(repository, report)
    assert bytes(target.get(newest)) == b"?"
    assert sha256(target.get(copy)).hexdigest() == sha256_of(newest)


def test_bytes_without_the_hash_of_their_name_go_when_the_time_has_come(repository: Repository, newest: str) -> None:
    repository.target.put(newest, b"?")
    assert verifying.quarantine(repository, verify(repository)) == [newest]
    assert swept(repository) == set()


LATER: dict[str, Header] = {
    "another field": {"software": "0.9.0"},
    "another format": {"format": "goud-backup/2"},
    "another encoding": {"encoding": "zstd"},
}


@pytest.mark.parametrize("change", LATER.values(), ids=LATER)
def test_what_a_later_release_wrote_stays(repository: Repository, data: Path, newest: str, change: Header) -> None:
    header, payload = parts(bytes(repository.target.get(newest)))
    key = written(repository, header | change, payload)
    repository.target.delete(newest)
    report = verify(repository)
    (message,) = {problem.message for problem in report.problems if problem.thing == key}
    assert "later release" in message
    assert "Update goud-backup" in message
    assert "--quarantine" not in message
    assert verifying.quarantine(repository, report) == []
    with pytest.raises(LaterFormat, match=key):
        ship(repository, data)


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> int:
    """Most bytes of an object, less than they are: tests need not write so many."""
    monkeypatch.setattr(layout, "MOST_OBJECT", 1024 * 1024)
    return layout.MOST_OBJECT


LARGE: dict[str, Callable[[Header, bytes], tuple[Header, bytes]]] = {
    "a later release's": lambda header, payload: ({**header, "format": "goud-backup/2"}, payload),
    "of this format": lambda header, payload: (header, payload),
    "of another chain": lambda header, payload: ({**header, "chain": "another"}, payload),
}


@pytest.mark.parametrize("change", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("rotten", [False, True], ids=["whole", "rotten"])
def test_what_is_larger_than_this_release_reads_is_never_removed(
    repository: Repository,
    newest: str,
    most: int,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Header, bytes], tuple[Header, bytes]],
    *,
    rotten: bool,
) -> None:
    target = repository.target
    header, payload = parts(bytes(target.get(newest)))
    key = written(repository, *change(header, payload + bytes(most)))
    if rotten:
        target.put(key, bytes(target.get(key)) + b"?")
    before = bytes(target.get(key))
    target.put(newest, b"?")
    report = verify(repository)
    (message,) = {problem.message for problem in report.problems if problem.thing == key}
    assert message.startswith("A later release") is (header["format"] != parts(before)[0]["format"])
    assert verifying.quarantine(repository, report) == [newest], "what is beside it is moved"
    assert f"{key} has {len(before)} bytes" in caplog.text
    assert bytes(target.get(key)) == before
    swept(repository)
    assert bytes(target.get(key)) == before


def test_a_large_copy_that_was_moved_by_hand_stays(repository: Repository, most: int) -> None:
    raw = bytes(most + 1)
    key = f"{layout.DAMAGED}{sha256(raw).hexdigest()}"
    repository.target.put(key, raw)
    assert swept(repository) == {key}


def test_what_is_replaced_while_it_is_read_is_looked_at_by_the_next_run(
    repository: Repository, newest: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By something larger, of which the first part was read: it does not have the hash, and it is not damaged."""
    target = repository.target
    target.put(newest, b"?")
    report = verify(repository)
    get = FileTarget.get

    def late(self: FileTarget, key: str, start: int = 0, length: int | None = None) -> bytes | bytearray:
        if key == newest:
            target.put(key, bytes(most + 1))
        return get(self, key, start, length)

    with monkeypatch.context() as patch:
        patch.setattr(FileTarget, "get", late)
        assert verifying.quarantine(repository, report) == []
    assert len(target.get(newest)) == most + 1


def test_what_a_later_release_wrote_is_moved_when_it_is_damaged(repository: Repository, newest: str) -> None:
    raw = bytes(repository.target.get(newest))
    repository.target.put(newest, raw.replace(b'"goud-backup/1"', b'"goud-backup/2"'))
    assert verifying.quarantine(repository, verify(repository)) == [newest]


def sha256_of(key: str) -> str:
    named_parts = layout.segment_parts(key)
    assert named_parts is not None
    return named_parts[2]


def test_what_a_restore_meets_names_the_remedy(repository: Repository, newest: str, tmp_path: Path) -> None:
    header, payload = parts(bytes(repository.target.get(newest)))
    written(repository, header, b"?" + payload)
    repository.target.delete(newest)
    with pytest.raises(Damaged, match="`goud-backup verify --quarantine`"):
        restore(repository, tmp_path / "out")


def remembering(repository: Repository, data: Path, memory: Memory, *, from_genesis: bool = False) -> shipping.Shipped:
    return shipping.ship(
        repository, shipping.DirectoryBlocks(data, GENESIS), (), memory=memory, from_genesis=from_genesis
    )


def test_shipping_that_remembers_looks_again_within_the_hour_of_a_quarantine(
    repository: Repository, data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is below the newest segment, which is as it was."""
    assert shipping.LOOK_SECONDS <= 3600
    memory = Memory(tmp_path / "memory", repository.config.id)
    backup(repository, data, cache)
    for _ in range(2):
        grow(data, 5)
        remembering(repository, data, memory)
    first = repository.segments()[0].key
    repository.target.put(first, b"?")
    assert verifying.quarantine(repository, verify(repository)) == [first]
    monkeypatch.setattr(shipping, "LOOK_SECONDS", 0.0)
    assert remembering(repository, data, memory).blocks == 6
    assert remembering(repository, data, memory).blocks == 0
    assert restore(repository, tmp_path / "out").height == 70


def test_the_remedy_leads_to_the_blocks_below_the_newest_backup(
    repository: Repository, data: Path, cache: Path, tmp_path: Path
) -> None:
    memory = Memory(tmp_path / "memory", repository.config.id)
    ship(repository, data)
    grow(data, 5)
    backup(repository, data, cache)
    grow(data, 5)
    remembering(repository, data, memory)
    first = repository.segments()[0].key
    repository.target.put(first, b"?")
    report = verify(repository)
    assert any("`ship --from-genesis`" in one.message for one in report.problems if one.thing == first)
    assert verifying.quarantine(repository, report) == [first]
    remembering(repository, data, memory)
    assert remembering(repository, data, memory, from_genesis=True).first == 1
    assert restore(repository, tmp_path / "out", Wish(to_height=10)).height == 10


def two_damaged(goud_backup: Command, data: Path) -> tuple[Repository, list[str]]:
    goud_backup("init")
    goud_backup("create")
    for _ in range(2):
        grow(data, 5)
        goud_backup("ship", "--data-dir", str(data))
    repository = reopened(open_target(f"file://{goud_backup.folder}/repository"))
    keys = [segment.key for segment in repository.segments()]
    for key in keys:
        repository.target.put(key, b"?")
    return repository, keys


@pytest.mark.parametrize("name", [locks.BACKUP, locks.SHIP])
def test_the_report_is_told_when_the_quarantine_has_to_wait(goud_backup: Command, data: Path, name: str) -> None:
    repository, keys = two_damaged(goud_backup, data)
    with locks.Lock(repository.target, name, "create"):
        document = goud_backup("verify", "--quarantine", "--json", code=11)
    assert {problem["thing"] for problem in document["problems"]} >= set(keys)
    assert document["quarantined"] == []
    assert "goud-backup: locked:" in goud_backup.error
    assert all(key in goud_backup.error for key in keys)
    assert sorted(goud_backup("verify", "--quarantine", "--json", code=11)["quarantined"]) == keys


ENDS: dict[str, tuple[BaseException, int, str]] = {
    "the store fails": (TargetError("Input/output error"), 11, "goud-backup: target: Input/output error"),
    "the store refuses": (AccessRefused("renew it"), 11, "goud-backup: access-refused: renew it"),
    "the lock is lost": (LockLost("taken over"), 11, "goud-backup: lock-lost: taken over"),
    "the unit is stopped": (SystemExit(143), 143, ""),
}


@pytest.mark.parametrize(("end", "code", "line"), ENDS.values(), ids=ENDS)
def test_what_was_moved_is_told_however_the_quarantine_ends(
    goud_backup: Command, data: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException, code: int, *, line: str
) -> None:
    _, keys = two_damaged(goud_backup, data)
    removed: list[str] = []
    delete = FileTarget.delete

    def ending(self: FileTarget, key: str) -> None:
        if removed:
            raise end
        delete(self, key)
        removed.append(key)

    with monkeypatch.context() as patch:
        patch.setattr(FileTarget, "delete", ending)
        document = goud_backup("verify", "--quarantine", "--json", code=code)
    assert {problem["thing"] for problem in document["problems"]} >= set(keys)
    assert document["quarantined"] == removed
    assert removed[0] in keys
    assert line in goud_backup.error
