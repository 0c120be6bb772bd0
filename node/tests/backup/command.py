"""`goud-backup` as a test calls it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
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
        found, text = self._run(arguments)
        assert found == code, self.error
        lines = [line for line in text.splitlines() if line]
        if not lines:
            return None
        return json.loads(text) if "--json" in arguments else json.loads(lines[-1])

    def code(self, *arguments: str) -> int:
        """How it ends, for a test to judge."""
        return self._run(arguments)[0]

    def _run(self, arguments: Sequence[str]) -> tuple[int, str]:
        self._patch.setattr(sys, "argv", ["goud-backup", *arguments])
        found = 0
        try:
            cli.main()
        except SystemExit as end:
            found = int(end.code or 0)
        captured = self._capsys.readouterr()
        self.error = captured.err
        return found, captured.out
