"""What a replica asks of its surroundings, and what it tells them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate
from goud_node.chain.ledger import Epoch, Receipt
from goud_node.replica.clocks import Reading, Verdict

Role = Literal["starting", "proposer", "follower", "observer", "halted", "stopped"]


class Peers(Protocol):
    """The other nodes. Implementations choose whom to ask and verify who answers, not what they say."""

    async def fetch(self, start: int, limit: int, epoch: Epoch) -> Served | None:
        """Return consecutive certified blocks from height `start`, at most `limit`, from a peer that has them.

        The peer is asked for the chain of `epoch`: another epoch's may differ. None means that nobody reachable has
        certified that height. Successive calls should try other peers. Raises `Unavailable` when no peer answers.
        """
        ...

    async def proof(self, node: str) -> Served | None:
        """Return the highest block that a peer holds with a certificate, of whatever epoch; None when it shows none.

        It takes some seconds at most, whatever the peer does.
        """
        ...

    async def forward(self, leader: str, transaction: bytes) -> Receipt:
        """Have node `leader` submit an encoded transaction (`Replica.submit(..., forward=False)` there).

        Raises what the leader raised; `Unavailable` when it surely did not arrive, else `OutcomeUnknown`.
        """
        ...

    async def heights(self) -> Mapping[str, int]:
        """Ask every peer; return the height each reports, of those that answer within about a second."""
        ...

    def clocks(self) -> Mapping[str, Reading]:
        """The latest reading of each peer's clock, from its signed answers."""
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """Blocks as one peer served them: who sent them is certain, what they say is not verified yet.

    `epoch` is the one that the peer names; None when its release does not name any.
    """

    peer: str
    epoch: Epoch | None
    pairs: Sequence[tuple[Block, Certificate]]


@dataclass(frozen=True, slots=True)
class Status:
    """A node's view of itself; every field is cheap to read.

    `lag` counts blocks known to be ordered but not yet stored here. `quorum` means the ordering service answered a
    linearizable read lately; `halted` is a sentence for the operator, and a halted node needs one.
    """

    role: Role
    proposer: str | None
    epoch: int | None
    height: int
    certified: int
    lag: int
    quorum: bool
    synced: bool
    draining: bool
    halted: str | None
    clock: Verdict


@dataclass(frozen=True, slots=True)
class Options:
    """Tunables; times in seconds. `alone`: this node orders by itself, so its clock is the only one."""

    alone: bool = False

    lease_ttl: int = 2
    renew_interval: float = 0.6
    poll_interval: float = 0.25
    certify_interval: float = 0.2
    maintain_interval: float = 2.0
    compact_interval: float = 15.0
    submit_deadline: float = 8.0
    quorum_timeout: float = 3.0
    tail_length: int = 64
    read_batch: int = 16
    fetch_batch: int = 64
    patience: int = 5
    max_queue: int = 4096
    max_queue_bytes: int = 64 * 1024 * 1024
    max_uncertified: int = 512
    synced_lag: int = 8
    subscriber_buffer: int = 256


def _ignore_number(_value: float) -> None:
    return None


def _no_shortage() -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Hooks:
    """Where measurements go, and come from: called in the event loop, must return at once."""

    shortage: Callable[[], str | None] = field(default=_no_shortage)  # why nothing can be written for want of space
    committed: Callable[[float], None] = field(default=_ignore_number)  # seconds of the ordering transaction
    created: Callable[[float], None] = field(default=_ignore_number)  # seconds from batch to durable block
    batched: Callable[[float], None] = field(default=_ignore_number)  # transactions in the block
