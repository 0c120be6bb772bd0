"""Output: tables and bars on a terminal, JSON lines otherwise."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from goud_backup.progress import Progress

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)
_LINE_SECONDS: Final = 5.0


def emit(title: str, document: Mapping[str, Any], *, as_json: bool) -> None:
    """A result: the whole document with `--json`, a table on a terminal, else one line of JSON."""
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    elif sys.stdout.isatty():
        _table(title, document)
    else:
        typer.echo(json.dumps({"event": title, **document}))


def rows(title: str, columns: tuple[str, ...], found: list[dict[str, Any]], *, as_json: bool) -> None:
    """A list: one JSON array with `--json`, a table on a terminal, else a line of JSON for each."""
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif sys.stdout.isatty():
        shown = Table(title=title, title_justify="left")
        for column in columns:
            shown.add_column(column.replace("_", " "), overflow="fold")
        for row in found:
            shown.add_row(*(_word(row[column]) for column in columns))
        console.print(shown)
    else:
        for row in found:
            typer.echo(json.dumps(row))


def _table(title: str, document: Mapping[str, Any]) -> None:
    shown = Table(title=title, title_justify="left", show_header=False)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in document.items():
        shown.add_row(name.replace("_", " "), _word(value))
    console.print(shown)


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar on a terminal, else lines of JSON on standard error now and then."""
    if not errors.is_terminal:
        yield _Lines()
        return
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
    )
    with bars:
        yield _Bar(bars)


class _Bar:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None
        self._size = DownloadColumn(binary_units=True)
        self._count = MofNCompleteColumn()
        self._name = ""

    def stage(self, name: str, total: int) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._name = name
        self._task = self._bars.add_task(name, total=total or None, amount="")

    def advance(self, units: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, units)
            task = next(task for task in self._bars.tasks if task.id == self._task)
            column = self._size if self._name.startswith("bytes") else self._count
            self._bars.update(self._task, amount=str(column.render(task)))


class _Lines:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stage = ""
        self._done = self._total = 0
        self._last = 0.0

    def stage(self, name: str, total: int) -> None:
        with self._lock:
            self._stage, self._total, self._done, self._last = name, total, 0, time.monotonic()

    def advance(self, units: int) -> None:
        with self._lock:
            self._done += units
            now = time.monotonic()
            if now - self._last < _LINE_SECONDS:
                return
            self._last = now
            line = json.dumps({"event": "progress", "of": self._stage, "done": self._done, "total": self._total})
        print(line, file=sys.stderr, flush=True)
