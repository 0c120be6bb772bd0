"""Exit codes: one for each kind of failure, so that a timer or a playbook can tell them apart."""

from __future__ import annotations

import errno
from typing import Final

import typer

from goud_backup.errors import TargetError
from goud_node.errors import GoudError, StoreError

CODES: Final[dict[str, tuple[int, str]]] = {
    "configuration": (3, "an option or a file it names is missing or wrong"),
    "repository-missing": (4, "there is no repository at the URL"),
    "repository-exists": (5, "there is a repository at the URL already"),
    "locked": (6, "somebody else works on the repository; the message says who"),
    "target": (7, "the store failed or cannot be reached"),
    "access-refused": (8, "the store refuses the credential: expired, or lacking a permission"),
    "no-space": (9, "a disk is full: the store's, or that of the restore"),
    "damaged": (10, "something in the repository is damaged; the message names the object"),
    "not-verified": (11, "a verification found damage"),
    "wrong-identity": (12, "the backup is encrypted to another identity"),
    "empty-backup": (13, "the source holds no blocks"),
    "source": (14, "the source, or the node that holds it, is not usable"),
    "in-use": (15, "a running node, or another restore, holds the data directory"),
    "no-such-backup": (16, "there is no such backup, or none of the present history"),
    "out-of-reach": (17, "nothing leads to that height or time"),
    "wrong-chain": (18, "the data belongs to another chain"),
    "corrupt-store": (19, "the database is damaged; the message names the file or block"),
    "schema-mismatch": (20, "the backup has a schema version that this version can not read"),
    "uninitialized-volume": (21, "the data directory is empty: not mounted, or not initialised"),
    "secrets-refused": (22, "secrets only go into an encrypted repository"),
    "no-candidate": (23, "none of the candidates is healthy; the message says why, one by one"),
    "node-failed": (24, "a drill's throw-away node did not start, answer or end"),
    "other-history": (25, "the source does not continue what is stored; the message says how to go on"),
}
_SAME: Final = {
    "missing-object": "damaged",
    "target-full": "no-space",
    "store-full": "no-space",
    "lock-lost": "locked",
    "invalid-block": "corrupt-store",
    "conflicting-block": "corrupt-store",
    "precondition-failed": "locked",
}
OTHER: Final = 1


def code_of(error: GoudError) -> int:
    """The exit code of an error."""
    slug = _SAME.get(error.code, error.code)
    if slug in CODES:
        return CODES[slug][0]
    if isinstance(error, TargetError):
        return CODES["target"][0]
    return CODES["corrupt-store"][0] if isinstance(error, StoreError) else OTHER


def code_of_end(end: BaseException) -> int:
    """The exit code of whatever ends a command."""
    if isinstance(end, GoudError):
        return code_of(end)
    if isinstance(end, OSError):
        return CODES["no-space"][0] if end.errno in {errno.ENOSPC, errno.EDQUOT} else OTHER
    if isinstance(end, typer.Exit):
        return end.exit_code
    return end.code if isinstance(end, SystemExit) and isinstance(end.code, int) else OTHER


def epilog() -> str:
    """The table for --help."""
    rows = "  \n".join(f"**{number}** {meaning}" for number, meaning in CODES.values())
    return f"Exit codes:  \n**0** done  \n**1** unexpected failure  \n**2** wrong usage  \n{rows}"
