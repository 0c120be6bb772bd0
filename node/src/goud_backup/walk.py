"""Prove a database that was restored, and compare it with what its manifest says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from goud_backup.errors import NotVerified
from goud_backup.progress import Progress, Silent
from goud_backup.repository.manifest import Manifest
from goud_node.chain import proof
from goud_node.chain.genesis import Genesis
from goud_node.chain.ledger import Ledger
from goud_node.chain.proof import Proven
from goud_node.chain.stretch import Checked
from goud_node.store import RocksStore
from goud_node.store.twin import twin


@contextmanager
def opened(database: Path) -> Iterator[RocksStore]:
    """The database, read-only, through a twin: its own directory stays as it is."""
    with twin(database) as path:
        store = RocksStore.open(path, read_only=True)
        try:
            yield store
        finally:
            store.close()


def height_of(store: RocksStore, genesis: Genesis) -> int:
    """The height of the chain in an open store, after the ledger's cheap checks."""
    return Ledger(store, genesis).height


def prove(
    database: Path,
    genesis: Genesis,
    workers: int,
    progress: Progress | None = None,
    checked: Callable[[Ledger], Checked] | None = None,
) -> Proven:
    """See `goud_node.chain.proof`. The database's own directory stays as it is."""
    shown = progress or Silent()
    with opened(database) as store:
        return proof.prove(
            store,
            genesis,
            workers=workers,
            progress=shown.advance,
            begun=lambda ledger: shown.stage("blocks", ledger.height),
            checked=checked or (lambda _: Checked()),
        )


def compare(proven: Proven, manifest: Manifest) -> None:
    """Raises NotVerified naming the first difference between the data and what the manifest says of it."""
    chain = manifest.chain
    pairs: list[tuple[str, object, object]] = [
        ("height", proven.height, chain.height),
        ("tip hash", proven.tip_hash.hex(), chain.tip_hash),
        ("certified height", proven.certified_height, chain.certified_height),
    ]
    pairs += [(f"rows of {name}", proven.keys.get(name), number) for name, number in sorted(manifest.keys.items())]
    for label, actual, declared in pairs:
        if actual != declared:
            raise NotVerified(
                f"Backup {manifest.id} is not what its manifest says: {label} is {actual}, the manifest has "
                f"{declared}. Use another backup, and look at the repository with `goud-backup verify --deep`."
            )
