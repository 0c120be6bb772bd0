"""What ./run makes of its words: values arrive as they stand, and an interrupted deploy is taken back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import documentation

pytestmark = pytest.mark.programs

ROOT = documentation.ROOT
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
VALUES = [
    "/srv/with space/a.tar.gz", "ümläut/ß", 'a "quote"', "an 'apostrophe'", "{{ nope }}", "{% if %}", "a=b c=d",
    "back\\slash \\n", "two\nlines\tand a tab", "[not, a, list]", "{not: a mapping}", "# no comment", "true", "",
]  # fmt: skip
TELL = """---
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{ VALUES | dict2items | selectattr('key', 'match', 'probe_') | items2dict | to_json }}"
        dest: "{{ target }}"
        mode: "0600"
"""
WAITING = """#!{python}
import pathlib, signal, sys, time
words = sys.argv[1:]
with open("played", "a") as log:
    log.write(words[0] + "\\n")
if words[0] == "deploy.yml":
    def interrupted(*_):
        sys.exit(99)
    signal.signal(signal.SIGINT, interrupted)
    pathlib.Path("waiting").touch()
    time.sleep(60)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with one environment, where nothing has to be installed; its path is an odd one."""
    place = tmp_path / 'a {{ path }} "of" ümläuts'
    for folder in ("inventories/local", "scripts", ".venv/bin"):
        (place / folder).mkdir(parents=True)
    shutil.copy(ROOT / "run", place)
    shutil.copy(ROOT / "scripts/environment", place / "scripts")
    for verb in ("deploy", "start", "status", "restore", "backup"):
        (place / f"{verb}.yml").write_text(TELL.replace("VALUES", "hostvars['localhost']"))
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (place / "inventories/local/hosts.yml").write_text(json.dumps({"all": {"hosts": {"localhost": host}}}))
    for stub in ("scripts/bootstrap", "docker"):
        (place / stub).write_text("#!/bin/sh\n")
        (place / stub).chmod(0o755)
    (place / ".venv/bin/ansible-playbook").symlink_to(PLAYBOOK)
    return place


def environment(project: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{project}:{os.environ['PATH']}"}


def test_values_arrive_as_they_stand(project: Path) -> None:
    wanted = {f"probe_{number}": value for number, value in enumerate(VALUES)}
    words = [word for name, value in wanted.items() for word in ("-e", f"{name}={value}")]
    target = project / "values"
    done = subprocess.run(
        [project / "run", "backup", *words, "-e", f"target={target}", '--extra-vars={"probe_json": [1]}'],
        env=environment(project), check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(target.read_text()) == wanted | {"probe_json": [1]}


@pytest.mark.parametrize("name", ["a b.tar.gz", "{{ x }}.tar.gz", "ü'\".tar.gz"])
def test_an_archive_is_found_from_where_the_command_is_typed(project: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    (project / "restore.yml").write_text(TELL.replace("VALUES", "{'probe_backup': backup}"))
    target = project / "values"
    done = subprocess.run(
        [project / "run", "restore", name, "-e", f"target={target}"],
        cwd=tmp_path, env=environment(project), stdin=subprocess.DEVNULL, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 64, "nobody answered"
    assert json.loads(target.read_text()) == {"probe_backup": str(tmp_path / name)}


@pytest.mark.parametrize(
    "words", [("restore", "nofile"), ("restore", "there-is-no.tar.gz"), ("status", "--jsn"), ("stauts",)]
)
def test_what_makes_no_sense_is_refused_before_anything_starts(project: Path, words: tuple[str, ...]) -> None:
    (project / ".venv/bin/ansible-playbook").unlink()
    (project / "scripts/bootstrap").unlink()
    done = subprocess.run(
        [project / "run", *words], env=environment(project), check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (64, "", 1)
    assert words[-1] in done.stderr


def test_an_interrupted_deploy_is_followed_by_a_start(project: Path) -> None:
    playbook = project / ".venv/bin/ansible-playbook"
    playbook.unlink()
    playbook.write_text(WAITING.replace("{python}", sys.executable))
    playbook.chmod(0o755)
    with subprocess.Popen(
        [project / "run", "deploy"], env=environment(project), start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as run:
        while not (project / "waiting").exists():
            assert run.poll() is None
        os.killpg(run.pid, signal.SIGINT)
        _, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "interrupted" in errors
    assert (project / "played").read_text().split() == ["deploy.yml", "start.yml"]
