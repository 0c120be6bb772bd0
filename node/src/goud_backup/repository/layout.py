"""Names of things in a repository. docs/repository-format.md explains them; they never change within a format."""

from __future__ import annotations

import re
from typing import Final

from goud_backup.errors import LaterFormat

FORMAT: Final = "goud-backup/1"
FORMATS: Final = re.compile(r"goud-backup/[1-9]\d{0,8}", re.ASCII)
"""Those of later releases, too."""
CONFIG: Final = "goud-repository.json"
LATEST: Final = "latest.json"
MARKS: Final = "marks.json"
OBJECTS: Final = "objects/"
MANIFESTS: Final = "manifests/"
SEGMENTS: Final = "segments/"
FORKS: Final = "forks/"
KEEPS: Final = "keep/"
CHECKS: Final = "checks/"
SIGNATURES: Final = "signatures/"
LOCKS: Final = "locks/"
TRASH: Final = "trash/"
DAMAGED: Final = "damaged/"

MOST_OBJECT: Final = 16 * 1024 * 1024
"""Most bytes of an object or a segment, as it is stored and as it is unpacked: none was ever written with more than
nine mebibytes."""

MOST_SEQUENCE: Final = 99_999_999
"""The greatest number of a backup: the name of its manifest has eight digits."""

_MANIFEST: Final = re.compile(r"manifests/(\d{8})-(\d{8}T\d{6}Z-[0-9a-f]{6})\.json", re.ASCII)
_OBJECT: Final = re.compile(r"objects/([0-9a-f]{2})/([0-9a-f]{64})", re.ASCII)
_FORK: Final = re.compile(r"forks/\d{12}-[0-9a-f]{64}\.json", re.ASCII)
_CHECK: Final = re.compile(r"checks/(\d{8}T\d{6}Z-[0-9a-f]{6})\.json", re.ASCII)
_SEGMENT: Final = re.compile(r"segments/(\d{12})-(\d{12})-([0-9a-f]{64})\.seg", re.ASCII)
OBJECT_NAME: Final = re.compile(r"[0-9a-f]{64}")
BACKUP_ID: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}", re.ASCII)


def object_key(name: str) -> str:
    return f"{OBJECTS}{name[:2]}/{name}"


def object_name(key: str) -> str | None:
    """The name of the object at `key`; None for a key that is none of ours."""
    match = _OBJECT.fullmatch(key)
    return match[2] if match and match[2].startswith(match[1]) else None


def manifest_key(sequence: int, backup_id: str) -> str:
    return f"{MANIFESTS}{sequence:08d}-{backup_id}.json"


def manifest_parts(key: str) -> tuple[int, str] | None:
    """(sequence, backup id) of a manifest's key."""
    match = _MANIFEST.fullmatch(key)
    return (int(match[1]), match[2]) if match else None


def segment_key(first: int, last: int, name: str) -> str:
    return f"{SEGMENTS}{first:012d}-{last:012d}-{name}.seg"


def before_segments(first: int) -> str:
    """What is greater than the keys of all segments that begin below block `first`, and than no other's."""
    return f"{SEGMENTS}{max(0, first):012d}-"


def fork_key(height: int, name: str) -> str:
    return f"{FORKS}{height:012d}-{name}.json"


def is_fork(key: str) -> bool:
    return _FORK.fullmatch(key) is not None


def is_like_fork(key: str) -> bool:
    """Whether it begins like a fork: one whose name was spoiled must stop all work, a stray file must not."""
    return key.startswith(FORKS) and key[len(FORKS) :][:1].isdigit()


def check_key(backup_id: str) -> str:
    return f"{CHECKS}{backup_id}.json"


def checked(key: str) -> str | None:
    """The id of the backup that a check is of; None for a key that is none of ours."""
    match = _CHECK.fullmatch(key)
    return match[1] if match else None


def segment_parts(key: str) -> tuple[int, int, str] | None:
    """(first height, last height, SHA-256) of a segment's key."""
    match = _SEGMENT.fullmatch(key)
    return (int(match[1]), int(match[2]), match[3]) if match else None


def require_known(form: object, name: str) -> None:
    """Raises LaterFormat where a document says that it has the format of a later release."""
    if form != FORMAT and isinstance(form, str) and FORMATS.fullmatch(form):
        raise LaterFormat(
            f"A later release of goud-backup wrote {name}, in the format {form}: this one reads {FORMAT}. Update "
            "goud-backup here and wherever the repository is used. Leave it where it is: what only it needs would go."
        )
