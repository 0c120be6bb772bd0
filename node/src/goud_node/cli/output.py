"""Printing for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from goud_node.documents import printable

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)


def document(value: Any) -> None:
    """Print JSON, plain, whatever the terminal."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values."""
    view = Table(title=title, title_justify="left", show_header=False)
    view.add_column(style="bold", no_wrap=True)
    view.add_column(overflow="fold")
    for name, value in rows:
        view.add_row(Text(printable(name)), Text(printable(value)))
    console.print(view)


def moment(seconds: float) -> str:
    """Unix time as a person reads it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def word(value: Any) -> str:
    """A value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
