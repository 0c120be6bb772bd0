""".ci/run leaves nothing of its own behind however it ends, and touches nothing that is another's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import documentation
import goud_owner
from tests.support.checkout import write_program

pytestmark = pytest.mark.programs

ROOT = documentation.ROOT
CLUSTER = "goud-test"
NOBODY = 65534
# What stands in for the engine: its answers are files, and every program writes down that it was called.
DOCKER = """#!/bin/bash
[[ ! -e $PLACE/stopped ]] && { [[ ! -e $PLACE/closed ]] || [[ -n ${IN_GROUP:-} ]]; } || exit 1
echo "docker $*" >>"$PLACE/calls"
case "$1 $2 $*" in
"volume inspect "*) cat "$PLACE/mark" ;;
"volume ls "*role=owner*) [[ ! -e $PLACE/mark ]] || echo mark ;;
*" ls "*) echo "$1-left" ;;
esac
"""
GROUP = """#!/bin/bash
[[ ! -e $PLACE/no-group ]] || exit 1
while [[ $1 != *docker ]] || [[ $1 == --group=docker ]]; do shift; done
IN_GROUP=1 exec "$@"
"""
BOOTSTRAP = """#!/bin/bash
echo "bootstrap $*" >>"$PLACE/calls"
[[ $* == *--stop-engine* ]] && exit
while (($#)) && [[ $1 != --started ]]; do shift; done
[[ ! -e $PLACE/stopped ]] || { rm "$PLACE/stopped"; [[ -z ${2:-} ]] || touch "$2"; }
[[ ! -e $PLACE/slow-bootstrap ]] || { touch "$PLACE/begun"; sleep 60; }
[[ ! -e $PLACE/no-bootstrap ]]
"""
RUN = """#!/bin/bash
echo "run $*" >>"$PLACE/calls"
[[ ! -e $PLACE/slow ]] || { touch "$PLACE/begun"; sleep 60; }
[[ ! -e $PLACE/stubborn ]] || { trap '' INT TERM HUP; touch "$PLACE/begun"; sleep 60; sleep 60; }
[[ ! -e $PLACE/broken ]]
"""
REMOVED = ["docker container rm --force --volumes container-left", "docker network rm network-left"]
REMOVED += ["docker volume rm volume-left"]
STOPPED = "bootstrap --stop-engine"


class Place:
    """A checkout in which .ci/run starts at once; it is run by an account that permissions bind."""

    def __init__(self, top: Path) -> None:
        self.top, self.project, self.other = top, top / "project", top / "other"
        for folder in ("scripts", "programs", ".ci", ".venv/bin", ".secrets/test"):
            (self.project / folder).mkdir(parents=True)
        shutil.copy(ROOT / ".ci/run", self.project / ".ci")
        shutil.copy(ROOT / "scripts/environment", self.project / "scripts")
        shutil.copytree(ROOT / "ansible/plugins/module_utils", self.project / "ansible/plugins/module_utils")
        python = sys.executable if os.geteuid() else "/usr/bin/python3"  # root's own may be closed to others
        programs = {"run": RUN, "scripts/bootstrap": BOOTSTRAP, "programs/docker": DOCKER}
        programs |= {"programs/sudo": GROUP, "programs/sg": "#!/bin/sh\nexit 1\n"}
        for name, text in programs.items():
            write_program(self.project / name, text)
        write_program(self.project / ".venv/bin/python", f'#!/bin/sh\nexec {python} "$@"\n')
        self.own()

    def own(self) -> None:
        """Give all of it to the account."""
        for path in [self.top, *self.top.rglob("*")]:
            if os.geteuid() == 0:
                os.chown(path, NOBODY, NOBODY)

    def say(self, *names: str) -> None:
        for name in names:
            (self.top / name).touch()

    def mark(self, keys: Path) -> None:
        """The mark of a checkout with these keys."""
        checkout = goud_owner.identify(goud_owner.read_checkout(keys, keys.parent / "state"))
        (self.top / "mark").write_text(json.dumps(goud_owner.mark_labels(CLUSTER, checkout)))

    def start(self, prelude: str = "", **variables: str) -> subprocess.Popen[str]:
        self.own()
        account = NOBODY if os.geteuid() == 0 else None
        settings = {"PATH": f"{self.project / 'programs'}:{os.environ['PATH']}", "PLACE": str(self.top)}
        return subprocess.Popen(
            ["bash", "-c", f'{prelude} exec "$@"', "-", self.project / ".ci/run"],
            env={**os.environ, **settings, "HOME": str(self.top), **variables}, cwd=self.top,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, user=account, group=account,
        )  # fmt: skip

    def run(self, **variables: str) -> tuple[int, str]:
        with self.start(**variables) as process:
            output, _ = process.communicate(timeout=60)
        return process.returncode, output

    @property
    def calls(self) -> list[str]:
        path = self.top / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def removals(self) -> list[str]:
        """What was removed from the engine since the tests ended, or all of it where none began."""
        calls = self.calls
        last = max((number for number, call in enumerate(calls) if call.startswith("run ")), default=-1)
        return [call for call in calls[last + 1 :] if " rm " in call]


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="goud-ci") as folder:
        yield Place(Path(folder))


# -- whose the cluster is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["", "other/.secrets/test", "other/.secrets", "other"])
def test_a_checkout_that_may_not_be_looked_into_is_there(place: Place, closed: str) -> None:
    place.mark(place.other / ".secrets/test")
    if closed:
        (place.top / closed).chmod(0)
    status, output = place.run()
    if closed:
        (place.top / closed).chmod(0o700)
    assert status == 1, output
    assert str(place.other / ".secrets/test") in output
    assert not [call for call in place.calls if " rm " in call or call.startswith("run ")]


def gone(place: Place) -> None:
    place.mark(place.other / ".secrets/test")
    shutil.rmtree(place.other)


def another_at_its_place(place: Place) -> None:
    gone(place)
    keys = place.other / ".secrets/test"
    goud_owner.identify(goud_owner.read_checkout(keys, keys))


def here(place: Place) -> None:
    place.mark(place.project / ".secrets/test")


def unmarked(_place: Place) -> None:
    """What an earlier release left."""


@pytest.mark.parametrize("owner", [gone, another_at_its_place, here, unmarked])
def test_what_nobody_else_has_is_removed_before_and_afterwards(place: Place, owner: Callable[[Place], None]) -> None:
    owner(place)
    status, output = place.run()
    assert status == 0, output
    steps = [call for call in place.calls if " rm " in call or call.startswith("run ")]
    assert steps == [*REMOVED, "run test", "run test-machines -- apis sandbox", *REMOVED]
    assert STOPPED not in place.calls


# -- the engine -------------------------------------------------------------------------------------------------------


def test_an_engine_that_had_to_be_started_is_stopped(place: Place) -> None:
    place.say("stopped")
    status, output = place.run()
    assert (status, place.calls[-1]) == (0, STOPPED), output


@pytest.mark.parametrize("owned", [False, True])
def test_an_engine_that_only_the_group_may_ask_is_asked_by_it(place: Place, owned: bool) -> None:
    place.say("closed")
    if owned:
        place.mark(place.other / ".secrets/test")
    status, output = place.run()
    assert (status, place.removals()) == ((1, []) if owned else (0, REMOVED)), output
    assert STOPPED not in place.calls


@pytest.mark.parametrize("faults", [("closed", "no-group"), ("no-bootstrap",), ("stopped", "no-bootstrap")])
def test_nothing_begins_and_nothing_is_removed_without_an_answer(place: Place, faults: tuple[str, ...]) -> None:
    place.say(*faults)
    status, output = place.run()
    assert status == 1, output
    assert not [call for call in place.calls if " rm " in call or call.startswith("run ")]
    assert (STOPPED in place.calls) == ("stopped" in faults)


def test_a_failure_is_tidied_up_after(place: Place) -> None:
    place.say("broken")
    assert (place.run()[0], place.removals()) == (1, REMOVED)


ENGINE = """set -euo pipefail
{function}
as_root() { case $1 in docker) [[ $answers == root ]] ;; cat) echo 1 ;; env) sleep 2 ;; esac; } # an engine lives on
say() { :; }; wait_for_engine() { :; }; join_docker_group() { :; }; die() { echo "$1"; exit 1; }
answers=$1 started=$2 state=$2.state pid_file=$2.pid log_file=$2.log
engine_answers() { [[ $answers == account ]]; }
start_engine
"""


def start_engine(folder: Path, answers: str, host: str) -> subprocess.CompletedProcess[str]:
    """`start_engine` of scripts/bootstrap, where the engine answers this account, root or nobody."""
    source = (ROOT / "scripts/bootstrap").read_text()
    bounds = (("engine_is_elsewhere() {", "missing_packages() {"), ("start_engine() {", "wait_for_engine() {"))
    functions = "".join(source[source.index(begin) : source.index(end)] for begin, end in bounds)
    command = ["bash", "-c", ENGINE.replace("{function}", functions), "bash", answers, str(folder / "started")]
    return subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "DOCKER_HOST": host})


@pytest.mark.parametrize("host", ["", "unix:///var/run/docker.sock", "unix:///run/docker.sock"])
@pytest.mark.parametrize(("answers", "started"), [("account", False), ("root", False), ("nobody", True)])
def test_bootstrap_says_whether_it_started_the_engine(tmp_path: Path, answers: str, started: bool, host: str) -> None:
    assert start_engine(tmp_path, answers, host).returncode == 0
    assert (tmp_path / "started").exists() == started


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:1", "ssh://there", "unix:///run/user/1000/docker.sock"])
def test_an_engine_elsewhere_is_not_started_here(tmp_path: Path, host: str) -> None:
    """Nor is this machine's own taken for one that was started now, which would stop it in the end."""
    result = start_engine(tmp_path, "nobody", host)
    assert (result.returncode, (tmp_path / "started").exists()) == (1, False)
    assert f"no engine answers at DOCKER_HOST ({host})" in result.stdout
    assert start_engine(tmp_path, "account", host).returncode == 0


# -- signals ----------------------------------------------------------------------------------------------------------


def interrupt(place: Place, *signals: signal.Signals, prelude: str = "") -> int:
    with place.start(prelude) as process:
        for number in signals:
            while not (place.top / "begun").exists():
                assert process.poll() is None
                time.sleep(0.02)
            time.sleep(0.1)
            process.send_signal(number)
        process.communicate(timeout=30)
    return process.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_tests_and_leaves_nothing(place: Place, number: signal.Signals) -> None:
    place.say("slow", "stopped")
    assert interrupt(place, number) == 128 + number
    assert [call for call in place.calls if call.startswith("run ")] == ["run test"]
    assert place.removals() == REMOVED
    assert place.calls[-1] == STOPPED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_tests_of_who_ignores_ctrl_c(place: Place, number: signal.Signals) -> None:
    """So does everything that a script starts in its background."""
    place.say("slow", "stopped")
    assert interrupt(place, number, prelude="trap '' INT;") == 128 + number
    assert place.removals() == REMOVED


def test_without_a_place_for_its_mark_nothing_begins(place: Place) -> None:
    status, output = place.run(TMPDIR=str(place.top / "absent"))
    assert (status, place.calls) == (1, []), output
    assert "TMPDIR" in output
    assert not Path("/engine").exists()


def test_a_second_signal_ends_what_does_not_end_by_itself(place: Place) -> None:
    place.say("stubborn")
    assert interrupt(place, signal.SIGINT, signal.SIGTERM) == 128 + signal.SIGINT
    assert place.removals() == REMOVED


def test_a_signal_while_the_machine_is_made_ready(place: Place) -> None:
    place.say("slow-bootstrap", "stopped")
    assert interrupt(place, signal.SIGTERM) == 128 + signal.SIGTERM
    assert place.calls[-1] == STOPPED
    assert not [call for call in place.calls if call.startswith("run ")]
