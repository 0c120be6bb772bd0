"""What a drill found: a document for programs, a page for people, and the drills before it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from goud_backup.drill import page
from goud_node.documents import Malformed, read_file
from goud_node.errors import GoudError
from goud_node.store import durable

_log = logging.getLogger(__name__)

PASSED: Final = "passed"
FAILED: Final = "failed"
_HISTORY: Final = 30
MOST_BYTES: Final = 1024 * 1024


@dataclass
class Report:
    """Filled while the drill goes on: what is not known stays None. Times in seconds."""

    repository: str
    drilled_on: str
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    verdict: str = FAILED
    problems: list[str] = field(default_factory=list)
    chain: str | None = None
    backup: dict[str, Any] | None = None
    how: str | None = None
    segments: int | None = None
    bytes: int | None = None
    height: int | None = None
    tip_hash: str | None = None
    compared_with: list[dict[str, Any]] = field(default_factory=list)
    recovery_point: dict[str, Any] = field(default_factory=dict)
    recovery_time: dict[str, float] = field(default_factory=dict)
    finished: datetime | None = None
    due: bool = True

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a part of the recovery, also one that fails; `total` is the sum."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.recovery_time.pop("total", None)
            self.recovery_time[name] = round(time.monotonic() - began, 3)
            self.recovery_time["total"] = round(sum(self.recovery_time.values()), 3)

    def end(self, problem: BaseException | None) -> None:
        self.finished = datetime.now(UTC)
        self.verdict = PASSED if problem is None else FAILED
        if problem is not None:
            self.problems.append(_sentence(problem))

    def document(self) -> dict[str, Any]:
        document = asdict(self)
        del document["due"]
        document["started"] = self.started.isoformat(timespec="milliseconds")
        document["finished"] = None if self.finished is None else self.finished.isoformat(timespec="milliseconds")
        return {"format": "goud-drill/1", **document}


@contextmanager
def reported(report: Report, folder: Path | None) -> Iterator[None]:
    """However the block ends, the report says so, and is written to `folder`; not when it is not `due`."""
    try:
        yield
    except BaseException as error:
        report.end(error)
        try:
            _write(report, folder)
        except GoudError as failure:
            # What ended the drill is what has to be seen.
            _log.warning("the report of this failure could not be written: %s", failure)
        raise
    report.end(None)
    _write(report, folder)


def _write(report: Report, folder: Path | None) -> None:
    if folder is None or not report.due:
        return
    document = report.document()
    raw = json.dumps(document, indent=2).encode() + b"\n"
    durable.replace(folder / f"drill-{report.started:%Y%m%dT%H%M%S%fZ}.json", raw)
    durable.replace(folder / "latest.json", raw)
    durable.replace(folder / "latest.html", page.html(document, history(folder)).encode())


def history(folder: Path) -> list[dict[str, Any]]:
    """The last drills, oldest first. One that cannot be read is left out, and said so in the log."""
    reports = []
    for path in sorted(folder.glob("drill-*.json"))[-_HISTORY:]:
        try:
            reports.append(read_file(path, dict[str, Any], MOST_BYTES))
        except (OSError, Malformed) as error:
            _log.warning("%s is left out of the history: %s", path, error)
    return reports


def _sentence(problem: BaseException) -> str:
    if isinstance(problem, GoudError):
        return f"{problem.code}: {problem}"
    if isinstance(problem, SystemExit):
        return f"stopped: the drill was ended from outside (exit code {problem.code})"
    return f"{type(problem).__name__}: {problem}"
