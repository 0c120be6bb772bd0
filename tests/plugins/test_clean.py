"""`clean` removes folders that variables name: only those in which a deploy has written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.programs

HOMES = ["chain_node_home", "coordination_home", "load_balancer_home"]


def clean(place: Path, engine: FakeEngine, **variables: object) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("ansible-playbook")
    sayings = json.dumps({"clean_confirm": True, **variables})
    environment = {**os.environ, **engine.environment, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "500"}
    return subprocess.run(
        [str(program), "clean.yml", "-i", "inventories/local", "-e", sayings],
        cwd=place, env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("variable", HOMES)
def test_a_folder_of_another_purpose_is_not_removed(
    engine: FakeEngine, second: Path, tmp_path: Path, variable: str
) -> None:
    precious = tmp_path / "precious"
    (precious / "below").mkdir(parents=True)
    (precious / ".letter").write_text("dear")
    result = clean(second, engine, **{variable: str(precious)})
    assert result.returncode == 2, result.stdout + result.stderr
    assert f"{precious} holds .letter, below" in result.stdout
    assert (precious / ".letter").exists()
    assert engine.changes == []


def test_a_folder_that_a_deploy_wrote_goes_with_all_that_is_in_it(engine: FakeEngine, second: Path) -> None:
    homes = [second / f".state/local/{name}" for name in ("node1", "etcd1", "edge1")]
    for home, trace in zip(homes, ("releases", "current.json", "candidate"), strict=True):
        (home / trace).mkdir(parents=True)
        (home / "last.log").touch()
    result = clean(second, engine)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not any(home.exists() for home in homes)
