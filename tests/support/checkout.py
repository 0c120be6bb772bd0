"""A checkout in which ./run starts at once: real Ansible, one environment, nothing to install."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import documentation

ROOT = documentation.ROOT
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
PROGRAMS = ("run", "scripts/environment", "scripts/one-document", "scripts/outcome.py")
TELL = """---
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{ VALUES | dict2items | selectattr('key', 'match', 'probe_') | items2dict | to_json }}"
        dest: "{{ target }}"
        mode: "0600"
"""


def make(place: Path) -> Path:
    """A checkout here; its playbooks write down what they are given."""
    for folder in ("inventories/local", "scripts", ".venv/bin"):
        (place / folder).mkdir(parents=True)
    for program in PROGRAMS:
        shutil.copy(ROOT / program, place / program)
    for name in ("ansible/plugins/module_utils",):
        shutil.copytree(ROOT / name, place / name)
    for verb in ("deploy", "start", "status", "restore", "backup"):
        (place / f"{verb}.yml").write_text(TELL.replace("VALUES", "hostvars['localhost']"))
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (place / "inventories/local/hosts.yml").write_text(json.dumps({"all": {"hosts": {"node1": host}}}))
    for stub in ("scripts/bootstrap", "docker"):
        write_program(place / stub, "#!/bin/sh\n")
    (place / ".venv/bin/ansible-playbook").symlink_to(PLAYBOOK)
    write_program(place / ".venv/bin/python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    return place


def write_program(path: Path, text: str) -> None:
    """Write a program that can be started."""
    path.write_text(text)
    path.chmod(0o755)


def environment(project: Path) -> dict[str, str]:
    """What ./run of that checkout is started with: its stand-ins come first."""
    return {**os.environ, "PATH": f"{project}:{os.environ['PATH']}"}
