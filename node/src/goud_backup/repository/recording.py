"""Recording what others must not add at the same time: under locks, looked at again, and withdrawn if it was wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from goud_backup.codec.encoding import Bytes
from goud_backup.errors import AccessRefused, Damaged, LockLost, Missing, PreconditionFailed, SourceError, TargetError
from goud_backup.repository import layout
from goud_backup.repository import manifest as manifests
from goud_backup.repository.locks import Lock
from goud_backup.repository.manifest import Manifest, canonical
from goud_backup.repository.records import MOST_LISTING
from goud_backup.repository.repository import Repository
from goud_backup.targets import whole
from goud_node.documents import MOST_BYTES
from goud_node.errors import GoudError

_log = logging.getLogger(__name__)


def put_under(repository: Repository, held: Sequence[Lock], key: str, data: Bytes) -> bool:
    """Store once; whether this call surely stored it. Raises LockLost, and then it is withdrawn."""
    for lock in held:
        lock.check()
    if not repository.put_once(key, data):
        return False
    try:
        # This process may have stood still before the write, and its locks been taken over.
        for lock in held:
            lock.check(certain=True)
    except LockLost as error:
        raise LockLost(f"{error} {withdraw(repository, [key])}") from error
    return True


def put_manifest(repository: Repository, draft: Manifest, held: Lock, look_again: Callable[[], None]) -> str:
    """Store the manifest, then `latest`, under the lock. Returns the manifest's hash.

    Raises LockLost and what `look_again` raises, which is called when others can see the manifest. Whatever ends it
    before that has returned, the manifest is withdrawn, and noted as damaged where this host may not remove it.
    """
    held.check()
    key = layout.manifest_key(draft.sequence, draft.id)
    _require_name(repository, key, draft)
    raw, digest = manifests.dump(draft)
    try:
        repository.target.put(key, raw, if_absent=True)
    except (PreconditionFailed, AccessRefused):
        # An answer that was lost and repeated finds its own write.
        if repository.target.stat(key) is None or bytes(whole(repository.target, key, MOST_LISTING)) != raw:
            raise
    except BaseException:
        # The store may have it, whatever became of its answer.
        with suppress(TargetError):
            if repository.target.stat(key) is not None:
                _withdraw_manifest(repository, draft, key)
        raise
    try:
        _require_listed(repository, key)
        look_again()
        held.check(certain=True)
    except BaseException as error:
        outcome = _withdraw_manifest(repository, draft, key)
        if isinstance(error, GoudError):
            raise type(error)(f"{error} {outcome}") from error
        raise
    repository.target.put(layout.LATEST, _latest(draft, digest))
    repository.set_aside()  # a repository of a former release has none
    return digest


def _require_name(repository: Repository, key: str, draft: Manifest) -> None:
    """Raises SourceError for a key that no list of manifests would show: prune would take its objects for garbage."""
    if layout.manifest_parts(key) != (draft.sequence, draft.id):
        last = max((stored for _, _, stored in repository.manifest_keys()), default="none")
        raise SourceError(
            f"No backup was recorded: {key} is not the name of a manifest, as numbers end at {layout.MOST_SEQUENCE}. "
            f"The last manifest is {last}: if it is not a backup of yours, move it out of manifests/ by hand."
        )


def _require_listed(repository: Repository, key: str) -> None:
    if all(stored != key for _, _, stored in repository.manifest_keys()):
        raise TargetError(
            f"{repository.url} does not list {key}, which was stored just now, so no restore would find it. Check the "
            "store, and what answers in its name."
        )


def _withdraw_manifest(repository: Repository, draft: Manifest, key: str) -> str:
    """Says what became of it; where it stays, it is noted as damaged."""
    outcome = withdraw(repository, [key])
    with suppress(TargetError):
        if repository.target.stat(key) is not None:
            repository.put_check(draft.id, ok=False, level="listing")
    return outcome


def follow(repository: Repository, held: Sequence[Lock]) -> None:
    """Let `latest` name the newest backup of the present history, after one was abandoned or pruned.

    Raises LockLost. What the store does not take is a warning: what was decided before stands without it.
    """
    try:
        newest = repository.last_readable()[0]
        stored = _content(repository, layout.LATEST)
        raw = None if newest is None else _latest(newest, newest.sha256)
        if stored == raw:
            return
        for lock in held:
            lock.check()
        if raw is None:
            repository.target.delete(layout.LATEST)
        else:
            repository.target.put(layout.LATEST, raw)
    except TargetError as error:
        _log.warning("%s is not of the present history, and the next backup writes it again: %s", layout.LATEST, error)


def _latest(newest: Manifest, digest: str) -> bytes:
    """For people and other tools; this one goes by the list of manifests."""
    return canonical({"format": layout.FORMAT, "id": newest.id, "sequence": newest.sequence, "sha256": digest})


def _content(repository: Repository, key: str) -> bytes | None:
    """None where nothing is there; what is none of ours is like nothing else."""
    try:
        return bytes(whole(repository.target, key, MOST_BYTES))
    except Missing:
        return None
    except Damaged:
        return b""


def withdraw(repository: Repository, keys: Sequence[str]) -> str:
    """Remove what should not have been recorded, as much of it as can be. Says what became of it."""
    failures: dict[str, TargetError] = {}
    for key in keys:
        try:
            repository.target.delete(key)
        except TargetError as error:
            failures[key] = error
    if failures:
        reason = next(iter(failures.values()))
        return (
            f"{_names(list(failures))} was recorded meanwhile and could not be withdrawn ({reason}): verify the "
            "repository."
        )
    return f"{_names(keys)}, which was recorded meanwhile, was withdrawn."


def _names(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more"
