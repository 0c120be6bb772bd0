"""Output: tables and bars on a terminal, JSON lines otherwise.

Names in a repository and answers of nodes are others' text: all that is shown goes through here or through `terminal`,
and nothing in it commands the terminal.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from goud_backup.progress import Progress
from goud_node.documents import printable

_LINE_SECONDS: Final = 5.0


def complain(line: str) -> None:
    """A line on standard error."""
    print(printable(line), file=sys.stderr)


def say(line: str) -> None:
    """A line for a person, on standard output."""
    print(printable(line))


class LogLines(logging.Formatter):
    """What is logged, as it may be shown; a traceback goes on in lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the library's name
        return printable(super().formatMessage(record))


def emit(title: str, document: Mapping[str, Any], *, as_json: bool) -> None:
    """A result: the whole document with `--json`, a table on a terminal, else one line of JSON."""
    if as_json:
        print(json.dumps(document, indent=2))
    elif sys.stdout.isatty():
        from goud_backup.cli import terminal  # noqa: PLC0415  # tables and bars: only where somebody sees them

        terminal.document(title, document)
    else:
        print(json.dumps({"event": title, **document}))


def rows(title: str, columns: tuple[str, ...], entries: list[dict[str, Any]], *, as_json: bool) -> None:
    """A list: one JSON array with `--json`, a table on a terminal, else a line of JSON for each."""
    if as_json:
        print(json.dumps(entries, indent=2))
    elif sys.stdout.isatty():
        from goud_backup.cli import terminal  # noqa: PLC0415  # as above

        terminal.rows(title, columns, entries)
    else:
        for row in entries:
            print(json.dumps(row))


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar on a terminal, else lines of JSON on standard error now and then."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from goud_backup.cli import terminal  # noqa: PLC0415  # as above

    with terminal.bar() as shown:
        yield shown


class _Lines:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stage = ""
        self._count = self._total = 0
        self._last = 0.0

    def stage(self, name: str, total: int) -> None:
        with self._lock:
            self._stage, self._total, self._count, self._last = name, total, 0, time.monotonic()

    def advance(self, units: int) -> None:
        with self._lock:
            self._count += units
            now = time.monotonic()
            if now - self._last < _LINE_SECONDS:
                return
            self._last = now
            line = json.dumps({"event": "progress", "of": self._stage, "done": self._count, "total": self._total})
        print(line, file=sys.stderr, flush=True)
