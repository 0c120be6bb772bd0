"""Objects that a verification found damaged: the store lists them like whole ones, so only what was noted tells.

A note counts until a verification finds the object whole, whichever backup it was noted beside, and also when that
backup is gone: others may need the object.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping
from hashlib import sha256
from typing import Final

from goud_backup.errors import AccessRefused, Damaged, Missing
from goud_backup.repository import layout
from goud_backup.repository.records import Check
from goud_backup.repository.repository import Repository
from goud_backup.targets import Stat, whole

_log = logging.getLogger(__name__)

DAMAGED: Final = -2
"""Instead of the size of an object whose bytes are wrong: it counts as missing."""


def noted(checks: Iterable[Check]) -> set[str]:
    """The names of all objects that verifications found damaged."""
    return {name for check in checks for name in check.get("damaged", ())}


def outlived(
    repository: Repository, checks: Mapping[str, Check], backups: Container[str], objects: Container[str]
) -> list[Stat]:
    """The notes of backups that are gone, with those that cannot be read, which `checks` does not have. One that names
    an object which is still stored stays: see above.
    """
    needed = {backup_id for backup_id, check in checks.items() if any(name in objects for name in noted([check]))}
    ids = ((stat, layout.checked(stat.key)) for stat in repository.target.list(layout.CHECKS))
    return [stat for stat, backup_id in ids if not (backup_id is None or backup_id in needed or backup_id in backups)]


def present_objects(repository: Repository, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """What the store has, with the `sizes`; DAMAGED for what was noted and has not been stored anew since."""
    present = repository.object_sizes() if sizes is None else dict(sizes)
    unreadable: dict[str, str] = {}
    suspects = noted(repository.checks(unreadable).values())
    for problem in unreadable.values():
        _log.warning("what a verification found is not known: %s", problem)
    for name in sorted(suspects & set(present)):
        if present[name] >= 0 and not _is_whole(repository, name):
            _log.warning("%s is damaged and will not be relied on", layout.object_key(name))
            present[name] = DAMAGED
    return present


def remaining(repository: Repository, backup_id: str) -> list[str]:
    """What was noted beside this backup and is still damaged. A note that cannot be read is one of no object."""
    check = repository.checks({}).get(backup_id)
    return sorted(name for name in noted([check] if check else []) if not _is_whole(repository, name))


def _is_whole(repository: Repository, name: str) -> bool:
    try:
        raw = whole(repository.target, layout.object_key(name), layout.MOST_OBJECT)
    except (AccessRefused, Missing, Damaged):
        # A host that may not read it cannot tell that somebody has stored it anew. One larger than any is not whole.
        return False
    return sha256(raw).hexdigest() == name
