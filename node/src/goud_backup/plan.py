"""What a restore would do: which backup, which segments, to which height, at what cost."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from goud_backup import links, times
from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, NoSuchBackup, OutOfReach
from goud_backup.repository import layout, rot
from goud_backup.repository.forks import abandoned_segments
from goud_backup.repository.history import require_no_hole
from goud_backup.repository.manifest import Manifest
from goud_backup.repository.repository import Repository, missing_of
from goud_backup.repository.segments import Reference, cover
from goud_node.errors import SchemaMismatch
from goud_node.store import SCHEMA_VERSION
from goud_node.store.schema import MIGRATIONS

_log = logging.getLogger(__name__)


class How(StrEnum):
    """Ways to a height."""

    BACKUP = "backup"
    REPLAY = "backup, then segments"
    SEGMENTS = "segments from the first block"
    REBUILD = "rebuilt from the blocks of a later backup"
    ARCHIVE = "archive"
    REINITIALIZE = "begun again at the genesis block"


@dataclass(frozen=True)
class Plan:
    """`height` is the tip after the restore; None when `to_ms` has to be looked up in the blocks of the backup.

    `unreadable` is the backup that a restore from the genesis block on stands for: asked again, it plans the same.
    """

    how: How
    manifest: Manifest | None
    segments: tuple[Reference, ...]
    height: int | None
    to_ms: int | None
    newest_height: int
    unreadable: str | None = None

    @property
    def fetch_bytes(self) -> int:
        """Bytes to read from the store."""
        objects = 0 if self.manifest is None else sum(entry.stored for entry in self.manifest.objects.values())
        return objects + sum(segment.size for segment in self.segments)

    @property
    def space_bytes(self) -> int:
        """Bytes of disk that staging takes; blocks are written once as a log and once as a file."""
        base = 0 if self.manifest is None else self.manifest.totals["bytes"]
        replayed = 3 * sum(segment.size for segment in self.segments)
        return base * (3 if self.how is How.REBUILD else 1) + replayed

    def document(self) -> dict[str, Any]:
        """For people and programs."""
        manifest = self.manifest
        return {
            "how": self.how.value,
            "backup": self.unreadable if manifest is None else manifest.id,
            "backup_height": None if manifest is None else manifest.chain.height,
            "created": None if manifest is None else manifest.created,
            "age_seconds": None if manifest is None else _age(manifest),
            "schema": None if manifest is None else manifest.chain.schema,
            "segments": len(self.segments),
            "to_height": self.height,
            "to_time_ms": self.to_ms,
            "newest_height": self.newest_height,
            "left_out_blocks": None if self.height is None else self.newest_height - self.height,
            "fetch_bytes": self.fetch_bytes,
            "space_bytes": self.space_bytes,
        }


@dataclass(frozen=True)
class Wish:
    """What is asked for: a backup (id, its beginning, or `latest`), and where to stop. `exact`: no later blocks.

    `reinitialize`: begin again at the genesis block where this version can read neither the backup nor all blocks.
    """

    backup: str = "latest"
    to_height: int | None = None
    to_ms: int | None = None
    exact: bool = False
    reinitialize: bool = False


def make(repository: Repository, wish: Wish, opener: Opener | None) -> Plan:
    """Raises NoSuchBackup, OutOfReach, SchemaMismatch, or Damaged when the manifest asked for is damaged, or when what
    was shipped after it has a hole or is of two histories: less than all is restored only to who asks for less.
    """
    references = _references(repository, wish)
    plan = _plan(repository, wish, references, opener)
    if plan.segments and plan.height is not None:
        used = [segment for segment in references if segment.last >= plan.segments[0].first]
        links.require_one(repository, used, plan.height, opener)
    if plan.manifest is None:
        return plan
    try:
        check_manifest(plan.manifest)
    except SchemaMismatch as mismatch:
        return _detour(plan, plan.manifest.id, references, wish, mismatch)
    return plan


def _references(repository: Repository, wish: Wish) -> Sequence[Reference]:
    """The segments of the history that is asked for. An abandoned backup is led on only by what its fork names: what
    is below the fork may be of another history by now, and is in the backup itself.
    """
    forks = repository.forks()
    if wish.backup != "latest":
        backup = repository.find(wish.backup).id
        leading = [fork for fork in forks if backup in fork.backups]
        if leading:
            names = abandoned_segments(leading)
            return [segment for segment in repository.segments(every=True) if segment.name in names]
    return repository.segments(forks=forks)


def require_whole(repository: Repository) -> None:
    """Raises what keeps `latest` from having all that is stored: Damaged, or NoSuchBackup where all of it is of an
    abandoned history. An empty repository is whole.
    """
    try:
        _newest(repository, Wish(), repository.segments())
    except NoSuchBackup:
        if repository.manifest_keys() or repository.segments(every=True):
            raise


def require_restorable(repository: Repository, present: dict[str, int]) -> None:
    """The same, and Damaged where `present`, the objects in the store, lacks some of what `latest` takes, or segments
    that overlap are of two histories.
    """
    require_whole(repository)
    references = repository.segments()
    links.require_one(repository, references, max((segment.last for segment in references), default=0), None)
    manifest = _highest(repository, references)
    lost = [] if manifest is None else missing_of(dict(manifest.objects), present)
    if manifest is not None and lost:
        raise Damaged(
            f"{len(lost)} objects of backup {manifest.id} are missing from {repository.url}, in an archive storage "
            f"class, damaged or cut short, {layout.object_key(lost[0])} among them. Run `goud-backup create`, which "
            "stores again what the node still has, and `goud-backup verify`, which names all of them."
        )


def check_schema(schema: int, backup: str, maker: str) -> None:
    """Raises SchemaMismatch unless this version of the node reads that schema, or migrations lead to its own."""
    version = schema
    while version < SCHEMA_VERSION and version in MIGRATIONS:
        version += 1
    if version != SCHEMA_VERSION:
        raise SchemaMismatch(
            f"Backup {backup} has schema version {schema}, this node needs {SCHEMA_VERSION}, and no migration leads "
            f"there. Nothing was changed. Restore with the node's version that made it ({maker}), or begin again at "
            "the genesis block (--reinitialize, by playbook -e restore_reinitialize=true; what is live is kept)."
        )


def check_manifest(manifest: Manifest) -> None:
    """Raises SchemaMismatch for a backup that this version of the node can not read."""
    check_schema(manifest.chain.schema, manifest.id, manifest.versions.get("goud-node", "unknown"))


def _detour(plan: Plan, backup: str, references: Sequence[Reference], wish: Wish, mismatch: SchemaMismatch) -> Plan:
    """Shipped blocks do not depend on a schema: they lead to the same block where none of them is missing."""
    chain = cover(references, 1)
    if plan.height is not None and chain and chain[-1].last >= plan.height:
        return _from_the_first(chain, plan.height, plan.newest_height)
    if wish.reinitialize:
        return Plan(How.REINITIALIZE, None, (), 0, None, plan.newest_height, backup)
    raise mismatch


def _plan(repository: Repository, wish: Wish, references: Sequence[Reference], opener: Opener | None) -> Plan:
    if wish.to_height is None and wish.to_ms is None:
        return _newest(repository, wish, references)
    manifests = _candidates(repository, wish)
    if wish.to_height is not None:
        return _to_height(repository, manifests, references, wish.to_height)
    return _to_time(repository, manifests, references, wish.to_ms or 0, opener)


def _candidates(repository: Repository, wish: Wish) -> list[Manifest]:
    if wish.backup != "latest":
        return [repository.find(wish.backup)]
    listing, past = repository.manifests(), repository.abandoned_backups()
    present = [manifest for manifest in listing.good if manifest.id not in past]
    if not present and listing.bad:
        raise Damaged(next(iter(listing.bad.values())))
    return _usable(repository, present) or present


def _usable(repository: Repository, manifests: Sequence[Manifest]) -> list[Manifest]:
    """Those of which nothing is known to be lost: where one is, another may lead to the same block."""
    objects, usable = rot.present_objects(repository), []
    for manifest in manifests:
        if lost := missing_of(dict(manifest.objects), objects):
            _log.warning(
                "backup %s is passed over: %d of its objects are missing or damaged, %s among them",
                manifest.id,
                len(lost),
                layout.object_key(lost[0]),
            )
        else:
            usable.append(manifest)
    return usable


def _newest(repository: Repository, wish: Wish, references: Sequence[Reference]) -> Plan:
    if wish.backup != "latest":
        backup = repository.find(wish.backup)
        return Plan(How.BACKUP, backup, (), backup.chain.height, None, _best([backup], references))
    manifest = _highest(repository, references)
    start = 1 if manifest is None else manifest.chain.certified_height + 1
    if manifest is not None and wish.exact:
        return Plan(How.BACKUP, manifest, (), manifest.chain.height, None, _best([manifest], references))
    require_no_hole(repository, start, references)
    chain = cover(references, start)
    if manifest is not None:
        top = max(manifest.chain.height, chain[-1].last if chain else 0)
        return _replay(manifest, references, top, top)
    if not chain:
        raise NoSuchBackup(repository.emptiness())
    return Plan(How.SEGMENTS, None, tuple(chain), chain[-1].last, None, chain[-1].last)


def _highest(repository: Repository, references: Sequence[Reference]) -> Manifest | None:
    """The backup that leads highest, of several the newest: a node that lagged may have been the source of the newest.

    A damaged newest one raises, and is never passed over; a damaged one below it leads nowhere.
    """
    newest = repository.newest()
    if newest is None:
        return None
    listing, past = repository.manifests(), repository.abandoned_backups()
    present = [newest, *(manifest for manifest in listing.good if manifest.id not in past and manifest.id != newest.id)]
    return max(present, key=lambda manifest: (_reach(manifest, references), manifest.sequence))


def _reach(manifest: Manifest, references: Sequence[Reference]) -> int:
    chain = cover(references, manifest.chain.certified_height + 1)
    return max(manifest.chain.height, chain[-1].last if chain else 0)


def _from_the_first(chain: Sequence[Reference], height: int, top: int) -> Plan:
    return Plan(How.SEGMENTS, None, tuple(segment for segment in chain if segment.first <= height), height, None, top)


def _replay(manifest: Manifest, references: Sequence[Reference], height: int, top: int) -> Plan:
    if height == manifest.chain.height:
        return Plan(How.BACKUP, manifest, (), height, None, top)
    chain = [segment for segment in cover(references, manifest.chain.certified_height + 1) if segment.first <= height]
    return Plan(How.REPLAY, manifest, tuple(chain), height, None, top)


def _best(manifests: Sequence[Manifest], references: Sequence[Reference]) -> int:
    """The greatest height that can be reached."""
    chain = cover(references, 1)
    return max([*(_reach(manifest, references) for manifest in manifests), chain[-1].last if chain else 0])


def _to_height(
    repository: Repository, manifests: Sequence[Manifest], references: Sequence[Reference], height: int
) -> Plan:
    top = _best(manifests, references)
    if height < 1 or height > top:
        raise OutOfReach(
            f"Block {height} can not be restored: the repository reaches from block 1 to {top}. Give a height there."
            if top
            else repository.emptiness()
        )
    for manifest in sorted(manifests, key=lambda manifest: (manifest.chain.height, manifest.sequence), reverse=True):
        if manifest.chain.height <= height <= _reach(manifest, references):
            return _replay(manifest, references, height, top)
    chain = cover(references, 1)
    if chain and chain[-1].last >= height:
        return _from_the_first(chain, height, top)
    later = [manifest for manifest in manifests if manifest.chain.height > height]
    if not later:
        raise OutOfReach(
            f"Block {height} can not be restored: there is a gap in what was shipped and no backup above it. Heights "
            f"up to {max(manifest.chain.height for manifest in manifests)} can be."
        )
    return Plan(How.REBUILD, min(later, key=lambda manifest: manifest.chain.height), (), height, None, top)


def _to_time(
    repository: Repository,
    manifests: Sequence[Manifest],
    references: Sequence[Reference],
    to_ms: int,
    opener: Opener | None,
) -> Plan:
    last = times.last_at(repository, manifests, references, to_ms, opener)
    if isinstance(last, Manifest):
        return Plan(How.REBUILD, last, (), None, to_ms, _best(manifests, references))
    if last == 0:
        raise OutOfReach(f"The repository holds nothing as early as {times.text(to_ms)}. Give a later time.")
    return _to_height(repository, manifests, references, last)


def _age(manifest: Manifest) -> int:
    return int((datetime.now(UTC) - manifest.created_at).total_seconds())
