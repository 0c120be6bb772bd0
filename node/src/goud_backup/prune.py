"""Prune: decide, print, do exactly that. Content goes in two phases, so that what is still being read is still there.

First a manifest goes to the trash, and what nothing needs any more is marked: objects, segments, what killed writers
have not finished. A later run, when the grace period has passed, removes what is still marked and still not needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from goud_backup.errors import LockLost, NotVerified
from goud_backup.quarantine import precious, set_aside
from goud_backup.repository import layout, locks, rot, signed
from goud_backup.repository import marks as marking
from goud_backup.repository.forks import abandoned_segments
from goud_backup.repository.manifest import Manifest, canonical
from goud_backup.repository.marks import Clock, Mark
from goud_backup.repository.recording import follow, put_under
from goud_backup.repository.records import MOST_LISTING, Check
from goud_backup.repository.repository import Listing, Repository, missing_of
from goud_backup.repository.retention import Candidate, Policy, day, reasons_to_keep, recent_days, unneeded_segments
from goud_backup.targets import Stat, is_key, whole
from goud_node.errors import GoudError

_log = logging.getLogger(__name__)

GRACE_SECONDS: Final = 24 * 3600.0


@dataclass(frozen=True)
class Plan:
    """What a run does, in this order: sweep, mark, forget. `waiting` is what is marked and not swept yet."""

    keep: dict[str, list[str]]
    forget: list[str]
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
            "mark": self.mark,
            "unmark": self.unmark,
            "remove": self.sweep,
            "removed_bytes": self.swept_bytes,
            "waiting": self.waiting,
        }


@dataclass
class _State:
    """Everything the decision depends on, read under the locks."""

    manifests: Listing
    candidates: list[Candidate]
    objects: dict[str, int]
    marks: dict[str, Mark]
    trash: dict[str, int] = field(default_factory=dict)
    held_objects: set[str] = field(default_factory=set)


def prune(
    repository: Repository,
    policy: Policy,
    *,
    dry_run: bool = False,
    grace: float = GRACE_SECONDS,
    wait: float = 0.0,
    clock: Callable[[], Clock] | None = None,
) -> Plan:
    """Decide and, unless `dry_run`, do it. Raises Locked; NotVerified when a manifest cannot be read.

    A damaged manifest stops everything: what it needs cannot be known, so nothing may be removed. A dry run writes
    nothing, so it takes no lock: what others do meanwhile may change what the run after it does.
    """
    if dry_run:
        return _decide(repository, _read(repository), policy, grace, _now(repository, clock, dry_run=True))
    with (
        _room(repository),
        locks.Lock(repository.target, locks.BACKUP, "prune", wait=wait) as backup,
        locks.Lock(repository.target, locks.SHIP, "prune", wait=max(wait, 5.0)) as ship,
    ):
        now = _now(repository, clock)
        state = _read(repository)
        plan = _decide(repository, state, policy, grace, now)
        _do(repository, state, plan, now, (backup, ship))
        follow(repository, (backup, ship))
    return plan


def begin(repository: Repository, *, wait: float = 0.0) -> bool:
    """Note that a prune has been announced here; False when one was before, or has been done. Raises Locked."""
    with _room(repository), locks.Lock(repository.target, locks.BACKUP, "prune", wait=wait):
        if repository.target.stat(layout.MARKS) is not None:
            return False
        marking.store(repository.target, {})
    return True


@contextmanager
def _room(repository: Repository) -> Iterator[None]:
    """On a full disk not even a lock can be written: the room that was set aside is given up first."""
    repository.target.reserve(0)
    try:
        yield
    finally:
        repository.set_aside()


def _now(repository: Repository, clock: Callable[[], Clock] | None, *, dry_run: bool = False) -> Clock:
    if clock is None:
        return marking.clock(repository.target, dry_run=dry_run)
    now = clock()
    return now if now.store is not None else replace(now, store=marking.store_time(repository.target, dry_run=dry_run))


def _read(repository: Repository) -> _State:
    manifests = repository.manifests()
    manifests.require_known_formats()
    if manifests.bad:
        key, problem = next(iter(manifests.bad.items()))
        raise NotVerified(
            f"Nothing was removed, because {key} cannot be read and what it needs is not known: {problem} Copy it "
            "back from another copy of the repository. Without one, move it to damaged/ by hand, where it stays: then "
            "what only it needs is removed like all that nothing needs, as nobody can tell what that is."
        )
    objects = repository.object_sizes()
    protected, checks, past = repository.kept(), repository.checks(), repository.abandoned_backups()
    damaged = rot.noted(checks.values())
    sound = {name: size for name, size in objects.items() if name not in damaged}
    candidates = [
        _candidate(entry, checks.get(entry.id), sound, kept=entry.id in protected, abandoned=entry.id in past)
        for entry in manifests.good
    ]
    target = repository.target
    trash = {stat.key: stat.size for stat in (*target.list(layout.TRASH), *_quarantined(repository))}
    # What somebody moved there under a name of his own is his.
    trash = {key: size for key, size in trash.items() if is_key(key)}
    notes = rot.outlived(repository, checks, {entry.id for entry in manifests.good}, objects)
    trash |= {stat.key: stat.size for stat in (*target.unfinished(), *signed.superseded(repository), *notes)}
    return _State(manifests, candidates, objects, marking.load(target), trash, _held(repository))


def _held(repository: Repository) -> set[str]:
    """The objects that manifests need which somebody has moved to damaged/, to copy them back some day."""
    held_objects: set[str] = set()
    for backup_id, manifest in set_aside(repository, layout.DAMAGED):
        if manifest is None:
            _log.warning(
                "the manifest of %s in damaged/ cannot be read: what only it needs is not known and goes, unless it "
                "is copied back to manifests/ from another copy of the repository",
                backup_id,
            )
        else:
            held_objects |= set(manifest.objects)
    return held_objects


def _quarantined(repository: Repository) -> Iterator[Stat]:
    """What is below `damaged/` and holds nothing that somebody may want back."""
    staying = []
    for stat in repository.target.list(layout.DAMAGED):
        if precious(repository, stat):
            staying.append(stat.key)
        else:
            yield stat
    if staying:
        more = f", as do {len(staying) - 1} more there" if len(staying) > 1 else ""
        _log.warning("%r stays until somebody removes it%s", staying[0], more)


def _candidate(
    manifest: Manifest, check: Check | None, objects: dict[str, int], *, kept: bool, abandoned: bool
) -> Candidate:
    good = not missing_of(dict(manifest.objects), objects) and (check is None or check["ok"])
    return Candidate(
        manifest.id,
        manifest.sequence,
        manifest.created_at,
        manifest.chain.height,
        manifest.chain.certified_height,
        kept,
        good,
        good and check is not None and check["level"] == "deep",
        abandoned,
    )


def _decide(repository: Repository, state: _State, policy: Policy, grace: float, now: Clock) -> Plan:
    segments = repository.segments()
    reasons = reasons_to_keep(state.candidates, policy, segments)
    staying = [backup for backup in state.candidates if reasons[backup.id]]
    manifests = {manifest.id: manifest for manifest in state.manifests.good}
    going = [backup for backup in state.candidates if not reasons[backup.id]]
    needed = state.held_objects | {name for backup in staying for name in manifests[backup.id].objects}
    garbage = {layout.object_key(name): size for name, size in state.objects.items() if name not in needed}
    garbage |= {segment.key: segment.size for segment in unneeded_segments(staying, segments)}
    garbage |= state.trash | _past_segments(repository, state.candidates, policy)
    # What a manifest names that is there until the end of this run has not been garbage yet, whatever its mark says.
    named = {layout.object_key(name) for manifest in state.manifests.good for name in manifest.objects}
    marked = set(state.marks) - named
    ripe = [key for key in garbage if key in marked and state.marks[key].age(now) >= grace]
    return Plan(
        keep={backup.id: reasons[backup.id] for backup in sorted(staying, key=lambda backup: backup.sequence)},
        forget=sorted(layout.manifest_key(backup.sequence, backup.id) for backup in going),
        mark=sorted(set(garbage) - marked),
        unmark=sorted(key for key in state.marks if key not in garbage),
        sweep=sorted(ripe),
        swept_bytes=sum(max(0, garbage[key]) for key in ripe),
        waiting=len(garbage) - len(ripe),
    )


def _past_segments(repository: Repository, candidates: Sequence[Candidate], policy: Policy) -> dict[str, int]:
    """What was shipped of histories that were abandoned before the days that stay, with the bytes of each."""
    days = recent_days(candidates, policy)
    if policy.days and not days:
        return {}
    oldest = min(days, default="9999")
    past = abandoned_segments(fork for fork in repository.forks() if day(datetime.fromisoformat(fork.created)) < oldest)
    return {entry.key: entry.size for entry in repository.segments(every=True) if entry.name in past} if past else {}


def _do(repository: Repository, state: _State, plan: Plan, now: Clock, held: Sequence[locks.Lock]) -> None:
    steps = _steps(repository, state, plan, now)
    for number, step in enumerate([*steps, None]):
        try:
            for lock in held:
                # After the last step for certain: what was done under a lost lock must not look like a success.
                lock.check(certain=step is None)
        except LockLost as error:
            raise LockLost(f"{error} {number} of {len(steps)} steps of its plan were done by then.") from error
        if step is not None:
            step()


def _steps(repository: Repository, state: _State, plan: Plan, now: Clock) -> list[Callable[[], None]]:
    """Each is one change that must not be made after the locks were lost. What makes room comes first."""
    target = repository.target
    marks = {key: mark.seen(now) for key, mark in state.marks.items() if key not in {*plan.unmark, *plan.sweep}}
    marks |= {key: marking.mark(now) for key in plan.mark}

    def forget(key: str) -> None:
        # The copy first: whoever changes his mind within the grace period finds everything still there.
        target.put(f"{layout.TRASH}{key}", whole(target, key, MOST_LISTING))
        target.delete(key)

    steps: list[Callable[[], None]] = [partial(target.delete, key) for key in plan.sweep]
    if marks != state.marks:
        steps.append(partial(marking.store, target, marks))
    return steps + [partial(forget, key) for key in plan.forget]


def keep(repository: Repository, backup_id: str, *, mark: bool, wait: float = 0.0) -> Manifest:
    """Mark a backup so that no prune removes it, or take the mark away. Raises Locked, NoSuchBackup, GoudError."""
    # Under the lock, a prune has not yet decided about it or has already forgotten it.
    with locks.Lock(repository.target, locks.BACKUP, "keep", wait=wait) as lock:
        manifest = repository.find(backup_id)
        key = layout.KEEPS + manifest.id
        if mark:
            put_under(repository, [lock], key, canonical({"id": manifest.id}))
        else:
            lock.check()
            repository.target.delete(key)
    if (repository.target.stat(key) is not None) != mark:
        raise GoudError(f"{key} in {repository.url} did not change. Try again.")
    return manifest
