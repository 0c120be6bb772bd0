"""What clusters of earlier releases left behind, unpacked for a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).parents[3] / "tests/fixtures"


@dataclass(frozen=True)
class Left:
    """One release's cluster in `folder`; commands of *this* release work on it."""

    source: Path
    folder: Path

    def unpack(self, name: str) -> None:
        with tarfile.open(self.source / f"{name}.tar.xz") as archive:
            archive.extractall(self.folder, filter="tar")

    def data(self, node: str = "node1") -> Path:
        return self.folder / f"{node}_data/_data"

    @property
    def genesis(self) -> Path:
        return self.folder / "local/chain_node/genesis.json"

    @property
    def repository(self) -> str:
        return f"file://{self.folder}/backups/repository"

    @property
    def archive(self) -> Path:
        (archive,) = (self.folder / "backups").glob("*.tar.gz")
        return archive

    @cached_property
    def written(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.source / "written.json").read_text())
        return document

    def run(self, program: str, *arguments: str | Path) -> Any:
        """The JSON that `program` of this environment prints; it must succeed."""
        environment = {
            **os.environ,
            "GOUD_GENESIS_FILE": str(self.genesis),
            "GOUD_BACKUP_CACHE_DIR": str(self.folder / "cache"),
        }
        command = [str(Path(sys.executable).with_name(program)), *map(str, arguments), "--json"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)


@pytest.fixture(params=sorted(path.name for path in FIXTURES.glob("release-*")))
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Left:
    release = Left(FIXTURES / request.param, tmp_path)
    for name in ("nodes", "backups", "secrets"):
        release.unpack(name)
    return release
