"""What is no regular file, where a directory's objects are, is no object: it hangs no verb, and is named."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from .command import Command

KINDS: dict[str, Callable[[Path], None]] = {
    "a named pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a link to a folder": lambda path: path.symlink_to("/"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
}
PLACES = (
    "manifests/00000002-20260101T000000Z-aaaaaa.json",
    "checks/20260101T000000Z-aaaaaa.json",
    f"forks/000000000001-{'a' * 64}.json",
    f"damaged/{'a' * 64}",
    "keep/20260101T000000Z-aaaaaa",
    "locks/backup.json",
    "marks.json",
)
VERBS = (
    ["status"],
    ["list"],
    ["create"],
    ["ship"],
    ["verify"],
    ["prune"],
    ["fork", "--height", "1", "--hash", "a" * 64],
)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def end(*_: object) -> NoReturn:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def expected(goud_backup: Command) -> dict[str, int]:
    """How each verb ends without any of that."""
    goud_backup("init")
    goud_backup("create")
    plain = goud_backup.folder / "plain"
    shutil.copytree(goud_backup.folder / "repository", plain)
    codes = {verb[0]: goud_backup.code(*verb) for verb in VERBS}
    shutil.rmtree(goud_backup.folder / "repository")
    plain.rename(goud_backup.folder / "repository")
    return codes


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_verb_takes_it_for_an_object(
    goud_backup: Command, expected: dict[str, int], kind: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = goud_backup.folder / "repository" / place
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    KINDS[kind](path)
    for verb in VERBS:
        with within(20):
            code = goud_backup.code(*verb)
        if code != expected[verb[0]]:
            # What has to be written there cannot be.
            assert place in {"locks/backup.json", "marks.json"}
            assert code == 7, goud_backup.error
            assert f"{path} is no regular file" in goud_backup.error
    # A folder is walked: it may hold objects.
    assert kind == "a folder" or f"{place} is no regular file" in caplog.text
