"""What a person at a terminal sees: tables and bars. Imported only there, as it takes longer than many a command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from goud_node.documents import printable

_console: Final = Console(soft_wrap=True)


def document(title: str, values: Mapping[str, Any]) -> None:
    """One result as a table of names and values."""
    shown = Table(title=Text(title), title_justify="left", show_header=False)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in values.items():
        shown.add_row(Text(printable(name.replace("_", " "))), Text(_word(value)))
    _console.print(shown)


def rows(title: str, columns: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> None:
    """A list of results as a table."""
    shown = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(
            column.replace("_", " "), overflow="fold", no_wrap=column == columns[0] or column.endswith("bytes")
        )
    for row in entries:
        # A string would be read as markup.
        shown.add_row(
            *(Text(decimal(row[column]) if column.endswith("bytes") else _word(row[column])) for column in columns)
        )
    _console.print(shown)


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value) if isinstance(value, dict | list) else printable(str(value))


@contextmanager
def bar() -> Iterator[Bar]:
    """A bar on standard error, gone when it is done."""
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bars:
        yield Bar(bars)


class Bar:
    """Progress as a bar: bytes with their unit, anything else counted."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None
        self._size = DownloadColumn()
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
