"""Verify a data directory offline, block by block, from the genesis document and the validators' public keys alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from goud_node.chain.genesis import Genesis
from goud_node.chain.ledger import Ledger
from goud_node.chain.proof import prove
from goud_node.errors import GoudError, StoreInUse
from goud_node.store import RocksStore, Store, marker
from goud_node.store.twin import twin

Progress = Callable[[int, int], None]
"""Called now and then with (blocks verified, blocks in all)."""


@dataclass
class Problem:
    """The first thing that is wrong: its error slug, the sentence, and the height when a block is to blame."""

    code: str
    message: str
    height: int | None = None


@dataclass
class Report:
    """What was found. Counts cover what was verified; `problem` is None when everything was."""

    data_dir: str
    chain_id: str
    height: int = 0
    tip_hash: str = ""
    certified_height: int = 0
    uncertified_blocks: int = 0
    blocks_verified: int = 0
    certificates_verified: int = 0
    transactions: int = 0
    void_transactions: int = 0
    accounts: int = 0
    collections: int = 0
    payload_bytes: int = 0
    schema_version: int = 0
    epoch: int | None = None
    seconds: float = 0.0
    problem: Problem | None = field(default=None)

    @property
    def ok(self) -> bool:
        return self.problem is None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def rows(self) -> list[tuple[str, str]]:
        """What a person reads: (what, value), the verdict last."""
        tail = f"{self.uncertified_blocks} (not yet countersigned by a majority; normal at the tip)"
        rows = [
            ("data directory", self.data_dir),
            ("chain", self.chain_id),
            ("height", str(self.height)),
            ("tip", self.tip_hash or "-"),
            ("certified height", str(self.certified_height)),
            ("uncertified tail", tail if self.uncertified_blocks else "0"),
            ("blocks verified", str(self.blocks_verified)),
            ("certificates verified", str(self.certificates_verified)),
            ("transactions", f"{self.transactions} ({self.void_transactions} without effect)"),
            ("accounts", str(self.accounts)),
            ("collections", f"{self.collections} ({self.payload_bytes} bytes encrypted)"),
            ("schema, epoch", f"{self.schema_version}, {'-' if self.epoch is None else self.epoch}"),
            ("time", f"{self.seconds:.1f} s"),
        ]
        location = "" if self.problem is None or self.problem.height is None else f" at height {self.problem.height}"
        verdict = "verified" if self.problem is None else f"{self.problem.code}{location}: {self.problem.message}"
        return [*rows, ("result", verdict)]


def inspect(data_dir: Path, genesis: Genesis, progress: Progress | None = None, workers: int = 1) -> Report:
    """Verify everything in `data_dir`. Damage is reported, never raised, and nothing in the directory is changed.

    Raises StoreInUse: of a running node's database nothing can be said.
    """
    report = Report(str(data_dir), genesis.chain_id)
    start = time.monotonic()
    try:
        marker.require(data_dir, genesis.chain_id, must_be_mount=False, writable=False)
        with (
            twin(marker.database_path(data_dir)) as path,
            closing(RocksStore.open(path, read_only=True)) as store,
        ):
            verify_store(store, genesis, report, progress, workers)
    except StoreInUse:
        raise
    except GoudError as error:
        report.problem = Problem(error.code, str(error), error.height)
    finally:
        report.seconds = round(time.monotonic() - start, 3)
    return report


def verify_store(
    store: Store, genesis: Genesis, report: Report, progress: Progress | None = None, workers: int = 1
) -> None:
    """Fill `report` from an open store. Raises what contradicts the chain."""

    def begun(ledger: Ledger) -> None:
        report.height, report.certified_height = ledger.height, ledger.certified_height
        report.tip_hash = ledger.tip.hash.hex()
        report.epoch = None if ledger.epoch is None else ledger.epoch.number
        # Genesis was compared with the document when the ledger was opened.
        report.blocks_verified = 1

    def advance(blocks: int) -> None:
        report.blocks_verified += blocks
        if progress is not None:
            progress(report.blocks_verified - 1, report.height)

    proof = prove(store, genesis, workers=workers, progress=advance, begun=begun)
    state = proof.state
    report.schema_version = proof.schema
    report.certificates_verified = proof.certificates
    report.uncertified_blocks = state.height - state.certified_height
    report.transactions, report.void_transactions = state.transactions, proof.void
    report.accounts, report.collections = state.accounts, state.collections
    report.payload_bytes = state.payload_bytes
