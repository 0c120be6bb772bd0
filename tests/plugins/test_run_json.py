"""Who says --json gets one JSON document of one shape, however the verb ends, and the exit status of the verb."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import goud_tables
import outcome
from tests.support.checkout import ROOT, environment, write_program

pytestmark = pytest.mark.programs

SHAPE = set(goud_tables.document(goud_tables.Run("status", datetime.now(UTC)), finished=datetime.now(UTC)))
TABLE = """---
- hosts: localhost
  gather_facts: false
  tasks:
    - goud_report: {title: Plan, columns: [node], rows: [[node1]]}
    - ansible.builtin.fail: {msg: "the disk is full: remove something"}
      when: broken | default(false) | bool
"""


@pytest.fixture
def place(project: Path) -> Path:
    """The checkout with the project's own settings, plug-ins, and the inventory of a provider."""
    shutil.copy(ROOT / "ansible.cfg", project)
    shutil.copytree(ROOT / "ansible/plugins", project / "ansible/plugins", dirs_exist_ok=True)
    shutil.copytree(ROOT / "inventories/gcp", project / "inventories/gcp")
    for verb in ("status", "clean"):
        (project / f"{verb}.yml").write_text(TABLE)
    (project / "docs/runbooks").mkdir(parents=True)
    (project / "docs/runbooks/status.md").touch()
    return project


def run(place: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    surroundings = {name: value for name, value in environment(place).items() if not name.startswith("GCP_")}
    return subprocess.run(
        [place / "run", *words], env=surroundings | variables, stdin=subprocess.DEVNULL, check=False,
        capture_output=True, text=True,
    )  # fmt: skip


def document(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one document; json.loads refuses a second one, and any other word."""
    content: dict[str, Any] = json.loads(result.stdout)
    assert set(content) == SHAPE
    return content


def break_inventory(place: Path) -> None:
    (place / "inventories/local/hosts.yml").write_text("all:\n  hosts:\n    node1: {x: [\n")


def break_playbook(place: Path) -> None:
    (place / "status.yml").write_text("- hosts: all\n  taskss: []\n")


def break_bootstrap(place: Path) -> None:
    write_program(place / "scripts/bootstrap", "#!/bin/sh\necho 'bootstrap: no Python has venv' >&2\nexit 1\n")


def remove_python(place: Path) -> None:
    (place / ".venv/bin/python").unlink()


def as_it_is(_place: Path) -> None:
    """Nothing is broken."""


@pytest.mark.parametrize(
    ("words", "fault", "sentence", "step"),
    [
        (["stauts"], as_it_is, "'stauts' is not a verb. Did you mean 'status'?", "./run help"),
        (["status", "--limt", "x"], as_it_is, "'--limt' is not an option. Did you mean '--limit'?", "./run help"),
        (["status", "mars"], as_it_is, "'mars' is not an environment", "./run help"),
        (["status", "--limit", "nowhere"], as_it_is, "leaves us with no hosts to target", "docs/runbooks/status.md"),
        (["status", "gcp"], as_it_is, "needs credentials: set GCP_PROJECT", "docs/runbooks/status.md"),
        (["status", "--forks", "many"], as_it_is, "argument -f/--forks: invalid", "docs/runbooks/status.md"),
        (["status"], break_inventory, "failed to parse inventory source", "docs/runbooks/status.md"),
        (["status"], break_playbook, "'taskss' is not a valid attribute for a Play", "docs/runbooks/status.md"),
        (["status"], break_bootstrap, "no Python has venv", "docs/runbooks/status.md"),
        (["stauts"], remove_python, "'stauts' is not a verb.", "./run help"),
    ],
)
def test_what_fails_before_its_playbook_is_told_like_a_run(
    place: Path, words: list[str], fault: Any, sentence: str, step: str
) -> None:
    fault(place)
    plain = run(place, *words)
    result = run(place, *words, "--json")
    content = document(result)
    assert result.returncode == plain.returncode != 0
    assert (content["verb"], content["result"], content["next"]) == (words[0], "failed", step)
    assert sentence in content["error"]
    assert sentence in content["failures"][0]["message"]
    assert sentence in result.stderr, "people read it, too"
    assert (content["hosts"], content["reports"]) == ({}, [])


def test_a_parse_error_of_an_inventory_comes_with_its_cause(place: Path) -> None:
    break_inventory(place)
    (failure,) = document(run(place, "status", "--json"))["failures"]
    assert "While parsing a flow node did not find expected node content" in failure["message"]


def test_a_run_that_ends_well_or_fails_has_its_own_document(place: Path) -> None:
    result = run(place, "status", "--json", "-v")
    content = document(result)
    assert (result.returncode, content["result"], content["error"], content["next"]) == (0, "ok", None, None)
    result = run(place, "status", "-e", "broken=true", GOUD_OUTPUT="json")
    content = document(result)
    assert (result.returncode, content["result"]) == (2, "failed")
    assert "the disk is full: remove something" in content["error"]
    assert content["next"] == "docs/runbooks/status.md"
    assert list((place / "reports").glob("status-*.json")), "as without --json"


def test_a_plan_that_nobody_answered_is_in_the_document_that_fails(place: Path) -> None:
    result = run(place, "clean", "--json")
    content = document(result)
    assert (result.returncode, content["result"]) == (64, "failed")
    assert "say --yes" in content["error"]
    assert content["reports"][0]["title"] == "Plan"


def test_a_run_of_two_playbooks_answers_with_what_was_done(place: Path) -> None:
    content = document(run(place, "restore", "--yes", "--json", "-e", f"target={place / 'values.json'}"))
    assert (content["verb"], content["result"]) == ("restore", "ok")


def test_what_is_no_document_goes_to_standard_error(place: Path) -> None:
    result = run(place, "status", "--json", "--list-hosts")
    assert document(result)["result"] == "ok"
    assert "hosts (1)" in result.stderr
    write_program(place / "scripts/check", "#!/bin/sh\necho check: clean\n")
    result = run(place, "check", "--json")
    assert document(result)["verb"] == "check"
    assert "check: clean" in result.stderr


def test_an_interrupted_run_is_told_by_one_document(place: Path) -> None:
    (place / "deploy.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n  tasks:\n    - ansible.builtin.command: {argv: [sh, -c, "
        f"{json.dumps('touch begun; sleep 60')}]}}\n"
    )
    (place / "start.yml").write_text(TABLE)
    with subprocess.Popen(
        [place / "run", "deploy", "--json"], env=environment(place), start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not (place / "begun").exists():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    content = json.loads(output)
    assert (content["verb"], content["result"]) == ("deploy", "interrupted")


@contextmanager
def started(place: Path, *words: str, terminal: bool, stdin: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """./run VERB --json as the leader of a session, with or without a terminal; and where somebody types and reads."""
    keyboard, screen = pty.openpty()
    session = ["setsid", "--ctty"] if terminal else ["setsid"]
    with subprocess.Popen(
        [*session, "bash", "-c", f'exec "$@" <{stdin}', "-", place / "run", *words, "--json"], env=environment(place),
        stdin=screen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process, keyboard
        finally:
            process.kill()
            os.close(keyboard)
            os.close(screen)


@pytest.mark.parametrize(
    ("terminal", "stdin", "number"),
    [
        (False, "/dev/null", signal.SIGTERM),
        (False, "&0", signal.SIGHUP),
        (True, "/dev/null", signal.SIGTERM),
        (True, "/dev/tty", signal.SIGTERM),
        (True, "/dev/tty", signal.SIGHUP),
    ],
)
def test_a_run_that_is_told_to_end_ends_and_is_told_by_one_document(
    place: Path, terminal: bool, stdin: str, number: signal.Signals
) -> None:
    """Who supervises it knows the one process that was started: what it started ends with it."""
    command = json.dumps("echo $$ > begun; mv begun ready; exec sleep 20")
    (place / "status.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n  tasks:\n    - ansible.builtin.command: {argv: [sh, -c, "
        f"{command}]}}\n    - ansible.builtin.command: touch after\n"
    )
    with started(place, "status", terminal=terminal, stdin=stdin) as (process, _):
        while not (place / "ready").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    content = json.loads(output)
    assert (content["verb"], content["result"]) == ("status", "interrupted"), errors
    assert not (place / "after").exists()


def ask_as_sudo_does(place: Path) -> None:
    write_program(
        place / "scripts/bootstrap",
        "#!/bin/sh\nprintf 'password: ' >/dev/tty\nread -r word </dev/tty\n[ \"$word\" = secret ]\n",
    )


QUESTIONS = [([], ask_as_sudo_does, "/dev/null"), ([], ask_as_sudo_does, "/dev/tty"), (["-K"], as_it_is, "/dev/null")]


@pytest.mark.parametrize(("words", "fault", "stdin"), QUESTIONS)
def test_what_asks_at_the_terminal_is_answered_there(place: Path, words: list[str], fault: Any, stdin: str) -> None:
    fault(place)
    with started(place, "status", *words, terminal=True, stdin=stdin) as (process, keyboard):
        assert b"assword: " in os.read(keyboard, 1000)
        os.write(keyboard, b"secret\n")
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, json.loads(output)["result"]) == (0, "ok"), errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_costs_no_document(place: Path, number: signal.Signals) -> None:
    """A terminal that closes, `timeout`, Ctrl-C: the run may end in the moment in which its script gets the signal."""
    ask_as_sudo_does(place)
    for _ in range(8):
        with started(place, "status", terminal=True, stdin="/dev/null") as (process, keyboard):
            assert b"assword: " in os.read(keyboard, 1000)
            os.killpg(process.pid, number)
            output, errors = process.communicate(timeout=20)
        assert process.returncode == 128 + number, errors
        assert json.loads(output)["result"] == "interrupted"


@pytest.mark.parametrize(("words", "fault", "stdin"), QUESTIONS)
def test_ctrl_c_ends_what_asks_at_the_terminal(place: Path, words: list[str], fault: Any, stdin: str) -> None:
    fault(place)
    with started(place, "status", *words, terminal=True, stdin=stdin) as (process, keyboard):
        assert b"assword: " in os.read(keyboard, 1000)
        os.write(keyboard, b"\x03")
        output, errors = process.communicate(timeout=20)
    assert process.returncode in {99, 130}, errors
    assert json.loads(output)["result"] == "interrupted"


@pytest.mark.parametrize("folder", ["absent", "run", "absent/below"])
def test_a_run_without_a_place_for_its_files_is_told_by_one_document(place: Path, folder: str) -> None:
    files = sorted([*place.iterdir(), *Path("/").iterdir()])
    result = run(place, "status", "--json", TMPDIR=str(place / folder))
    content = document(result)
    assert (result.returncode, content["verb"], content["result"]) == (1, "status", "failed")
    assert "mktemp: failed to create directory" in content["error"]
    step = "TMPDIR is to name a folder that can be written"
    assert step in content["error"]
    assert step in result.stderr
    assert sorted([*place.iterdir(), *Path("/").iterdir()]) == files


@pytest.mark.parametrize("python", [f'exec {sys.executable} -S "$@"', "exit 1", "kill -KILL $$"])
def test_a_broken_environment_costs_no_document(place: Path, python: str) -> None:
    write_program(place / ".venv/bin/python", f"#!/bin/sh\n{python}\n")
    result = run(place, "stauts", "--json")
    content = document(result)
    assert (result.returncode, content["verb"], content["result"]) == (64, "stauts", "failed")
    assert "'stauts' is not a verb" in content["error"]
    write_program(place / "scripts/check", "#!/bin/sh\necho check: clean\n")
    result = run(place, "check", "--json")
    assert (result.returncode, document(result)["result"]) == (1, "failed"), "nobody takes it for a run that is proven"


@pytest.mark.parametrize("words", [["status"], ["stauts"], ["status", "-e", "@values.yml"]])
def test_a_folder_that_was_removed_ends_a_run_as_without_a_document(
    place: Path, tmp_path: Path, words: list[str]
) -> None:
    outcomes = []
    for option in ([], ["--json"]):
        folder = tmp_path / "gone"
        folder.mkdir()
        result = subprocess.run(
            ["bash", "-c", 'rmdir "$PWD"; exec "$@"', "-", place / "run", *words, *option], cwd=folder,
            env=environment(place), stdin=subprocess.DEVNULL, check=False, capture_output=True, text=True,
        )  # fmt: skip
        outcomes.append(result.returncode)
    assert outcomes[1] == outcomes[0]
    content = document(result)
    assert content["result"] == ("failed" if outcomes[0] else "ok")
    if content["failures"]:
        assert words[-1].removeprefix("@") in content["failures"][0]["message"], "the cause, and no cause of its own"


@pytest.mark.parametrize("words", [["--json"], ["--json", "status"], ["--check", "--json"]])
def test_an_option_is_no_verb(place: Path, words: list[str]) -> None:
    for fault in (as_it_is, remove_python):
        fault(place)
        result = run(place, *words)
        content = document(result)
        assert (result.returncode, content["verb"], content["result"]) == (64, "run", "failed")


@pytest.mark.parametrize(
    ("play", "sentence"),
    [
        ('- {hosts: "{{ nowhere }}", tasks: []}', "'nowhere' is undefined"),
        ('- {hosts: all, serial: "{{ nowhere }}", tasks: [{meta: noop}]}', "'nowhere' is undefined"),
    ],
)
def test_an_error_between_two_plays_is_no_interruption(place: Path, play: str, sentence: str) -> None:
    (place / "status.yml").write_text(f"{TABLE}{play}\n")
    plain = run(place, "status")
    result = run(place, "status", "--json")
    content = document(result)
    assert result.returncode == plain.returncode not in outcome.INTERRUPTED
    assert content["result"] == "failed"
    assert sentence in content["error"]
    assert [report["title"] for report in content["reports"]] == ["Plan"], "what was shown before is kept"
    assert sentence in content["failures"][0]["message"]


@pytest.mark.parametrize("status", [1, 4, 250, *sorted(outcome.INTERRUPTED)])
def test_only_an_interrupted_run_is_told_as_one(status: int) -> None:
    now = datetime.now(UTC)
    whole = goud_tables.document(goud_tables.Run("status", now, interrupted=True), finished=now)
    content = outcome.outcome("status", status, [whole], "[ERROR]: the disk is full\n", now)
    assert content["result"] == ("interrupted" if status in outcome.INTERRUPTED else "failed")
    assert ("the disk is full" in content["error"]) is (content["result"] == "failed")


SEPARATORS = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r"]


@pytest.mark.parametrize("separator", SEPARATORS, ids=ascii)
def test_a_document_is_one_line_whatever_its_texts_hold(separator: str) -> None:
    text = f"a{separator}b"
    content = goud_tables.document(goud_tables.Run("logs", datetime.now(UTC), begun=False), finished=datetime.now(UTC))
    content["failures"] = [{"host": text, "task": text, "place": "", "message": text}]
    output = f"{text}\n{json.dumps(content, ensure_ascii=False)}\n"
    documents, remarks = outcome.separate(output)
    assert (documents, remarks) == ([content], [text])
    assert outcome.outcome("logs", 0, documents, "", datetime.now(UTC)) == content
    assert outcome.cause(f"first\n[ERROR]: the disk{separator}is full\n")[0].endswith("is full")


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--json", "help"],
        ["status", "--json=yes"],
        ["status", "--json="],
        ["status", "--json", "--tags", "help", "--nosuch"],
        ["status", "--json", "-e", "--help", "--nosuch"],
        ["status", "--limit", "-h", "--nosuch", "--json"],
        ["status", "--json", "--tags=--help", "--nosuch"],
        ["status", "--help=yes", "--json"],
        ["--json", "help"],
        ["status", "--json", "--limit"],
    ],
)
def test_wrong_usage_is_told_by_one_document(place: Path, words: list[str]) -> None:
    result = run(place, *words)
    content = document(result)
    assert (result.returncode, content["result"], content["next"]) == (64, "failed", "./run help")
    assert content["error"] in result.stderr


@pytest.mark.parametrize("words", [["status", "-e", "--json", "--nosuch"], ["status", "--", "--json"], ["--jsn"]])
def test_who_does_not_ask_for_a_document_gets_none(place: Path, words: list[str]) -> None:
    assert not run(place, *words).stdout.startswith("{")


@pytest.mark.parametrize(
    "words", [["help", "--json"], ["--help", "--json"], ["-h", "--json"], ["status", "--json", "--help"]]
)
def test_help_stays_text(place: Path, words: list[str]) -> None:
    assert run(place, *words).stdout.startswith("Goud Chain")
