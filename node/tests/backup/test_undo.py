"""An undo puts a whole database back, or refuses and changes nothing; wherever a cleanup before it was killed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from goud_backup import swap
from goud_backup.errors import SourceError
from goud_backup.repository.repository import Repository

from .support import backup, grow, restore, tip_of

CHANGES = ("unlink", "rmdir", "rename")


@pytest.fixture
def restored(tmp_path: Path, repository: Repository, cache: Path) -> Path:
    """A data directory at 30 after a restore; what is kept from before it is at 35."""
    data = tmp_path / "live"
    grow(data, 30)
    backup(repository, data, cache)
    grow(data, 5)
    restore(repository, data)
    return data


def killed_at(step: int, data: Path) -> bool:
    """Whether a cleanup was killed before its n-th change of the disk; False when it ended before."""
    child = os.fork()
    if child == 0:
        left = [step]

        def counting(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        for name in CHANGES:
            setattr(os, name, counting(getattr(os, name)))
        swap.cleanup(data)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_cleanup_killed_anywhere_leaves_nothing_half_to_put_back(restored: Path, tmp_path: Path) -> None:
    outcomes = set()
    for step in range(1, 100):
        data = Path(shutil.copytree(restored, tmp_path / f"copy{step}"))
        if not killed_at(step, data):
            break
        undone = False
        with suppress(SourceError):
            swap.undo(data)
            undone = True
        assert tip_of(data).height == (35 if undone else 30)
        outcomes.add(undone)
        swap.cleanup(data)
        assert not [path for path in data.iterdir() if path.name.startswith((swap.BEFORE, swap.UNDONE, swap.STAGING))]
        shutil.rmtree(data)
    else:
        pytest.fail("it never ended")
    assert outcomes == {True, False}, "killed before and after it had forgotten the restore"


@pytest.mark.parametrize("verb", ["undo", "restore"])
def test_what_is_killed_before_it_took_effect_can_still_be_undone(
    restored: Path, repository: Repository, verb: str
) -> None:
    """The journal of what came to nothing must not be the end of the one before it."""
    child = os.fork()
    if child == 0:
        vars(swap)["_exchange"] = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        swap.undo(restored) if verb == "undo" else restore(repository, restored)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert tip_of(restored).height == 30
    swap.undo(restored)
    assert tip_of(restored).height == 35
    swap.undo(restored)
    assert tip_of(restored).height == 30


def lose(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


# A cut end of the list of files is what a crash leaves, and the library takes it for that.
CASES = [
    (lose, "*.sst"),
    (flip, "*.sst"),
    (cut, "*.sst"),
    (lose, "CURRENT"),
    (lose, "MANIFEST-*"),
    (flip, "MANIFEST-*"),
]


@pytest.mark.parametrize(("damage", "pattern"), CASES)
def test_what_is_not_whole_is_not_put_back(restored: Path, damage: Callable[[Path], None], pattern: str) -> None:
    kept = next(restored.glob(f"{swap.BEFORE}*"))
    damage(max(kept.glob(pattern), key=lambda path: path.stat().st_size))
    journal = (restored / swap.JOURNAL).read_bytes()
    with pytest.raises(SourceError, match=rf"{kept.name}.*not whole"):
        swap.undo(restored)
    assert (restored / swap.JOURNAL).read_bytes() == journal
    assert kept.is_dir()
    assert tip_of(restored).height == 30


@pytest.mark.parametrize(
    "name", [f"{swap.BEFORE}upgrade-by-hand", f"{swap.UNDONE}2026", f"{swap.BEFORE}20260101T000000Z"]
)
def test_a_cleanup_leaves_what_somebody_else_put_aside(restored: Path, name: str) -> None:
    shutil.copytree(restored / "rocksdb", restored / name)
    assert len(swap.cleanup(restored)) == 1
    assert tip_of(restored).height == 30
    assert (restored / name / "CURRENT").is_file()
