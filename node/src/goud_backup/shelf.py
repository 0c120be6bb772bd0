"""A folder of archives: which stay, by the policy of a repository. What this tool did not write is left alone."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from goud_backup import archive
from goud_backup.errors import Damaged, SourceError
from goud_backup.repository.layout import FORMAT
from goud_backup.repository.retention import Candidate, Policy, reasons_to_keep
from goud_node.store import durable

_NAME: Final = re.compile(r"goud-chain-backup-(.+)-\d{8}-\d{6}\.tar\.gz")
_BEGUN: Final = ".goud-backup-retention"
"""Its presence says that a run has listed before, so that the next one may remove."""
KEEP: Final = ".keep"
"""Beside an archive, instead of .tar.gz: it stays."""


@dataclass
class Outcome:
    """Names of archives: why each stays, which go, and what is none of ours. `announced`: this run only lists."""

    announced: bool
    keep: dict[str, list[str]] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    removed_bytes: int = 0
    left: dict[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Archive:
    path: Path
    environment: str
    facts: dict[str, Any]

    @property
    def created(self) -> datetime:
        return datetime.fromisoformat(self.facts["timestamp"])

    def verifies(self) -> bool:
        try:
            archive.check_checksum(self.path)
        except Damaged:
            return False
        return True


def prune(folder: Path, policy: Policy, *, protected: Collection[str] = (), dry_run: bool = False) -> Outcome:
    """Remove the archives that no rule keeps; the first run in a folder only lists. `protected` are ids of backups
    that are marked keep.

    Raises SourceError when the folder does not exist.
    """
    if not folder.is_dir():
        raise SourceError(f"The folder {folder} does not exist. Correct the path, or mount its disk.")
    outcome = Outcome(announced=not (folder / _BEGUN).exists())
    groups: dict[tuple[str, str], list[_Archive]] = {}
    for entry in _archives(folder, outcome):
        groups.setdefault((entry.facts["chain_id"], entry.environment), []).append(entry)
    for group in groups.values():
        _decide(sorted(group, key=lambda entry: (entry.created, entry.path.name)), policy, protected, outcome)
    if dry_run:
        return outcome
    if outcome.announced:
        note = {"since": datetime.now(UTC).isoformat(timespec="seconds")}
        durable.replace(folder / _BEGUN, json.dumps(note).encode() + b"\n")
        return outcome
    for name in outcome.remove:
        path = folder / name
        path.unlink(missing_ok=True)
        _sibling(path, ".sha256").unlink(missing_ok=True)
    return outcome


def _archives(folder: Path, outcome: Outcome) -> Iterator[_Archive]:
    """Those that this tool surely wrote: by name, checksum beside, and what they say of themselves."""
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is None or path.is_symlink() or not path.is_file():
            continue
        if not _sibling(path, ".sha256").is_file():
            outcome.left[path.name] = "no checksum is beside it"
            continue
        try:
            facts = archive.metadata(path)
        except Damaged as error:
            outcome.left[path.name] = str(error)
            continue
        if facts.get("format") != FORMAT or not facts.get("chain_id") or not facts.get("timestamp"):
            outcome.left[path.name] = "another tool wrote it"
            continue
        yield _Archive(path, match[1], facts)


def _decide(oldest_first: list[_Archive], policy: Policy, protected: Collection[str], outcome: Outcome) -> None:
    candidates = [_candidate(number, entry, protected) for number, entry in enumerate(oldest_first, 1)]
    reasons = reasons_to_keep(candidates, policy)
    going = {entry.path.name for entry in oldest_first if not reasons[entry.path.name]}
    if going:
        # To read them all would take hours; the newest ones are read until one is whole.
        good = next((entry for entry in reversed(oldest_first) if entry.verifies()), None)
        spared = going if good is None else going & {good.path.name}
        for name in spared:
            reasons[name].append("last good" if good is not None else "no archive is known to be good")
        going -= spared
    outcome.keep |= {name: why for name, why in reasons.items() if name not in going}
    outcome.remove += sorted(going)
    outcome.removed_bytes += sum(entry.path.stat().st_size for entry in oldest_first if entry.path.name in going)


def _candidate(number: int, entry: _Archive, protected: Collection[str]) -> Candidate:
    marked = _sibling(entry.path, KEEP).exists() or entry.facts.get("backup_id") in protected
    height = entry.facts.get("height", 0)
    return Candidate(entry.path.name, number, entry.created, height, height, kept=marked, whole=True, proven=False)


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(path.name.removesuffix(".tar.gz") + suffix)
