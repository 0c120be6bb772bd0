"""A fork is believed for ever, so what it says is proven first: by its form, and by every block that can be read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pyrage import x25519

from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, NotVerified, SourceError
from goud_backup.fork import fork
from goud_backup.plan import Wish
from goud_backup.repository.forks import Fork, dump
from goud_backup.repository.repository import Repository
from goud_backup.ship import DirectoryBlocks
from goud_node.errors import ConfigurationError

from .command import Command
from .support import GENESIS, backup, grow, make_repository, restore, ship, tip_of

IDENTITY = x25519.Identity.generate()
OPENER = Opener([IDENTITY])
WRONG = "ab" * 32


@dataclass
class World:
    """A backup at 10; segments of blocks 10 to 20 and 21 to 30."""

    repository: Repository
    data: Path
    recipients: tuple[str, ...]

    def digest(self, height: int) -> str:
        return str(DirectoryBlocks(self.data, GENESIS).digest(height))


@pytest.fixture(scope="module", params=["plain", "sealed"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Nothing may be recorded there."""
    folder = tmp_path_factory.mktemp("base")
    recipients = (str(IDENTITY.to_public()),) if request.param == "sealed" else ()
    repository, data = make_repository(folder / "repository", recipients), folder / "data"
    for height in (10, 20, 30):
        grow(data, 10)
        if height == 10:
            backup(repository, data, folder / "cache", recipients)
        else:
            ship(repository, data, recipients)
    return World(repository, data, recipients)


MALFORMED = (f"{WRONG}\r", f"{WRONG}\n", f" {WRONG}", WRONG[1:], f"{WRONG}a", WRONG.upper(), f"0x{WRONG}", "",
             "nonsense", "\u0663" * 64, "g" * 64, f"{WRONG[:32]}\0{WRONG[33:]}")  # fmt: skip


@pytest.mark.parametrize("digest", MALFORMED)
def test_what_is_no_hash_is_refused_by_name(world: World, digest: str) -> None:
    with pytest.raises(ConfigurationError, match=r"64 .*--hash"):
        fork(world.repository, 15, digest)
    assert world.repository.fork_keys() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"hash": f"{WRONG}\r"},
        {"hash": "x" * 1001},
        {"created": "yesterday"},
        {"created": "2026-01-01T00:00:00"},
        {"height": -1},
        {"height": 10**12},
        {"segments": ("a\nb",)},
        {"backups": ("a\x7fb",)},
        {"backups": ("0" * 1000,) * 17_000},
    ],
    ids=str,
)
def test_a_fork_that_could_not_be_read_again_is_not_written(changes: dict[str, str]) -> None:
    record = Fork(5, WRONG, "2026-01-01T00:00:00+00:00", (), ())
    assert dump(record)
    with pytest.raises(SourceError, match="could not be read again"):
        dump(replace(record, **changes))  # type: ignore[arg-type]  # of several kinds


@pytest.mark.parametrize("height", [0, 10, 15, 20, 25, 30])
def test_a_wrong_hash_is_refused_wherever_the_block_can_be_read(world: World, height: int) -> None:
    with pytest.raises(NotVerified, match=f"Block {height} has the hash"):
        fork(world.repository, height, WRONG, opener=OPENER)
    assert world.repository.fork_keys() == []


def test_the_right_hash_inside_a_segment_is_taken(tmp_path: Path) -> None:
    data, repository = tmp_path / "data", make_repository(tmp_path / "repository")
    grow(data, 20)
    ship(repository, data)
    record = fork(repository, 15, str(DirectoryBlocks(data, GENESIS).digest(15)))
    assert record is not None
    assert len(record.segments) == 1


@pytest.mark.parametrize("height", [10, 15, 20, 25, 30])
def test_rot_at_the_base_is_told_as_damage(world: World, height: int) -> None:
    """Not as another history, whose way out would be a new repository."""
    for segment in world.repository.segments():
        raw = bytes(world.repository.target.get(segment.key))
        at = raw.index(b'_hash":"') + 8
        rotten = raw[:at] + (b"0" if raw[at : at + 1] != b"0" else b"1") + raw[at + 1 :]
        world.repository.target.put(segment.key, rotten)
        try:
            if segment.first - 1 <= height <= segment.last:
                with pytest.raises(Damaged, match=rf"{segment.key} is damaged.*--quarantine"):
                    fork(world.repository, height, world.digest(height))
        finally:
            world.repository.target.put(segment.key, raw)
    assert world.repository.fork_keys() == []


def test_what_was_abandoned_before_says_nothing_of_the_present_history(tmp_path: Path) -> None:
    """The backup at 40 is of the abandoned history: block 40 of the present one is another."""
    repository, data, other = make_repository(tmp_path / "repository"), tmp_path / "data", tmp_path / "other"
    grow(data, 25)
    ship(repository, data)
    base = tip_of(data).hash.hex()
    grow(data, 15)
    backup(repository, data, tmp_path / "cache")
    restore(repository, other, Wish(to_height=25))
    fork(repository, 25, base)
    grow(other, 15, size=500)
    present = tip_of(other).hash.hex()
    grow(other, 5, size=500)
    backup(repository, other, tmp_path / "cache2")
    record = fork(repository, 40, present)
    assert record is not None
    assert len(record.backups) == 1


def test_the_identity_opens_what_the_base_is_compared_with(goud_backup: Command, tmp_path: Path) -> None:
    data, identity = tmp_path / "data", tmp_path / "identity"
    identity.write_text(str(IDENTITY))
    goud_backup("init", "--recipient", str(IDENTITY.to_public()))
    goud_backup("ship", "--data-dir", str(data), "--recipient", str(IDENTITY.to_public()))
    goud_backup("fork", "--height", "30", "--hash", WRONG, "--identity", str(identity), code=11)
    assert "Block 30 has the hash" in goud_backup.error
