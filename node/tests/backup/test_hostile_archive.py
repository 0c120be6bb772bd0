"""Archives that were made to hurt are refused by name, in little memory, before anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .hostile import archives

MOST_MB = 256


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What came of each, in one process that may not take more memory, and no more than its time for any."""
    program = str(Path(__file__).with_name("hostile.py"))
    command = [sys.executable, program, str(tmp_path_factory.mktemp("hostile"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", archives())
def test_each_is_refused(ends: dict[str, dict[str, object]], name: str) -> None:
    end = ends[name]
    assert str(end["end"]).startswith("damaged: "), end
    assert "archive.tar.gz" in str(end["end"])
    assert len(str(end["end"])) < 2000
    assert str(end["plan"]).startswith(("damaged: ", "{")), "the plan, too, ends in a sentence"
    assert not end["written"]
    assert int(str(end["peak_mb"])) < MOST_MB, end
