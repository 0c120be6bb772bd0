"""The newest segment is damaged: what says that a source continues the chain cannot be read, and there is a way on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.errors import Damaged
from goud_backup.repository.repository import Repository

from .support import backup, grow, restore, ship

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "no header": lambda raw: b"?" * len(raw),
    "cut short": lambda raw: raw[:40],
    "another's name": lambda raw: raw.replace(b'"first":', b'"first":1', 1),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_the_error_leads_on(
    repository: Repository, data: Path, cache: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    backup(repository, data, cache)
    grow(data, 5)
    ship(repository, data)
    newest = repository.segments()[-1]
    repository.target.put(newest.key, damage(bytes(repository.target.get(newest.key))))
    grow(data, 5)
    for add in (lambda: backup(repository, data, cache), lambda: ship(repository, data)):
        with pytest.raises(Damaged, match=rf"{newest.key}.*`goud-backup verify --quarantine`"):
            add()
    report = verifying.verify(repository, verifying.Depth(), restoring.Tools(None))
    assert verifying.quarantine(repository, report) == [newest.key]
    backup(repository, data, cache)
    assert ship(repository, data).blocks == 0, "the backup has them"
    assert restore(repository, tmp_path / "out").height == 70
    assert verifying.verify(repository, verifying.Depth(), restoring.Tools(None)).ok


def test_its_blocks_are_shipped_again(repository: Repository, data: Path, cache: Path, tmp_path: Path) -> None:
    backup(repository, data, cache)
    grow(data, 5)
    ship(repository, data)
    newest = repository.segments()[-1]
    repository.target.put(newest.key, b"?")
    report = verifying.verify(repository, verifying.Depth(), restoring.Tools(None))
    assert verifying.quarantine(repository, report) == [newest.key]
    assert ship(repository, data).last == 65
    assert restore(repository, tmp_path / "out").height == 65


def test_a_segment_that_is_whole_is_not_moved(repository: Repository, data: Path) -> None:
    ship(repository, data)
    (segment,) = repository.segments()
    mistaken = verifying.Report("data", problems=[verifying.Problem(segment.key, "it was damaged a moment ago")])
    assert verifying.quarantine(repository, mistaken) == []
