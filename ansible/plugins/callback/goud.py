"""Progress of a verb: one line per step, complete failures, a table at the end."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from ansible import constants
from ansible import context as cli_context
from ansible.executor.stats import AggregateStats
from ansible.executor.task_result import CallbackTaskResult
from ansible.inventory.host import Host
from ansible.playbook import Playbook
from ansible.playbook.handler import Handler
from ansible.playbook.play import Play
from ansible.playbook.task import Task
from ansible.plugins.callback import CallbackBase
from ansible.utils import color

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))
import goud_progress
import goud_tables

DOCUMENTATION = """
name: goud
type: stdout
short_description: Readable progress, complete failures, result tables
description:
  - Prints one line per step, names the nodes, and shows the tables that tasks hand over with goud_report.
  - With output set to json only one JSON document goes to standard output; progress goes to standard error.
options:
  output:
    description: What goes to standard output.
    type: str
    choices: [text, json]
    default: text
    env: [{name: GOUD_OUTPUT}]
  reports:
    description: Folder for the saved reports; relative to the folder of ansible.cfg.
    type: str
    default: reports
    env: [{name: GOUD_REPORTS}]
"""


class CallbackModule(CallbackBase):
    """The project's standard output callback."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "goud"

    def __init__(self) -> None:
        super().__init__()
        self._run = goud_tables.Run("playbook", datetime.now(UTC))
        self._step: goud_progress.Step | None = None
        self._save = False
        self._concluded = False
        self._started = time.monotonic()
        self._title = ""
        self._play = ""
        self._running_hosts: dict[str, None] = {}
        self._failed_hosts: set[str] = set()
        self._messages: list[tuple[frozenset[str], str]] = []

    # -- plumbing ---------------------------------------------------------------------------------------------------

    @property
    def _json(self) -> bool:
        return bool(self.get_option("output") == "json")

    def _say(self, text: str, color: str | None = None) -> None:
        self._clear_transient()
        title, self._title = self._title, ""
        if title:
            self._display.display(title, color=constants.COLOR_HIGHLIGHT, stderr=self._json)
        self._display.display(text, color=color, stderr=self._json)

    def _transient(self, text: str) -> None:
        """Show what is running on a terminal's last line; a log file gets only finished lines."""
        if sys.stderr.isatty() and self._display.verbosity == 0:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r\x1b[2K" + text[:width])
            sys.stderr.flush()

    def _clear_transient(self) -> None:
        if sys.stderr.isatty() and self._display.verbosity == 0:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()

    def _elapsed(self) -> str:
        return goud_progress.clock(time.monotonic() - self._started)

    # -- play and task starts ---------------------------------------------------------------------------------------

    def v2_playbook_on_start(self, playbook: Playbook) -> None:
        """Name the verb."""
        name = getattr(playbook, "_file_name", None) or "playbook"
        self._run.verb = Path(str(name)).stem
        self._run.check_mode = bool(cli_context.CLIARGS.get("check", False))
        mode = "  (check mode: nothing is changed)" if self._run.check_mode else ""
        self._say(f"{self._run.verb}{mode}", color=constants.COLOR_HIGHLIGHT)
        atexit.register(self._end_early, os.getpid())
        unsafe = [option for option in ("start_at_task", "step") if cli_context.CLIARGS.get(option)]
        if unsafe:
            self._refuse(goud_progress.passing_over(unsafe))

    def v2_playbook_on_play_start(self, play: Play) -> None:
        """Name the play, together with the first thing that is told of it: one in which nothing happens has no line."""
        self._finish_step()
        self._play = play.get_name().strip()
        self._title = f"{self._elapsed()} ▸ {self._play}"

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """An empty play is said, never silent."""
        self._say("        no hosts matched", color=constants.COLOR_WARN)

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        """Say why nothing follows."""
        self._finish_step()
        self._say("        no hosts left: stopped here", color=constants.COLOR_ERROR)

    def v2_playbook_on_task_start(self, task: Task, is_conditional: bool) -> None:  # noqa: ARG002 - fixed signature
        """Begin a step."""
        self._begin_step(task)

    def v2_playbook_on_handler_task_start(self, task: Handler) -> None:
        """Begin a handler's step."""
        self._begin_step(task)

    def v2_playbook_on_cleanup_task_start(self, task: Task) -> None:
        """Begin a clean-up step."""
        self._begin_step(task)

    def _begin_step(self, task: Task) -> None:
        self._finish_step()
        name = str(task.get_name()).strip()
        self._running_hosts.clear()
        self._step = goud_progress.Step(name, quiet=goud_progress.is_quiet(str(task.action)))
        self._transient(f"{self._elapsed()}   {name} …")

    def _finish_step(self) -> None:
        step, self._step = self._step, None
        self._clear_transient()
        if step is None or not step.visible(verbose=self._display.verbosity > 0):
            return
        colour = constants.COLOR_CHANGED if step.changed else constants.COLOR_OK
        self._say(f"{self._elapsed()}   {step.line(time.monotonic())}", color=colour)

    # -- results ----------------------------------------------------------------------------------------------------

    def v2_runner_on_start(self, host: Host, task: Task) -> None:
        """Show which node is being worked on."""
        self._running_hosts[host.get_name()] = None
        self._transient(f"{self._elapsed()}   {host.get_name()} · {str(task.get_name()).strip()} …")

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        """Count, and print what a debug task wants to be read."""
        self._handle_warnings_and_exception(result)
        self._collect_report(result)
        content = result.result
        self._count("changed" if content.get("changed") else "ok", result)
        action = str(result.task.action)
        looped = bool(result.task.loop) and "results" in content
        if not looped and (action in constants._ACTION_DEBUG or self._run_is_verbose(result)):
            self._tell(result)

    def _tell(self, result: CallbackTaskResult) -> None:
        """Print a result's message, or all of it when it has none."""
        content = result.result
        self._clean_results(content, str(result.task.action))
        message = content.get("msg")
        text = message if isinstance(message, str) else self._dump_results(content, indent=2)
        self._say(goud_progress.indent(f"{self.host_label(result)}: {text}"))

    def v2_runner_on_skipped(self, result: CallbackTaskResult) -> None:
        """Count; a skipped step shows with -v."""
        self._handle_warnings_and_exception(result)
        self._count("skipped", result)

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        """Print everything a person needs to act: host, step, place, message, output."""
        self._collect_report(result)
        self._count("failed", result)
        self._fail(result, "failed" if not ignore_errors else "failed (ignored)", record=not ignore_errors)

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        """A host that cannot be reached is a failure with a name."""
        self._count("unreachable", result)
        self._fail(result, "unreachable")

    def v2_runner_item_on_ok(self, result: CallbackTaskResult) -> None:
        """Warnings of loop items are shown like any other."""
        self._handle_warnings_and_exception(result)
        self._collect_report(result)
        if str(result.task.action) in constants._ACTION_DEBUG:
            self._tell(result)
        elif self._display.verbosity > 0:
            self._say(goud_progress.indent(f"{self.host_label(result)}: item {self._get_item_label(result.result)}"))

    def v2_runner_item_on_failed(self, result: CallbackTaskResult) -> None:
        """Print the failed item at once; the loop's own failure only sums up."""
        self._fail(result, f"failed on item {self._get_item_label(result.result)}", record=False)

    def v2_runner_item_on_skipped(self, result: CallbackTaskResult) -> None:
        """Warnings of skipped items are shown like any other."""
        self._handle_warnings_and_exception(result)

    def v2_runner_retry(self, result: CallbackTaskResult) -> None:
        """Say on a terminal that a wait goes on, and how long it may."""
        tries = int(result.result.get("retries", 0)) - int(result.result.get("attempts", 0))
        text = f"{self.host_label(result)} · {str(result.task.get_name()).strip()}: waiting, {tries} tries left"
        self._transient(f"{self._elapsed()}   {text}")
        if self._display.verbosity > 0 or tries % 10 == 0:
            self._say(f"{self._elapsed()}   {text}", color=constants.COLOR_DEBUG)

    def v2_on_file_diff(self, result: CallbackTaskResult) -> None:
        """Keep the output of --diff."""
        content = result.result
        loop = result.task.loop and isinstance(content.get("results"), list)
        for part in content["results"] if loop else [content]:
            if part.get("diff") and part.get("changed", False):
                difference = self._get_diff(part["diff"])
                if difference:
                    self._say(f"{self.host_label(result)} · {str(result.task.get_name()).strip()}\n{difference}")

    def _count(self, outcome: str, result: CallbackTaskResult) -> None:
        host = result.host.get_name()
        counts = self._run.hosts.setdefault(host, {})
        counts[outcome] = counts.get(outcome, 0) + 1
        self._running_hosts.pop(host, None)
        if self._step is not None:
            self._step.add(outcome, self.host_label(result))

    def _fail(self, result: CallbackTaskResult, outcome: str, *, record: bool = True) -> None:
        content = result.result
        host, task = self.host_label(result), str(result.task.get_name()).strip()
        place = goud_progress.relative(str(result.task.get_path() or ""), Path.cwd())
        message = goud_progress.failure(content)
        if record:
            self._run.failures.append({"host": host, "task": task, "place": place, "message": message})
        origin = goud_progress.shown_before(message, self._messages)
        self._messages.append((goud_progress.sentences(message), f"{host} · {task}"))
        if origin and self._display.verbosity == 0:
            passed_on = goud_progress.is_quiet(str(result.task.action)) and host in self._failed_hosts
            if not passed_on:  # by a rescue, to end the play with what the host's own line has said already
                self._say(f"{self._elapsed()} ✗ {host} · {task}: {outcome}, as {origin}", color=constants.COLOR_ERROR)
            self._failed_hosts.add(host)
            return
        self._failed_hosts.add(host)
        self._say(f"{self._elapsed()} ✗ {host} · {task}: {outcome}  [{place}]", color=constants.COLOR_ERROR)
        if goud_progress.needs_trace(message) or self._display.verbosity > 0:
            self._handle_warnings_and_exception(result)  # the core's own error names file, line and cause
        else:
            self._handle_warnings(content)
        self._say(goud_progress.indent(message), color=constants.COLOR_ERROR)

    # -- reports and the end ----------------------------------------------------------------------------------------

    def _collect_report(self, result: CallbackTaskResult) -> None:
        content: Mapping[str, Any] = result.result
        facts = content.get("ansible_facts")
        report = content.get("goud_report") or (facts.get("goud_report") if isinstance(facts, Mapping) else None)
        if report is None:
            return
        try:
            self._run.tables.append(goud_tables.parse_table(report))
        except goud_tables.ReportError as error:
            self._display.error(f"{result.task.get_name()}: {error}", wrap_text=False)
            self._run.failures.append(
                {"host": "controller", "task": str(result.task.get_name()), "place": "", "message": str(error)}
            )
            return
        self._save = self._save or bool(content.get("goud_report_save", True))

    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        """Tables, the summary per host, the saved report."""
        self._finish_step()
        self._run.hosts.clear()
        for host in sorted(stats.processed):
            counts = stats.summarize(host)
            self._run.hosts[host] = {("failed" if key == "failures" else key): value for key, value in counts.items()}
        if not self._run.tables and not any(goud_progress.has_acted(counts) for counts in self._run.hosts.values()):
            self._refuse(goud_progress.NOTHING_DONE)
        self._conclude()

    def _refuse(self, message: str) -> NoReturn:
        """End a run that has done nothing, red, whatever the core's status would be."""
        self._run.begun = False
        self._run.failures.append({"host": "controller", "task": self._run.verb, "place": "", "message": message})
        self._say(message, color=constants.COLOR_ERROR)
        self._conclude()
        sys.exit(2)

    def _end_early(self, process: int) -> None:
        """At the end of the process: a run that was interrupted says where, and leaves its report, too."""
        if self._concluded or os.getpid() != process:
            return
        step, hosts = self._step.name if self._step else "", ", ".join(self._running_hosts)
        self._finish_step()
        self._run.interrupted = True
        message = goud_progress.interruption(step, hosts)
        place = f"{self._play} · {step}" if step else self._play
        self._run.failures.append({"host": hosts or "controller", "task": place, "place": "", "message": message})
        self._say(f"{self._elapsed()} ✗ {message}", color=constants.COLOR_ERROR)
        self._conclude()

    def _conclude(self) -> None:
        self._concluded, self._title = True, ""
        content = goud_tables.document(self._run, finished=datetime.now(UTC))
        if self._run.tables and not self._json:
            width = max(80, min(160, shutil.get_terminal_size((120, 24)).columns))
            text = goud_tables.render(self._run.tables, width=width, colour=bool(color.ANSIBLE_COLOR), base=Path.cwd())
            self._say(text.rstrip("\n"))
        for line, colour in goud_progress.summary(content):
            self._say(line, color=getattr(constants, colour))
        self._save_report(content)
        if self._json:
            self._display.display(json.dumps(content, ensure_ascii=False))

    def _save_report(self, content: Mapping[str, Any]) -> None:
        if not (self._save or self._run.failures):
            return
        root = Path(constants.CONFIG_FILE).parent if constants.CONFIG_FILE else Path.cwd()
        try:
            path = goud_tables.save(content, root / str(self.get_option("reports")))
        except OSError as error:
            self._display.warning(f"the report could not be saved: {error}")
            return
        self._say(f"report: {goud_progress.relative(str(path), Path.cwd())}", color=constants.COLOR_DEBUG)
