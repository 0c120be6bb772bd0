"""What a verification notes beside each backup, for retention and for those who look."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from goud_backup.repository.manifest import Manifest
from goud_backup.repository.records import Check
from goud_backup.repository.repository import Repository


def record(
    repository: Repository,
    manifests: Sequence[Manifest],
    faulty: Container[str],
    bad: set[str],
    *,
    rotten: set[str],
    before: Mapping[str, Check],
    data: bool,
    chosen: Manifest | None,
) -> None:
    """Note the result beside each backup: `faulty` names those that something is wrong with, `bad` the objects that are
    missing or damaged, `rotten` those whose bytes are. `data`: every byte was read; `chosen` was restored. Raises
    TargetError.
    """
    for manifest in manifests:
        damaged = bool(bad & set(manifest.objects))
        ok = not damaged and manifest.id not in faulty
        restored = chosen is not None and chosen.id == manifest.id
        earlier = before.get(manifest.id)
        level = _level(earlier, data=data, ok=ok, restored=restored, damaged=damaged)
        known = set() if earlier is None else set(earlier.get("damaged", ()))
        names = rotten & set(manifest.objects) if data else known
        if level is not None:
            repository.put_check(manifest.id, ok=ok, level=level, damaged=names)
        elif earlier is not None and names != known:
            repository.put_check(manifest.id, ok=earlier["ok"], level=earlier["level"], damaged=names)


def take_back(repository: Repository, before: Mapping[str, Check], present: set[str], sound: set[str]) -> None:
    """What was noted beside a backup that is gone counts until the object is found whole for another. Raises
    TargetError.
    """
    for backup_id, check in before.items():
        known = set(check.get("damaged", ()))
        if backup_id not in present and known & sound:
            repository.put_check(backup_id, ok=check["ok"], level=check["level"], damaged=known - sound)


def _level(earlier: Check | None, *, data: bool, ok: bool, restored: bool, damaged: bool) -> str | None:
    """How deep the look was that decides now; None when what is noted already says more."""
    deeply = earlier is not None and earlier["level"] == "deep"
    if not restored and earlier is not None and deeply and not earlier["ok"]:
        # What a restore has found, only another restore takes back.
        return None
    looked = "data" if data else "listing"
    if not ok:
        # A restore from damaged objects says no more than their hashes do: when they are whole again, that is over.
        return "deep" if restored and not damaged else looked
    if restored or (data and deeply):
        return "deep"
    # A listing says too little to replace what a better look has found.
    return looked if data else None
