"""A damaged object counts against every backup that needs it, and no new one relies on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyrage
import pytest

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.codec.sealing import Opener
from goud_backup.errors import AccessRefused, Damaged, TargetError
from goud_backup.plan import Wish
from goud_backup.prune import prune
from goud_backup.repository import layout
from goud_backup.repository.manifest import Manifest, dump
from goud_backup.repository.repository import Repository
from goud_backup.repository.retention import Policy
from goud_backup.targets.file import FileTarget

from .command import Command
from .support import BLOCK_MS, GENESIS, backup, grow, make_repository, redone, restore, ship

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENTS = (str(IDENTITY.to_public()),)
TOOLS = restoring.Tools(Opener([IDENTITY]))
NEWEST = Policy(days=0)
EVERY_KIND = pytest.mark.parametrize("recipients", [(), RECIPIENTS], ids=["plain", "sealed"])
EVERY_CACHE = pytest.mark.parametrize("forget", [False, True], ids=["known", "cache lost"])


class World:
    """A backup that stays whole, and one after it of other files whose largest object rots."""

    def __init__(self, folder: Path, recipients: tuple[str, ...]) -> None:
        self.folder, self.recipients = folder, recipients
        self.repository = make_repository(folder / "r", recipients)
        grow(folder / "data", 30, size=3000)
        self.first = self.create()
        shutil.rmtree(folder / "data")
        grow(folder / "data", 40, size=3000)
        self.second = self.create()
        fresh = set(self.second.objects) - set(self.first.objects)
        self.rotten = max(fresh, key=lambda name: self.second.objects[name].stored)
        self.rot()

    def create(self) -> Manifest:
        backup(self.repository, self.folder / "data", self.folder / "cache", self.recipients)
        return self.repository.find("latest")

    def rot(self) -> None:
        key = layout.object_key(self.rotten)
        raw = bytearray(self.repository.target.get(key))
        raw[len(raw) // 2] ^= 1
        self.repository.target.put(key, bytes(raw))

    def verify(self, *, data: bool = True) -> verifying.Report:
        return verifying.verify(self.repository, verifying.Depth(data=data), restoring.Tools(None))

    def restored(self, backup_id: str) -> int:
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        return restore(self.repository, self.folder / "out", Wish(backup_id, exact=True), TOOLS).height


def relying(world: World) -> Manifest:
    """A backup beside the damaged one that needs the same object: made while the verification was under way."""
    repository = world.repository
    body = json.loads(dump(world.second)[0])
    body |= {"sequence": world.second.sequence + 1, "id": f"{world.second.id[:-6]}ffffff"}
    repository.target.put(layout.manifest_key(body["sequence"], body["id"]), redone(body))
    return repository.find(body["id"])


def notes(repository: Repository) -> set[str]:
    return {stat.key for stat in repository.target.list(layout.CHECKS)}


@pytest.mark.parametrize("damaged", [False, True])
def test_a_note_goes_after_its_backup_and_what_it_names(tmp_path: Path, *, damaged: bool) -> None:
    world = World(tmp_path, ())
    repository, stray = world.repository, f"{layout.CHECKS}by-hand.json"
    repository.target.put(stray, b"{}")
    if not damaged:
        repository.target.delete(layout.object_key(world.rotten))
    world.verify()
    old, rotten = layout.check_key(world.first.id), layout.check_key(world.second.id)
    assert notes(repository) == {old, rotten, stray}
    assert bool(json.loads(bytes(repository.target.get(rotten)))["damaged"]) is damaged
    shutil.rmtree(world.folder / "data")
    grow(world.folder / "data", 50, size=3000)
    world.create()
    world.verify()
    for number in range(2):
        planned = prune(repository, NEWEST, grace=0, dry_run=True)
        assert list(prune(repository, NEWEST, grace=0).lines()) == list(planned.lines())
        assert old in notes(repository), f"it is marked first ({number})"
    # Content goes before the note that says it is damaged: the next run finds it gone.
    prune(repository, NEWEST, grace=0)
    assert old not in notes(repository)
    assert (rotten in notes(repository)) is damaged
    sweep(repository)
    assert notes(repository) == {layout.check_key(repository.find("latest").id), stray}


def sweep(repository: Repository) -> None:
    for _ in range(3):
        prune(repository, NEWEST, grace=0)


@EVERY_KIND
@EVERY_CACHE
def test_the_next_backup_stores_it_anew(tmp_path: Path, recipients: tuple[str, ...], forget: bool) -> None:
    world = World(tmp_path, recipients)
    assert not world.verify().ok
    if forget:
        shutil.rmtree(tmp_path / "cache")
    grow(tmp_path / "data", 5)
    third = world.create()
    assert world.restored(third.id) == 45
    sweep(world.repository)
    assert world.restored("latest") == 45


@EVERY_KIND
def test_a_host_that_may_not_replace_it_refuses_by_name_or_stores_another(
    tmp_path: Path, recipients: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, recipients)
    world.verify()
    put = FileTarget.put

    def only_new(self: FileTarget, key: str, data: bytes, *, if_absent: bool = False, **more: object) -> object:
        if key.startswith(layout.OBJECTS) and not if_absent:
            raise AccessRefused(f"{key} may not be replaced")
        return put(self, key, data, if_absent=if_absent, **more)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(FileTarget, "put", only_new)
    if recipients:
        assert world.restored(world.create().id) == 40
        return
    before = world.repository.manifest_keys()
    with pytest.raises(Damaged, match=f"{world.rotten}.*--quarantine"):
        world.create()
    assert world.repository.manifest_keys() == before
    monkeypatch.undo()
    verifying.quarantine(world.repository, world.verify())
    assert world.restored(world.create().id) == 40


@pytest.mark.parametrize("gone", [False, True], ids=["noted beside a backup", "noted beside one that is gone"])
def test_a_backup_that_needs_it_is_never_the_last_good_one(tmp_path: Path, gone: bool) -> None:
    world = World(tmp_path, ())
    world.verify()
    third = relying(world)
    if gone:
        world.repository.target.delete(layout.manifest_key(world.second.sequence, world.second.id))
    sweep(world.repository)
    assert world.restored(world.first.id) == 30
    world.verify(data=False)
    sweep(world.repository)
    assert world.restored(world.first.id) == 30, "a list of the store takes nothing back"
    world.rot()  # the same bit again: somebody copied the object back
    world.verify()
    assert "last good" in prune(world.repository, NEWEST, grace=0).keep[third.id]


@pytest.mark.parametrize("level", ["data", "deep"])
def test_it_is_noted_beside_what_a_restore_has_found(tmp_path: Path, level: str) -> None:
    world = World(tmp_path, ())
    world.repository.put_check(world.second.id, ok=False, level=level)
    world.verify()
    check = world.repository.checks()[world.second.id]
    assert (check["ok"], check["level"], check.get("damaged")) == (False, level, [world.rotten])


def test_one_larger_than_any_does_not_stop_the_quarantine_of_others(tmp_path: Path) -> None:
    world = World(tmp_path, ())
    repository = world.repository
    large, other = sorted(world.second.objects)[:2]
    repository.target.put(layout.object_key(large), bytes(layout.MOST_OBJECT + 1))
    repository.target.put(layout.object_key(other), b"x" * world.second.objects[other].stored)
    report = verifying.verify(repository, verifying.Depth(), restoring.Tools(None))
    moved = verifying.quarantine(repository, report)
    assert layout.object_key(other) in moved
    assert layout.object_key(large) not in moved, "it would not arrive whole"
    assert world.restored(world.create().id) == 40


def test_what_a_store_sends_short_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how much it has: a proxy that cuts answers short must not have good objects moved away."""
    repository = make_repository(tmp_path / "r")
    grow(tmp_path / "data", 30, size=3000)
    name, entry = max(
        backup(repository, tmp_path / "data", tmp_path / "cache").objects.items(), key=lambda one: one[1].stored
    )
    key = layout.object_key(name)
    real = FileTarget.get

    def short(target: FileTarget, name: str, start: int = 0, length: int | None = None) -> bytes | bytearray:
        return real(target, name, start, length)[: 50 if name == key else None]

    damage = verifying.Report("data", problems=[verifying.Problem(key, f"it had {entry.stored - 50} bytes less")])
    with monkeypatch.context() as patch:
        patch.setattr(FileTarget, "get", short)
        for look in (
            lambda: verifying.verify(repository, verifying.Depth(), restoring.Tools(None)),
            lambda: verifying.quarantine(repository, damage),
        ):
            with pytest.raises(TargetError, match="cuts answers short"):
                look()
    assert verifying.verify(repository, verifying.Depth(), restoring.Tools(None)).ok


@pytest.mark.parametrize("content", [b"", b"junk", b"{}", b'{"ok": 1}'])
def test_a_note_of_a_backup_that_is_gone_stops_nobody(goud_backup: Command, content: bytes) -> None:
    goud_backup("init")
    goud_backup("create")
    note = goud_backup.folder / "repository" / layout.check_key("20200101T000000Z-aaaaaa")
    note.parent.mkdir(exist_ok=True)
    note.write_bytes(content)
    for verb in (("status",), ("list",), ("show",), ("verify",), ("prune", "--dry-run")):
        goud_backup(*verb, "--json")
    for _ in range(2):
        goud_backup("prune", "--grace-hours", "0")
    assert not note.exists(), "as the warning says"


def test_status_is_no_better_than_what_a_verification_noted(goud_backup: Command) -> None:
    """The store lists a rotten object like a whole one."""
    goud_backup("init")
    goud_backup("create")
    goud_backup("status")
    largest = max((goud_backup.folder / "repository/objects").rglob("*/*"), key=lambda path: path.stat().st_size)
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 2] ^= 1
    largest.write_bytes(raw)
    goud_backup("verify", code=11)
    goud_backup("status", code=10)
    raw[len(raw) // 2] ^= 1
    largest.write_bytes(raw)
    goud_backup("status")


@pytest.mark.parametrize("height", [15, 25, 35])
@pytest.mark.parametrize("loss", ["gone", "rotten"])
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_another_backup_leads_to_a_height_where_one_has_lost_something(
    tmp_path: Path, height: int, loss: str, lost: int
) -> None:
    """Backups at 20, 30 and 40, blocks shipped from 20 on: whichever is broken, the others lead there."""
    repository, data = make_repository(tmp_path / "r"), tmp_path / "data"
    grow(data, 10)
    ship(repository, data)
    manifests = []
    for number in range(3):
        grow(data, 10)
        ship(repository, data)
        manifests.append(backup(repository, data, tmp_path / f"cache{number}"))
    others = {name for number, manifest in enumerate(manifests) if number != lost for name in manifest.objects}
    key = layout.object_key(next(name for name in manifests[lost].objects if name not in others))
    if loss == "gone":
        repository.target.delete(key)
    else:
        raw = bytearray(repository.target.get(key))
        raw[-1] ^= 1
        repository.target.put(key, raw)
        assert not verifying.verify(repository, verifying.Depth(), restoring.Tools(None)).ok
    assert restore(repository, tmp_path / "again", Wish(to_height=height)).height == height
    at_ms = GENESIS.created_ms + height * BLOCK_MS
    assert restore(repository, tmp_path / "then", Wish(to_ms=at_ms)).height == height
