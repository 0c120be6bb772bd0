"""Every small document that is read, with every kind of damage: refused by its name, or without effect."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goud_backup import identity, swap
from goud_backup import verify as verifying
from goud_backup.drill import report
from goud_backup.errors import Damaged
from goud_backup.repository import forks, layout, locks, manifest, marks, segments
from goud_backup.repository.repository import Repository, open_repository
from goud_backup.repository.segments import Reference
from goud_backup.restore import Tools
from goud_backup.seen import Memory
from goud_node.chain import genesis
from goud_node.documents import MOST_LISTING, Malformed, read, require_bounds
from goud_node.errors import ConfigurationError, GoudError

from .support import backup, grow, restore, ship

GOOD = b'{"format": "goud-backup/1", "id": "x", "height": 1}'
BODIES: dict[str, bytes] = {
    "empty": b"",
    "cut short": GOOD[:-3],
    "not UTF-8": b"\xff\xfe" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "a lone surrogate": b'{"id": "\\ud800", "token": "\\udfff"}',
    "deep": b"[" * 30_000,
    "deep inside": b'{"id":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "NaN": b'{"id": NaN}',
    "infinite": b'{"id": 1e999, "renewed": 1e999}',
    "many digits": b'{"id": ' + b"9" * 6000 + b"}",
    "twice": b'{"id": "x", "id": "y"}',
    "something behind": GOOD + b" {}",
    "a list": b"[1, 2]",
    "null": b"null",
    "a number": b"7",
    "a text": b'"x"',
    "100 MB": b" " * 100_000_000,
    "100 MB of brackets": b"[]," * 33_000_000,
}
WRONG: tuple[Any, ...] = (None, True, -1, 1.5, 1 << 70, "", "\x1b[2J", "../../x", [], [[]], {}, {"a": []})
Read = Callable[[], object]


def changed(document: dict[str, Any]) -> dict[str, bytes]:
    """The document with each of its values replaced by each wrong one, and without each of them."""
    found = {f"without {name}": json.dumps({k: v for k, v in document.items() if k != name}) for name in document}
    for name in document:
        found |= {f"{name} = {value!r:.20}": json.dumps({**document, name: value}) for value in WRONG}
    return {name: text.encode() for name, text in found.items()}


def refused(do: Read, name: str) -> None:
    with pytest.raises(GoudError, match=name) as caught:
        do()
    assert len(str(caught.value)) < 2000


@pytest.fixture
def stored(repository: Repository, data: Path, cache: Path) -> Repository:
    backup(repository, data, cache)
    return repository


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_documents_of_a_repository(stored: Repository, body: bytes) -> None:
    target = stored.target
    config = bytes(target.get(layout.CONFIG))
    key = layout.fork_key(1, "0" * 64)
    target.put(key, body)
    refused(stored.forks, key)
    target.delete(key)
    target.put(layout.MARKS, body)
    refused(lambda: marks.load(target), layout.MARKS)
    check = layout.check_key(stored.find("latest").id)
    target.put(check, body)
    refused(stored.checks, check)
    target.put(layout.LATEST, body)
    found = verifying.verify(stored, verifying.Depth(data=False), Tools(None))
    assert {layout.LATEST, check} <= {problem.thing for problem in found.problems}
    listed = stored.manifest_keys()[-1][2]
    target.put(listed, body)
    assert listed in stored.manifests().bad
    target.put("locks/backup.json", body)
    assert locks.read_holder(target, "locks/backup.json")[0] is None
    target.put(layout.CONFIG, body)
    refused(lambda: open_repository(target), layout.CONFIG)
    target.put(layout.CONFIG, config)


def test_values_of_the_wrong_kind(stored: Repository) -> None:
    """What is not refused is of the right kind: then it may be used."""
    target = stored.target
    holder = dict.fromkeys(("token", "purpose", "host", "process", "since"), "x") | {"pid": 1, "renewed": 1.0}
    for body in changed(holder).values():
        target.put("locks/backup.json", body)
        found, _ = locks.read_holder(target, "locks/backup.json")
        assert found is None or not locks.is_gone(found)
    config = json.loads(bytes(target.get(layout.CONFIG)))
    for body in [*changed(config).values(), *(json.dumps({**config, "genesis": g}).encode() for g in WRONG)]:
        target.put(layout.CONFIG, body)
        try:
            open_repository(target)
        except Damaged:
            continue
    for entry in [*WRONG, [1.0, 2.0], [1.0, 2.0, 3], ["1", 2.0, "b"], [1.0, 2.0, "b", 4]]:
        target.put(layout.MARKS, json.dumps({"marks": {"x": entry}}).encode())
        refused(lambda: marks.load(target), layout.MARKS)
    for value in WRONG:
        target.put(layout.check_key(stored.find("latest").id), json.dumps({"ok": value, "level": "deep"}).encode())
        refused(stored.checks, "checks/")


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_headers_and_bodies_of_segments(repository: Repository, data: Path, body: bytes) -> None:
    ship(repository, data)
    segment = repository.segments()[-1]
    for raw in (body, segments.MAGIC + len(body).to_bytes(4, "big") + body):
        repository.target.put(segment.key, raw)
        refused(lambda: repository.segment_header(segment), segment.key)
        refused(lambda: repository.check_segment(segment, None), segment.key)
        refused(lambda: repository.read_segment(segment, None), segment.key)


def test_values_of_a_segments_header(repository: Repository, data: Path) -> None:
    ship(repository, data)
    segment = repository.segments()[-1]
    raw = bytes(repository.target.get(segment.key))
    length = int.from_bytes(raw[8:12], "big")
    for text in changed(json.loads(raw[12 : 12 + length])).values():
        again = segments.MAGIC + len(text).to_bytes(4, "big") + text + raw[12 + length :]
        try:
            header, _ = segments.read_header(again, Reference(segment.key, segment.first, segment.last, "", 0))
        except Damaged:
            continue
        assert type(header.size) is int


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_documents_outside(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "restore.json"
    path.write_bytes(body)
    refused(lambda: swap.read_journal(tmp_path), "restore.json")
    refused(lambda: genesis.load(path), "restore.json")
    (tmp_path / "drill-1.json").write_bytes(body)
    assert report.history(tmp_path) == []
    (tmp_path / "x-ship.json").write_bytes(body)
    (tmp_path / "x-backups.json").write_bytes(body)
    assert Memory(tmp_path, "x").shipped() is None
    assert Memory(tmp_path, "x").backups() == {}
    with pytest.raises(Malformed):
        read(body, dict[str, int], MOST_LISTING)


def test_a_journal_does_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    good = {"id": "x", "staged": "restore.staging/rocksdb", "aside": "", "state": "done"}
    for name in ("staged", "aside"):
        for value in (*(one for one in WRONG if one != ""), "/etc", "a/../../b"):
            if value == "\x1b[2J" or not isinstance(value, str) or value.startswith(("/", ".")) or ".." in value:
                (tmp_path / swap.JOURNAL).write_text(json.dumps({**good, name: value}))
                refused(lambda: swap.read_journal(tmp_path), "restore.json")


@pytest.mark.parametrize("content", [b"\xff\xfe\x80goud", b"", bytes(4096), b"\x1b[2J", b"g" * 1_000_000])
def test_the_marker_of_a_volume_to_restore(repository: Repository, data: Path, tmp_path: Path, content: bytes) -> None:
    """What is restored is what has rotted: the error says what to do, and that helps."""
    backup_manifest = backup(repository, data, tmp_path / "cache")
    path = data / "chain_id"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"{path}.*write {backup_manifest.chain.id} into it") as caught:
        restore(repository, data)
    assert str(caught.value).isprintable()
    path.write_text(backup_manifest.chain.id)
    assert restore(repository, data).height == backup_manifest.chain.height


def test_a_file_that_is_recognised_stays_recognised() -> None:
    known = identity.Identity("1.sst", 5, (1 << 64) - 1, 1_800_000_000_000_000_000, "0" * 64)
    line = identity._line(known, identity.Known((), {}, read=True))
    body = line.partition(b" ")[2]
    assert read(body, identity._Line).file == (known.name, 5, known.inode, known.modified_ns, known.tail)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_malformed(raw: bytes) -> None:
    try:
        document = read(raw, dict[str, int])
    except Malformed:
        return
    assert all(type(value) is int for value in document.values())


@pytest.mark.parametrize("key", [layout.manifest_key(500, "20300101T000000Z-aaaaaa"), layout.fork_key(1, "0" * 64)])
@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")], ids=["lists", "maps", "both"])
def test_no_depth_passes_the_reader_and_fails_what_comes_after(
    repository: Repository, key: str, pair: tuple[bytes, bytes]
) -> None:
    """An interpreter parses a little deeper than it writes: each depth about its limit, which the caller's changes."""
    opening, closing = pair
    for depth in [33, 100, *range(400, 1010)]:
        raw = b'{"a":' + opening * depth + b"1" + closing * depth + b',"sha256":"x"}'
        refused(lambda raw=raw: manifest.load(raw, key), key)  # type: ignore[misc]  # mypy cannot infer it
        refused(lambda raw=raw: forks.load(raw, key), key)  # type: ignore[misc]  # the same
    repository.target.put(key, raw)
    if key.startswith(layout.MANIFESTS):
        assert list(repository.manifests().bad) == [key]


@pytest.mark.parametrize(
    ("raw", "deep"),
    [
        (b"[" * 32 + b"]" * 32, False),
        (b"[" * 33 + b"]" * 33, True),
        (b'{"a":' * 33 + b"1" + b"}" * 33, True),
        (b"[" + b"[[]]," * 1000 + b"[]]", False),
        (b"[" + b"[]," * 500 + b"[" * 33 + b"]" * 33 + b"]", True),
        (b'{"a": "' + b"[" * 100 + b'", "b": "' + b"]" * 100 + b'"}', False),
        (rb'{"a": "\\", "b": "\\\"' + b"[" * 100 + b'"}', False),
        (rb'{"a": "\\", "b": ' + b"[" * 33 + b"]" * 33 + b"}", True),
        (b'{"a": "]]]", "b": ' + b"[" * 33 + b'"[[[["' + b"]" * 33 + b"}", True),
        (b"[" * 100, True),
        (b"]" * 100 + b"[" * 100, True),
    ],
)
def test_nesting_is_counted_outside_of_texts(raw: bytes, *, deep: bool) -> None:
    if deep:
        with pytest.raises(Malformed, match="nested"):
            require_bounds(raw, MOST_LISTING)
    else:
        require_bounds(raw, MOST_LISTING)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"marks": {' + b",".join(b'"%d":0' % n for n in range(900_000)) + b"}}",
        b'{"marks": {' + b",".join(b'"%d":{}' % n for n in range(450_000)) + b"}}",
    ],
    ids=["numbers", "objects"],
)
def test_much_that_is_wrong_takes_little_memory(repository: Repository, raw: bytes) -> None:
    repository.target.put(layout.MARKS, raw)
    tracemalloc.start()
    refused(lambda: marks.load(repository.target), layout.MARKS)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 256 * 1024 * 1024


def test_more_blocks(repository: Repository, data: Path, tmp_path: Path) -> None:
    """What is written is read again."""
    grow(data, 3)
    ship(repository, data)
    backup_manifest = backup(repository, data, tmp_path / "cache")
    repository.put_check(backup_manifest.id, ok=True, level="data")
    assert repository.checks()[backup_manifest.id]["ok"]


def test_as_many_marks_as_are_written_are_read_again(repository: Repository) -> None:
    now = marks.clock(repository.target)
    many = {layout.object_key(f"{number:064x}"): marks.mark(now) for number in range(100_000)}
    marks.store(repository.target, many)
    assert len(marks.load(repository.target)) > 10_000
