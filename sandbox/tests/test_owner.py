"""Two folders with a sandbox of one name on one engine: the second touches nothing of the first."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from goud_sandbox import control
from goud_sandbox.errors import SandboxError
from goud_sandbox.room.engine import Engine
from goud_sandbox.room.keeper import Keeper
from goud_sandbox.settings import Home, Settings


def container(*mounts: tuple[str, Path]) -> SimpleNamespace:
    return SimpleNamespace(
        attrs={"Mounts": [{"Destination": target, "Source": str(source)} for target, source in mounts]}
    )


@pytest.fixture
def on_engine(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """The containers with the sandbox's label; the engine can do nothing but list them."""
    containers: list[SimpleNamespace] = []

    def list_containers(**options: Any) -> list[SimpleNamespace]:
        assert options == {"all": True, "filters": {"label": "io.goud-chain.sandbox=main"}}
        return containers

    monkeypatch.setattr(Engine, "client", SimpleNamespace(containers=SimpleNamespace(list=list_containers)))
    return containers


def parts(root: Path) -> list[SimpleNamespace]:
    """The keeper of a sandbox and a machine, each with what it mounts."""
    machine = container(("/sys/fs/cgroup", Path("/sys/fs/cgroup")), ("/var/lib/goud-cloud", root / "machines/node1"))
    return [container(("/disks", root / "disks"), ("/relays", root / "relays"), ("/dev", Path("/dev"))), machine]


@pytest.mark.parametrize("part", [0, 1])
def test_a_sandbox_of_another_folder_is_left_alone(tmp_path: Path, on_engine: list[SimpleNamespace], part: int) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    on_engine.append(parts(first)[part])
    with pytest.raises(SandboxError, match=rf"is of the folder {first}\. Nothing was touched\. End it there"):
        control.up(Home(second), Settings())
    assert not second.exists()
    second.mkdir()
    Settings().save(Home(second).settings)
    with pytest.raises(SandboxError, match="Nothing was touched"):
        control.down(Home(second))
    assert Home(second).settings.exists()


def test_what_a_folder_left_that_is_gone_is_said_with_how_it_is_removed(
    tmp_path: Path, on_engine: list[SimpleNamespace]
) -> None:
    on_engine += parts(tmp_path / "gone")
    with pytest.raises(SandboxError, match=r"does not exist any more.*label=io\.goud-chain\.sandbox=main"):
        control.up(Home(tmp_path / "after"), Settings())


def test_a_folder_that_was_moved_ends_its_own_sandbox(
    tmp_path: Path, on_engine: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = Home(tmp_path / "before"), Home(tmp_path / "after")
    before.root.mkdir()
    Settings().save(before.settings)
    command = [
        sys.executable,
        "-c",
        "print(flush=True); input()",
        "goud_sandbox.cli",
        "serve",
        "--state",
        str(before.root),
    ]
    service = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert service.stdout
    service.stdout.readline()
    before.pid.write_text(str(service.pid))
    on_engine += parts(before.root)
    before.root.rename(after.root)
    with pytest.raises(SandboxError, match=r"End it first: \./run sandbox down"):
        control.up(after, Settings())

    removals: list[str] = []
    monkeypatch.setattr(Engine, "machines", lambda _: [])
    monkeypatch.setattr(Engine, "remove_everything", lambda _: removals.append("all"))
    monkeypatch.setattr(Keeper, "disks", lambda _: {})
    monkeypatch.setattr(Keeper, "firewall", lambda *_: None)
    control.down(after)
    assert (removals, after.root.exists()) == (["all"], False)
    with service:
        assert service.wait(5) == -signal.SIGTERM, "the service was started with the former path"


def test_a_sandbox_knows_its_own_containers_by_whatever_path(tmp_path: Path, on_engine: list[SimpleNamespace]) -> None:
    root, link = tmp_path / "root", tmp_path / "link"
    root.mkdir()
    link.symlink_to(root)
    on_engine += parts(link)
    assert Engine(Settings(), Home(root)).other_folder() is None
    assert Engine(Settings(), Home(tmp_path / "other")).other_folder() == link
