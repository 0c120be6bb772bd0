"""Choosing what goes into the next block: each transaction once, and nothing that cannot be applied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from goud_node.chain.block import MAX_BLOCK_BYTES
from goud_node.chain.ledger import Ledger, Receipt
from goud_node.chain.transactions import Claim, Transaction, claims
from goud_node.errors import InvalidTransaction

MAX_COUNT = 1024
"""Most transactions of one proposal: RocksDB's library holds the interpreter's lock for a whole write, everywhere."""


class Waiting(Protocol):
    """A submitted transaction."""

    @property
    def raw(self) -> bytes: ...

    @property
    def transaction(self) -> Transaction: ...


@dataclass
class Batch:
    """What became of the waiting ones; those in none of the three wait on."""

    selection: list[Waiting] = field(default_factory=list)
    """In the order of the block, each different."""
    twins: list[Waiting] = field(default_factory=list)
    """The same transaction as a chosen one."""
    outcomes: list[tuple[Waiting, Receipt | InvalidTransaction]] = field(default_factory=list)
    """Applied before, or refused."""
    receipts: list[tuple[Waiting, Receipt]] = field(default_factory=list)
    """Of those chosen and their twins, once their block is stored."""


def compose(ledger: Ledger, waiting: Iterable[Waiting]) -> Batch:
    """Choose against the ledger's tip.

    Two that claim the same identifier never share a block: the later one waits until the ledger can judge it.
    """
    batch = Batch()
    raw_by_claim: dict[Claim, bytes] = {}
    size = 0
    for entry in waiting:
        try:
            receipt = ledger.admissible(entry.transaction)
        except InvalidTransaction as error:
            batch.outcomes.append((entry, error))
            continue
        if receipt is not None:
            batch.outcomes.append((entry, receipt))
            continue
        entry_claims = claims(entry.transaction)
        rivals = {raw_by_claim[claim] for claim in entry_claims if claim in raw_by_claim}
        if rivals:
            if rivals == {entry.raw}:
                batch.twins.append(entry)
            continue
        if size + len(entry.raw) > MAX_BLOCK_BYTES or len(batch.selection) >= MAX_COUNT:
            break
        size += len(entry.raw)
        raw_by_claim.update(dict.fromkeys(entry_claims, entry.raw))
        batch.selection.append(entry)
    return batch
