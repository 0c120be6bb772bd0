"""Marks: since when something has been garbage, by clocks that nobody can make run ahead."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from goud_backup.repository import layout
from goud_backup.repository.manifest import canonical
from goud_backup.repository.records import MOST_LISTING, fetch
from goud_backup.targets import Target
from goud_node.documents import Document, Line, Seconds

_MOST: Final = 40_000
"""Below what one document may hold, MOST_LISTING: each takes some 300 bytes."""


@dataclass(frozen=True)
class Clock:
    """What the clocks say at one moment, in seconds.

    `wall` is this host's, `uptime` the time since `boot`, which nobody can set. `store` is what the store says, None
    when it says nothing; `independent` when no host can set that.
    """

    wall: float
    uptime: float
    boot: str
    store: float | None = None
    independent: bool = False


@dataclass(frozen=True)
class Mark:
    """When something unreferenced was last known to be `before` seconds old, by the clocks of that moment."""

    wall: float
    uptime: float
    boot: str
    store: float | None = None
    before: float = 0.0

    def age(self, now: Clock) -> float:
        """Seconds that have surely passed. Never more because a clock was set, or another host's is ahead."""
        return self.before + max(0.0, self._since(now))

    def _since(self, now: Clock) -> float:
        if now.boot == self.boot:
            return now.uptime - self.uptime
        if self.store is None or now.store is None:
            # Two hosts, or one that was restarted, and no clock that both have seen.
            return 0.0
        passed = now.store - self.store
        # A directory's times are some host's own: after a restart they may be wrong, but this boot is as old as it is.
        return passed if now.independent else min(passed, now.wall - self.wall, now.uptime)

    def seen(self, now: Clock) -> Mark:
        """The same age, by the clocks of now: so it goes on growing on a host that is often restarted."""
        return self if now.boot == self.boot else replace(mark(now), before=self.age(now))


class _Written(Document):
    format: Literal["goud-backup/1"]
    marks: dict[str, tuple[Seconds, Seconds, Line]]
    store: dict[str, tuple[Seconds | None, Annotated[float, Meta(ge=0, lt=1e15)]]] = msgspec.field(default_factory=dict)


def mark(now: Clock) -> Mark:
    """A new one."""
    return Mark(now.wall, now.uptime, now.boot, now.store)


def store_time(target: Target, *, dry_run: bool) -> float | None:
    """As the store has it. A directory tells it by a file that is touched: a dry run takes this host's instead."""
    return time.time() if dry_run and not target.independent_clock else target.now()


def clock(target: Target, *, dry_run: bool = False) -> Clock:
    """All clocks, now."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return Clock(
        time.time(),
        time.clock_gettime(time.CLOCK_BOOTTIME),
        boot.read_text(encoding="ascii").strip() if boot.exists() else "",
        store_time(target, dry_run=dry_run),
        target.independent_clock,
    )


def load(target: Target) -> dict[str, Mark]:
    """By key. Raises Damaged."""
    if target.stat(layout.MARKS) is None:
        return {}
    remedy = "Remove it: marks begin anew, nothing is lost."
    written = fetch(target, layout.MARKS, _Written, remedy, MOST_LISTING)
    return {key: Mark(*entry, *written.store.get(key, ())) for key, entry in written.marks.items()}


def store(target: Target, marks: Mapping[str, Mark]) -> None:
    """Replace all of them. What one document does not hold is marked by a later run."""
    entries = {key: astuple(entry) for key, entry in islice(sorted(marks.items()), _MOST)}
    document = {
        "format": layout.FORMAT,
        "marks": {key: entry[:3] for key, entry in entries.items()},
        # Beside, where releases that do not know of it do not look.
        "store": {key: entry[3:] for key, entry in entries.items()},
    }
    target.put(layout.MARKS, canonical(document))
