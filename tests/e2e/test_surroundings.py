"""The verbs where everything around them is odd at once: locale, proxies, umask, paths, and nobody at the terminal.

A checkout of its own at such a path deploys a cluster of its own, beside that of the other tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support.cluster import ROOT, STATE
from tests.support.workload import Account

pytestmark = pytest.mark.restores

ODD = "a {{ path }} \"of\" 'ümläuts'"
CLUSTER = "goud-odd"
BALANCER = "http://127.0.0.1:29080"
NOBODY = "http://127.0.0.1:9"
"""A proxy that is dead: it is for packages, and none is missing."""
SURROUNDINGS = {
    "LC_ALL": "C", "LANG": "xx_XX.UTF-8",
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), NOBODY),
}  # fmt: skip
UMASK = 0o077


class Checkout:
    """What is in this checkout, at another path and with another cluster in its inventory `odd`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(parents=True)
        self._copy_sources()
        self._link_environment()
        self._describe_cluster()

    def _copy_sources(self) -> None:
        """As the umask leaves them, like a clone that was made under it."""
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True).stdout
        packing = ["tar", "--create", "--null", "--verbatim-files-from", "--files-from=-"]
        packed = subprocess.run(packing, cwd=ROOT, input=names, check=True, capture_output=True).stdout
        unpacking = ["tar", "--extract", "--no-same-permissions", "--no-same-owner"]
        subprocess.run(unpacking, cwd=self.place, input=packed, check=True, umask=UMASK)

    def _link_environment(self) -> None:
        """The installed packages are the same files; what names a path is written anew, for the path here."""
        source = (ROOT / ".venv").resolve()
        target = self.place / ".state/environments" / source.name
        target.parent.mkdir(parents=True)
        subprocess.run(["cp", "--archive", "--link", source, target], check=True)
        (self.place / ".venv").symlink_to(target.relative_to(self.place))
        by_place = '#!/bin/sh\n\'\'\'exec\' "$(dirname -- "$(readlink -f -- "$0")")/python" "$0" "$@"\n\' \'\'\'\n'
        for path in (target / "bin").iterdir():
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            if content.startswith(f"#!{source}/".encode()):
                rewrite(path, by_place.encode() + content.partition(b"\n")[2])
        for path in target.glob("lib/*/site-packages/__editable__*.pth"):
            rewrite(path, bytes(self.place / "node/src") + b"\n")

    def _describe_cluster(self) -> None:
        """The tests' world under other names and ports."""
        world = self.place / "inventories/odd"
        shutil.copytree(self.place / "tests/world", world, symlinks=True)
        for path in (world / "hosts.yml", world / "group_vars/all/world.yml"):
            text = path.read_text(encoding="utf-8").replace("goud-test", CLUSTER).replace("test-", "odd-")
            path.write_text(re.sub(r"\b28(\d{3})\b", r"29\1", text), encoding="utf-8")

    def start(self, *words: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """`./run` with these words, typed in `folder`; standard input is closed, not empty."""
        clean = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
        command = ["bash", "-c", 'exec "$@" <&-', "bash", self.place / "run", *words]
        return subprocess.run(
            command, cwd=folder or self.place, env=clean | SURROUNDINGS, umask=UMASK,
            capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip

    def run(self, *words: str | Path, folder: Path | None = None) -> str:
        """The same, which must succeed; its standard output."""
        done = self.start(*words, folder=folder)
        assert done.returncode == 0, f"{words} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


def rewrite(path: Path, content: bytes) -> None:
    """Replace a file, never the content that other links to it show."""
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(content)
    path.chmod(mode)


def remove_cluster() -> None:
    """Whatever carries the cluster's label; a test that was killed left it."""
    engine = docker.from_env()
    label: dict[str, str | list[str] | bool] = {"label": f"io.goud-chain.cluster={CLUSTER}"}
    for container in engine.containers.list(all=True, filters=label):
        container.remove(force=True, v=True)
    for network in engine.networks.list(filters=label):
        network.remove()
    for volume in engine.volumes.list(filters=label):
        volume.remove()


@pytest.fixture
def checkout() -> Iterator[Checkout]:
    """Beside the state of the tests' world, which has the file system of .venv, and is removed with it."""
    for component in ("etcd", "haproxy", "node"):  # built here, so that nothing has to be fetched through the proxy
        subprocess.run([sys.executable, "scripts/image.py", component], cwd=ROOT, check=True, capture_output=True)
    place = STATE / "surroundings"
    remove_cluster()
    shutil.rmtree(place, ignore_errors=True)
    try:
        yield Checkout(place / ODD)
    finally:
        remove_cluster()
        shutil.rmtree(place)


def test_up_backup_restore_and_status_take_nothing_from_what_is_around_them(checkout: Checkout) -> None:
    checkout.run("up", "odd")
    account = Account(BALANCER)
    before = account.submit("before", "the backup", "before-the-backup").json()["collection_id"]
    checkout.run("backup", "odd")
    later = account.submit("later", "than the backup", "later-than-the-backup").json()["collection_id"]

    (archive,) = checkout.place.glob(".state/test/backups/*.tar.gz")
    shelf = checkout.place.parent / f"archives, {ODD}"
    shelf.mkdir()
    moved = archive.rename(shelf / f"{ODD}.tar.gz")
    archive.with_name(archive.name.replace(".tar.gz", ".sha256")).rename(shelf / f"{ODD}.sha256")
    plan = checkout.start("restore", "odd", moved.name, folder=shelf)
    assert plan.returncode == 64, f"nobody confirmed it\n{plan.stdout}{plan.stderr}"
    assert account.read(later).status_code == 200
    checkout.run("restore", "odd", moved.name, "--yes", folder=shelf)
    account = Account(BALANCER, account.api_key)
    assert account.read(before).json()["payload"] == "the backup"
    assert account.read(later).status_code == 404

    report: dict[str, Any] = json.loads(checkout.run("status", "odd", "--json"))
    states = {row["part"]: row["state"] for row in report["reports"][-1]["rows"]}
    assert states == {
        **{f"odd-node{number}": "ready" for number in (1, 2, 3)},
        **{f"odd-etcd{number}": "healthy" for number in (1, 2, 3)},
        f"{CLUSTER}-lb": "healthy",
    }
    checkout.run("clean", "odd", "--yes")
