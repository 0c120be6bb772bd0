"""What the steps of one node share: its ledger, its view of the log, and what it must not forget between two steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from goud_node.agreement.sequencer import Head, Leader, Sequencer, State
from goud_node.chain.block import MAX_BLOCK_BYTES, Block
from goud_node.chain.certificate import Certificate
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Epoch, Ledger
from goud_node.chain.transactions import Claim
from goud_node.clock import running as running_clock
from goud_node.replica import clocks
from goud_node.replica.clocks import Verdict
from goud_node.replica.types import Options, Peers

T = TypeVar("T")
_WRITE_COUNT = 1024
"""Transactions in one write: the library of RocksDB holds the interpreter's lock for as long as a write takes."""


class Disk(Protocol):
    """Runs a ledger write where it does not hold up anything else, one at a time, in order."""

    async def __call__(self, write: Callable[[], T]) -> T: ...


def _ignore(_block: Block) -> None:
    return None


def _ignore_seconds(_seconds: float) -> None:
    return None


@dataclass
class Core:
    """One life of one node, from start to crash; nothing in here needs to survive, except through the ledger."""

    ledger: Ledger
    sequencer: Sequencer
    peers: Peers
    key: SigningKey
    node_id: str
    validator: bool
    clock: Callable[[], int]
    disk: Disk
    options: Options = field(default_factory=Options)
    publish: Callable[[Block], None] = _ignore
    measure: Callable[[float], None] = _ignore_seconds
    running: Callable[[], float] = running_clock

    epoch: Epoch | None = None
    """The epoch this node takes part in; None until it has joined."""
    head: Head | None = None
    leader: Leader | None = None
    epoch_read: Epoch | None = None
    """The epoch that the log was in at that reading."""
    readings: int = 0
    """How many readings of the log were remembered."""
    last_answer: float = float("-inf")
    """Monotonic time of the log's latest answer, whatever became of it here."""
    signed_height: int = 0
    """Countersignatures were published up to this height, in this life."""
    reported_height: int | None = None
    """The certified height last published."""
    unresolved_block: Block | None = None
    """A proposal whose outcome is not known: nothing else may be proposed before it is."""
    doubtful: bool = False
    """Whether an answer about `unresolved_block` was lost; without that, a refusal is final."""
    unsure_claims: frozenset[Claim] = frozenset()
    """What the transactions of the latest proposal claim, if that is neither stored here nor surely refused."""
    patience: int = 0
    """How often the next certificate may still be missing in the log before peers are asked for it."""
    trimmed_height: int = 0
    published_height: int = 0
    hashes: dict[int, bytes] = field(default_factory=dict)
    """Of blocks that await their certificate, so that they need not be read back."""

    def __post_init__(self) -> None:
        self.published_height = self.ledger.height
        self.patience = self.options.patience

    @property
    def lag(self) -> int:
        """Blocks known to be ordered but not stored here."""
        return max(0, self.head.height - self.ledger.height) if self.head is not None else 0

    def clock_verdict(self, now_ms: int | None = None) -> Verdict:
        """Whether this node's clock, which shows `now_ms`, may stamp a block."""
        if self.options.alone or not self.validator:
            return clocks.alone()
        own_ms = self.clock() if now_ms is None else now_ms
        return clocks.judge(self.ledger.genesis, self.node_id, own_ms, self.peers.clocks(), self.running())

    def observe(self, state: State, previous_readings: int | None = None) -> None:
        """Remember the latest reading of the log; `previous_readings` is `readings` as it was when this one began.

        Of two readings under way at once, the older may arrive last: then it must not take the newer one back.
        """
        self.last_answer = time.monotonic()
        if previous_readings not in (None, self.readings) and self._is_older(state):
            return
        self.readings += 1
        self.epoch_read, self.head, self.leader = state.epoch, state.head, state.leader

    def _is_older(self, state: State) -> bool:
        if state.epoch != self.epoch_read or state.head is None or self.head is None:
            return False
        if state.head.height != self.head.height:
            return state.head.height < self.head.height
        revisions = [0 if leader is None else leader.create_revision for leader in (state.leader, self.leader)]
        return 0 < revisions[0] < revisions[1]

    def hash_at(self, height: int) -> bytes:
        """Hash of a block that is stored here."""
        block_hash = self.hashes.get(height)
        if block_hash is None:
            block = self.ledger.block(height)
            if block is None:
                raise LookupError(f"block {height} is above the tip {self.ledger.height}")
            block_hash = self.hashes[height] = block.hash
        return block_hash

    async def append(self, blocks: Sequence[Block], certificates: Sequence[Certificate] = ()) -> None:
        """Store blocks durably, then tell whoever waits for them. `certificates` are none, or one for each block.

        Raises as the ledger does; blocks before the one that does not hold may have been stored then.
        """
        for start, stop in _parts(blocks):
            part = blocks[start:stop]
            await self.disk(partial(self.ledger.append, part, certificates[start:stop]))
            if not certificates:
                self.hashes.update((block.height, block.hash) for block in part)
            self._publish(part)
            self.forget_certified()

    def _publish(self, part: Sequence[Block]) -> None:
        """Tell of every block that is stored and was not told of: a write that was said to fail may have been whole."""
        new_blocks = {block.height: block for block in part}
        while self.published_height < self.ledger.height:
            block = new_blocks.get(self.published_height + 1) or self.ledger.block(self.published_height + 1)
            if block is None:
                raise LookupError(f"block {self.published_height + 1} is missing below the tip {self.ledger.height}")
            self.published_height = block.height
            self.publish(block)

    def forget_certified(self) -> None:
        """Keep only hashes that still await a certificate."""
        certified_height = self.ledger.certified_height
        # A copy: hashes are looked up, and remembered, beside the loop.
        for height in list(self.hashes):
            if height <= certified_height:
                self.hashes.pop(height, None)


def _parts(blocks: Sequence[Block]) -> Iterator[tuple[int, int]]:
    """Where to divide blocks so that no write is much larger than the largest block."""
    start = count = size = 0
    for index, block in enumerate(blocks):
        transaction_count, byte_count = block.header.count, len(block.encode())
        if index > start and (count + transaction_count > _WRITE_COUNT or size + byte_count > MAX_BLOCK_BYTES):
            yield start, index
            start, count, size = index, 0, 0
        count, size = count + transaction_count, size + byte_count
    if blocks:
        yield start, len(blocks)
