"""Rot in a segment's header is told as damage, never as another history: a fork would abandon good backups for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pyrage import x25519

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, OtherHistory
from goud_backup.repository.repository import Repository
from goud_backup.repository.segments import Reference
from goud_backup.targets import open_target

from .support import backup, grow, make_repository, reopened, ship

IDENTITY = x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())


def rotten(repository: Repository, segment: Reference, name: str) -> None:
    """One bit of the first digit of a hash in the header."""
    raw = bytearray(repository.target.get(segment.key))
    at = raw.index(f'"{name}":"'.encode()) + len(name) + 4
    raw[at] = ord("0") if raw[at] != ord("0") else ord("1")
    repository.target.put(segment.key, bytes(raw))


@pytest.fixture(scope="module", params=[(), (RECIPIENT,)], ids=["plain", "sealed"])
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """Backed up at 10, shipped to 16, 20 and 24; a node that lags at 20, and one at 26."""
    folder = tmp_path_factory.mktemp("rotten")
    repository = make_repository(folder / "repository", request.param)
    for height, number in ((10, 10), (16, 6), (20, 4), (24, 4)):
        grow(folder / "data", number)
        if height == 10:
            backup(repository, folder / "data", folder / "cache", request.param)
        else:
            ship(repository, folder / "data", request.param)
        if height == 20:
            shutil.copytree(folder / "data", folder / "lagging")
    grow(folder / "data", 2)
    return folder, request.param


class World:
    def __init__(self, folder: Path, recipients: tuple[str, ...]) -> None:
        self.folder, self.recipients = folder, recipients
        self.repository = reopened(open_target(f"file://{folder}/repository"))

    def ship(self, data: str) -> object:
        return ship(self.repository, self.folder / data, self.recipients)

    def create(self, data: str) -> object:
        return backup(self.repository, self.folder / data, self.folder / "cache2", self.recipients)


@pytest.fixture
def world(template: tuple[Path, tuple[str, ...]], tmp_path: Path) -> World:
    return World(Path(shutil.copytree(template[0], tmp_path / "copy")), template[1])


VERBS: dict[str, Callable[[World, str], object]] = {"ship": World.ship, "create": World.create}


@pytest.mark.parametrize("place", [(0, "last_hash"), (1, "previous_hash"), (1, "last_hash"), (2, "last_hash")])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("data", ["data", "lagging"])
def test_rot_is_not_told_as_another_history(world: World, verb: str, data: str, place: tuple[int, str]) -> None:
    segment = world.repository.segments()[place[0]]
    rotten(world.repository, segment, place[1])
    refusal = None
    try:
        VERBS[verb](world, data)
    except Damaged as error:
        refusal = str(error)
    # None where it succeeded without having to believe that header.
    assert refusal is None or (refusal.startswith(f"{segment.key} is damaged") and "--quarantine" in refusal)


@pytest.mark.parametrize("verb", VERBS)
def test_the_remedy_helps(world: World, verb: str) -> None:
    segment = world.repository.segments()[-1]
    rotten(world.repository, segment, "last_hash")
    with pytest.raises(Damaged, match=rf"{segment.key} is damaged.*--quarantine"):
        VERBS[verb](world, "data")
    report = verifying.verify(world.repository, verifying.Depth(record=False), restoring.Tools(None))
    assert verifying.quarantine(world.repository, report) == [segment.key]
    VERBS[verb](world, "data")
    tools = restoring.Tools(Opener([IDENTITY]))
    assert verifying.verify(world.repository, verifying.Depth(record=False), tools).ok


@pytest.mark.parametrize("place", [(0, "last_hash"), (1, "previous_hash"), (1, "last_hash")])
def test_a_quick_look_tells_it_as_damage(world: World, place: tuple[int, str]) -> None:
    segment = world.repository.segments()[place[0]]
    rotten(world.repository, segment, place[1])
    report = verifying.verify(world.repository, verifying.Depth(data=False, record=False), restoring.Tools(None))
    assert not report.ok
    assert all("histories" not in problem.message for problem in report.problems), report.problems
    assert any(problem.thing == segment.key and "--quarantine" in problem.message for problem in report.problems)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("height", [15, 19])
def test_another_history_is_still_told(world: World, verb: str, height: int) -> None:
    other = world.folder / "other"
    grow(other, height)
    grow(other, 30 - height, size=77)
    with pytest.raises(OtherHistory, match="goud-backup fork --height"):
        VERBS[verb](world, "other")
