"""The order that a single node keeps in its own database, and the other records that do not follow from the blocks.

What of it concerns blocks that are stored must be those blocks; the rest must be records that can be read.
"""

from __future__ import annotations

import re

from goud_node.chain import encoding
from goud_node.chain.block import Block
from goud_node.chain.certificate import countersigned
from goud_node.chain.ledger import EPOCH_KEY, STATE_KEY, Ledger
from goud_node.errors import CorruptStore, InvalidBlock
from goud_node.store import SCHEMA_KEY, Family, Store

_REVISION = b"revision"
_RECORD_KINDS = (bytes, int, int, int, int)
_BLOCK = re.compile(rb"record/.+/blocks/([0-9a-f]{16})")
_HEAD = re.compile(rb"record/.+/head")
_SIGNATURE = re.compile(rb"record/.+/signatures/([0-9a-f]{16})/(.+)")
_OTHER = re.compile(rb"record/.+/(epoch|leader|nodes/.+)")


def check(store: Store, ledger: Ledger) -> int:
    """The number of its rows. Raises CorruptStore naming the row that is not one, or contradicts the chain."""
    raw = store.get(Family.SEQUENCER, _REVISION)
    rows = 0
    try:
        revision = 1 if raw is None else _integer(encoding.decode_trusted(raw))
        for key, value in store.scan(Family.SEQUENCER):
            rows += 1
            if key != _REVISION and not _holds(ledger, key, value, revision):
                raise CorruptStore(f"The row {key!r} of the family sequencer contradicts the chain.")
    except (encoding.NotCanonical, InvalidBlock) as error:
        raise CorruptStore(f"The family sequencer has a row that cannot be read: {error}.") from error
    if rows and raw is None:
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


def _holds(ledger: Ledger, key: bytes, raw: bytes, revision: int) -> bool:
    value, create_revision, modify_revision, version, _ = encoding.record(encoding.decode_trusted(raw), _RECORD_KINDS)
    if not (0 < create_revision <= modify_revision <= revision and version > 0):
        return False
    if match := _BLOCK.fullmatch(key):
        height = int(match[1], 16)
        return ledger.raw_block(height) in (None, value) and Block.decode(value).height == height
    if match := _SIGNATURE.fullmatch(key):
        block = ledger.block(int(match[1], 16))
        return block is None or countersigned(ledger.genesis, match[2].decode(errors="replace"), block.hash, value)
    if _HEAD.fullmatch(key):
        height, block_hash = encoding.record(encoding.decode(value), (int, bytes))
        block = ledger.block(height)
        return block is None or block.hash == block_hash
    return _OTHER.fullmatch(key) is not None


def _integer(value: object) -> int:
    if type(value) is not int:
        raise encoding.NotCanonical("expected an integer")
    return value
