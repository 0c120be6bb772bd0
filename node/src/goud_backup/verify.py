"""Verification: what is in the store against what was written, and, deep, against the chain itself."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from goud_backup import claims, links, noting, pool, restore, staging
from goud_backup import plan as plans
from goud_backup import quarantine as quarantining
from goud_backup.codec.encoding import SEALED
from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, Missing, NoSpace, NoSuchBackup, NotVerified, TargetError, WrongIdentity
from goud_backup.links import Look
from goud_backup.quarantine import content
from goud_backup.repository import layout, signed
from goud_backup.repository.history import History, all_of
from goud_backup.repository.manifest import Manifest, StoredObject, check_certificates
from goud_backup.repository.records import Check, Latest, fetch
from goud_backup.repository.repository import ARCHIVED, Repository, check_object
from goud_backup.repository.segments import Reference
from goud_backup.targets import whole
from goud_node.errors import GoudError, StoreFull

_BY_HAND: Final = "move it to damaged/ by hand, and `goud-backup ship` stores its blocks again."
_HINDRANCES: Final = (TargetError, NoSpace, StoreFull, WrongIdentity)


@dataclass(frozen=True)
class Problem:
    """Something wrong with `thing`, the key of an object, manifest or segment, or the id of a backup.

    `code`: that of the error which says it all, or `not-verified`.
    """

    thing: str
    message: str
    code: str = NotVerified.code


@dataclass
class Report:
    """What was looked at, what is wrong with it, and what of that was moved aside."""

    level: str
    backups: int = 0
    objects: int = 0
    segments: int = 0
    bytes: int = 0
    height: int = 0
    tip_hash: str = ""
    problems: list[Problem] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, thing: str, error: object, code: str = NotVerified.code) -> None:
        self.problems.append(Problem(thing, str(error), code))

    def document(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


@dataclass(frozen=True)
class Depth:
    """`data`: read every byte. `deep`: restore `backup` to scratch and walk it. `record`: note the result."""

    data: bool = True
    deep: bool = False
    backup: str = "latest"
    scratch: Path | None = None
    record: bool = True


def verify(repository: Repository, depth: Depth, tools: restore.Tools) -> Report:
    """Problems are collected. Nothing to verify is one; what only keeps us from looking is raised, and never noted.

    Raises TargetError (of which Missing is a problem), NoSpace, StoreFull, WrongIdentity.
    """
    report = Report("deep" if depth.deep else "data" if depth.data else "listing")
    _forks(repository, report)
    manifests = _manifests(repository, report)
    objects, bad, rotten = _objects(repository, manifests, report, depth, tools)
    foreign = _segments(repository, manifests, report, depth, tools)
    _whole(repository, report)
    chosen: Manifest | None = None
    try:
        if depth.deep:
            chosen = _deep(repository, report, depth, tools, foreign)
    finally:
        # What the hashes told holds, whatever kept the restore to scratch from being done.
        if depth.record:
            before = _checks(repository, report)
            faulty = {problem.thing for problem in report.problems}
            noting.record(
                repository, manifests, faulty, bad, rotten=rotten, before=before, data=depth.data, chosen=chosen
            )
            if depth.data:
                noting.take_back(repository, before, {manifest.id for manifest in manifests}, objects - rotten)
    return report


def _finding(error: GoudError) -> str:
    """What the report says of an error; one that says nothing of what is stored is raised on.

    A store that cannot be reached, an expired credential or a full scratch must not pass for damage: a backup noted as
    damaged may be pruned, and an object is quarantined.
    """
    if isinstance(error, _HINDRANCES) and not isinstance(error, Missing):
        raise error
    return str(error)


def _forks(repository: Repository, report: Report) -> None:
    for key in repository.fork_keys():
        try:
            repository.read_fork(key)
        except GoudError as error:
            report.add(key, _finding(error))


def _manifests(repository: Repository, report: Report) -> list[Manifest]:
    listing = repository.manifests()
    for key, problem in listing.bad.items():
        report.add(key, problem)
    _names(repository, report)
    by_id = {manifest.id: manifest for manifest in listing.good}
    for manifest in listing.good:
        before = by_id.get(manifest.previous[0]) if manifest.previous is not None else None
        if before is not None and manifest.previous is not None and before.sha256 != manifest.previous[1]:
            report.add(manifest.id, f"Its predecessor {before.id} is not the one it was made after: that was replaced.")
        try:
            check_certificates(manifest, repository.config.genesis)
        except GoudError as error:
            report.add(manifest.id, error)
    report.backups = len(listing.good)
    if not listing.good and not listing.bad and not repository.segments(every=True):
        # What is empty verifies by itself; that must not look like a success.
        report.add(repository.url, "The repository holds no backup and no segment: there is nothing to verify.")
    _check_latest(repository, listing.good, report)
    return listing.good


def _names(repository: Repository, report: Report) -> None:
    """What lies among manifests, segments and forks, and is none by its name."""
    for folder, is_named, noun, loss in (
        (layout.MANIFESTS, layout.manifest_parts, "manifest", ", and prune removes what only it needs"),
        (layout.SEGMENTS, layout.segment_parts, "segment", ""),
        (layout.FORKS, layout.is_like_fork, "fork", ""),
    ):
        for stat in repository.target.list(folder):
            if stat.key != folder and not is_named(stat.key):
                report.add(
                    stat.key,
                    f"{stat.key} does not have the name of a {noun}, so no verb sees it{loss}. If it is one, copy it "
                    "back under its name from another copy of the repository; then move this one out of "
                    f"{folder} by hand.",
                )


def _check_latest(repository: Repository, manifests: Sequence[Manifest], report: Report) -> None:
    if not manifests or repository.target.stat(layout.LATEST) is None:
        return
    try:
        latest = fetch(repository.target, layout.LATEST, Latest, "The next backup writes it again.")
    except Damaged as error:
        report.add(layout.LATEST, error)
        return
    matches = [manifest for manifest in manifests if manifest.id == latest.id]
    if not matches or matches[0].sha256 != latest.sha256:
        report.add(layout.LATEST, "latest.json names a backup that does not exist, or another one of that name.")


def _objects(
    repository: Repository, manifests: Sequence[Manifest], report: Report, depth: Depth, tools: restore.Tools
) -> tuple[set[str], set[str], set[str]]:
    """Names of all objects; of those that are missing or damaged; and of those which only their bytes show to be."""
    present, wrong = repository.object_sizes(), dict[str, str]()
    objects = claims.objects_of(repository, manifests, present, tools.opener, wrong)
    for thing, message in wrong.items():
        report.add(thing, message)
    bad: dict[str, str] = {}
    for name, entry in objects.items():
        if name not in present:
            bad[name] = "it is missing from the store"
        elif present[name] == ARCHIVED:
            bad[name] = "it is in an archive storage class, where it cannot be read before it was brought back"
        elif present[name] != entry.stored:
            bad[name] = f"it has {present[name]} bytes where {entry.stored} were stored: it was cut short or replaced"
    listed = set(bad)
    if depth.data:
        readable = [(name, entry) for name, entry in sorted(objects.items()) if name not in bad]
        tools.progress.stage("bytes", sum(entry.stored for _, entry in readable))

        def look(item: tuple[str, StoredObject]) -> tuple[str, str] | None:
            name, entry = item
            problem = _look(repository, name, entry)
            tools.progress.advance(entry.stored)
            return None if problem is None else (name, problem)

        bad |= dict(fault for fault in pool.run(look, readable, tools.workers) if fault is not None)
        report.bytes += sum(entry.stored for _, entry in readable)
    report.objects = len(objects)
    for name, problem in sorted(bad.items()):
        report.add(layout.object_key(name), problem)
    return set(objects), set(bad), set(bad) - listed


def _look(repository: Repository, name: str, entry: StoredObject) -> str | None:
    key = layout.object_key(name)
    try:
        raw = whole(repository.target, key, layout.MOST_OBJECT)
        if len(raw) != entry.stored:
            raw = content(repository, key) or raw
        check_object(name, raw, entry.stored)
    except GoudError as error:
        return _finding(error)
    return None


def _segments(
    repository: Repository, manifests: Sequence[Manifest], report: Report, depth: Depth, tools: restore.Tools
) -> set[str]:
    """Keys of the segments that are sealed to others than the rest of the repository. Raises WrongIdentity where the
    identity opens nothing.
    """
    references = repository.segments(every=True)
    report.segments = len(references)
    history = _history(repository)
    named = set() if history is None else links.named(history)

    def look(segment: Reference) -> tuple[Reference, Look | GoudError]:
        try:
            if not depth.data:
                return segment, Look(repository.segment_header(segment))
            return segment, links.look(repository, segment, named, tools.opener)
        except GoudError as error:
            return segment, error

    looks: dict[str, Look] = {}
    foreign: dict[str, WrongIdentity] = {}
    for segment, result in pool.run(look, references, tools.workers):
        if isinstance(result, Look):
            looks[segment.key] = result
        elif isinstance(result, WrongIdentity):
            foreign[segment.key] = result
        else:
            report.add(segment.key, _finding(result))
    _require_identity(manifests, looks, foreign, tools.opener)
    for key, error in foreign.items():
        report.add(key, f"{error} It opens others. Give the identity of this one, too; if nobody has it, {_BY_HAND}")
    if depth.data:
        report.bytes += sum(segment.size for segment in references)
    if history is not None:
        _links(history, looks, report, depth)
    return set(foreign)


def _require_identity(
    manifests: Sequence[Manifest],
    looks: Mapping[str, Look],
    foreign: Mapping[str, WrongIdentity],
    opener: Opener | None,
) -> None:
    """Raises WrongIdentity where segments could not be opened, unless something else could be."""
    if not foreign or any(look.blocks and look.header.encoding.startswith(SEALED) for look in looks.values()):
        return
    for manifest in manifests:
        with suppress(WrongIdentity, Damaged):
            if manifest.files is None and manifest.listing(opener):
                return
    raise next(iter(foreign.values()))


def _links(history: History, looks: Mapping[str, Look], report: Report, depth: Depth) -> None:
    """What does not fit; where headers alone were read, rot in one of them is told as that."""
    rotten: dict[str, str] = {}
    for fault in links.faults(history, looks):
        for thing in () if depth.data else (fault.thing, fault.other):
            try:
                history.require_whole(thing)
            except GoudError as error:
                rotten[thing] = _finding(error)
        if not rotten.keys() & {fault.thing, fault.other}:
            report.add(fault.thing, fault.message)
    for thing, message in rotten.items():
        report.add(thing, message)
    if depth.data:
        links.warn_of_sealed(history, looks)


def _history(repository: Repository) -> History | None:
    """The present one; None where a fork is damaged: which one is present is not known then, and that is a problem of
    its own.
    """
    try:
        return all_of(repository)
    except GoudError as error:
        _finding(error)
        return None


def _whole(repository: Repository, report: Report) -> None:
    """Whether `restore latest` would bring all that is stored."""
    try:
        plans.require_whole(repository)
    except NoSuchBackup as error:
        # Nothing is damaged: who has restored to an earlier block has not made a backup since.
        report.add(repository.url, error, error.code)
    except GoudError as error:
        message = _finding(error)
        if all(problem.message != message for problem in report.problems):
            report.add(repository.url, message)


def _deep(
    repository: Repository, report: Report, depth: Depth, tools: restore.Tools, foreign: Collection[str]
) -> Manifest | None:
    """Restore to scratch, walk, compare: the whole of a restore, by the very plan of one, except the swap."""
    try:
        plan = plans.make(repository, plans.Wish(depth.backup), tools.opener)
    except GoudError as error:
        message = _finding(error)
        if all(problem.message != message for problem in report.problems):
            report.add(depth.backup, message)
        return None
    manifest = plan.manifest
    with tempfile.TemporaryDirectory(prefix="goud-backup-verify-", dir=depth.scratch) as folder:
        try:
            proven = restore.prepare(repository, plan, Path(folder), tools)
            report.height, report.tip_hash = proven.height, proven.tip_hash.hex()
            if manifest is not None:
                staging.check_secrets(repository, manifest, tools.opener)
        except GoudError as error:
            known = isinstance(error, WrongIdentity) and any(segment.key in foreign for segment in plan.segments)
            message, things = str(error) if known else _finding(error), {problem.thing for problem in report.problems}
            if manifest is None or any(segment.key in things for segment in plan.segments):
                # What is wrong has been named: a segment does not make the backup below it a bad one.
                report.add(depth.backup, message)
                return None
            report.add(manifest.id, message)
            return manifest
    if depth.record:
        signed.write(repository, proven, tools.key)
    return manifest


def _checks(repository: Repository, report: Report) -> dict[str, Check]:
    unreadable: dict[str, str] = {}
    before = repository.checks(unreadable)
    for key, problem in unreadable.items():
        report.add(key, problem)
    return before


def quarantine(repository: Repository, report: Report, *, opener: Opener | None = None, wait: float = 0.0) -> list[str]:
    """Move damaged objects and segments out of the way: the next backup, the next shipping stores them again.

    Each is looked at once more under the locks: one that was stored anew meanwhile stays. What was moved is in the
    report, however this ends. Raises Locked, LockLost, TargetError.
    """
    things = [problem.thing for problem in report.problems]
    report.quarantined.clear()
    quarantining.move(repository, things, opener, report.quarantined, wait=wait)
    return report.quarantined
