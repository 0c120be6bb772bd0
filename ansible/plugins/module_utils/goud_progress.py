"""Texts of the progress display: pure functions and one small record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Steps that only steer the play: shown when they change something, fail, or take long.
_QUIET = {
    "add_host", "assert", "debug", "fail", "gather_facts", "goud_boilerplate", "goud_report", "group_by", "import_role",
    "include_role", "include_tasks", "include_vars", "meta", "set_fact", "set_stats", "setup", "stat",
    "validate_argument_spec",
}  # fmt: skip
_SLOW_SECONDS = 2.0
NOTHING_DONE = (
    "no task ran on any host, so nothing was done: --tags or --skip-tags leaves none, or every task was skipped. "
    "--list-tags and --list-tasks show what there is"
)
_ORDER = ("changed", "ok", "failed", "unreachable", "skipped")


@dataclass
class Step:
    """One task over all its hosts: who did what, and since when (monotonic seconds)."""

    name: str
    quiet: bool = False
    started: float = field(default_factory=time.monotonic)
    hosts: dict[str, list[str]] = field(default_factory=dict)

    def add(self, outcome: str, host: str) -> None:
        """Record one host's outcome."""
        self.hosts.setdefault(outcome, []).append(host)

    @property
    def changed(self) -> bool:
        """Tell whether any host was changed."""
        return "changed" in self.hosts

    def visible(self, *, verbose: bool) -> bool:
        """Tell whether the step is worth a line: it did something, and is not mere steering."""
        if verbose:
            return True
        if self.changed:
            return True
        slow = time.monotonic() - self.started >= _SLOW_SECONDS
        return "ok" in self.hosts and (slow or not self.quiet)

    def line(self, now: float) -> str:
        """Return the finished line: outcome and hosts, and the time when it is worth telling."""
        parts = [
            f"{outcome} {', '.join(hosts)}"
            for outcome in _ORDER
            if (hosts := self.hosts.get(outcome)) and (outcome != "skipped" or len(self.hosts) == 1)
        ]
        seconds = now - self.started
        duration = f"  ({seconds:.1f} s)" if seconds >= 1 else ""
        return f"{self.name}  {'; '.join(parts) or 'no hosts'}{duration}"


def is_quiet(action: str) -> bool:
    """Tell whether tasks of this action only steer."""
    return action.rsplit(".", 1)[-1] in _QUIET


def clock(seconds: float) -> str:
    """Return elapsed time as m:ss.t, seven characters wide."""
    minutes, rest = divmod(max(seconds, 0.0), 60)
    return f"{int(minutes):>2}:{rest:04.1f}"


def indent(text: str) -> str:
    """Indent every line under its step."""
    return "\n".join(f"        {line}" for line in text.splitlines())


def relative(path: str, base: Path) -> str:
    """Shorten a path below `base`; a trailing `:line` is kept."""
    prefix = f"{base}/"
    return path.removeprefix(prefix)


def failure(content: Mapping[str, Any]) -> str:
    """Return the whole failure: message, exit status, both outputs. A censored result stays censored."""
    if "censored" in content:
        return str(content["censored"])
    lines = [str(content.get("msg") or content.get("reason") or "failed without a message")]
    if content.get("assertion") is not None and lines == ["Assertion failed"]:
        lines.append(f"assertion: {content['assertion']}")
    if content.get("rc") is not None:
        lines.append(f"exit status: {content['rc']}")
    if content.get("status") is not None:
        lines.append(f"status: {content['status']}")
    if content.get("errors") and content["errors"] != content.get("argument_errors"):
        lines += [str(error) for error in content["errors"]] if isinstance(content["errors"], list) else []
    if isinstance(content.get("argument_errors"), list):
        lines += [str(error) for error in content["argument_errors"] if str(error) not in lines[0]]
    for name in ("stdout", "stderr", "module_stdout", "module_stderr", "build_log"):
        text = str(content.get(name) or "").rstrip()
        if text:
            lines += [f"{name}:", *(f"  {line}" for line in text.splitlines())]
    return "\n".join(lines)


def sentences(message: str) -> frozenset[str]:
    """Return the lines of a message, to be compared with others."""
    return frozenset(line.strip() for line in message.splitlines())


def shown_before(message: str, messages: Sequence[tuple[frozenset[str], str]]) -> str:
    """Return where every line of this message was shown already; an empty text when some line is new."""
    return next((place for lines, place in messages if sentences(message) <= lines), "")


def interruption(step: str, hosts: str) -> str:
    """Return what is to be said of a run that stopped before its end."""
    place = f" in '{step}'" if step else ""
    hint = f" What it does may be half done on {hosts}." if hosts else ""
    return f"stopped before its end{place}.{hint} ./run status tells what runs; the same verb goes on from there."


def passing_over(options: Sequence[str]) -> str:
    """Return why a run with these options (names of the core's settings) is refused."""
    words = " and ".join(f"--{option.replace('_', '-')}" for option in options)
    return (
        f"no task ran on any host: {words} would pass over what every verb looks at first (whose the cluster is, "
        "--limit, the variables, another run). Leave it out: a verb that is run again goes on where the last one ended"
    )


def has_acted(counts: Mapping[str, int]) -> bool:
    """Tell whether a host did anything but skip."""
    return any(number for outcome, number in counts.items() if outcome != "skipped")


def needs_trace(message: str) -> bool:
    """Tell whether the failure comes from a playbook's or module's own mistake, where the place matters most."""
    return (
        message.startswith(("Task failed", "Module result", "Unexpected", "MODULE FAILURE")) or "undefined" in message
    )


def summary(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the closing lines, each with the name of its colour constant."""
    lines: list[tuple[str, str]] = []
    for host, counts in content["hosts"].items():
        bad = counts.get("failed", 0) or counts.get("unreachable", 0)
        totals = "    ".join(
            f"{key}={counts.get(key, 0)}"
            for key in ("ok", "changed", "unreachable", "failed", "skipped", "rescued", "ignored")
        )
        colour = "COLOR_ERROR" if bad else "COLOR_CHANGED" if counts.get("changed") else "COLOR_OK"
        lines.append((f"{host:<12} : {totals}", colour))
    if not content["hosts"]:
        lines.append(("no host was reached: nothing was done", "COLOR_ERROR"))
    red = content["result"] != "ok"
    mode = " in check mode" if content["check_mode"] else ""
    lines.append(
        (
            f"{content['verb']}: {content['result']}{mode} in {content['seconds']:.1f} s",
            "COLOR_ERROR" if red else "COLOR_OK",
        )
    )
    return lines
