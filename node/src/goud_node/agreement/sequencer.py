"""Which block holds which height: the protocol on the five operations of a `Kv`.

Keys under /goud/<chain id>/:

    epoch                       (number, base height, base hash)
    head                        (height, hash) of the last ordered block; stays when blocks are trimmed
    leader                      (node id, lease) of the proposer, on its lease
    blocks/<16 hex>             an encoded block, until trimmed
    signatures/<16 hex>/<node>  that validator has this block on its own disk
    nodes/<node>                the height up to which that node holds blocks with their certificates
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from goud_node.agreement.kv import Compare, Delete, KeyValue, Kv, Operation, Put, prefix_end
from goud_node.agreement.pages import Pages
from goud_node.agreement.refusals import HeightTaken, HeightTrimmed, LogUnreadable
from goud_node.chain import encoding
from goud_node.chain.block import HASH_BYTES, Block
from goud_node.chain.keys import SIGNATURE_BYTES
from goud_node.chain.ledger import Epoch
from goud_node.chain.transactions import MAX_INT
from goud_node.errors import CoordinationFull, GoudError, InvalidBlock, NotLeader, OutcomeUnknown, Unavailable

T = TypeVar("T")
MAX_SIGNATURES_PER_TXN = 100  # etcd refuses transactions of more than 128 operations
_ENTRY = re.compile(rb"(?P<height>[0-9a-f]{16})/(?P<node>[!-~]+)")
"""Of a signature. Each node writes its own: one that is written wrong must not stop those who read all."""
_HEIGHT = re.compile(rb"[0-9a-f]{16}")
_NEW_EPOCH = "stop every node, and run `goud-node epoch start` on the node with the longest chain"


@dataclass(frozen=True, slots=True)
class Head:
    """The last ordered block."""

    height: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Leader:
    """The proposer as recorded; `create_revision` is the fence of its term."""

    node_id: str
    lease: int
    create_revision: int


@dataclass(frozen=True, slots=True)
class State:
    """One consistent reading of the control keys; all None in an empty log, and `leader` when it cannot be read."""

    epoch: Epoch | None
    head: Head | None
    leader: Leader | None


@dataclass(frozen=True, slots=True)
class Term:
    """A won election: proposals are valid while `leader` still has this create revision, in this epoch."""

    lease: int
    create_revision: int
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Tail:
    """Consecutive encoded blocks from the height asked for.

    Without blocks, `first` is the first height the log still has beyond it (so the gap must come from peers), or None
    when the height is not ordered yet.
    """

    first: int | None
    blocks: list[bytes]


class Sequencer:
    """The ordered log of one chain, seen by one node."""

    def __init__(self, kv: Kv, chain_id: str, node_id: str) -> None:
        self._kv = kv
        self._node_id = node_id
        self._pages = Pages(kv)
        root = f"/goud/{chain_id}/".encode()
        self._epoch, self._head, self._leader = root + b"epoch", root + b"head", root + b"leader"
        self._blocks, self._signatures, self._nodes = root + b"blocks/", root + b"signatures/", root + b"nodes/"

    async def state(self) -> State:
        """Read epoch, head and leader of one moment. Raises LogUnreadable."""
        entries = {entry.key: entry for entry in await self._control_entries()}
        epoch, head, leader = (entries.get(key) for key in (self._epoch, self._head, self._leader))
        return State(
            None if epoch is None else _readable(epoch, Epoch.decode),
            None if head is None else _readable(head, _load_head),
            None if leader is None else _leader(leader),
        )

    async def begin_epoch(self, new_epoch: Epoch, previous: State) -> None:
        """Replace the epoch of `previous` by `new_epoch`: head moves to its base, what was ordered before is dropped.

        Idempotent. Raises Unavailable when another epoch stands there, or when a block was ordered after `previous` was
        read: it may have been acknowledged.
        """
        epoch, head = previous.epoch, previous.head
        guards = [
            Compare(self._epoch, "version", 0) if epoch is None else Compare(self._epoch, "value", epoch.encode()),
            Compare(self._head, "version", 0)
            if head is None
            else Compare(self._head, "value", _dump_head(head.height, head.hash)),
        ]
        operations: list[Operation] = [
            Delete(prefix, prefix_end(prefix)) for prefix in (self._blocks, self._signatures, self._nodes)
        ]
        operations += [Delete(self._leader), Put(self._epoch, new_epoch.encode())]
        operations.append(Put(self._head, _dump_head(new_epoch.base_height, new_epoch.base_hash)))
        refusal: Unavailable | None = None
        try:
            if (await self._kv.txn(guards, operations)).succeeded:
                return
        except CoordinationFull as error:
            refusal = error
        try:
            current_epoch = (await self.state()).epoch
        except Unavailable as error:
            raise OutcomeUnknown(
                f"epoch {new_epoch.number} may have been begun; the log cannot say yet: {error}"
            ) from error
        if current_epoch != new_epoch:
            raise refusal or Unavailable(
                f"epoch {new_epoch.number} was not begun: another epoch stands in the log, or it has moved on; read it "
                "and decide"
            )

    async def campaign(self, epoch: Epoch, ttl: int) -> Term | None:
        """Try once to become the proposer; None when somebody else is, or the epoch changed.

        Raises LogUnreadable when what stood in the way was no proposer at all: then it is removed.
        """
        lease = await self._kv.grant(ttl)
        value = encoding.encode([self._node_id, lease])
        compares = [Compare(self._leader, "version", 0), Compare(self._epoch, "value", epoch.encode())]
        try:
            txn = await self._kv.txn(compares, [Put(self._leader, value, lease)])
        except (OutcomeUnknown, CoordinationFull) as error:
            leader = (await self.state()).leader
            if leader is not None and leader.lease == lease and leader.node_id == self._node_id:
                return Term(lease, leader.create_revision, epoch)
            await self._kv.revoke(lease)  # so that a late arrival of the lost request cannot make us an absent leader
            if isinstance(error, CoordinationFull):
                raise
            return None
        if txn.succeeded:
            return Term(lease, txn.revision, epoch)
        await self._kv.revoke(lease)
        await self._remove_unreadable_leader()
        return None

    async def _remove_unreadable_leader(self) -> None:
        """It hangs on no proposer's lease, so that nobody could be elected any more."""
        for entry in await self._kv.range(self._leader):
            if _leader(entry) is None:
                unchanged = Compare(self._leader, "mod_revision", entry.mod_revision)
                await self._kv.txn([unchanged], [Delete(self._leader)])
                raise LogUnreadable(self._leader, "no campaign wrote it", "it is removed, and a leader elected")

    async def renew(self, term: Term) -> bool:
        """Keep the term's lease alive; False when it has ended."""
        return await self._kv.keep_alive(term.lease)

    async def resign(self, term: Term) -> None:
        """End the term now, so that a successor need not wait for the lease."""
        await self._kv.revoke(term.lease)

    async def remove_leader(self, leader: Leader) -> None:
        """Delete exactly that leader's entry: for a node that finds its own name from a previous life."""
        await self._kv.txn([Compare(self._leader, "create_revision", leader.create_revision)], [Delete(self._leader)])

    async def commit(self, term: Term, block: Block) -> bytes:
        """Order `block`, and return the encoded block that now holds its height: this one, or another's.

        Raises NotLeader when the block is not ordered and never will be: every comparison that can fail fails for
        good, so a delayed twin of this request fails as well. Raises OutcomeUnknown when the answer was lost: then the
        only safe step at this height is to call again with the same block. Raises HeightTrimmed when it is decided
        but the log does not show how, CoordinationFull when the log shows that want of space kept this call out,
        HeightTaken when this call was refused because something that is not ordered stands there.
        """
        header, raw = block.header, block.encode()
        key = self._block_key(header.height)
        compares = [
            Compare(self._leader, "create_revision", term.create_revision),
            Compare(key, "version", 0),
            Compare(self._head, "value", _dump_head(header.height - 1, header.previous)),
            Compare(self._epoch, "value", term.epoch.encode()),
        ]
        operations = [Put(key, raw), Put(self._head, _dump_head(header.height, header.hash))]
        shortage: CoordinationFull | None = None
        try:
            if (await self._kv.txn(compares, operations)).succeeded:
                return raw
        except CoordinationFull as error:
            shortage = error
        try:
            return await self._holder(header.height)
        except NotLeader as error:
            raise shortage or error from None
        except HeightTaken:
            raise
        except Unavailable as error:
            raise OutcomeUnknown(f"block {header.height} was refused or ordered before: {error}") from error

    async def tail(self, start: int, limit: int) -> Tail:
        """Read encoded blocks from height `start`: at most `limit`, and fewer over a link that is slow."""
        async for page in self._pages.read(self._block_key(start), prefix_end(self._blocks), limit):
            entries = [entry for entry in page if self._height(entry.key) is not None]
            blocks: list[bytes] = []
            for entry in entries:
                if self._height(entry.key) != start + len(blocks):
                    break
                blocks.append(entry.value)
            if entries:
                return Tail(start if blocks else self._height(entries[0].key), blocks)
        head = (await self.state()).head
        return Tail(None if head is None or head.height < start else head.height + 1, [])

    def decode(self, tail: Tail) -> list[Block]:
        """The blocks of `tail`, up to the first that is none. Raises LogUnreadable when that is the first of all."""
        blocks: list[Block] = []
        for height, raw in enumerate(tail.blocks, tail.first or 0):
            try:
                blocks.append(_block(height, raw))
            except InvalidBlock as error:
                if blocks:
                    break
                raise LogUnreadable(self._block_key(height), error, _NEW_EPOCH) from error
        return blocks

    async def republish(self, epoch: Epoch, block: Block) -> bool:
        """Put back an ordered block that has no certificate yet; False if it was not needed.

        A new epoch drops the log's blocks, and a restore takes nodes back to before they were certified: whoever
        lacks an uncertified one can get it nowhere else.
        """
        key = self._block_key(block.header.height)
        guards = [Compare(self._epoch, "value", epoch.encode()), Compare(key, "version", 0)]
        return (await self._kv.txn(guards, [Put(key, block.encode())])).succeeded

    async def countersign(self, epoch: Epoch, signatures: Mapping[int, bytes], certified_height: int) -> bool:
        """Publish signatures by height (at most 100) and this node's certified height; False if the epoch changed."""
        if len(signatures) > MAX_SIGNATURES_PER_TXN:
            raise GoudError(f"{len(signatures)} signatures in one call; send at most {MAX_SIGNATURES_PER_TXN}")
        operations: list[Operation] = [
            Put(self._signatures + b"%016x/%s" % (height, self._node_id.encode()), signature)
            for height, signature in signatures.items()
        ]
        operations.append(Put(self._nodes + self._node_id.encode(), encoding.encode(certified_height)))
        guard = Compare(self._epoch, "value", epoch.encode())
        return (await self._kv.txn([guard], operations)).succeeded

    async def signatures(self, start: int, limit: int) -> dict[int, dict[str, bytes]]:
        """Read countersignatures of heights [start, start + limit): by height, by node; none of them verified."""
        first_key, end_key = (self._signatures + b"%016x/" % height for height in (start, start + limit))
        signatures: dict[int, dict[str, bytes]] = {}
        async for page in self._pages.read(first_key, end_key):
            for entry in page:
                match = _ENTRY.fullmatch(entry.key[len(self._signatures) :])
                if match is not None and len(entry.value) <= SIGNATURE_BYTES:
                    signatures.setdefault(int(match["height"], 16), {})[match["node"].decode()] = entry.value
        return signatures

    async def progress(self) -> dict[str, int]:
        """Read the certified height each node reports; what is not a height says nothing."""
        heights: dict[str, int] = {}
        async for page in self._pages.read(self._nodes, prefix_end(self._nodes)):
            for entry in page:
                height = _reported_height(entry.value)
                if height is not None:
                    heights[entry.key[len(self._nodes) :].decode(errors="replace")] = height
        return heights

    async def forget_progress(self, epoch: Epoch) -> None:
        """Drop what nodes reported to hold, for nodes that were restored and hold less; each reports when it joins."""
        guard = Compare(self._epoch, "value", epoch.encode())
        if not (await self._kv.txn([guard], [Delete(self._nodes, prefix_end(self._nodes))])).succeeded:
            raise Unavailable("the log's epoch changed meanwhile: does a node run? Look again")

    async def held_above(self, height: int) -> int:
        """How many blocks above that height the log still holds."""
        count = 0
        async for page in self._pages.read(self._block_key(height + 1), prefix_end(self._blocks), keys_only=True):
            count += sum(self._height(entry.key) is not None for entry in page)
        return count

    async def trim(self, epoch: Epoch, height: int) -> bool:
        """Drop blocks and signatures up to that height from the log; False if the epoch changed."""
        end = b"%016x" % (height + 1)
        operations = [Delete(prefix, prefix + end) for prefix in (self._blocks, self._signatures)]
        return (await self._kv.txn([Compare(self._epoch, "value", epoch.encode())], operations)).succeeded

    async def reclaim(self) -> None:
        """Give space back to the log's store; ends a space alarm."""
        await self._kv.compact_and_reclaim()

    def changes(self) -> AsyncIterator[None]:
        """Hints that epoch, head or leader may have changed."""
        return self._kv.changes(self._epoch, self._leader + b"\0")

    async def _holder(self, height: int) -> bytes:
        key = self._block_key(height)
        values = [entry.value for entry in await self._kv.range(key)]
        head = (await self.state()).head
        if head is not None and head.height >= height:
            if not values:
                raise HeightTrimmed(f"block {height} is decided and trimmed; catch up from peers")
            try:
                self.decode(Tail(height, values))
            except LogUnreadable as error:
                raise HeightTrimmed(f"block {height} is decided: {error}") from error
            return values[0]
        if values:
            raise HeightTaken(key)
        raise NotLeader(f"block {height} was not ordered: this node's term or epoch ended; submit again")

    async def _control_entries(self) -> list[KeyValue]:
        names = (self._epoch, self._head, self._leader)
        entries = await self._kv.range(self._epoch, self._leader + b"\0", len(names) + 1)
        if len(entries) <= len(names):
            return entries
        # Others lie between, however many. One by one, head and leader are those of an epoch that is still there.
        while True:
            entries = [entry for name in names for entry in await self._kv.range(name)]
            if await self._kv.range(self._epoch) == [entry for entry in entries if entry.key == self._epoch]:
                return entries

    def _block_key(self, height: int) -> bytes:
        return self._blocks + b"%016x" % height

    def _height(self, key: bytes) -> int | None:
        """None for a key that is no block's: it says nothing."""
        digits = key[len(self._blocks) :]
        return int(digits, 16) if _HEIGHT.fullmatch(digits) else None


def _block(height: int, raw: bytes) -> Block:
    """Raises InvalidBlock when the bytes are not a block of that height."""
    block = Block.decode(raw)
    if block.height != height:
        raise InvalidBlock(f"it holds block {block.height}")
    return block


def _reported_height(value: bytes) -> int | None:
    try:
        height = encoding.decode_trusted(value)
    except encoding.NotCanonical:
        return None
    return height if type(height) is int and 0 <= height <= MAX_INT else None


def _readable(entry: KeyValue, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(entry.value)
    except ValueError as error:
        raise LogUnreadable(entry.key, error) from error


def _load_head(raw: bytes) -> Head:
    """Raises ValueError when the bytes are not a head."""
    height, block_hash = encoding.record(encoding.decode(raw), (int, bytes))
    if not 0 <= height <= MAX_INT or len(block_hash) != HASH_BYTES:
        raise ValueError(f"block {height} with a hash of {len(block_hash)} bytes is none")
    return Head(height, block_hash)


def _leader(kv: KeyValue) -> Leader | None:
    """None when no campaign wrote it: it hangs on the lease that it names, and ends with it."""
    try:
        node_id, lease = encoding.record(encoding.decode(kv.value), (str, int))
    except encoding.NotCanonical:
        return None
    return Leader(node_id, lease, kv.create_revision) if 0 != lease == kv.lease else None


def _dump_head(height: int, block_hash: bytes) -> bytes:
    return encoding.encode([height, block_hash])
