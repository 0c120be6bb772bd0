"""What `./run backup` lets go where no timer prunes: nothing at first, then by the policy, of both kinds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import documentation

PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.include_tasks: {tasks}
      vars: {variables}
"""
SETUP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from backup.support import GENESIS, backup, grow, make_repository
from goud_backup import archive
from goud_backup.progress import Silent
from goud_node.chain import genesis
folder = Path(sys.argv[2])
repository = make_repository(folder / "repository")
for number in range(5):
    grow(folder / "data", 5)
    manifest = backup(repository, folder / "data", folder / "cache")
    copy = replace(manifest, created=f"2026-01-0{number + 1}T02:00:00+00:00")
    archive.export(repository, copy, folder / "it's a {{ folder }}", environment="local", volume="v", opener=None,
                   workers=1, progress=Silent())
"""


def archives(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.tar.gz"))


@pytest.mark.programs
def test_the_first_run_lists_and_the_second_removes(tmp_path: Path) -> None:
    root = documentation.ROOT
    subprocess.run([sys.executable, "-c", SETUP, root / "node/tests", tmp_path], check=True)
    folder = tmp_path / "it's a {{ folder }}"
    tool = Path(sys.executable).with_name("goud-backup")
    variables = {
        "chain_backup_command": str(tool),
        "chain_backup_keep_days": 0,
        "chain_backup_keep_last": 1,
        "chain_backup_keep_daily": 0,
        "chain_backup_keep_weekly": 0,
        "chain_backup_keep_monthly": 0,
        "backup_keep_archive_days": 1,
    }
    play = tmp_path / "play.yml"
    tasks = root / "ansible/tasks/backup_retention.yml"
    text = PLAY.format(tasks=json.dumps(str(tasks)), variables=json.dumps(variables))
    play.write_text(text.replace('"backup_keep', f'"backup_dest": !unsafe {json.dumps(str(folder))}, "backup_keep'))
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(root / "ansible.cfg"),
        "GOUD_BACKUP_REPOSITORY": f"file://{tmp_path}/repository",
        "NO_COLOR": "1",
    }

    def run() -> str:
        command = [str(tool.with_name("ansible-playbook")), "-i", "localhost,", str(play)]
        command += ["-e", f"ansible_python_interpreter={sys.executable}"]
        result = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def backups() -> list[object]:
        listing = subprocess.run([tool, "list", "--json"], env=environment, check=True, capture_output=True, text=True)
        rows: list[object] = json.loads(listing.stdout)
        return rows

    older = folder / "goud-chain-backup-local-20251231-020000.tar.gz"
    older.write_bytes(b"of another hand")
    before = archives(folder)
    assert "first run that looks for old backups" in run()
    assert (archives(folder), len(backups())) == (before, 5)
    assert "first run" not in run()
    # The newest three archives stay however old they are; what another hand wrote stays anyway.
    assert (archives(folder), len(backups())) == ([older.name, *before[-3:]], 1)
