"""Exit codes: one for each kind of refusal, so that a script can tell them apart."""

from __future__ import annotations

from typing import Final

from goud_node.errors import GoudError, StoreError

CODES: Final[dict[str, tuple[int, str]]] = {
    "configuration": (3, "a setting or a file it names is missing or wrong"),
    "uninitialized-volume": (4, "the data directory is empty: run `goud-node init`, or mount the right volume"),
    "wrong-chain": (5, "the data directory belongs to another chain"),
    "corrupt-store": (6, "the database is damaged; the message names the file and how to recover"),
    "schema-mismatch": (7, "the database has another schema version and the policy is refuse"),
    "store-full": (8, "the disk is full"),
    "store": (9, "the database cannot be opened, for instance because another process holds it"),
    "port-in-use": (10, "another process listens on the port"),
    "not-verified": (11, "inspect found damage"),
    "unreachable": (12, "the node does not answer, or refused the call"),
    "wrong-key": (13, "the private key is not that of this node"),
    "service-failed": (14, "a part of the running node broke down"),
    "unavailable": (15, "no majority of etcd answers, or the log changed meanwhile; nothing was done"),
    "coordination-full": (16, "etcd has no space left; nothing was done"),
    "outcome-unknown": (17, "etcd's answer was lost: look before you repeat it"),
    "epoch-mismatch": (18, "the log and this node's chain contradict each other"),
    "proposer-runs": (19, "another node runs and leads; stop it first"),
}
OTHER: Final = 1


def code_of(error: GoudError) -> int:
    """The exit code of an error."""
    if error.code in CODES:
        return CODES[error.code][0]
    return CODES["store"][0] if isinstance(error, StoreError) else OTHER


def epilog() -> str:
    """The table for --help."""
    rows = "  \n".join(f"**{number}** {meaning}" for number, meaning in CODES.values())
    return f"Exit codes:  \n**0** done  \n**1** unexpected failure  \n**2** wrong usage  \n{rows}"
