"""A repository in a target: its configuration, objects by content, manifests in order, segments."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from goud_backup.codec.encoding import GZIP, SEALED, Bytes, decode
from goud_backup.codec.sealing import Opener, Sealer, check_recipients
from goud_backup.errors import (
    AccessRefused,
    Damaged,
    LockLost,
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
RESERVE_BYTES: Final = 8 * 1024 * 1024
"""Enough for locks, marks and the trash's copies of manifests, while nothing has been removed yet."""


@dataclass(frozen=True)
class Found:
    """The manifests that could be read, by sequence, and what is wrong with the others, by key."""

    good: list[Manifest] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)


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
        wanted = check_recipients(recipients)
        if (self.config.encryption == AGE) != bool(wanted):
            have = "encrypted" if self.config.encryption == AGE else "not encrypted"
            given = "recipients are given" if wanted else "no recipient is given"
            raise ConfigurationError(
                f"{self.url} is {have}, but {given}. Recipients come from this host's own configuration (--recipient "
                "or GOUD_BACKUP_RECIPIENTS), never from the repository, where others might have changed them."
            )
        return Sealer(wanted) if wanted else None

    def object_sizes(self) -> dict[str, int]:
        """Every object the store has now, with its size there: ARCHIVED where it cannot be read."""
        found = self.target.list(layout.OBJECTS)
        names = ((layout.object_name(stat.key), ARCHIVED if stat.archived else stat.size) for stat in found)
        return {name: size for name, size in names if name is not None}

    def put_object(self, name: str, data: Bytes) -> None:
        """`name` is the SHA-256 of `data`, in hex: whoever writes twice writes the same."""
        self.put_once(layout.object_key(name), data)

    def put_under(self, held: Sequence[Lock], key: str, data: Bytes) -> None:
        """Store once what others must not add at the same time. Raises LockLost, and then it is withdrawn."""
        for lock in held:
            lock.check()
        if self.put_once(key, data):
            self._confirm(held, key)

    def _confirm(self, held: Sequence[Lock], key: str) -> None:
        """Look again after the write: this process may have stood still before it, and its locks been taken over."""
        try:
            for lock in held:
                lock.check(certain=True)
        except LockLost as lost:
            raise LockLost(f"{lost} {self._withdraw(key)}") from lost

    def _withdraw(self, key: str) -> str:
        try:
            self.target.delete(key)
        except TargetError as error:
            return f"{key} was recorded meanwhile and could not be withdrawn ({error}): verify the repository."
        return f"{key}, which was recorded meanwhile, was withdrawn."

    def put_once(self, key: str, data: Bytes) -> bool:
        """Store under a name that says what the content is. One that is there already, whole, is left alone.

        Returns whether this call surely stored it. A node may not have the right to replace what is stored, and a
        store that repeats a call after a lost answer then refuses its own write. What is there but cut
        short, or in an archive, is replaced, by who may.
        """
        fresh = True
        try:
            stored = self.target.put(key, data, if_absent=True)
        except (PreconditionFailed, AccessRefused):
            there = self.target.stat(key)
            if there is None:
                raise
            fresh = False
            whole = there.size == len(data) and not there.archived
            stored = there if whole else self.target.put(key, data)
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
        found = ((layout.manifest_parts(stat.key), stat.key) for stat in self.target.list(layout.MANIFESTS))
        return sorted((parts[0], parts[1], key) for parts, key in found if parts is not None)

    def read_manifest(self, key: str) -> Manifest:
        """Raises Damaged for one that was altered, misnamed or swapped for another repository's, WrongChain."""
        found = manifests.load(whole(self.target, key, MOST_LISTING), key)
        if found.chain.id != self.config.chain_id:
            raise WrongChain(
                f"{key} belongs to chain {found.chain.id}, the repository {self.url} to {self.config.chain_id}: it was "
                "swapped. Restore the right manifest from a copy of the repository, or use another backup."
            )
        if found.repository != self.config.id or layout.manifest_key(found.sequence, found.id) != key:
            raise Damaged(f"{key} is the manifest of backup {found.id} of another repository or another name.")
        return found

    def manifests(self) -> Found:
        """All of them; one that is damaged is told beside the good ones, never left out silently."""
        found = Found()
        for _, _, key in self.manifest_keys():
            try:
                found.good.append(self.read_manifest(key))
            except Missing:
                continue  # pruned since it was listed
            except (Damaged, WrongChain) as error:
                found.bad[key] = str(error)
        return found

    def newest(self) -> Manifest | None:
        """The newest backup of the present history; None when there is none.

        A damaged newest manifest raises: it is never passed over.
        """
        past = self.abandoned_backups()
        keys = [key for _, backup_id, key in self.manifest_keys() if backup_id not in past]
        return self.read_manifest(keys[-1]) if keys else None

    def last_readable(self, forks: Sequence[Fork] | None = None) -> tuple[Manifest | None, int]:
        """The newest backup of the present history that can be read, and the greatest sequence in use (0 without any).

        For who adds a backup: a damaged manifest must not keep new ones from being made. Verification tells of it.
        `forks`: all there are, when they have been read already.
        """
        past = forked.abandoned_backups(self.forks() if forks is None else forks)
        keys = self.manifest_keys()
        for _, backup_id, key in reversed(keys):
            if backup_id in past:
                continue
            try:
                return self.read_manifest(key), keys[-1][0]
            except (Damaged, WrongChain) as error:
                _log.warning("a manifest cannot be read: %s", error)
        return None, keys[-1][0] if keys else 0

    def find(self, wanted: str) -> Manifest:
        """The backup `latest`, or the one whose id begins so. Raises NoSuchBackup."""
        if wanted == "latest":
            newest = self.newest()
            if newest is None:
                raise NoSuchBackup(self.emptiness())
            return newest
        matches = [key for _, backup_id, key in self.manifest_keys() if backup_id.startswith(wanted)]
        if len(matches) != 1:
            known = "is ambiguous" if matches else "does not exist"
            raise NoSuchBackup(f"The backup {wanted!r} {known} in {self.url}. See `goud-backup list`.")
        return self.read_manifest(matches[0])

    def emptiness(self) -> str:
        """For whoever finds nothing of the present history here: what there is instead, and what to do."""
        past = len(self.abandoned_backups())
        others = f" of the present history; {past} of an abandoned one can be restored by id" if past else ""
        return f"{self.url} holds no backup yet{others} (`goud-backup list`). Make one with `goud-backup create`."

    def put_manifest(self, draft: Manifest, held: Lock) -> str:
        """Store the manifest, then `latest`, under the lock. Returns the manifest's hash.

        Raises LockLost; the manifest is withdrawn then, and noted as damaged where this host may not remove it.
        """
        held.check()
        raw, digest = manifests.dump(draft)
        key = layout.manifest_key(draft.sequence, draft.id)
        try:
            self.target.put(key, raw, if_absent=True)
        except (PreconditionFailed, AccessRefused):
            # An answer that was lost and repeated finds its own write.
            if self.target.stat(key) is None or bytes(whole(self.target, key, MOST_LISTING)) != raw:
                raise
        try:
            self._confirm([held], key)
        except LockLost:
            if self.target.stat(key) is not None:
                self.put_check(draft.id, ok=False, level="listing")
            raise
        self.put_latest(draft, digest)
        self.set_aside()  # a repository of a former release has none
        return digest

    def put_latest(self, newest: Manifest, digest: str) -> None:
        """For people and other tools; this one goes by the list of manifests."""
        document = {"format": layout.FORMAT, "id": newest.id, "sequence": newest.sequence, "sha256": digest}
        self.target.put(layout.LATEST, canonical(document))

    def forks(self) -> list[Fork]:
        """Every fork. Raises Damaged: without one, an abandoned history would pass for the present one."""
        return [self.read_fork(key) for key in self.fork_keys()]

    def fork_keys(self) -> list[str]:
        return [stat.key for stat in self.target.list(layout.FORKS)]

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
        return [segment for segment in self.segments_after(after) if segment.key not in past]

    def segments_after(self, key: str) -> Iterator[shipped.Reference]:
        """The segments of every history whose key is greater, by height."""
        found = (shipped.reference(stat) for stat in self.target.list(layout.SEGMENTS, key))
        return (segment for segment in found if segment is not None)

    def segment_header(self, segment: shipped.Reference) -> shipped.Header:
        """Raises Damaged, WrongChain."""
        raw = self.target.get(segment.key, 0, shipped.HEAD_BYTES)
        return self._own(shipped.read_header(raw, segment)[0], segment)

    def raw_segment(self, segment: shipped.Reference) -> bytes | bytearray:
        """As it is stored. Raises Missing, Damaged."""
        return whole(self.target, segment.key, layout.MOST_OBJECT)

    def read_segment(
        self, segment: shipped.Reference, opener: Opener | None, raw: bytes | bytearray | None = None
    ) -> tuple[shipped.Header, list[shipped.Pair]]:
        """Raises Missing, Damaged, WrongIdentity, WrongChain, naming the segment. `raw`: what was read of it before."""
        header, pairs = shipped.read(self.raw_segment(segment) if raw is None else raw, segment, opener)
        return self._own(header, segment), pairs

    def check_segment(self, segment: shipped.Reference, opener: Opener | None) -> shipped.Header:
        """Raises what `read_segment` raises; a sealed one is checked by its hash alone where there is no key."""
        raw = self.raw_segment(segment)
        header, _ = shipped.check(raw, segment)
        if opener is not None or not header.encoding.startswith(SEALED):
            header, pairs = shipped.read(raw, segment, opener)
            shipped.check_blocks(self.config.genesis, pairs, segment)
        return self._own(header, segment)

    def _own(self, header: shipped.Header, segment: shipped.Reference) -> shipped.Header:
        if header.chain != self.config.chain_id:
            raise WrongChain(
                f"{segment.key} belongs to chain {header.chain}, the repository to {self.config.chain_id}."
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
    made = open_repository(target)
    made.set_aside()
    return made


def open_repository(target: Target, genesis: Genesis | None = None) -> Repository:
    """Raises RepositoryMissing, Damaged, and WrongChain when it is not that of `genesis`."""
    try:
        raw = whole(target, layout.CONFIG, MOST_BYTES)
    except Missing as error:
        raise RepositoryMissing(
            f"{target.url} is no repository: {layout.CONFIG} is not there. Correct the URL, mount the disk, or make a "
            "new one with `goud-backup init`."
        ) from error
    config = configuration.load(bytes(raw), target.url)
    if genesis is not None and genesis != config.genesis:
        raise WrongChain(
            f"{target.url} holds backups of chain {config.chain_id}; the genesis document given is that of "
            f"{genesis.chain_id}. Give the right URL or the right document."
        )
    return Repository(target, config)
