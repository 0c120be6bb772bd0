"""Who ends a script ends all that it has started, whoever started the script, and however."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.checkout import ROOT, environment, write_program

pytestmark = pytest.mark.programs

ENDINGS = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
LONG = "echo $$ >begun.part; mv begun.part begun; sleep 20; touch after"


@pytest.fixture(params=["", "trap '' INT;"], ids=["plain", "INT ignored"])
def shell(request: pytest.FixtureRequest) -> list[str]:
    """What starts a script: in the background of another script Ctrl-C is ignored."""
    return ["bash", "-c", f'{request.param} exec "$@"', "-"]


@contextmanager
def started(place: Path, *command: object) -> Iterator[subprocess.Popen[str]]:
    """A command as the leader of a session without a terminal, once it has begun its work."""
    with subprocess.Popen(
        [str(word) for word in command], cwd=place, env=environment(place), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            while not (place / "begun").exists():
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def runs(place: Path) -> bool:
    """Whether what began still runs."""
    return Path("/proc", (place / "begun").read_text().strip()).exists()


def ended(place: Path, process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=15)
    deadline = time.monotonic() + 3  # at SIGTERM Ansible does not wait for what it has told to end
    while runs(place) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(place), output
    assert not (place / "after").exists()
    return process.returncode, output


@pytest.mark.parametrize("number", ENDINGS)
@pytest.mark.parametrize("verb", ["status", "clean"])
def test_a_playbook_ends_with_its_run(project: Path, shell: list[str], verb: str, number: signal.Signals) -> None:
    task = json.dumps({"ansible.builtin.command": {"argv": ["sh", "-c", LONG]}})
    (project / f"{verb}.yml").write_text(f"- hosts: localhost\n  gather_facts: false\n  tasks:\n    - {task}\n")
    with started(project, *shell, "./run", verb) as process:
        if number == signal.SIGINT and "trap" in shell[2]:
            number = signal.SIGTERM  # Ctrl-C says nothing to it
        process.send_signal(number)
        status, output = ended(project, process)
    assert status == 128 + number, output


@pytest.mark.parametrize("verb", ["status", "check"])
def test_what_is_installed_ends_with_its_run(project: Path, shell: list[str], verb: str) -> None:
    write_program(project / "scripts/bootstrap", f"#!/bin/sh\n{LONG}\n")
    with started(project, *shell, "./run", verb) as process:
        process.send_signal(signal.SIGTERM)
        assert ended(project, process)[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize("tool", ["ruff", "ansible-lint", "pytest"])
def test_the_checks_end_with_their_script(project: Path, shell: list[str], tool: str) -> None:
    shutil.copy(ROOT / "scripts/check", project / "scripts")
    for name in ("ruff", "mypy", "lint-imports", "shellcheck", "yamllint", "ansible-lint", "pytest"):
        write_program(project / ".venv/bin" / name, f"#!/bin/sh\n{LONG if name == tool else ''}\n")
    with started(project, *shell, "scripts/check") as process:
        process.send_signal(signal.SIGTERM)
        status, output = ended(project, process)
    assert status == 128 + signal.SIGTERM
    assert "check: clean" not in output


def test_a_document_of_a_run_that_was_ended_is_not_well(project: Path, shell: list[str]) -> None:
    task = json.dumps({"ansible.builtin.command": {"argv": ["sh", "-c", LONG]}})
    (project / "status.yml").write_text(f"- hosts: localhost\n  gather_facts: false\n  tasks:\n    - {task}\n")
    with started(project, *shell, "./run", "status", "--json") as process:
        process.send_signal(signal.SIGTERM)
        status, output = ended(project, process)
    assert status == 128 + signal.SIGTERM
    assert json.loads(output.splitlines()[-1])["result"] == "interrupted"
