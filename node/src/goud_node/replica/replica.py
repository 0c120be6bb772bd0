"""One node's part in the chain: loops, queue, executor and subscriptions around the pure steps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from goud_node.agreement.sequencer import Sequencer
from goud_node.chain.block import Block
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Ledger, Receipt
from goud_node.replica.types import Hooks, Options, Peers, Status


class Replica:
    """Follows, countersigns and, when elected, proposes."""

    def __init__(
        self,
        ledger: Ledger,
        sequencer: Sequencer,
        peers: Peers,
        key: SigningKey,
        node_id: str,
        *,
        clock: Callable[[], int],
        validator: bool,
        options: Options | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        """`clock` returns wall time in milliseconds."""
        raise NotImplementedError

    async def run(self) -> None:
        """Work until cancelled or stopped. A halt does not end it: the node keeps answering reads and says why."""
        raise NotImplementedError

    async def submit(self, transaction: bytes, *, forward: bool = True) -> Receipt:
        """Have an encoded transaction ordered once, and return where it stands in the chain.

        The peer server calls it with `forward=False`: then a node that does not lead raises `NotLeader` at once.
        Raises `InvalidTransaction` and its kinds, `Unavailable` (it did not happen) or `OutcomeUnknown` (it may have;
        the same bytes may be submitted again, and are applied once).
        """
        raise NotImplementedError

    def drain(self) -> None:
        """Stop campaigning and report `draining`; submissions are still taken and forwarded."""
        raise NotImplementedError

    def undrain(self) -> None:
        raise NotImplementedError

    async def hand_over(self) -> bool:
        """Give up the lead after the block in flight; returns once another node leads, False if none did in 5 s."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Drain, hand over, finish what is in flight, end `run`; under 5 s. The ledger's store stays open."""
        raise NotImplementedError

    async def start_epoch(self) -> int:
        """Begin a new epoch from the local tip (after a restore); returns its number."""
        raise NotImplementedError

    @property
    def status(self) -> Status:
        raise NotImplementedError

    def subscribe(self) -> AsyncIterator[Block]:
        """New blocks as they become durable here; a consumer that falls behind gets `SlowSubscriber`."""
        raise NotImplementedError
