"""The order of a restore under faults: real playbook and chain_restore role, stand-ins for the other roles."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import documentation
from tests.support.checkout import write_program

pytestmark = pytest.mark.programs

ROOT = documentation.ROOT
NODES = ["node1", "node2", "node3"]
COLUMNS = ["node", "block", "tip hash", "how", "epoch", "kept", "detail"]
# Each step writes down that it ran on a host; then it fails there, or the host is lost, where the test says so.
STEP = """
- name: Write down the step
  ansible.builtin.set_fact:
    written: "{{ lookup('ansible.builtin.pipe', 'echo STEP ' ~ inventory_hostname ~ ' >>LOG') }}"
- name: Break
  ansible.builtin.fail: {msg: broken}
  when: "'STEP ' ~ inventory_hostname in faults"
- name: Lose the host
  when: "'STEP ' ~ inventory_hostname in losses"
  block:
    - ansible.builtin.set_fact: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 1}
    - ansible.builtin.command: "true"
"""
FACTS = {
    "chain_node/status": {
        "chain_node_state": "running",
        "chain_node_row": {"state": "ready", "height": "{{ height }}"},
    },
    "chain_node/volume_entry": {"chain_node_volume_entry": {"state": "absent"}},
    "chain_node/epoch": {"chain_node_epoch": {"action": "started", "base_height": 0, "base_hash": "0"}},
    "restore_start": {"restore_result": dict.fromkeys(COLUMNS, "{{ inventory_hostname }}")},
}
STEPS = ["chain_backup/create", "coordination/start", "coordination/health", "load_balancer/stop"]
STEPS += ["load_balancer/start", "chain_node/stop", "chain_node/start", "chain_node/volume_create", *FACTS]
COMMAND = """#!/bin/sh
[ "$1" = undo ] || [ "$1" = fork ] || [ "$GOUD_BACKUP_IDENTITY_FROM_STDIN $(cat)" = 'true AGE-SECRET-KEY' ] ||
    { echo 'this key opens nothing' >&2; exit 9; }
[ ! -e SLOW ] || [ "$1" != restore ] || { touch "BEGUN-$NODE"; sleep 6; }
case "$*" in
fork*) echo '{"abandoned": null}' ;;
undo*) echo "undo $NODE" >>LOG; echo '{}' ;;
*--yes*) echo "swap $NODE" >>LOG; echo '{"height": 9, "tip_hash": "ab", "how": "x", "kept": "/kept"}' ;;
*) echo "{\\"to_height\\": HEIGHT, \\"backup\\": \\"b\\", \\"age_seconds\\": 1, \\"live_height\\": 9}" ;;
esac
"""


class Project:
    """As much of a checkout as a restore needs, with three nodes on this machine."""

    def __init__(self, place: Path) -> None:
        self.place, self.log = place, place / "log"
        shutil.copytree(ROOT / "ansible", place / "ansible", symlinks=True)
        shutil.copytree(ROOT / "roles/chain_restore", place / "roles/chain_restore")
        for name in ("ansible.cfg", "restore.yml"):
            shutil.copy(ROOT / name, place)
        (place / "ansible/playbooks/boilerplate.yml").write_text("- hosts: localhost\n  gather_facts: false\n")
        for step in STEPS:
            role, _, tasks = step.rpartition("/")
            path = place / (f"roles/{role}/tasks" if role else "ansible/tasks") / f"{tasks}.yml"
            path.parent.mkdir(parents=True, exist_ok=True)
            facts = [{"ansible.builtin.set_fact": FACTS[step]}] if step in FACTS else []
            path.write_text(self.step(step) + "".join(f"- {json.dumps(fact)}\n" for fact in facts))
        with (place / "roles/chain_restore/tasks/main.yml").open("a") as main:
            main.write(self.step("chain_restore/main"))
        (place / "age.key").write_text("AGE-SECRET-KEY")
        self.heights = dict.fromkeys(NODES, 9)

    def step(self, name: str) -> str:
        return STEP.replace("STEP", name).replace("LOG", str(self.log))

    def host(self, name: str) -> dict[str, Any]:
        command = COMMAND.replace("LOG", str(self.log)).replace("HEIGHT", str(self.heights[name]))
        command = command.replace("SLOW", str(self.place / "slow")).replace("BEGUN", str(self.place / "begun"))
        write_program(self.place / f"goud-backup-{name}", command.replace("$NODE", name))
        incoming = {
            "chain_restore_incoming": str(self.incoming(name)),
            "chain_restore_user": f"{os.getuid()}:{os.getgid()}",
        }
        return {"chain_restore_command": str(self.place / f"goud-backup-{name}"), "height": int(name[-1]), **incoming}

    def incoming(self, name: str) -> Path:
        return self.place / name / "incoming"

    def restore(self, faults: tuple[str, ...] = (), losses: tuple[str, ...] = (), *options: str) -> tuple[int, str]:
        with self.start(faults, losses, *options) as process:
            output, _ = process.communicate()
        return process.returncode, output

    def start(self, faults: tuple[str, ...] = (), losses: tuple[str, ...] = (), *options: str) -> subprocess.Popen[str]:
        for name in NODES:
            (self.place / name).mkdir(exist_ok=True)
        groups = {
            "chain_nodes": {name: self.host(name) for name in NODES}, "coordination": {"etcd1": {}}, "edge": {"lb": {}},
        }  # fmt: skip
        local = {"ansible_connection": "local", "goud_cluster": "goud-local", "goud_backups_dir": str(self.place)}
        children = {group: {"hosts": hosts} for group, hosts in groups.items()}
        (self.place / "hosts.yml").write_text(json.dumps({"all": {"vars": local, "children": children}}))
        wish = {"restore_confirm": True, "backup": "latest", "restore_identity": str(self.place / "age.key")}
        settings = {"faults": faults, "losses": losses, "ansible_become": False}
        settings |= {"ansible_python_interpreter": sys.executable, **wish}
        return subprocess.Popen(
            [Path(sys.executable).with_name("ansible-playbook"), "restore.yml", "-i", "hosts.yml",
             "-e", json.dumps(settings), *options],
            cwd=self.place, env={**os.environ, "ANSIBLE_NOCOLOR": "1", "GOUD_REPORTS": str(self.place / "reports")},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def steps(self, name: str) -> list[str]:
        """The hosts on which a step ran."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split()[1] for line in lines if line.split()[0] == name]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def test_a_restore_that_goes_well(project: Project) -> None:
    status, output = project.restore()
    assert status == 0, output
    assert sorted(project.steps("swap")) == sorted(project.steps("restore_start")) == NODES
    assert (project.steps("chain_node/epoch"), project.steps("undo")) == (["node1"], [])
    assert not any(project.incoming(name).exists() for name in NODES)


@pytest.mark.parametrize(
    "fault",
    ["chain_backup/create node1", "coordination/health etcd1", "load_balancer/stop lb", "chain_restore/main node2",
     "different blocks"],
)  # fmt: skip
def test_no_key_stays_on_a_host(project: Project, fault: str) -> None:
    if fault == "different blocks":
        project.heights["node3"] = 8
    status, output = project.restore((fault,))
    assert status == 2, output
    assert not [name for name in NODES if project.incoming(name).exists()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_key_outlives_a_run_that_is_cut_off(project: Project, number: signal.Signals) -> None:
    (project.place / "slow").touch()
    with project.start() as process:
        while len(list(project.place.glob("begun-*"))) < len(NODES):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, number)
        process.communicate(timeout=30)
    for name in NODES:
        assert "AGE-SECRET-KEY" not in "".join(
            path.read_text() for path in (project.place / name).rglob("*") if path.is_file()
        )


def test_a_failure_of_the_command_that_has_the_key_is_told(project: Project) -> None:
    (project.place / "age.key").write_text("another")
    status, output = project.restore()
    assert status == 2
    assert "this key opens nothing" in output
    assert "another" not in output


@pytest.mark.parametrize(
    ("loss", "epochs"),
    [
        ("chain_node/stop node1", []),
        ("chain_restore/main node3", []),
        ("chain_node/epoch node1", ["node1", "node3"]),
        ("restore_start node3", ["node1", "node2"]),
    ],
)
def test_a_node_that_is_lost_is_a_fault_like_any_other(project: Project, loss: str, epochs: list[str]) -> None:
    status, output = project.restore((), (loss,))
    rest = [name for name in NODES if name != loss.split()[1]]
    assert status != 0
    assert project.steps("chain_node/epoch") == epochs, output
    assert [name for name in rest if name in project.steps("undo")] == [
        name for name in rest if name in project.steps("swap")
    ]
    assert sorted(project.steps("chain_node/start")) == rest
    assert f"NOT put back (the old data is kept beside the new): {loss.split()[1]}" in output
    assert "out of reach" in output
    assert project.steps("load_balancer/start") == ["lb"]


def test_a_node_that_was_left_out_is_named_before_anything_stops(project: Project) -> None:
    status, output = project.restore((), (), "--limit", "localhost,node1,node2,etcd1,lb")
    assert status == 2, output
    assert "node3" in output
    assert "restore_nodes" in output
    assert not project.log.exists() or not project.steps("chain_node/stop")
