"""What manifests claim of one object, where they differ: each is judged by what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, Missing, WrongIdentity
from goud_backup.repository import layout
from goud_backup.repository.manifest import Manifest, StoredObject
from goud_backup.repository.repository import Repository


def objects_of(
    repository: Repository,
    manifests: Sequence[Manifest],
    present: Mapping[str, int],
    opener: Opener | None,
    problems: dict[str, str],
) -> dict[str, StoredObject]:
    """Every object that a manifest names, as it is stored; what is wrong with a manifest that claims something else is
    added to `problems` by the id of its backup, or by the key of the object where nothing here tells which is wrong.

    Raises TargetError.
    """
    objects: dict[str, StoredObject] = {}
    disputed = {
        name
        for manifest in manifests
        for name, entry in manifest.objects.items()
        if objects.setdefault(name, entry) != entry
    }
    for name in sorted(disputed & present.keys()):
        by_backup = {manifest.id: manifest.objects[name] for manifest in manifests if name in manifest.objects}
        key = layout.object_key(name)
        right = _right(repository, name, set(by_backup.values()), present[name], opener)
        if right is None:
            problems[key] = (
                f"Backups {' and '.join(sorted(by_backup))} say different things of it, so one of the manifests was "
                "replaced. Verify with --identity, which tells which one."
            )
            continue
        objects[name] = right
        for backup_id in [backup_id for backup_id, entry in by_backup.items() if entry != right]:
            problems[backup_id] = (
                f"Its manifest says of {key} what does not fit what is stored, so it cannot be restored: it was "
                "replaced. Copy the manifest back from another copy of the repository, or use another backup."
            )
    return objects


def _right(
    repository: Repository, name: str, entries: Iterable[StoredObject], stored: int, opener: Opener | None
) -> StoredObject | None:
    """The claim that fits; None where none does, or that cannot be told without a key."""
    fitting = [entry for entry in entries if entry.stored == stored]
    if len(fitting) == 1:
        return fitting[0]
    for entry in fitting:
        try:
            repository.get_object(name, entry, opener)
        except (Damaged, Missing, WrongIdentity):
            continue
        return entry
    return None
