"""Measuring a command: however it ends, its metrics are written."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from goud_backup.cli import exits

_log = logging.getLogger(__name__)


@dataclass
class Run:
    """What the command tells of itself while it runs; `chosen` stays None where nobody chooses."""

    figures: dict[str, float] = field(default_factory=dict)
    chosen: bool | None = None

    def set(self, **figures: float | None) -> None:
        self.figures |= {name: value for name, value in figures.items() if value is not None}


@contextmanager
def measured(verb: str, folder: Path | None) -> Iterator[Run]:
    """Write the metrics of the command in this block to `folder`; without one, nothing is written."""
    run = Run()
    if folder is None:
        yield run
        return
    from goud_backup.metrics import Textfile  # noqa: PLC0415  # only timers give a folder

    file = Textfile(folder, verb)
    began = time.monotonic()
    try:
        yield run
    except BaseException as error:
        code = exits.code_of_end(error)
        try:
            file.write(code, time.monotonic() - began, run.figures, chosen=run.chosen)
        except OSError as failure:
            # What ended the command is what has to be seen.
            _log.warning("the metrics of this failure could not be written to %s: %s", folder, failure)
        raise
    file.write(0, time.monotonic() - began, run.figures, chosen=run.chosen)


def recovery_point(block_ms: int | None) -> float | None:
    """The time of a block, in seconds as Prometheus counts.

    A block that a wrong clock stamped ahead is stored by now, and its own time would keep an alert asleep until then.
    """
    return None if block_ms is None else min(block_ms / 1000, time.time())
