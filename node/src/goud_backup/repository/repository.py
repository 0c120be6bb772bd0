"""A repository in a target: its configuration, objects by content, manifests in order, segments."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from goud_backup.codec.encoding import GZIP, SEALED, Bytes, decode
from goud_backup.codec.sealing import Opener, Sealer, check_recipients
from goud_backup.errors import (
    AccessRefused,
    Damaged,
    LaterFormat,
    Missing,
    NoSuchBackup,
    PreconditionFailed,
    RepositoryExists,
    RepositoryMissing,
    TargetError,
    WrongIdentity,
)
from goud_backup.repository import config as configuration
from goud_backup.repository import forks as forked
from goud_backup.repository import layout
from goud_backup.repository import manifest as manifests
from goud_backup.repository import segments as shipped
from goud_backup.repository.config import AGE, Config
from goud_backup.repository.forks import Fork
from goud_backup.repository.locks import BACKUP, Lock
from goud_backup.repository.manifest import Manifest, StoredObject, canonical
from goud_backup.repository.records import MOST_LISTING, Check, read_checks
from goud_backup.targets import Target, whole
from goud_node.chain.genesis import MOST_BYTES, Genesis
from goud_node.errors import ConfigurationError, WrongChain

_log = logging.getLogger(__name__)

ARCHIVED: Final = -1
"""Instead of the size of an object in a storage class that cannot be read at once: it counts as missing."""
_FARTHEST: Final = 1_000_000
"""So many backups may have been made after one that can be read: a greater number is not one that a backup was given.
"""
RESERVE_BYTES: Final = 8 * 1024 * 1024
"""Enough for locks, marks and the trash's copies of manifests, while nothing has been removed yet."""


@dataclass(frozen=True)
class Listing:
    """The manifests that could be read, by sequence, and what is wrong with the others, by key.

    `later` are those of `bad` that a later release wrote.
    """

    good: list[Manifest] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    later: list[str] = field(default_factory=list)

    def require_known_formats(self) -> None:
        """Raises LaterFormat: what such a backup needs, and of which history it is, is not known here."""
        if self.later:
            raise LaterFormat(f"Nothing was changed. {self.bad[self.later[0]]}")


class Repository:
    """Open one with `open_repository`; make one with `initialize`."""

    def __init__(self, target: Target, config: Config) -> None:
        self.target = target
        self.config = config

    @property
    def url(self) -> str:
        return self.target.url

    def sealer(self, recipients: Sequence[str]) -> Sealer | None:
        """None for a repository without encryption. Raises ConfigurationError when the two disagree."""
        keys = check_recipients(recipients)
        if (self.config.encryption == AGE) != bool(keys):
            mode = "encrypted" if self.config.encryption == AGE else "not encrypted"
            offer = "recipients are given" if keys else "no recipient is given"
            raise ConfigurationError(
                f"{self.url} is {mode}, but {offer}. Recipients come from this host's own configuration (--recipient "
                "or GOUD_BACKUP_RECIPIENTS), never from the repository, where others might have changed them."
            )
        return Sealer(keys) if keys else None

    def object_sizes(self) -> dict[str, int]:
        """Every object the store has now, with its size there: ARCHIVED where it cannot be read."""
        stats = self.target.list(layout.OBJECTS)
        names = ((layout.object_name(stat.key), ARCHIVED if stat.archived else stat.size) for stat in stats)
        return {name: size for name, size in names if name is not None}

    def put_object(self, name: str, data: Bytes) -> None:
        """`name` is the SHA-256 of `data`, in hex: whoever writes twice writes the same."""
        self.put_once(layout.object_key(name), data)

    def put_once(self, key: str, data: Bytes) -> bool:
        """Store under a name that says what the content is. One that exists already, whole, is left alone.

        Returns whether this call surely stored it. A node may not have the right to replace what is stored, and a
        store that repeats a call after a lost answer then refuses its own write. What exists but is cut short, or in an
        archive, is replaced, by who may.
        """
        fresh = True
        try:
            stored = self.target.put(key, data, if_absent=True)
        except (PreconditionFailed, AccessRefused):
            stat = self.target.stat(key)
            if stat is None:
                raise
            fresh = False
            whole = stat.size == len(data) and not stat.archived
            stored = stat if whole else self.target.put(key, data)
        if stored.size != len(data):
            raise TargetError(f"{key} has {stored.size} bytes in {self.url} after writing {len(data)}.")
        return fresh

    def get_object(self, name: str, entry: StoredObject, opener: Opener | None) -> Bytes:
        """The plain bytes of an object, whose parts the caller compares with the manifest's hashes.

        Raises Missing, Damaged or WrongIdentity naming it.
        """
        key = layout.object_key(name)
        raw = whole(self.target, key, layout.MOST_OBJECT)
        if entry.encoding == GZIP or len(raw) != entry.stored:
            # A gzip stream has bytes, and may be followed by some, that its content does not depend on.
            check_object(name, raw, entry.stored)
        try:
            return decode(raw, entry.encoding, entry.size, opener, key)
        except (Damaged, WrongIdentity):
            # The hash of what is stored costs as much as that of the content: it only tells damage from a wrong key.
            check_object(name, raw, entry.stored)
            raise

    def manifest_keys(self) -> list[tuple[int, str, str]]:
        """(sequence, backup id, key) of every manifest, ascending."""
        entries = ((layout.manifest_parts(stat.key), stat.key) for stat in self.target.list(layout.MANIFESTS))
        return sorted((parts[0], parts[1], key) for parts, key in entries if parts is not None)

    def read_manifest(self, key: str) -> Manifest:
        """Raises Damaged for one that was altered, misnamed or swapped for another repository's, WrongChain."""
        try:
            raw = whole(self.target, key, MOST_LISTING)
        except Damaged as error:
            # None of ours is so long, and where its format stands was not read.
            raise LaterFormat(str(error)) from error
        manifest = manifests.load(raw, key)
        if manifest.chain.id != self.config.chain_id:
            raise WrongChain(
                f"{key} belongs to chain {manifest.chain.id}, the repository {self.url} to {self.config.chain_id}: it "
                "was swapped. Restore the right manifest from a copy of the repository, or use another backup."
            )
        if manifest.repository != self.config.id or layout.manifest_key(manifest.sequence, manifest.id) != key:
            raise Damaged(f"{key} is the manifest of backup {manifest.id} of another repository or another name.")
        return manifest

    def manifests(self) -> Listing:
        """All of them; one that is damaged is listed beside the good ones, never left out silently."""
        listing = Listing()
        for _, _, key in self.manifest_keys():
            try:
                listing.good.append(self.read_manifest(key))
            except Missing:
                continue  # pruned since it was listed
            except (Damaged, WrongChain) as error:
                listing.bad[key] = str(error)
                if isinstance(error, LaterFormat):
                    listing.later.append(key)
        return listing

    def newest(self) -> Manifest | None:
        """The newest backup of the present history; None when there is none.

        A damaged newest manifest raises: it is never passed over.
        """
        past = self.abandoned_backups()
        keys = [key for _, backup_id, key in self.manifest_keys() if backup_id not in past]
        return self.read_manifest(keys[-1]) if keys else None

    def last_readable(self, forks: Sequence[Fork] | None = None) -> tuple[Manifest | None, int]:
        """The newest backup of the present history that can be read, and the greatest sequence in use (0 without any).

        For who adds a backup: a damaged manifest must not keep new ones from being made. Verification tells of it. It
        keeps its sequence, to be in its place when it is copied back; junk with a number far above uses none up.
        `forks`: all there are, when they have been read already.
        """
        past = forked.abandoned_backups(self.forks() if forks is None else forks)
        keys = self.manifest_keys()
        newest: Manifest | None = None
        for _, backup_id, key in reversed(keys):
            if backup_id in past:
                continue
            try:
                newest = self.read_manifest(key)
                break
            except (Damaged, WrongChain) as error:
                _log.warning("a manifest cannot be read: %s", error)
        farthest = (0 if newest is None else newest.sequence) + _FARTHEST
        return newest, max((sequence for sequence, _, _ in keys if sequence <= farthest), default=0)

    def find(self, backup: str) -> Manifest:
        """The backup `latest`, or the one whose id begins so. Raises NoSuchBackup."""
        if backup == "latest":
            newest = self.newest()
            if newest is None:
                raise NoSuchBackup(self.emptiness())
            return newest
        matches = [(backup_id, key) for _, backup_id, key in self.manifest_keys() if backup_id.startswith(backup)]
        if len({backup_id for backup_id, _ in matches}) != 1:
            state = "is ambiguous" if matches else "does not exist"
            raise NoSuchBackup(f"The backup {backup!r} {state} in {self.url}. See `goud-backup list`.")
        for _, key in matches[:-1]:
            # Junk may have its id under another number; of two, at most one is what its name says.
            with suppress(Damaged, WrongChain):
                return self.read_manifest(key)
        return self.read_manifest(matches[-1][1])

    def emptiness(self) -> str:
        """For whoever finds nothing of the present history here: what there is instead, and what to do."""
        forks = self.forks()
        past = len(forked.abandoned_backups(forks))
        others = f"; {past} of an abandoned one can be restored by id" if past else "; what was shipped is abandoned"
        others = f" of the present history{others}" if forks else ""
        return f"{self.url} holds no backup yet{others} (`goud-backup list`). Make one with `goud-backup create`."

    def forks(self) -> list[Fork]:
        """Every fork. Raises Damaged: without one, an abandoned history would pass for the present one."""
        return [self.read_fork(key) for key in self.fork_keys()]

    def fork_keys(self) -> list[str]:
        """What is named like one, or almost; `verify` names what else lies there."""
        return [stat.key for stat in self.target.list(layout.FORKS) if layout.is_like_fork(stat.key)]

    def read_fork(self, key: str) -> Fork:
        """Raises Damaged, Missing."""
        if not layout.is_fork(key):
            raise Damaged(f"{key} in {self.url} does not have the name of a fork. Move it away, or correct its name.")
        return forked.load(whole(self.target, key, MOST_LISTING), key)

    def abandoned_backups(self) -> set[str]:
        """Ids of backups that a fork left behind: still whole, no longer the chain's present history."""
        return forked.abandoned_backups(self.forks())

    def segments(
        self, *, every: bool = False, since: int = 1, forks: Sequence[Fork] | None = None
    ) -> list[shipped.Reference]:
        """The segments of the present history, by height, that may hold blocks from `since` on.

        `every`: those of abandoned histories, too; `forks`: all there are, when they have been read already.
        """
        past = set() if every else forked.abandoned_segments(self.forks() if forks is None else forks)
        after = layout.before_segments(since - shipped.MOST_BLOCKS + 1)
        return [segment for segment in self.segments_after(after) if segment.name not in past]

    def segments_after(self, key: str) -> Iterator[shipped.Reference]:
        """The segments of every history whose key is greater, by height."""
        references = (shipped.reference(stat) for stat in self.target.list(layout.SEGMENTS, key))
        return (segment for segment in references if segment is not None)

    def segment_header(self, segment: shipped.Reference) -> shipped.Header:
        """Raises Damaged, WrongChain."""
        raw = self.target.get(segment.key, 0, shipped.HEAD_BYTES)
        return self._own(shipped.read_header(raw, segment)[0], segment)

    def raw_segment(self, segment: shipped.Reference) -> bytes | bytearray:
        """As it is stored. Raises Missing, Damaged, WrongChain."""
        if segment.size > layout.MOST_OBJECT:
            # A later release may write larger ones: its header tells so before the size passes for damage.
            self.segment_header(segment)
        return whole(self.target, segment.key, layout.MOST_OBJECT)

    def read_segment(
        self, segment: shipped.Reference, opener: Opener | None, raw: bytes | bytearray | None = None
    ) -> tuple[shipped.Header, list[shipped.Pair]]:
        """Raises Missing, Damaged, WrongIdentity, WrongChain, naming the segment. `raw`: what was read of it before."""
        header, pairs = shipped.read(self.raw_segment(segment) if raw is None else raw, segment, opener)
        return self._own(header, segment), pairs

    def check_segment(
        self, segment: shipped.Reference, opener: Opener | None, raw: bytes | bytearray | None = None
    ) -> tuple[shipped.Header, list[shipped.Pair]]:
        """Raises what `read_segment` raises; a sealed one is checked by its hash alone where there is no key, and tells
        no block then.
        """
        raw = self.raw_segment(segment) if raw is None else raw
        header, _ = shipped.check(raw, segment)
        pairs: list[shipped.Pair] = []
        if opener is not None or not header.encoding.startswith(SEALED):
            header, pairs = shipped.read(raw, segment, opener)
            shipped.check_blocks(self.config.genesis, pairs, segment)
        return self._own(header, segment), pairs

    def _own(self, header: shipped.Header, segment: shipped.Reference) -> shipped.Header:
        if header.chain != self.config.chain_id:
            raise WrongChain(
                f"{segment.key} belongs to chain {header.chain}, the repository to {self.config.chain_id}. "
                f"{shipped.REMEDY}"
            )
        return header

    def kept(self) -> set[str]:
        """Ids of the backups that are marked `keep`."""
        return {stat.key.removeprefix(layout.KEEPS) for stat in self.target.list(layout.KEEPS)}

    def checks(self, unreadable: dict[str, str] | None = None) -> dict[str, Check]:
        """The last verification of each backup, by id: see `read_checks`."""
        return read_checks(self.target, unreadable)

    def put_check(self, backup_id: str, *, ok: bool, level: str, damaged: Iterable[str] = ()) -> None:
        """Note a verification: retention never counts a damaged backup as the last good one."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        document = {"id": backup_id, "ok": ok, "level": level, "at": at, "damaged": sorted(damaged)}
        self.target.put(layout.check_key(backup_id), canonical(document))

    def set_aside(self) -> int:
        """Set room aside that a prune gives up first when the disk is full; the bytes that could be."""
        try:
            return self.target.reserve(RESERVE_BYTES)
        except TargetError as error:
            # The work itself is done, or has failed for its own reason.
            _log.warning("no room was set aside for a prune on a full disk: %s", error)
            return 0

    def close(self) -> None:
        self.target.close()


def check_object(name: str, raw: Bytes, stored: int) -> None:
    """Raises Damaged unless `raw` is the object of this name."""
    key = layout.object_key(name)
    if len(raw) != stored:
        raise Damaged(f"{key} has {len(raw)} bytes where {stored} were stored: it was cut short or replaced.")
    if sha256(raw).hexdigest() != name:
        raise Damaged(f"{key} is damaged: its bytes do not have the SHA-256 that is its name.")


def missing_of(objects: dict[str, StoredObject], present: dict[str, int]) -> list[str]:
    """Names of those that the store does not have, or has with another size."""
    return sorted(name for name, entry in objects.items() if present.get(name) != entry.stored)


def new_backup_id(now: datetime) -> str:
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def initialize(target: Target, genesis: Genesis, *, encrypted: bool, recipients: Iterable[str] = ()) -> Repository:
    """Make an empty repository for one chain. Raises RepositoryExists when there is one, and touches nothing then.

    Taking the lock asks the store whether it honours conditional writes: UnsafeStore, and nothing was made.
    """
    target.create()
    if target.stat(layout.CONFIG) is not None:
        raise RepositoryExists(f"{target.url} is a repository already. Nothing was changed.")
    try:
        with Lock(target, BACKUP, "init", wait=10.0):
            target.put(
                layout.CONFIG, configuration.new(genesis, encrypted=encrypted, recipients=recipients), if_absent=True
            )
    except PreconditionFailed as error:
        raise RepositoryExists(f"{target.url} is a repository already. Nothing was changed.") from error
    repository = open_repository(target)
    repository.set_aside()
    return repository


def open_repository(target: Target, genesis: Genesis | None = None) -> Repository:
    """Raises RepositoryMissing, Damaged, and WrongChain when it is not that of `genesis`."""
    try:
        raw = whole(target, layout.CONFIG, MOST_BYTES)
    except Missing as error:
        raise RepositoryMissing(
            f"{target.url} is not a repository: {layout.CONFIG} does not exist. Correct the URL, mount the disk, or "
            "make a new one with `goud-backup init`."
        ) from error
    config = configuration.load(bytes(raw), target.url)
    if genesis is not None and genesis != config.genesis:
        raise WrongChain(
            f"{target.url} holds backups of chain {config.chain_id}; the genesis document given is that of "
            f"{genesis.chain_id}. Give the right URL or the right document."
        )
    return Repository(target, config)
