"""Prune: decide, print, do exactly that. Objects go in two phases, so that what is still being read is still there.

First a manifest goes to the trash and objects that nothing names any more are marked. A later run, when the grace
period has passed, removes what is still marked and still unnamed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from goud_backup.errors import Damaged, NotVerified
from goud_backup.repository import layout, locks
from goud_backup.repository.manifest import Manifest, canonical
from goud_backup.repository.repository import Found, Repository, missing_of
from goud_backup.repository.retention import Candidate, Policy, day, reasons_to_keep, recent_days, unneeded_segments
from goud_node.errors import GoudError

GRACE_SECONDS: Final = 24 * 3600.0


@dataclass(frozen=True)
class Clock:
    """Wall time, and the time since boot, which nobody can set; `boot` names the boot it belongs to."""

    wall: float
    uptime: float
    boot: str


@dataclass(frozen=True)
class Mark:
    """When an unreferenced thing was first seen so."""

    wall: float
    uptime: float
    boot: str

    def age(self, now: Clock) -> float:
        """Seconds that have surely passed, whatever the clock was set to: no more than this boot, or its part since."""
        return min(now.wall - self.wall, now.uptime - (self.uptime if now.boot == self.boot else 0))


@dataclass(frozen=True)
class Plan:
    """What a run does, in this order: mark, forget, drop segments, sweep."""

    keep: dict[str, list[str]]
    forget: list[str]
    segments: list[str]
    mark: list[str]
    unmark: list[str]
    sweep: list[str]
    swept_bytes: int
    waiting: int

    def lines(self) -> Iterator[str]:
        """The plan as people read it; a dry run prints these lines, and so does the run that follows."""
        for backup_id, reasons in self.keep.items():
            yield f"keep {backup_id} ({', '.join(reasons)})"
        for key in self.forget:
            yield f"forget {key}"
        for key in self.segments:
            yield f"drop {key}"
        for key in self.mark:
            yield f"mark {key}"
        for key in self.unmark:
            yield f"unmark {key}"
        for key in self.sweep:
            yield f"remove {key}"

    def document(self) -> dict[str, Any]:
        return {
            "keep": self.keep,
            "forget": self.forget,
            "segments": self.segments,
            "mark": self.mark,
            "unmark": self.unmark,
            "remove": self.sweep,
            "removed_bytes": self.swept_bytes,
            "waiting": self.waiting,
        }


@dataclass
class _State:
    """Everything the decision depends on, read under the locks."""

    found: Found
    candidates: list[Candidate]
    objects: dict[str, int]
    marks: dict[str, Mark]
    trash: dict[str, int] = field(default_factory=dict)


def prune(
    repository: Repository,
    policy: Policy,
    *,
    dry_run: bool = False,
    grace: float = GRACE_SECONDS,
    wait: float = 0.0,
    clock: Callable[[], Clock] | None = None,
) -> Plan:
    """Decide and, unless `dry_run`, do it. Raises Locked; NotVerified when a manifest can not be read.

    A damaged manifest stops everything: what it needs can not be known, so nothing may be removed.
    """
    now = (clock or system_clock)()
    with (
        locks.Lock(repository.target, locks.BACKUP, "prune", wait=wait) as backup,
        locks.Lock(repository.target, locks.SHIP, "prune", wait=max(wait, 5.0)) as ship,
    ):
        state = _read(repository)
        plan = _decide(repository, state, policy, grace, now)
        if not dry_run:
            _do(repository, state, plan, now, (backup, ship))
    return plan


def system_clock() -> Clock:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return Clock(
        time.time(),
        time.clock_gettime(time.CLOCK_BOOTTIME),
        boot.read_text(encoding="ascii").strip() if boot.exists() else "",
    )


def _read(repository: Repository) -> _State:
    found = repository.manifests()
    if found.bad:
        key, problem = next(iter(found.bad.items()))
        raise NotVerified(
            f"Nothing was removed, because {key} can not be read and what it needs is not known: {problem} Copy it "
            "back from another copy of the repository, or move it to damaged/ by hand."
        )
    objects = repository.object_sizes()
    kept, checks, past = repository.kept(), repository.checks(), repository.abandoned_backups()
    candidates = [
        _candidate(one, checks.get(one.id, {}), objects, kept=one.id in kept, abandoned=one.id in past)
        for one in found.good
    ]
    trash = {
        stat.key: stat.size for prefix in (layout.TRASH, layout.DAMAGED) for stat in repository.target.list(prefix)
    }
    return _State(found, candidates, objects, _marks(repository), trash)


def _candidate(
    manifest: Manifest, check: dict[str, Any], objects: dict[str, int], *, kept: bool, abandoned: bool
) -> Candidate:
    whole = not missing_of(dict(manifest.objects), objects) and check.get("ok") is not False
    return Candidate(
        manifest.id,
        manifest.sequence,
        manifest.created_at,
        manifest.chain.height,
        manifest.chain.certified_height,
        kept,
        whole,
        whole and check.get("ok") is True and check.get("level") == "deep",
        abandoned,
    )


def _decide(repository: Repository, state: _State, policy: Policy, grace: float, now: Clock) -> Plan:
    segments = repository.segments()
    reasons = reasons_to_keep(state.candidates, policy, segments)
    staying = [one for one in state.candidates if reasons[one.id]]
    manifests = {one.id: one for one in state.found.good}
    forget = [layout.manifest_key(one.sequence, one.id) for one in state.candidates if not reasons[one.id]]
    dropped = unneeded_segments(staying, segments)
    needed = {name for one in staying for name in manifests[one.id].objects}
    garbage = {layout.object_key(name): size for name, size in state.objects.items() if name not in needed}
    garbage |= state.trash | _past_segments(repository, state.candidates, policy)
    ripe = [key for key in garbage if key in state.marks and state.marks[key].age(now) >= grace]
    return Plan(
        keep={one.id: reasons[one.id] for one in sorted(staying, key=lambda one: one.sequence)},
        forget=sorted(forget),
        segments=[one.key for one in dropped],
        mark=sorted(set(garbage) - set(state.marks)),
        unmark=sorted(key for key in state.marks if key not in garbage),
        sweep=sorted(ripe),
        swept_bytes=sum(garbage[key] for key in ripe),
        waiting=len(garbage) - len(ripe),
    )


def _past_segments(repository: Repository, candidates: Sequence[Candidate], policy: Policy) -> dict[str, int]:
    """What was shipped of histories that were abandoned before the days that stay, with the bytes of each."""
    days = recent_days(candidates, policy)
    if policy.days and not days:
        return {}
    oldest = min(days, default="9999")
    past = {
        key
        for fork in repository.forks()
        if day(datetime.fromisoformat(fork.created)) < oldest
        for key in fork.segments
    }
    return {one.key: one.size for one in repository.segments(every=True) if one.key in past} if past else {}


def _do(repository: Repository, state: _State, plan: Plan, now: Clock, held: Sequence[locks.Lock]) -> None:
    target = repository.target

    def check() -> None:
        for lock in held:
            lock.check()

    marks = {key: mark for key, mark in state.marks.items() if key not in plan.unmark}
    marks |= {key: Mark(now.wall, now.uptime, now.boot) for key in plan.mark}
    check()
    if plan.mark or plan.unmark:
        _put_marks(repository, marks)
    for key in plan.forget:
        check()
        # The copy first: whoever changes his mind within the grace period finds everything still there.
        target.put(f"{layout.TRASH}{key}", target.get(key))
        target.delete(key)
    for key in plan.segments:
        check()
        target.delete(key)
    for key in plan.sweep:
        check()
        target.delete(key)
    if plan.sweep:
        _put_marks(repository, {key: mark for key, mark in marks.items() if key not in plan.sweep})


def _marks(repository: Repository) -> dict[str, Mark]:
    if repository.target.stat(layout.MARKS) is None:
        return {}
    try:
        document = json.loads(repository.target.get(layout.MARKS))
        return {key: Mark(*entry) for key, entry in document["marks"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f"{layout.MARKS} in {repository.url} is damaged ({error!r}). Remove it: marks begin anew, nothing is lost."
        ) from error


def _put_marks(repository: Repository, marks: dict[str, Mark]) -> None:
    entries = {key: [mark.wall, mark.uptime, mark.boot] for key, mark in sorted(marks.items())}
    repository.target.put(layout.MARKS, canonical({"format": layout.FORMAT, "marks": entries}))


def keep(repository: Repository, backup_id: str, *, wanted: bool) -> Manifest:
    """Mark a backup so that no prune removes it, or take the mark away. Raises NoSuchBackup, GoudError."""
    manifest = repository.find(backup_id)
    key = layout.KEEPS + manifest.id
    if wanted:
        repository.target.put(key, canonical({"id": manifest.id}))
    else:
        repository.target.delete(key)
    if (repository.target.stat(key) is not None) != wanted:
        raise GoudError(f"{key} in {repository.url} did not change. Try again.")
    return manifest
