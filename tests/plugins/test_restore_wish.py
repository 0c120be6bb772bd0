"""What a restore needs of the controller is looked for first: each missing file has a sentence of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import documentation

pytestmark = pytest.mark.programs

ROOT = documentation.ROOT
NAME = "goud-chain-backup-local-20260131-020000"
PLAY = """---
- name: Understand what was asked
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Name a node
      ansible.builtin.add_host: {name: node1, groups: chain_nodes, goud_backups_dir: FOLDER}
    - name: Name another
      ansible.builtin.add_host: {name: node2, groups: chain_nodes}
    - name: Understand
      ansible.builtin.include_tasks: ROOT/ansible/tasks/restore_wish.yml
    - name: Tell
      ansible.builtin.debug: {msg: "nodes {{ restore_wish.nodes | join('+') }}"}
"""


def understand(tmp_path: Path, **wish: object) -> subprocess.CompletedProcess[str]:
    playbook = tmp_path / "probe.yml"
    playbook.write_text(PLAY.replace("FOLDER", str(tmp_path)).replace("ROOT", str(ROOT)))
    variables = {"ansible_python_interpreter": sys.executable, **wish}
    # Nobody listens there: a bucket that cannot be read.
    bucket = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    settings = {"GOUD_REPORTS": str(tmp_path / "reports"), "ANSIBLE_NOCOLOR": "1", "AWS_MAX_ATTEMPTS": "1", **bucket}
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), playbook, "-e", json.dumps(variables)],
        cwd=ROOT, env={**os.environ, **settings}, check=False, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("files", "missing", "step"),
    [
        ([], ".tar.gz", "Correct the path of the archive"),
        ([".tar.gz"], ".sha256", "copy the .sha256 that was written with it beside it"),
        ([".tar.gz", ".sha256"], ".key", "correct it"),
        ([".tar.gz", ".sha256", ".key"], "", ""),
    ],
)
def test_a_missing_file_is_named_with_the_next_step(tmp_path: Path, files: list[str], missing: str, step: str) -> None:
    for suffix in files:
        (tmp_path / f"{NAME}{suffix}").touch()
    result = understand(
        tmp_path, backup=str(tmp_path / f"{NAME}.tar.gz"), restore_identity=str(tmp_path / f"{NAME}.key")
    )
    assert result.returncode == (2 if missing else 0), result.stdout + result.stderr
    if missing:
        assert f"{tmp_path / NAME}{missing}" in result.stdout
        assert "no such file; nothing was touched" in result.stdout
        assert step in result.stdout
        assert "Traceback" not in result.stdout + result.stderr


def test_a_bucket_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    result = understand(tmp_path, backup=f"s3://shelf/{NAME}.tar.gz")
    assert result.returncode == 2
    assert f"Not fetched from the bucket shelf: {NAME}.tar.gz" in result.stdout
    assert "nothing was touched" in result.stdout


HEIGHTS: list[object] = ["", " ", "0", 0, "-3", -3, "1.5", "many"]
NODES: list[object] = ["", ",", [], "node1,node9"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("restore_to_height", value) for value in HEIGHTS),
        *(("restore_to_time", value) for value in ("", "  ")),
        *(("restore_nodes", value) for value in NODES),
    ],
)
def test_a_target_that_is_none_is_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    """It would be taken for the newest block, or for all nodes."""
    result = understand(tmp_path, backup="latest", **{name: value})
    assert result.returncode == 2, result.stdout + result.stderr
    assert f"{name} {'names node9' if value == 'node1,node9' else 'is'}" in result.stdout


@pytest.mark.parametrize("value", ["node1,node1", "node1", " node1 ,", ["node1", "node1"]])
def test_nodes_are_named_in_any_form(tmp_path: Path, value: object) -> None:
    result = understand(tmp_path, backup="latest", restore_nodes=value)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nodes node1\n" in result.stdout
