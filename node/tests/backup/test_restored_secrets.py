"""Secrets change with the database, or not at all; what they replace comes back with it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrage
import pytest

from goud_backup import restore as restoring
from goud_backup import swap
from goud_backup.codec.sealing import Opener
from goud_backup.errors import SourceError
from goud_backup.plan import Wish
from goud_backup.repository.repository import Repository
from goud_node.store import durable

from .support import backup, grow, make_repository, restore, tip_of

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENTS = (str(IDENTITY.to_public()),)
STORED = (30, {"jwt_secret": "stored", "session_secret": "stored"})
LIVE = (35, {"jwt_secret": "live", "other": "live"})


@pytest.fixture
def sealed(tmp_path: Path, cache: Path) -> Repository:
    """A backup at 30 with two secrets."""
    grow(tmp_path / "source", 30)
    (tmp_path / "stored").mkdir()
    secrets = tuple(tmp_path / "stored" / name for name in STORED[1])
    for path in secrets:
        path.write_text("stored")
    repository = make_repository(tmp_path / "sealed", RECIPIENTS)
    backup(repository, tmp_path / "source", cache, RECIPIENTS, secrets=secrets)
    return repository


@pytest.fixture
def place(tmp_path: Path, sealed: Repository) -> Path:  # noqa: ARG001  # makes the source
    """A node's data at 35 and its secrets, of which one is not in the backup and one of that is missing."""
    place = tmp_path / "place"
    shutil.copytree(tmp_path / "source", place / "data")
    grow(place / "data", 5)
    (place / "secrets").mkdir()
    for name, text in LIVE[1].items():
        (place / "secrets" / name).write_text(text)
        (place / "secrets" / name).chmod(0o640)
    return place


def brought_back(repository: Repository, place: Path) -> None:
    tools = restoring.Tools(Opener([IDENTITY]), secrets_to=place / "secrets")
    restore(repository, place / "data", tools=tools)


def state(place: Path) -> tuple[int, dict[str, str]]:
    # What was being written when a run was killed is overwritten by the next that writes it.
    paths = [path for path in (place / "secrets").iterdir() if path.suffix != ".tmp"]
    texts = {path.name: path.read_text() for path in paths}
    return tip_of(place / "data").height, texts


def failing_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The n-th file that is written durably is not."""
    steps, real = [step], durable.replace

    def counted(path: Path, *arguments: Any, **options: Any) -> None:
        steps[0] -= 1
        if not steps[0]:
            raise OSError(28, "No space left on device", str(path))
        real(path, *arguments, **options)

    monkeypatch.setattr(durable, "replace", counted)


def changed(before: tuple[int, dict[str, str]]) -> tuple[int, dict[str, str]]:
    """After a restore."""
    return STORED[0], before[1] | STORED[1]


@pytest.mark.parametrize("step", range(1, 9))
def test_a_restore_that_fails_leaves_the_live_secrets(
    sealed: Repository, place: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patch:
        failing_at(patch, step)
        try:
            brought_back(sealed, place)
        except OSError:
            # The last step only notes that the swap is done.
            assert state(place) == (LIVE if step < 6 else changed(LIVE))
        else:
            assert state(place) == changed(LIVE)
    with swap.exclusive(place / "data"):
        pass
    assert state(place) in [LIVE, changed(LIVE)]
    if state(place) == LIVE:
        assert (place / "secrets/jwt_secret").stat().st_mode & 0o777 == 0o640


def test_an_undo_brings_back_the_secrets_too_until_they_are_cleaned(sealed: Repository, place: Path) -> None:
    brought_back(sealed, place)
    assert state(place) == changed(LIVE)
    swap.undo(place / "data")
    assert state(place) == LIVE
    swap.undo(place / "data")
    assert state(place) == changed(LIVE)
    swap.cleanup(place / "data")
    assert state(place) == changed(LIVE)
    assert [path.name for path in (place / "data/.restore").iterdir()] == ["LOCK"]


def test_an_undo_whose_secrets_are_gone_changes_nothing(sealed: Repository, place: Path) -> None:
    brought_back(sealed, place)
    for path in (place / "data/.restore").glob("secrets-*"):
        shutil.rmtree(path)
    with pytest.raises(SourceError, match="secrets"):
        swap.undo(place / "data")
    assert state(place) == changed(LIVE)


def test_a_restore_killed_anywhere_ends_with_both_or_none(sealed: Repository, place: Path, tmp_path: Path) -> None:
    outcomes = []
    for step in range(1, 60):
        copy = Path(shutil.copytree(place, tmp_path / f"copy{step}"))
        if not killed_at(step, lambda copy=copy: brought_back(sealed, copy)):  # type: ignore[misc]  # bound at once
            break
        with swap.exclusive(copy / "data"):
            pass
        outcomes.append(state(copy))
        assert outcomes[-1] in [LIVE, changed(LIVE)]
        shutil.rmtree(copy)
    assert LIVE in outcomes
    assert changed(LIVE) in outcomes


def killed_at(step: int, act: Callable[[], None]) -> bool:
    child = os.fork()
    if child == 0:
        steps = [step]

        def cut(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                steps[0] -= 1
                if not steps[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        for name in ("replace", "rename", "unlink"):
            setattr(os, name, cut(getattr(os, name)))
        vars(swap)["_atomically"] = cut(vars(swap)["_atomically"])
        act()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("height", [10, 30])
def test_a_restore_to_an_earlier_block_brings_the_secrets(tmp_path: Path, sealed: Repository, height: int) -> None:
    tools = restoring.Tools(Opener([IDENTITY]), secrets_to=tmp_path / "restored")
    restore(sealed, tmp_path / "data", Wish(to_height=height), tools)
    assert {path.name: path.read_text() for path in (tmp_path / "restored").iterdir()} == STORED[1]
    assert tip_of(tmp_path / "data").height == height


def test_a_restore_of_what_has_no_secrets_says_so(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grow(tmp_path / "source", 5)
    repository = make_repository(tmp_path / "plain")
    backup(repository, tmp_path / "source", cache)
    restore(repository, tmp_path / "data", tools=restoring.Tools(None, secrets_to=tmp_path / "restored"))
    assert f"{tmp_path / 'restored'} stays as it is: what is restored has no secrets" in caplog.text
