"""Prove a database: every row of every family is derived from the blocks, and compared with what is stored.

Nothing that is stored is believed. Blocks follow from the genesis document by links, roots and signatures; what the
transactions in them make follows from `indexes.rows_of`. Ranges of heights are independent of each other once the links
between them are compared, so they are proven in processes of their own, on all cores.

A transaction has an effect when every row that it makes is stored exactly so. It has none when an effective one before
it forbids it. The rows of two effective transactions differ, so when the number of rows stored is that of the rows
derived, nothing is stored besides them. Docs: decision 0018.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from goud_node import processes
from goud_node.chain import order
from goud_node.chain.genesis import Genesis
from goud_node.chain.indexes import rows_implied
from goud_node.chain.ledger import Ledger
from goud_node.chain.records import LedgerState
from goud_node.chain.stretch import Chain, Checked, Stretch, prove_stretch
from goud_node.errors import CorruptStore, InvalidBlock
from goud_node.store import Family, RocksStore, Store, schema

STRETCH: Final = 1000
_INLINE: Final = 2000
"""Fewer blocks than this are proven in this process: starting others takes longer."""
_COUNTED: Final = (Family.ACCOUNTS, Family.COLLECTIONS, Family.SUBMISSIONS, Family.AUDIT)

Part = str | tuple[int, int]
"""What one process does at a time: count the rows of a family, or prove the blocks from one height to another."""
Result = tuple[str, int] | Stretch

Progress = Callable[[int], None]
"""Called with the number of blocks that were proven since the last call."""


@dataclass(frozen=True)
class Proven:
    """What was read and verified; `keys` counts the rows of each family, `digests` those of the stretches by height.

    `spared` blocks have signatures that were not verified, because they had been before.
    """

    state: LedgerState
    certificates: int
    void: int
    schema: int
    epoch: int | None
    keys: dict[str, int]
    digests: tuple[bytes, ...]
    spared: int = 0

    @property
    def height(self) -> int:
        return self.state.height

    @property
    def tip_hash(self) -> bytes:
        return self.state.tip_hash

    @property
    def certified_height(self) -> int:
        return self.state.certified_height


def prove(
    store: Store,
    genesis: Genesis,
    *,
    workers: int = 1,
    progress: Progress = lambda _: None,
    begun: Callable[[Ledger], None] = lambda _: None,
    checked: Callable[[Ledger], Checked] = lambda _: Checked(),
) -> Proven:
    """Prove a store that nobody writes to. `begun` is called with its ledger before the work.

    What `checked` says of its ledger is not verified again, except the last certified block and what is above it.
    Raises CorruptStore or InvalidBlock naming the height, family or file; WrongChain for another chain's.
    """
    if store.fresh:
        raise CorruptStore("The database was created but holds no chain yet. Run `goud-node init` again to finish it.")
    ledger = Ledger(store, genesis)
    begun(ledger)
    other_rows = {family.value: number for family, number in order.other_rows(store, ledger).items()}
    chain = Chain(genesis, ledger.height, ledger.certified_height, checked(ledger))
    stretches, rows = _prove_parts(store, chain, workers, progress)
    state = _final_state(genesis, stretches)
    certificates = sum(stretch.certificates for stretch in stretches)
    chain_rows = {Family.BLOCKS.value: state.height + 1, Family.CERTIFICATES.value: certificates}
    proof = Proven(
        state=state,
        certificates=certificates,
        void=sum(stretch.void for stretch in stretches),
        schema=schema.version(store),
        epoch=None if ledger.epoch is None else ledger.epoch.number,
        keys={**chain_rows, **other_rows, **rows},
        digests=tuple(stretch.digest for stretch in stretches),
        spared=sum(stretch.spared for stretch in stretches),
    )
    _compare(proof, ledger.state)
    return proof


def _prove_parts(store: Store, chain: Chain, workers: int, progress: Progress) -> tuple[list[Stretch], dict[str, int]]:
    # Verification never waits: more processes than cores only take memory.
    number = min(workers, os.cpu_count() or 1)
    if chain.tip > _INLINE and number > 1 and isinstance(store, RocksStore):
        return _prove_in_processes(chain, store.path, number, progress)
    return _sort_results((_work(store, chain, part) for part in _parts(chain.tip)), progress)


def _parts(height: int) -> list[Part]:
    """Families first: they are few and long. A chain of nothing but the genesis block is a stretch, too."""
    families: list[Part] = [family.value for family in _COUNTED]
    first_heights = range(1, max(height, 1) + 1, STRETCH)
    return families + [(first, min(first + STRETCH - 1, height)) for first in first_heights]


def _work(store: Store, chain: Chain, part: Part) -> Result:
    if isinstance(part, str):
        return part, store.count(Family(part))
    return prove_stretch(store, chain, *part)


_worker: dict[str, tuple[RocksStore, Chain]] = {}
"""The open store of this worker process."""


def _begin(path: str, chain: Chain) -> None:
    _worker["own"] = RocksStore.open(Path(path), read_only=True), chain


def _work_in_process(part: Part) -> Result:
    return _work(*_worker["own"], part)


def _prove_in_processes(
    chain: Chain, path: Path, workers: int, progress: Progress
) -> tuple[list[Stretch], dict[str, int]]:
    with processes.pool(workers, _begin, (str(path), chain)) as executor:
        futures = [executor.submit(_work_in_process, part) for part in _parts(chain.tip)]
        try:
            return _sort_results((future.result() for future in as_completed(futures)), progress)
        except BaseException:
            executor.shutdown(wait=True, cancel_futures=True)
            raise


def _sort_results(results: Iterable[Result], progress: Progress) -> tuple[list[Stretch], dict[str, int]]:
    stretches: list[Stretch] = []
    rows: dict[str, int] = {}
    for result in results:
        if isinstance(result, Stretch):
            stretches.append(result)
            progress(result.last - result.first + 1)
        else:
            rows[result[0]] = result[1]
    return sorted(stretches, key=lambda stretch: stretch.first), rows


def _final_state(genesis: Genesis, stretches: Sequence[Stretch]) -> LedgerState:
    """The state that the blocks make; each stretch began on what the one before it ended with."""
    state = LedgerState(0, genesis.block().header.hash, 0, 0, 0, 0, 0)
    for stretch in stretches:
        if stretch.previous_hash != state.tip_hash:
            raise InvalidBlock(f"Block {stretch.first} does not follow block {stretch.first - 1}.")
        certified_height = state.certified_height
        state = LedgerState(
            height=stretch.last,
            tip_hash=stretch.last_hash,
            certified_height=stretch.certified_height if certified_height == stretch.first - 1 else certified_height,
            accounts=state.accounts + stretch.counters.accounts,
            collections=state.collections + stretch.counters.collections,
            payload_bytes=state.payload_bytes + stretch.counters.payload_bytes,
            transactions=state.transactions + stretch.transactions,
        )
    return state


def _compare(proof: Proven, ledger_state: LedgerState) -> None:
    state = proof.state
    if state.tip_hash != ledger_state.tip_hash:
        raise CorruptStore("The last block is not the tip that the ledger's state names.")
    if state.certified_height != ledger_state.certified_height:
        raise CorruptStore(
            f"Blocks up to {state.certified_height} are certified; the state says {ledger_state.certified_height}."
        )
    for name in ("accounts", "collections", "payload_bytes", "transactions"):
        count, ledger_count = getattr(state, name), getattr(ledger_state, name)
        if count != ledger_count:
            raise CorruptStore(f"The blocks make {count} {name}; the ledger's state says {ledger_count}.")
    for family, number in rows_implied(state).items():
        row_count = proof.keys[family.value]
        if row_count != number:
            raise CorruptStore(f"The family {family.value} has {row_count} rows; the blocks make {number}.")
