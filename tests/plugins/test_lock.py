"""One changing verb at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import goud_lock


@pytest.fixture
def other() -> Iterator[int]:
    """A process that looks like a playbook's."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "ansible-playbook"])
    while b"ansible" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
        time.sleep(0.01)  # for a moment after its start a process has no command line
    yield process.pid
    process.kill()
    process.wait()


def test_the_second_is_told_who_holds_it(tmp_path: Path, other: int) -> None:
    path = tmp_path / "secrets" / "running"
    assert goud_lock.take(path, "deploy", other) is None
    holder = goud_lock.take(path, "expand", os.getpid())
    assert holder is not None
    assert (holder["verb"], holder["pid"]) == ("deploy", other)
    assert goud_lock.take(path, "deploy", other) is None  # its own plays may ask again


@pytest.mark.parametrize("left", ["", "{", '{"verb": "deploy"}', '{"verb": "deploy", "pid": 999999999}'])
def test_what_a_dead_run_left_is_taken_over(tmp_path: Path, left: str) -> None:
    path = tmp_path / "running"
    path.write_text(left)
    assert goud_lock.take(path, "deploy", os.getpid()) is None


def test_a_number_that_belongs_to_somebody_else_by_now_is_no_holder(tmp_path: Path) -> None:
    path = tmp_path / "running"
    path.write_text('{"verb": "deploy", "pid": 1, "since": "then"}')
    assert goud_lock.take(path, "expand", os.getpid()) is None
