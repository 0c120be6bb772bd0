"""What several tests of the command line share."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import checkout
from tests.support.fake_engine import FakeEngine, fake_engine


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """Who is started in the background of a script has it ignored, with all below: not what the tests start."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with one environment, where nothing has to be installed; its path is an odd one."""
    return checkout.make(tmp_path / 'a {{ path }} "of" ümläuts')


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """An engine that only answers."""
    with fake_engine() as answering:
        yield answering


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """A checkout of the project with all its playbooks, which has deployed nothing."""
    place = tmp_path / "the second"
    for name in ("ansible", "roles", "inventories"):
        shutil.copytree(checkout.ROOT / name, place / name, symlinks=True)
    for path in [checkout.ROOT / "ansible.cfg", *checkout.ROOT.glob("*.yml")]:
        shutil.copy(path, place)
    return place
