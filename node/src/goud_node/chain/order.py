"""The order that a single node keeps in its own database, and the other records that do not follow from the blocks.

It is what `agreement.sequencer` writes by `agreement.embedded`. What of it concerns blocks that are stored must be
those blocks, it must go on from the last of them, and the rest must be records that can be read.
"""

from __future__ import annotations

import re
from typing import Final

from goud_node.chain import encoding
from goud_node.chain.block import HASH_BYTES, Block
from goud_node.chain.certificate import countersigned
from goud_node.chain.ledger import EPOCH_KEY, STATE_KEY, Epoch, Ledger
from goud_node.errors import CorruptStore, InvalidBlock
from goud_node.store import SCHEMA_KEY, Family, Store

_REVISION = b"revision"
_RECORD_KINDS = (bytes, int, int, int, int)
_BLOCK = re.compile(rb"blocks/([0-9a-f]{16})")
_SIGNATURE = re.compile(rb"signatures/([0-9a-f]{16})/(.+)")
_NODE = re.compile(rb"nodes/.+")
_REMEDY: Final = (
    "If the chain itself is verified, `goud-node epoch start` begins a new order from its tip; else restore a backup."
)


def check(store: Store, ledger: Ledger) -> int:
    """The number of its rows. Raises CorruptStore naming the row that is not one, or contradicts the chain."""
    raw_revision = store.get(Family.SEQUENCER, _REVISION)
    rows = 0
    root = f"record//goud/{ledger.genesis.chain_id}/".encode()
    control_values: dict[bytes, bytes] = {}
    try:
        revision = 1 if raw_revision is None else _integer(encoding.decode_trusted(raw_revision))
        for key, raw in store.scan(Family.SEQUENCER):
            rows += 1
            if key == _REVISION:
                continue
            if not key.startswith(root):
                raise _contradiction(key, "it belongs to no key of this chain")
            name, value = key.removeprefix(root), _value(key, raw, revision)
            if name in {b"epoch", b"head"}:
                control_values[name] = value
            else:
                _check_row(ledger, name, value)
        if rows:
            _check_epoch(ledger, control_values.get(b"epoch"))
            _check_head(store, ledger, root, control_values.get(b"head"))
    except (encoding.NotCanonical, InvalidBlock) as error:
        raise CorruptStore(f"The family sequencer has a row that cannot be read: {error}.") from error
    if rows and raw_revision is None:
        raise CorruptStore("The family sequencer has rows but no revision.")
    return rows


def other_rows(store: Store, ledger: Ledger) -> dict[Family, int]:
    """How many rows the families have that do not follow from the blocks: metadata, of which every key is known and the
    epoch's block is this chain's, and the order.

    Raises CorruptStore.
    """
    keys = [key for key, _ in store.scan(Family.METADATA)]
    unknown_keys = set(keys) - {STATE_KEY, SCHEMA_KEY, EPOCH_KEY}
    if unknown_keys:
        raise CorruptStore(f"The family metadata has rows that nothing makes: {sorted(unknown_keys)[:3]}.")
    epoch = ledger.epoch
    base = None if epoch is None else ledger.block(epoch.base_height)
    # A node that lags follows an epoch whose first block it has yet to fetch.
    if epoch is not None and base is not None and base.hash != epoch.base_hash:
        raise CorruptStore(f"The epoch record names another block {epoch.base_height} than the one that is stored.")
    return {Family.METADATA: len(keys), Family.SEQUENCER: check(store, ledger)}


def _value(key: bytes, raw: bytes, revision: int) -> bytes:
    """What the log holds at a key."""
    value, create_revision, modify_revision, version, _ = encoding.record(encoding.decode_trusted(raw), _RECORD_KINDS)
    if not (0 < create_revision <= modify_revision <= revision and version > 0):
        raise _contradiction(key, "its revisions are not those of a row")
    content: bytes = value
    return content


def _check_row(ledger: Ledger, name: bytes, value: bytes) -> None:
    """One that stands for itself. Raises CorruptStore, NotCanonical, InvalidBlock."""
    if match := _BLOCK.fullmatch(name):
        _check_block(ledger, name, int(match[1], 16), value)
    elif match := _SIGNATURE.fullmatch(name):
        block = ledger.block(int(match[1], 16))
        node_id = match[2].decode(errors="replace")
        if block is not None and not countersigned(ledger.genesis, node_id, block.hash, value):
            raise _contradiction(name, "it does not sign the block that is stored")
    elif _NODE.fullmatch(name):
        if not 0 <= _integer(encoding.decode(value)) <= ledger.certified_height:
            raise _contradiction(name, f"certificates are stored up to block {ledger.certified_height}")
    elif name == b"leader":
        encoding.record(encoding.decode(value), (str, int))
    else:
        raise _contradiction(name, "nothing writes it")


def _check_block(ledger: Ledger, name: bytes, height: int, value: bytes) -> None:
    block = Block.decode(value)
    if block.height != height or ledger.raw_block(height) not in (None, value):
        raise _contradiction(name, "it is another block than the one that is stored")
    if height > ledger.height and (height, block.header.previous) != (ledger.height + 1, ledger.tip.hash):
        raise _contradiction(name, f"it does not follow block {ledger.height}, the last that is stored")


def _check_epoch(ledger: Ledger, value: bytes | None) -> None:
    if value is None:
        raise _contradiction(b"epoch", "it is missing")
    try:
        epoch = Epoch.decode(value)
    except ValueError as error:
        raise _contradiction(b"epoch", str(error)) from error
    base = ledger.block(epoch.base_height)
    if base is None or base.hash != epoch.base_hash:
        raise _contradiction(b"epoch", f"block {epoch.base_height}, on which it says that it began, is another")
    # The order is written first: the ledger's own record may be that of the epoch before.
    if ledger.epoch is not None and epoch != ledger.epoch and epoch.number <= ledger.epoch.number:
        raise _contradiction(b"epoch", f"it is {epoch}, and this chain is in epoch {ledger.epoch}")


def _check_head(store: Store, ledger: Ledger, root: bytes, value: bytes | None) -> None:
    """It is the tip, or the one block more that a node which was killed had ordered and not stored."""
    if value is None:
        raise _contradiction(b"head", "it is missing")
    height, block_hash = encoding.record(encoding.decode(value), (int, bytes))
    if len(block_hash) != HASH_BYTES or not ledger.height <= height <= ledger.height + 1:
        raise _contradiction(b"head", f"it names block {height}, and the last that is stored is {ledger.height}")
    if height == ledger.height:
        ordered_hash = ledger.tip.hash
    else:
        raw = store.get(Family.SEQUENCER, root + b"blocks/%016x" % height)
        if raw is None:
            raise _contradiction(b"head", f"it names block {height}, which is nowhere")
        ordered_hash = Block.decode(encoding.record(encoding.decode_trusted(raw), _RECORD_KINDS)[0]).hash
    if block_hash != ordered_hash:
        raise _contradiction(b"head", f"it names another block {height}")


def _contradiction(key: bytes, reason: str) -> CorruptStore:
    return CorruptStore(f"The row {key!r} of the family sequencer contradicts the chain: {reason}. {_REMEDY}")


def _integer(value: object) -> int:
    if type(value) is not int:
        raise encoding.NotCanonical("expected an integer")
    return value
