"""What ./run makes of its words: values arrive as they stand, and an interrupted deploy is taken back."""

from __future__ import annotations

import ast
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import checkout
from tests.support.checkout import TELL, environment

pytestmark = pytest.mark.programs

VALUES = [
    "/srv/with space/a.tar.gz", "ümläut/ß", 'a "quote"', "an 'apostrophe'", "{{ nope }}", "{% if %}", "a=b c=d",
    "back\\slash \\n", "two\nlines\tand a tab", "[not, a, list]", "{not: a mapping}", "# no comment", "true", "",
    *(f"a{chr(number)}b" for number in (*range(1, 32), 127, 0x85, 0x2028)), "a\r\nb", "\x1b[31mred\x1b[0m & \\u0041",
    "\r", "\x01",
]  # fmt: skip
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


def test_values_arrive_as_they_stand(project: Path) -> None:
    values = {f"probe_{number}": value for number, value in enumerate(VALUES)}
    words = [word for name, value in values.items() for word in ("-e", f"{name}={value}")]
    target = project / "values"
    result = subprocess.run(
        [project / "run", "backup", *words, "-e", f"target={target}", '--extra-vars={"probe_json": [1]}'],
        env=environment(project), check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads(target.read_text()) == values | {"probe_json": [1]}


@pytest.mark.parametrize("name", ["a b.tar.gz", "{{ x }}.tar.gz", "ü'\".tar.gz"])
def test_an_archive_is_found_from_where_the_command_is_typed(project: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    (project / "restore.yml").write_text(TELL.replace("VALUES", "{'probe_backup': backup}"))
    target = project / "values"
    result = subprocess.run(
        [project / "run", "restore", name, "-e", f"target={target}"],
        cwd=tmp_path, env=environment(project), stdin=subprocess.DEVNULL, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 64, "nobody answered"
    assert json.loads(target.read_text()) == {"probe_backup": str(tmp_path / name)}


@pytest.mark.parametrize(
    "words", [("restore", "nofile"), ("restore", "there-is-no.tar.gz"), ("status", "--jsn"), ("stauts",)]
)
def test_what_makes_no_sense_is_refused_before_anything_starts(project: Path, words: tuple[str, ...]) -> None:
    (project / ".venv/bin/ansible-playbook").unlink()
    (project / "scripts/bootstrap").unlink()
    result = subprocess.run(
        [project / "run", *words], env=environment(project), check=False, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (64, "", 1)
    assert words[-1] in result.stderr


EMPTY = [
    ("restore", "", "latest", "--yes"), ("restore", "local", "", "--yes"), ("clean", ""), ("logs", "", "node1"),
    ("volumes-inspect", "", "node1"), ("", "local"), ("clean", "--limit", "", "--yes"), ("clean", "--limit=", "--yes"),
    ("deploy", "-e", ""), ("status", "--tags", ""), ("check", ""), ("bench", ""), ("sandbox", ""),
    ("sandbox", "env", ""),
]  # fmt: skip


@pytest.mark.parametrize("words", EMPTY)
def test_an_empty_word_is_refused(playing: Path, words: tuple[str, ...]) -> None:
    """It is what a shell makes of a variable that is not set: what was meant is not known."""
    result = subprocess.run(
        [playing / "run", *words], env=environment(playing), stdin=subprocess.DEVNULL, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (result.returncode, result.stdout, played(playing)) == (64, "", [])
    assert "empty" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("backup-volumes.sh", "-e", ""),
        ("backup-volumes.sh", "-d", ""),
        ("restore-volumes.sh", "-b", "ARCHIVE", "-e", ""),
        ("restore-volumes.sh", "-b", "ARCHIVE", "-c", ""),
        ("restore-volumes.sh", "-b", ""),
    ],
)
def test_a_script_refuses_an_empty_value(playing: Path, words: tuple[str, ...]) -> None:
    archive = playing / "a.tar.gz"
    archive.touch()
    script, *options = words
    shutil.copy(checkout.ROOT / "scripts" / script, playing / "scripts")
    options = [option.replace("ARCHIVE", str(archive)) for option in options]
    result = subprocess.run(
        [playing / "scripts" / script, *options], env=environment(playing), stdin=subprocess.DEVNULL, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (result.returncode, played(playing)) == (64, [])
    assert "needs a value" in result.stderr


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


COUNTING = """#!{python}
import pathlib, sys
with pathlib.Path(__file__).with_name("played").open("a") as log:
    log.write(repr(sys.argv[1:]) + "\\n")
"""


@pytest.fixture
def playing(project: Path) -> Path:
    """The project, with a stand-in for ansible-playbook that only writes down what it is asked for."""
    playbook = project / ".venv/bin/ansible-playbook"
    playbook.unlink()
    playbook.write_text(COUNTING.replace("{python}", sys.executable))
    playbook.chmod(0o755)
    for verb in ("clean", "prune", "destroy", "snapshots_prune"):
        (project / f"{verb}.yml").write_text("")
    return project


def played(project: Path) -> list[list[str]]:
    log = project / ".venv/bin/played"
    return [ast.literal_eval(line) for line in log.read_text().splitlines()] if log.exists() else []


def confirmations(project: Path) -> list[str]:
    """What each run of a playbook was told as confirmation; an empty text is a plan."""
    return ["".join(word for word in words if "_confirm" in word) for words in played(project)]


def answer(project: Path, typed: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a verb at a terminal, where somebody types this line."""
    controller, terminal = pty.openpty()
    try:
        os.write(controller, f"{typed}\n".encode())
        return subprocess.run(
            [project / "run", *words], env=environment(project), stdin=terminal, check=False, capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip
    finally:
        os.close(controller)
        os.close(terminal)


@pytest.mark.parametrize(
    ("verb", "typed", "value"),
    [("destroy", "goud-gcp", "goud-gcp"), ("clean", "local", "true"), ("restore", "local", "true")],
)
def test_a_destructive_verb_shows_its_plan_and_asks(playing: Path, verb: str, typed: str, value: str) -> None:
    refusal = answer(playing, "", verb)
    assert (refusal.returncode, confirmations(playing)) == (64, [""])
    assert "nothing was done" in refusal.stderr
    result = answer(playing, typed, verb)
    assert result.returncode == 0, result.stderr
    answers = confirmations(playing)[1:]
    assert answers[0] == ""
    assert json.loads(answers[1]) == {f"{verb}_confirm": {"__ansible_unsafe": value}}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("destroy",), "-e destroy_confirm=<cluster name>"),
        (("destroy", "--yes"), "-e destroy_confirm=<cluster name>"),
        (("clean",), "say --yes"),
        (("snapshots-prune",), "say --yes"),
    ],
)
def test_where_nobody_can_answer_only_the_plan_is_shown(playing: Path, words: tuple[str, ...], sentence: str) -> None:
    result = subprocess.run(
        [playing / "run", *words], env=environment(playing), stdin=subprocess.DEVNULL, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (result.returncode, confirmations(playing)) == (64, [""])
    assert sentence in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("destroy", "-e", "destroy_confirm=goud-gcp"),
        ("destroy", '--extra-vars={"destroy_confirm": "goud-gcp"}'),
        ("destroy", "-e", "@FILE"),
        ("clean", "-e", "clean_confirm=true"),
        ("clean", "--check"),
        ("clean", "--yes"),
        ("clean", "--", "-e", "clean_confirm=true"),
        ("clean", "--", "--extra-vars", '{"clean_confirm": true}'),
        ("clean", "--", "-e", "@FILE"),
        ("clean", "--", "-e@FILE"),
        ("clean", "--", "--extra-vars=@FILE"),
        ("clean", "--", "--check"),
        ("clean", "--", "-DC"),
        ("destroy", "--", "-e", "destroy_confirm=goud-gcp"),
    ],
)
def test_what_was_answered_before_is_not_asked(playing: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "answers.yml").write_text("destroy_confirm: goud-gcp\nclean_confirm: true\n")
    words = tuple(word.replace("FILE", str(tmp_path / "answers.yml")) for word in words)
    result = answer(playing, "", *words)
    assert result.returncode == 0, result.stderr
    assert len(played(playing)) == 1


@pytest.mark.parametrize("words", [("--", "-e", "Clean=1"), ("--", "-v"), ("--", "-e", "@FILE"), ("-e", "x=-C y")])
def test_what_answers_nothing_is_asked(playing: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "answers.yml").write_text("other: true\n")
    words = tuple(word.replace("FILE", str(tmp_path / "answers.yml")) for word in words)
    assert answer(playing, "", "clean", *words).returncode == 64


@pytest.mark.parametrize("name", ["vars.yml", "below/vars.yml", "../vars.yml", "a b ü'\".yml"])
def test_a_file_of_variables_is_found_from_where_the_command_is_typed(project: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "here"
    (folder / "below").mkdir(parents=True)
    (folder / name).write_text("probe_one: 1\n")
    for option in (["-e", f"@{name}"], [f"--extra-vars=@{name}"], ["-e", f"@{folder / name}"]):
        target = tmp_path / "values"
        result = subprocess.run(
            [project / "run", "backup", *option, "-e", f"target={target}"],
            cwd=folder, env=environment(project), check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        assert json.loads(target.read_text()) == {"probe_one": 1}
        target.unlink()


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        (("--limit", "@hosts"), "@HERE/hosts,localhost"),
        (("--private-key", "keys/id"), "HERE/keys/id"),
        (("--vault-password-file", "/etc/word"), "/etc/word"),
        (("--become-password-file=word",), "HERE/word"),
        (("--vault-id", "prod@word"), "prod@HERE/word"),
        (("--vault-id", "prod@prompt"), "prod@prompt"),
        (("--vault-id", "word"), "HERE/word"),
        (("--vault-password-file", "~/word"), "~/word"),
        (("--user", "name"), "name"),
    ],
)
def test_files_that_options_name_are_those_of_here(
    playing: Path, tmp_path: Path, words: tuple[str, ...], passed: str
) -> None:
    subprocess.run([playing / "run", "status", *words], cwd=tmp_path, env=environment(playing), check=True)
    assert passed.replace("HERE", str(tmp_path)) in played(playing)[0]


@pytest.mark.parametrize(
    ("limit", "passed"),
    [
        ("node2", "node2,localhost"),
        ("node1,node2", "node1,node2,localhost"),
        ("node[1:2]", "node[1:2]:localhost"),
        ("chain_nodes:edge", "chain_nodes:edge:localhost"),
        ("chain_nodes:!node3", "chain_nodes:!node3:localhost"),
        ("!node3", "all,!node3,localhost"),
        ("!node3:!edge1", "all:!node3:!edge1:localhost"),
        ("!node3, !edge1", "all,!node3, !edge1,localhost"),
    ],
)
def test_a_limit_never_leaves_out_where_the_verdict_is(playing: Path, limit: str, passed: str) -> None:
    for words in (["--limit", limit], [f"--limit={limit}"], ["-l", limit]):
        subprocess.run([playing / "run", "status", *words], env=environment(playing), check=True)
    assert {
        words[words.index(next(word for word in words if word in {"--limit", "-l"})) + 1] for words in played(playing)
    } == {passed}


SAYING = """---
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.debug: {msg: "{{ item }} of many lines"}
      loop: "{{ range(200) | list }}"
    - ansible.builtin.copy: {content: "done", dest: "{{ target }}", mode: "0600"}
"""
TRACES = ("Traceback", "Errno", "Exception", "rror:")


@pytest.mark.parametrize(
    "ending",
    [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "| head -1", "2>&1 | head -1", "2> >(head -1 >&2)", "| true"],
)
def test_nobody_has_to_listen_to_the_end(project: Path, tmp_path: Path, ending: str) -> None:
    (project / "status.yml").write_text(SAYING)
    target = tmp_path / "target"
    words = f"set -o pipefail; {shlex.quote(str(project / 'run'))} status -e target={shlex.quote(str(target))} {ending}"
    result = subprocess.run(
        ["bash", "-c", words], env=environment(project), stdin=subprocess.DEVNULL, check=False, capture_output=True,
        text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert target.read_text() == "done", "the work goes on"
    assert not [line for line in (result.stdout + result.stderr).splitlines() if any(word in line for word in TRACES)]


def a_file(home: Path) -> None:
    home.write_text("")


def absent(_home: Path) -> None:
    """No such folder."""


def with_a_file_in_the_way(home: Path) -> None:
    home.mkdir()
    (home / ".ansible").write_text("")


def with_a_link_that_leads_nowhere(home: Path) -> None:
    (home / ".ansible").parent.mkdir()
    (home / ".ansible").symlink_to(home / "nowhere/at/all")


@pytest.mark.parametrize("fault", [a_file, absent, with_a_file_in_the_way, with_a_link_that_leads_nowhere, None])
@pytest.mark.parametrize("verb", ["status"])
def test_a_home_that_cannot_be_used_is_said(
    project: Path, tmp_path: Path, fault: Callable[[Path], None] | None, verb: str
) -> None:
    (project / "status.yml").write_text(SAYING)
    home = tmp_path / "home"
    surroundings = environment(project) | {"HOME": str(home)}
    if fault is None:
        del surroundings["HOME"]
    else:
        fault(home)
    target = tmp_path / "target"
    result = subprocess.run(
        [project / "run", verb, "-e", f"target={target}"], env=surroundings, check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert target.read_text() == "done"
    assert "cannot be used: this run takes /" in result.stderr
