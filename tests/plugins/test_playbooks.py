"""The plugins inside a real playbook run: what an operator sees, and what a script reads."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import documentation

pytestmark = pytest.mark.programs

ROOT = documentation.ROOT

PLAY = """---
- name: Look at the nodes
  hosts: all
  gather_facts: false
  tasks:
    - name: Change something
      ansible.builtin.command: "true"
    - name: Write a file
      ansible.builtin.copy: {content: "new\\n", dest: "TARGET", mode: "0600"}
      run_once: true
    - name: Tell
      goud_report:
        title: Nodes
        columns: [node, state]
        rows: [[node1, ready]]
        verdict: "{{ verdict | default('ok') }}"
        note: One node.
      run_once: true
    - name: Break
      ansible.builtin.fail:
        msg: "the disk is full: remove something"
      when: broken | default(false) | bool
"""


def play(tmp_path: Path, *arguments: str, text: str = PLAY, **environment: str) -> subprocess.CompletedProcess[str]:
    playbook = tmp_path / "probe.yml"
    playbook.write_text(text.replace("TARGET", str(tmp_path / "written")))
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [str(program), str(playbook), "-i", "node1,node2", "-c", "local"]
    command += ["-e", f"ansible_python_interpreter={sys.executable}", *arguments]
    settings = {"GOUD_REPORTS": str(tmp_path / "reports"), "ANSIBLE_NOCOLOR": "1", **environment}
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **settings}, check=False, capture_output=True, text=True
    )


def reports(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (tmp_path / "reports").glob("*.json")]


def test_text_output(tmp_path: Path) -> None:
    result = play(tmp_path, "--diff")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Change something  changed node" in result.stdout
    assert "+new" in result.stdout
    assert "│ node1 │ ready │" in result.stdout
    assert "node2        : ok=1    changed=1 " in result.stdout
    assert result.stdout.rstrip().splitlines()[-2].startswith("probe: ok in ")
    (report,) = reports(tmp_path)
    assert (report["verb"], report["result"]) == ("probe", "ok")
    assert report["reports"][0]["rows"] == [{"node": "node1", "state": "ready"}]


def test_json_output_is_one_document(tmp_path: Path) -> None:
    result = play(tmp_path, GOUD_OUTPUT="json")
    assert json.loads(result.stdout)["reports"][0]["title"] == "Nodes"
    assert "Change something" in result.stderr


def test_a_failure_is_complete_and_red(tmp_path: Path) -> None:
    result = play(tmp_path, "-e", "broken=true")
    assert result.returncode == 2
    assert "✗ node1 · Break: failed" in result.stdout
    assert "the disk is full: remove something" in result.stdout
    (report,) = reports(tmp_path)
    assert report["result"] == "failed"
    assert {failure["host"] for failure in report["failures"]} == {"node1", "node2"}


def test_a_failed_verdict_is_red_and_still_shown(tmp_path: Path) -> None:
    result = play(tmp_path, "-e", "verdict=failed")
    assert result.returncode == 2
    assert "│ node1 │ ready │" in result.stdout


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize("words", [("--tags", "nosuch"), ("--skip-tags", "all"), ("--start-at-task", "nosuch")])
def test_a_run_in_which_nothing_happened_is_red(tmp_path: Path, words: tuple[str, ...], output: str) -> None:
    result = play(tmp_path, *words, GOUD_OUTPUT=output)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "no task ran on any host" in (result.stdout if output == "text" else result.stderr)
    (report,) = reports(tmp_path)
    assert (report["result"], report["hosts"], report["reports"]) == ("failed", {}, [])
    assert "no task ran on any host" in report["error"]
    assert output == "text" or json.loads(result.stdout) == report


@pytest.mark.parametrize("words", [("--start-at-task", "Tell"), ("--start-at-task=Change*",), ("--step",)])
def test_what_passes_over_the_first_tasks_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = play(tmp_path, *words)
    assert result.returncode == 2, result.stdout + result.stderr
    assert f"{words[0].partition('=')[0]} would pass over what every verb looks at first" in result.stdout
    assert not (tmp_path / "written").exists()
    assert (reports(tmp_path)[0]["result"], reports(tmp_path)[0]["hosts"]) == ("failed", {})


def test_a_run_of_which_every_task_was_skipped_is_red(tmp_path: Path) -> None:
    head = "- hosts: all\n  gather_facts: false\n  tasks:\n"
    text = f"{head}    - ansible.builtin.debug:\n      when: false\n"
    result = play(tmp_path, text=text)
    assert (result.returncode, reports(tmp_path)[0]["result"]) == (2, "failed"), result.stdout + result.stderr


@pytest.mark.parametrize("option", ["--list-hosts", "--list-tasks", "--list-tags", "--syntax-check"])
def test_who_only_asks_what_a_playbook_holds_gets_that(tmp_path: Path, option: str) -> None:
    assert play(tmp_path, option).returncode == 0


def test_check_mode_changes_nothing_and_says_so(tmp_path: Path) -> None:
    result = play(tmp_path, "--check")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nothing is changed" in result.stdout
    assert not (tmp_path / "written").exists()
    assert reports(tmp_path)[0]["check_mode"] is True


def test_an_undefined_variable_shows_where(tmp_path: Path) -> None:
    head = "- hosts: all\n  gather_facts: false\n  tasks:\n"
    text = f"{head}    - name: X\n      ansible.builtin.debug: {{msg: '{{{{ nope }}}}'}}\n"
    result = play(tmp_path, text=text)
    assert result.returncode == 2
    assert "'nope' is undefined" in result.stdout + result.stderr
    assert "probe.yml:5" in result.stdout + result.stderr


BOILERPLATE = """---
- name: Check
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Check what was asked
      goud_boilerplate:
        groups: [GROUP]
"""


@pytest.mark.parametrize(
    ("group", "arguments", "sentence"),
    [
        ("all", (), None),
        ("all", ("-e", "preflight_disk_free_mb=10"), None),
        ("chain_nodes", (), "no host in the group 'chain_nodes'"),
        ("all", ("-e", "preflight_disk_fre_mb=10"), "did you mean 'preflight_disk_free_mb' (role preflight)?"),
        ("all", ("-e", "preflight_disk_free_mb=plenty"), "preflight_disk_free_mb"),
    ],
)
def test_boilerplate(tmp_path: Path, group: str, arguments: tuple[str, ...], sentence: str | None) -> None:
    result = play(tmp_path, *arguments, text=BOILERPLATE.replace("GROUP", group))
    if sentence is None:
        assert result.returncode == 0, result.stdout + result.stderr
    else:
        assert result.returncode == 2
        assert sentence in result.stdout


@pytest.mark.parametrize(("provider", "variable"), [("gcp", "GCP_PROJECT"), ("aws", "AWS_REGION")])
def test_missing_credentials_are_told_in_one_sentence(provider: str, variable: str) -> None:
    program = Path(sys.executable).with_name("ansible-playbook")
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GCP_", "GOUD_"))}
    result = subprocess.run(
        [program, "status.yml", "-i", f"inventories/{provider}"],
        cwd=ROOT, env={**bare, "ANSIBLE_NOCOLOR": "1"}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1
    (line,) = (result.stdout + result.stderr).strip().splitlines()
    assert line.startswith(f"[ERROR]: the inventory inventories/{provider} needs credentials: set {variable}")
    assert f"./run sandbox env {provider}" in line


def test_a_provider_that_cannot_be_asked_is_told_in_one_sentence() -> None:
    program = Path(sys.executable).with_name("ansible-playbook")
    nowhere = {"GCP_PROJECT": "p", "GCP_AUTH_KIND": "serviceaccount", "GCP_SERVICE_ACCOUNT_FILE": "/there-is-none.json"}
    result = subprocess.run(
        [program, "status.yml", "-i", "inventories/gcp"],
        cwd=ROOT, env={**os.environ, **nowhere, "ANSIBLE_NOCOLOR": "1"}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1
    (line,) = (result.stdout + result.stderr).strip().splitlines()
    assert line.startswith("[ERROR]: the inventory inventories/gcp cannot be read: ")
    assert "/there-is-none.json" in line


QUIET = """---
- name: Stop the nodes
  hosts: all
  gather_facts: false
  tasks:
    - name: Stop
      ansible.builtin.command: "true"
      when: false
    - name: Name what is there
      ansible.builtin.set_fact: {there: 1}
- name: Look at the nodes
  hosts: all
  gather_facts: false
  tasks:
    - name: Look
      ansible.builtin.command: "true"
"""


def test_a_play_in_which_nothing_happens_has_no_title(tmp_path: Path) -> None:
    result = play(tmp_path, text=QUIET)
    assert "▸ Stop the nodes" not in result.stdout
    assert "▸ Look at the nodes" in result.stdout
    assert "▸ Stop the nodes" in play(tmp_path, "-v", text=QUIET).stdout


REPEATED = """---
- name: Plan
  hosts: all
  gather_facts: false
  tasks:
    - name: Plan the restore
      block:
        - name: Ask the repository
          ansible.builtin.command: {argv: [sh, -c, "echo there is no such backup >&2; exit 3"]}
      rescue:
        - name: Fail, as there is no plan
          ansible.builtin.fail: {msg: "{{ ansible_failed_result.stderr }}"}
"""


def test_the_same_failure_is_told_in_full_once(tmp_path: Path) -> None:
    result = play(tmp_path, text=REPEATED)
    assert result.returncode == 2
    assert result.stdout.count("there is no such backup") == 1
    assert re.search(r"(node[12]) · Ask the repository: failed, as (?!\1)node[12] · Ask the repository", result.stdout)
    assert result.stdout.count("✗") == 2, "the rescue only passes on what was told"
    (report,) = reports(tmp_path)
    assert [failure["message"] for failure in report["failures"]].count("there is no such backup") == 2


SLOW = """---
- name: Change the nodes
  hosts: all
  gather_facts: false
  tasks:
    - name: Drain
      ansible.builtin.command: "true"
    - name: Wait for the node
      ansible.builtin.command: {argv: [sh, -c, "touch TARGET; sleep 60"]}
      when: inventory_hostname == 'node2'
"""


@pytest.mark.parametrize("output", ["text", "json"])
def test_an_interrupted_run_says_where_and_leaves_its_report(tmp_path: Path, output: str) -> None:
    (tmp_path / "probe.yml").write_text(SLOW.replace("TARGET", str(tmp_path / "begun")))
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [str(program), str(tmp_path / "probe.yml"), "-i", "node1,node2", "-c", "local"]
    command += ["-e", f"ansible_python_interpreter={sys.executable}"]
    settings = {"GOUD_REPORTS": str(tmp_path / "reports"), "ANSIBLE_NOCOLOR": "1", "GOUD_OUTPUT": output}
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as run:  # fmt: skip
        while not (tmp_path / "begun").exists():
            assert run.poll() is None
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGINT)
        stdout, stderr = run.communicate(timeout=60)
    assert run.returncode == 99
    progress = stdout if output == "text" else stderr
    assert "stopped before its end in 'Wait for the node'. What it does may be half done on node2." in progress
    assert "probe: interrupted in" in progress
    (report,) = reports(tmp_path)
    assert report["result"] == "interrupted"
    assert report["hosts"]["node1"] == {"changed": 1, "skipped": 1}
    assert [failure["task"] for failure in report["failures"]] == ["Change the nodes · Wait for the node"]
    if output == "json":
        assert json.loads(stdout) == report


FORGET = """---
- name: Forget
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Remove what a restore needed
      ansible.builtin.include_role: {name: chain_restore, tasks_from: forget}
      vars: {chain_restore_incoming: "{{ playbook_dir }}/incoming"}
"""


@pytest.mark.parametrize("odd", ["with space", "{{ nope }}", "{% if %}", 'a "quote"', "ümläut's"])
def test_a_checkout_may_lie_below_any_path(tmp_path: Path, odd: str) -> None:
    project = tmp_path / odd / "project"
    for name in ("ansible", "roles"):
        shutil.copytree(ROOT / name, project / name, symlinks=True)
    shutil.copy(ROOT / "ansible.cfg", project)
    (project / "ansible/playbooks/probe.yml").write_text(FORGET)
    (project / "ansible/playbooks/incoming").mkdir()
    (project / "probe.yml").write_text(
        "- name: Probe\n  ansible.builtin.import_playbook: ansible/playbooks/probe.yml\n"
    )
    program = Path(sys.executable).with_name("ansible-playbook")
    result = subprocess.run(
        [program, "probe.yml", "-e", json.dumps({"ansible_python_interpreter": sys.executable})],
        cwd=project, env={**os.environ, "ANSIBLE_NOCOLOR": "1"}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert not (project / "ansible/playbooks/incoming").exists()
