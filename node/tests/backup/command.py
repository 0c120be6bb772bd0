"""`goud-backup` as a test calls it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from goud_backup import cli
from goud_node.chain import genesis as documents

from .support import GENESIS


class Command:
    """`goud-backup …`, in this process, with one repository and data directory."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._patch = monkeypatch
        self._capsys = capsys
        self.error = ""
        documents.dump(GENESIS, folder / "genesis.json")
        monkeypatch.setenv("GOUD_BACKUP_REPOSITORY", f"file://{folder}/repository")
        monkeypatch.setenv("GOUD_BACKUP_CACHE_DIR", str(folder / "cache"))
        monkeypatch.setenv("GOUD_GENESIS_FILE", str(folder / "genesis.json"))
        monkeypatch.setenv("GOUD_DATA_DIR", str(folder / "data"))

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        self._patch.setattr(sys, "argv", ["goud-backup", *arguments])
        found = 0
        try:
            cli.main()
        except SystemExit as end:
            found = int(end.code or 0)
        captured = self._capsys.readouterr()
        self.error = captured.err
        assert found == code, captured.err
        lines = [line for line in captured.out.splitlines() if line]
        if not lines:
            return None
        return json.loads(captured.out) if "--json" in arguments else json.loads(lines[-1])
