"""A folder that the shell's CDPATH leads to is not the project's: every script goes where it lies."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import checkout
from tests.support.checkout import ROOT

SCRIPTS = [
    path
    for path in (ROOT / "run", ROOT / ".ci/run", *sorted((ROOT / "scripts").iterdir()))
    if path.is_file() and path.read_bytes().startswith((b"#!/usr/bin/env bash", b"#!/bin/sh"))
]
CHANGE = re.compile(r"(?:^|[(;&|]|\bthen)\s*cd\s", re.MULTILINE)


def code(script: Path) -> str:
    return re.sub(r"(?m)(?:^|\s)#.*$", "", script.read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_forgets_the_search_path_before_it_changes_its_folder(script: Path) -> None:
    text = code(script)
    change = CHANGE.search(text)
    assert change is None or re.search(r"(?m)^unset CDPATH$", text[: change.start()]), text[: change.end()]


@pytest.mark.programs
@pytest.mark.parametrize("script", ["run", "scripts/backup-volumes.sh"])
def test_a_search_path_leads_nowhere_else(project: Path, tmp_path: Path, script: str) -> None:
    """The same names lie below CDPATH, and a relative call would find them first."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "project/scripts").mkdir(parents=True)
    (elsewhere / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/backup-volumes.sh", project / "scripts")
    (tmp_path / "project").symlink_to(project)
    target = tmp_path / "values"
    surroundings = checkout.environment(project) | {"CDPATH": str(elsewhere), "GOUD_OUTPUT": "json"}
    words = ["backup", "-e", f"target={target}"] if script == "run" else ["-h"]
    for folder, program in ((tmp_path, f"project/{script}"), (project, f"./{script}"), (project, script)):
        result = subprocess.run(
            [program, *words], cwd=folder, env=surroundings, check=False, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert str(elsewhere) not in result.stdout
        assert result.stdout.startswith("{" if script == "run" else "Usage:")
