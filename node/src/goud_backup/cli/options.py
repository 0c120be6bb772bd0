"""Options that several commands share, and the objects they make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from goud_backup.codec.sealing import Opener, load_identities
from goud_backup.repository.repository import Repository, open_repository
from goud_backup.targets import open_target
from goud_node.chain import genesis as genesis_document
from goud_node.chain.genesis import Genesis
from goud_node.chain.keys import SigningKey
from goud_node.errors import ConfigurationError

if TYPE_CHECKING:
    from goud_backup.node import NodeClient

Url = Annotated[
    str,
    typer.Option(
        "--repository", "-r", envvar="GOUD_BACKUP_REPOSITORY", help="file:///path, s3://bucket/path, gs://bucket/path."
    ),
]
GenesisFile = Annotated[
    Path | None,
    typer.Option("--genesis", envvar="GOUD_GENESIS_FILE", help="Genesis document; must be the repository's."),
]
DataDir = Annotated[
    Path,
    typer.Option("--data-dir", envvar="GOUD_DATA_DIR", help="The node's data directory, where it is mounted here."),
]
Recipients = Annotated[
    str,
    typer.Option("--recipient", envvar="GOUD_BACKUP_RECIPIENTS", help="age recipients (age1…), separated by commas."),
]
IdentityFile = Annotated[
    Path | None,
    typer.Option("--identity", envvar="GOUD_BACKUP_IDENTITY_FILE", help="File with the age identity that decrypts."),
]
CacheDir = Annotated[
    Path, typer.Option(envvar="GOUD_BACKUP_CACHE_DIR", help="Remembers which files are stored already.")
]
Workers = Annotated[
    int, typer.Option(envvar="GOUD_BACKUP_WORKERS", min=1, max=16, help="Parallel readers, uploads, verifications.")
]
NodeUrl = Annotated[
    str | None,
    typer.Option(envvar="GOUD_BACKUP_NODE_URL", help="Peer interface of a running node, such as http://node2:9000."),
]
NodeName = Annotated[str | None, typer.Option("--node", envvar="GOUD_BACKUP_NODE", help="Name of that node.")]
KeyFile = Annotated[
    Path | None, typer.Option("--key", envvar="GOUD_BACKUP_KEY_FILE", help="Private key that signs the calls to it.")
]
RecordKey = Annotated[
    Path | None,
    typer.Option(
        "--key",
        envvar="GOUD_BACKUP_KEY_FILE",
        help="A validator's private key: signs the record that spares later restores these signatures.",
    ),
]
Candidates = Annotated[
    list[str] | None,
    typer.Option(
        "--candidate",
        envvar="GOUD_BACKUP_CANDIDATES",
        metavar="NAME=URL",
        help="A node that may be worked on, and its public interface. Repeat it, or separate by commas. When given, "
        "this runs only if --node is the one chosen now.",
    ),
]
Operator = Annotated[
    bool, typer.Option("--operator/--own-key", envvar="GOUD_BACKUP_OPERATOR", help="Whose key --key is.")
]
MetricsDir = Annotated[
    Path | None,
    typer.Option(
        envvar="GOUD_BACKUP_METRICS_DIR",
        help="Directory of the node exporter's textfile collector: goud_backup_VERB.prom is written there.",
    ),
]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for the repository's lock.")]
Confirm = Annotated[bool, typer.Option("--yes", help="Do it; without this the plan is printed and nothing happens.")]
Reinitialize = Annotated[
    bool,
    typer.Option(
        "--reinitialize", help="Begin again at the genesis block when this version can not read the backup's schema."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Backup = Annotated[str, typer.Argument(metavar="BACKUP", help="A backup's id, the beginning of one, or `latest`.")]

DATA = Path("/data")
CACHE = Path("/var/cache/goud-backup")


@contextmanager
def repository(url: str, genesis: Path | None = None) -> Iterator[Repository]:
    """The repository at `url`, of the chain of `genesis` where one is given."""
    expected = None if genesis is None else genesis_document.load(genesis)
    handle = open_repository(open_target(url), expected)
    try:
        yield handle
    finally:
        handle.close()


def recipients(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def opener(identity: Path | None) -> Opener | None:
    """None without an identity file."""
    return Opener(load_identities(identity)) if identity is not None else None


def signing_key(path: Path | None) -> SigningKey | None:
    """None without a file."""
    return None if path is None else SigningKey.load(path)


def node_client(url: str | None, node: str | None, key: Path | None, genesis: Genesis, *, operator: bool) -> NodeClient:
    """Raises ConfigurationError unless all of what a signed call needs is given."""
    missing = [name for name, value in (("--node-url", url), ("--node", node), ("--key", key)) if value is None]
    if url is None or node is None or key is None:
        raise ConfigurationError(f"A running node is asked by signed calls: give {', '.join(missing)} too.")
    from goud_backup.node import NodeClient  # noqa: PLC0415  # an HTTP client takes a tenth of a second to import

    return NodeClient(url, node, SigningKey.load(key), genesis, operator=operator)


def milliseconds(text: str | None) -> int | None:
    """Unix milliseconds of an ISO 8601 time; without an offset it is UTC. Raises ConfigurationError."""
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(f"{text!r} is not an ISO 8601 time: write 2026-01-31T12:00:00Z ({error}).") from error
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return int(when.timestamp() * 1000)
