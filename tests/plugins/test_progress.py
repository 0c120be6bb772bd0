"""Progress lines: what is worth a line, and that a failure hides nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import goud_progress


def test_step_names_nodes_and_outcomes() -> None:
    step = goud_progress.Step("Start the node", started=10.0)
    step.add("ok", "node1")
    step.add("changed", "node2")
    step.add("skipped", "node3")
    assert step.line(10.2) == "Start the node  changed node2; ok node1"
    assert step.line(12.5).endswith("(2.5 s)")


def test_quiet_steps_show_only_when_they_matter() -> None:
    now = time.monotonic()
    quiet = goud_progress.Step("Include", quiet=True, started=now)
    quiet.add("ok", "node1")
    assert not quiet.visible(verbose=False)
    assert quiet.visible(verbose=True)
    slow = goud_progress.Step("Wait", quiet=True, started=now - 5)
    slow.add("ok", "node1")
    assert slow.visible(verbose=False)
    quiet.add("changed", "node2")
    assert quiet.visible(verbose=False)


def test_a_step_that_every_host_skipped_is_not_shown() -> None:
    step = goud_progress.Step("Install")
    step.add("skipped", "node1")
    assert not step.visible(verbose=False)


@pytest.mark.parametrize(
    ("action", "quiet"), [("ansible.builtin.assert", True), ("include_role", True), ("copy", False)]
)
def test_steering_actions(action: str, quiet: bool) -> None:
    assert goud_progress.is_quiet(action) is quiet


@pytest.mark.parametrize(("seconds", "text"), [(0, " 0:00.0"), (61.25, " 1:01.2"), (-1, " 0:00.0"), (3600, "60:00.0")])
def test_clock(seconds: float, text: str) -> None:
    assert goud_progress.clock(seconds) == text


def test_failure_is_complete() -> None:
    text = goud_progress.failure(
        {"msg": "non-zero return code", "rc": 3, "stdout": "one\ntwo", "stderr": "why", "argument_errors": ["bad port"]}
    )
    assert text.splitlines() == [
        "non-zero return code", "exit status: 3", "bad port", "stdout:", "  one", "  two", "stderr:", "  why",
    ]  # fmt: skip


def test_censored_failure_stays_censored() -> None:
    assert goud_progress.failure({"censored": "hidden", "msg": "secret"}) == "hidden"


def test_failure_without_message_says_so() -> None:
    assert goud_progress.failure({}) == "failed without a message"


def test_assertion_is_told_when_it_is_all_there_is() -> None:
    assert "1 == 2" in goud_progress.failure({"msg": "Assertion failed", "assertion": "1 == 2"})
    assert "1 == 2" not in goud_progress.failure({"msg": "Disk is full", "assertion": "1 == 2"})


def test_trace_is_for_our_own_mistakes() -> None:
    assert goud_progress.needs_trace("Task failed: 'x' is undefined")
    assert not goud_progress.needs_trace("port 8080 is taken by nginx (pid 3)")


def test_relative_path_keeps_the_line() -> None:
    assert goud_progress.relative("/project/roles/x.yml:3", Path("/project")) == "roles/x.yml:3"
    assert goud_progress.relative("/elsewhere/x.yml:3", Path("/project")) == "/elsewhere/x.yml:3"


def test_summary_counts_hosts_and_says_when_there_were_none() -> None:
    content = {"verb": "deploy", "result": "ok", "check_mode": True, "seconds": 2.0, "hosts": {}}
    assert [line for line, _ in goud_progress.summary(content)] == [
        "no host was reached: nothing was done",
        "deploy: ok in check mode in 2.0 s",
    ]
    content["hosts"] = {"node1": {"ok": 2, "changed": 1}}
    (line, colour), _ = goud_progress.summary(content)
    assert line.startswith("node1        : ok=2    changed=1 ")
    assert colour == "COLOR_CHANGED"
