"""Words and surroundings that cannot mean what was asked are refused by name, before anything runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.checkout import ROOT, environment, write_program

pytestmark = pytest.mark.programs


@pytest.fixture
def place(project: Path) -> Path:
    """The checkout, with a stand-in for ansible-playbook that only writes down that it was called."""
    playbook = project / ".venv/bin/ansible-playbook"
    playbook.unlink()
    write_program(playbook, '#!/bin/sh\necho "$* DOCKER_HOST=$DOCKER_HOST" >>"$(dirname "$0")/played"\n')
    for verb in ("clean", "logs", "snapshots_prune"):
        (project / f"{verb}.yml").write_text("")
    return project


def run(place: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [place / "run", *words], env=environment(place) | variables, stdin=subprocess.DEVNULL, check=False,
        capture_output=True, text=True,
    )  # fmt: skip


def played(place: Path) -> list[str]:
    log = place / ".venv/bin/played"
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["clean", "--yes", "--list-tasks"], "only lists"),
        (["clean", "--yes", "--", "--help"], "only lists"),
        (["clean", "-e", "clean_confirm=true", "--", "--list-hosts"], "only lists"),
        (["clean", "--yes", "-e", "clean_confirm=false"], "both answer"),
        (["clean", "--yes", "--", "-eclean_confirm=no"], "both answer"),
        (["snapshots-prune", "--yes", "-e", '{"snapshots_prune_confirm": false}'], "both answer"),
        (["restore", "latest", "-e", "backup=20260131"], "two backups"),
        (["restore", "latest", "--", "-e", '{"backup": "20260131"}'], "two backups"),
        (["restore", "latest", "20260131"], "'latest' or '20260131'"),
        (["logs", "node1", "node2"], "'node1' or 'node2'"),
        (["status", "-e", "@absent.yml"], "there is no file"),
    ],
)
def test_words_that_contradict_each_other_are_refused(place: Path, words: list[str], sentence: str) -> None:
    result = run(place, *words)
    assert (result.returncode, played(place)) == (64, []), result.stderr
    assert sentence in result.stderr


@pytest.mark.parametrize(
    "words",
    [["clean", "--yes", "--check"], ["clean", "--list-tasks", "--check"], ["logs", "node1"],
     ["restore", "latest", "--yes", "-e", "backup_dest=/x"],
     ["status", "--list-hosts"]],
)  # fmt: skip
def test_words_that_agree_are_not(place: Path, words: list[str]) -> None:
    result = run(place, *words)
    assert (result.returncode, len(played(place))) == (0, 1), result.stderr


@pytest.mark.parametrize("words", [["status"], ["status", "--json"]])
def test_an_output_that_there_is_not_is_named(place: Path, words: list[str]) -> None:
    result = run(place, *words, GOUD_OUTPUT="jsn")
    assert (result.returncode, played(place)) == (64, [])
    assert "GOUD_OUTPUT is 'jsn'" in result.stderr
    if "--json" in words:
        assert "GOUD_OUTPUT is 'jsn'" in json.loads(result.stdout)["error"]


def test_a_checkout_that_everybody_may_write_is_named(place: Path) -> None:
    place.chmod(0o777)
    result = run(place, "status")
    assert (result.returncode, played(place)) == (64, [])
    assert "chmod o-w" in result.stderr


def test_the_shells_posix_mode_costs_no_document(place: Path) -> None:
    result = run(place, "status", "--json", POSIXLY_CORRECT="1")
    assert (result.returncode, json.loads(result.stdout)["verb"]) == (0, "status"), result.stderr


CONTEXT = """#!/bin/sh
[ "$1" = context ] || exit 0
[ "${DOCKER_CONTEXT:-used}" = used ] || { echo "no context $DOCKER_CONTEXT" >&2; exit 1; }
echo unix:///run/other.sock
"""


@pytest.mark.parametrize("chosen", ["variable", "docker context use"])
def test_a_context_of_docker_leads_playbooks_to_its_engine(place: Path, tmp_path: Path, chosen: str) -> None:
    write_program(place / "docker", CONTEXT)
    (tmp_path / "config.json").write_text('{"currentContext": "used"}' if chosen != "variable" else "{}")
    settings = {"DOCKER_CONFIG": str(tmp_path)} | ({"DOCKER_CONTEXT": "used"} if chosen == "variable" else {})
    result = run(place, "status", **settings)
    assert result.returncode == 0, result.stderr
    assert played(place)[0].endswith("DOCKER_HOST=unix:///run/other.sock")


def test_a_context_of_docker_that_there_is_not_is_named(place: Path) -> None:
    write_program(place / "docker", CONTEXT)
    result = run(place, "status", DOCKER_CONTEXT="gone")
    assert (result.returncode, played(place)) == (64, [])
    assert "unset DOCKER_CONTEXT" in result.stderr


@pytest.fixture
def checking(project: Path) -> Path:
    """The checks, with tools that write down what the environment tells them."""
    shutil.copy(ROOT / "scripts/check", project / "scripts")
    for name in ("ruff", "mypy", "lint-imports", "shellcheck", "yamllint", "ansible-lint", "pytest"):
        write_program(project / ".venv/bin" / name, '#!/bin/sh\nenv >>"$(dirname "$0")/../../seen"\n')
    return project


def check(place: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [place / "scripts/check"], env={**os.environ, **variables}, stdin=subprocess.DEVNULL, check=False,
        capture_output=True, text=True,
    )  # fmt: skip


def test_no_option_of_a_tool_makes_the_checks_green(checking: Path) -> None:
    names = ["SHELLCHECK_OPTS", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "MYPYPATH", "RUFF_NO_CACHE", "YAMLLINT_CONFIG_FILE"]
    check(checking, **dict.fromkeys(names, "of-the-operator"))
    assert "of-the-operator" not in (checking / "seen").read_text()


@pytest.mark.parametrize("names", ["mypi", "mypy,rufff", "mypy,,ruff"])
def test_a_check_that_there_is_not_is_named(checking: Path, names: str) -> None:
    result = check(checking, GOUD_CHECK_ONLY=names)
    assert (result.returncode, (checking / "seen").exists()) == (64, False)
    assert "there are: ruff format" in result.stderr
