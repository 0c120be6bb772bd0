"""What a verb tells at its end: tables for people, one JSON document for machines.

Pure functions without Ansible, so that the callback stays thin and the unit tests need no playbook.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

VERDICTS = ("ok", "warning", "failed")

_STYLES = {
    "green": {"ok", "yes", "true", "ready", "healthy", "running", "up", "passed", "present", "unchanged"},
    "yellow": {"warning", "changed", "degraded", "draining", "stopped", "paused", "unknown"},
    "red": {"failed", "no", "false", "down", "missing", "absent", "unreachable", "critical", "error", "halted", "dead"},
}
_STYLE_OF = {word: style for style, words in _STYLES.items() for word in words}
_VERDICT_STYLE = {"ok": "bold green", "warning": "bold yellow", "failed": "bold red"}


class ReportError(ValueError):
    """A task handed over something that cannot be shown as a table."""


@dataclass(frozen=True)
class Table:
    """One result table. `rows` hold one text per column; `note` is a sentence printed below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    verdict: str = "ok"
    note: str = ""

    def records(self) -> list[dict[str, str]]:
        """Return the rows as one mapping per row, keyed by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass
class Run:
    """What one playbook run did, collected while it runs. Times are aware UTC."""

    verb: str
    started: datetime
    check_mode: bool = False
    interrupted: bool = False
    begun: bool = True  # a run that ends before its playbook begins is not well, whatever it has not touched
    hosts: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    advice: str = ""  # where to read on when it failed; the verb's own page when empty

    @property
    def result(self) -> str:
        """Return the outcome in one word."""
        return "interrupted" if self.interrupted else "failed" if self.failed else "ok"

    @property
    def error(self) -> str | None:
        """Return the first failure of a run that is not well: what was rescued first led to the rest."""
        if self.result == "ok":
            return None
        first = next(iter(self.failures), {"host": "controller", "task": self.verb, "message": f"{self.verb} failed"})
        return f"{first['host']} · {first['task']}: {first['message']}"

    @property
    def failed(self) -> bool:
        """Tell whether any host failed, was unreachable, or a table says so."""
        hosts = any(counts.get("failed", 0) or counts.get("unreachable", 0) for counts in self.hosts.values())
        return not self.begun or hosts or any(table.verdict == "failed" for table in self.tables)


def parse_table(value: Any) -> Table:
    """Build a table from what a task handed over: title, columns, rows (lists or mappings), verdict, note.

    Raises ReportError that names the field when the shape is wrong: a report that cannot be shown is an error.
    """
    if not isinstance(value, Mapping):
        raise ReportError(f"a report is a mapping with title, columns and rows, not {type(value).__name__}")
    unknown = sorted(set(value) - {"title", "columns", "rows", "verdict", "note"})
    if unknown:
        raise ReportError(f"unknown report fields: {', '.join(unknown)}")
    title = str(value.get("title") or "")
    columns = value.get("columns")
    rows = value.get("rows")
    verdict = str(value.get("verdict", "ok"))
    if not title:
        raise ReportError("a report needs a title")
    if not isinstance(columns, Sequence) or isinstance(columns, str) or not columns:
        raise ReportError(f"report '{title}': columns must be a list of names")
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise ReportError(f"report '{title}': rows must be a list")
    if verdict not in VERDICTS:
        raise ReportError(f"report '{title}': verdict is one of {', '.join(VERDICTS)}, not '{verdict}'")
    names = tuple(str(column) for column in columns)
    cells = tuple(_row(title, names, number, row) for number, row in enumerate(rows, start=1))
    return Table(title, names, cells, verdict, str(value.get("note") or ""))


def _row(title: str, columns: tuple[str, ...], number: int, row: Any) -> tuple[str, ...]:
    if isinstance(row, Mapping):
        if set(row) != set(columns):
            difference = ", ".join(sorted(set(map(str, row)) ^ set(columns)))
            raise ReportError(f"report '{title}': row {number} and the columns differ in: {difference}")
        return tuple(_cell(row[column]) for column in columns)
    if isinstance(row, Sequence) and not isinstance(row, str):
        if len(row) != len(columns):
            raise ReportError(f"report '{title}': row {number} has {len(row)} cells for {len(columns)} columns")
        return tuple(_cell(cell) for cell in row)
    raise ReportError(f"report '{title}': row {number} must be a list or a mapping")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def render(tables: Iterable[Table], *, width: int, colour: bool, base: Path | None = None) -> str:
    """Return the tables as text, `width` columns wide, with terminal colours when asked.

    Paths below `base` are shown from there. A table wraps between words only: a path or hash that is broken over lines
    cannot be read or copied. One that does not fit that way is shown row by row, a line per column.
    """
    out = StringIO()
    console = Console(file=out, width=width, force_terminal=colour, no_color=not colour, highlight=False)
    for table in tables:
        rows = [[_shortened(cell, base) for cell in row] for row in table.rows]
        console.print()
        if _narrowest(table.columns, rows) <= width:
            console.print(_grid(table, rows, width))
        else:
            console.print(Text(table.title, style="bold"))
            for row in rows:
                _print_row(console, table.columns, row)
        if not table.rows:
            console.print("(no rows)")
        if table.note:
            console.print(Text(table.note, style=_VERDICT_STYLE[table.verdict]))
    return out.getvalue()


def _shortened(cell: str, base: Path | None) -> str:
    return cell.removeprefix(f"{base}/") if base else cell


def _longest_word(texts: Iterable[str]) -> int:
    return max((cell_len(word) for text in texts for word in text.split()), default=0)


def _narrowest(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Return how wide the grid is when every cell is wrapped at every space."""
    words = [_longest_word((name, *(row[number] for row in rows))) for number, name in enumerate(columns)]
    return sum(words) + 3 * len(columns) + 1


def _grid(table: Table, rows: Sequence[Sequence[str]], width: int) -> RichTable:
    grid = RichTable(title=table.title, title_justify="left", title_style="bold", header_style="bold")
    for column, column_width in zip(table.columns, _widths(table.columns, rows, width), strict=True):
        grid.add_column(column, width=column_width)
    for row in rows:
        grid.add_row(*(_coloured(cell) for cell in row))
    return grid


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return each column's width: its longest word, and a share of what is left over where its cells are longer.

    The library would narrow the widest column, whatever words it holds.
    """
    texts = [(name, *(row[number] for row in rows)) for number, name in enumerate(columns)]
    widths = [_longest_word(column) for column in texts]
    shortfalls = [max(map(cell_len, column)) - longest for column, longest in zip(texts, widths, strict=True)]
    for _ in range(max(0, width - _narrowest(columns, rows))):
        index = shortfalls.index(max(shortfalls, default=0)) if any(shortfall > 0 for shortfall in shortfalls) else None
        if index is None:
            break
        widths[index] += 1
        shortfalls[index] -= 1
    return widths


def _print_row(console: Console, columns: Sequence[str], row: Sequence[str]) -> None:
    space = max(cell_len(column) for column in columns) + 2
    for column, cell in zip(columns, row, strict=True):
        label = Text("  " + column + " " * (space - cell_len(column)))
        console.print(label + _coloured(cell), soft_wrap=True)
    console.print()


def _coloured(cell: str) -> Text:
    return Text(cell, style=_STYLE_OF.get(cell.lower(), ""))


def document(run: Run, *, finished: datetime) -> dict[str, Any]:
    """Return the machine-readable report of a run."""
    return {
        "verb": run.verb,
        "result": run.result,
        "error": run.error,
        "next": None if run.result == "ok" else run.advice or f"docs/runbooks/{run.verb}.md",
        "check_mode": run.check_mode,
        "started": run.started.isoformat(timespec="milliseconds"),
        "finished": finished.isoformat(timespec="milliseconds"),
        "seconds": round((finished - run.started).total_seconds(), 3),
        "hosts": run.hosts,
        "failures": run.failures,
        "reports": [
            {
                "title": table.title,
                "verdict": table.verdict,
                "note": table.note,
                "columns": list(table.columns),
                "rows": table.records(),
            }
            for table in run.tables
        ],
    }


def page(content: Mapping[str, Any]) -> str:
    """Return the same report as a Markdown page for people."""
    mode = " (check mode: nothing was changed)" if content["check_mode"] else ""
    lines = [
        f"# {content['verb']}: {content['result']}{mode}",
        "",
        f"Started {content['started']}, took {content['seconds']} s.",
    ]
    for report in content["reports"]:
        lines += ["", f"## {report['title']}", ""]
        lines.append("| " + " | ".join(map(_escape, report["columns"])) + " |")
        lines.append("|" + " --- |" * len(report["columns"]))
        lines += ["| " + " | ".join(_escape(row[name]) for name in report["columns"]) + " |" for row in report["rows"]]
        if report["note"]:
            lines += ["", report["note"]]
    if content["failures"]:
        lines += ["", "## Failures", ""]
        lines += [
            f"* **{failure['host']}**, {failure['task']}: {failure['message']}" for failure in content["failures"]
        ]
    return "\n".join(lines) + "\n"


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def save(content: Mapping[str, Any], directory: Path) -> Path:
    """Write `<verb>-<timestamp>.json` and the page beside it; return the JSON file's path.

    Readable by its owner only: a report may hold addresses and paths. The JSON appears whole or not at all.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    stamp = datetime.fromisoformat(str(content["started"])).astimezone(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    target = directory / f"{content['verb']}-{stamp}.json"
    _write_private(target.with_suffix(".md"), page(content))
    temporary = target.with_suffix(".json.part")
    _write_private(temporary, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    temporary.rename(target)
    return target


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
