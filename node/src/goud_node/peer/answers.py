"""What other nodes answer: signed by them, and still read as strictly as what anybody says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from goud_node import errors
from goud_node.chain import encoding
from goud_node.chain.block import Block
from goud_node.chain.certificate import Certificate, decode_pairs
from goud_node.chain.ledger import Epoch, Receipt
from goud_node.documents import Digest, Document, Line, Malformed, Number, printable, read, shaped
from goud_node.errors import NotLeader, OutcomeUnknown

_BY_CODE: Final[dict[str, type[errors.GoudError]]] = {
    kind.code: kind
    for kind in (
        errors.InvalidTransaction,
        errors.IdempotencyConflict,
        errors.AlreadyExists,
        errors.Unavailable,
        errors.CoordinationFull,
        errors.Draining,
        errors.NotLeader,
    )
}


class _Status(Document):
    """What a peer says of itself; it says more. Releases before epochs had numbers name none."""

    height: Number
    certified: Number
    epoch: Number | None = None


class _Receipt(Document):
    """Where a write is."""

    height: Number
    index: Number
    transaction_id: Line
    block_hash: Digest


class PeerError(Exception):
    """A peer did not give a usable answer. `sent` is False when the request surely did not reach it.

    `clock_ms` is its clock, when that is why it refuses this node.
    """

    def __init__(self, message: str, *, sent: bool, clock_ms: int | None = None) -> None:
        # It may quote an answer: what is shown or logged of it commands no terminal, and begins no line.
        super().__init__(printable(message))
        self.sent = sent
        self.clock_ms = clock_ms


class TooSlow(PeerError):
    """Its answer did not come in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A verified answer."""

    status: int
    body: bytes

    def document(self) -> dict[str, Any]:
        """The body as a JSON object. Raises PeerError."""
        try:
            return read(self.body, dict[str, Any])
        except Malformed as error:
            raise PeerError(f"the answer is not a JSON object: {error}", sent=True) from error


def clock_of(document: Mapping[str, Any]) -> int | None:
    """The clock in a signed answer; None when the peer's release does not send it. Raises PeerError."""
    clock_ms = document.get("clock_ms")
    if clock_ms is not None and (type(clock_ms) is not int or not 0 <= clock_ms < 1 << 53):
        raise PeerError(f"its clock is {clock_ms!r:.40}, which is not a time in milliseconds", sent=True)
    return clock_ms


def standing_of(document: Mapping[str, Any], chain_id: str) -> tuple[int, int, int | None]:
    """Height, certified height and number of the epoch out of a status document of our chain. Raises PeerError."""
    if document.get("chain_id") != chain_id:
        raise PeerError(f"it serves chain {document.get('chain_id')!r}, not ours", sent=True)
    try:
        status = shaped(document, _Status)
    except Malformed as error:
        raise PeerError(f"its status is malformed: {error}", sent=True) from error
    return status.height, status.certified, status.epoch


def blocks_of(body: bytes) -> tuple[Epoch | None, list[tuple[Block, Certificate]]]:
    """The epoch that an answer names, and its blocks. Raises PeerError, InvalidBlock."""
    try:
        document = encoding.decode(body)
        epoch, rows = (None, document)
        if document and type(document) is list and type(document[0]) is bytes:
            raw_epoch, rows = encoding.record(document, (bytes, list))
            epoch = Epoch.decode(raw_epoch)
        records = [encoding.record(row, (bytes, bytes)) for row in rows]
    except (ValueError, TypeError) as error:
        raise PeerError(f"the answer is not a list of blocks: {error}", sent=True) from error
    return epoch, decode_pairs(records, len(body))


def receipt_of(document: Mapping[str, Any]) -> Receipt:
    """Where the proposer says that a write is. Raises PeerError."""
    try:
        receipt = shaped(document, _Receipt)
    except Malformed as error:
        raise PeerError(f"the answer is not a receipt: {error}", sent=True) from error
    return Receipt(receipt.height, receipt.index, receipt.transaction_id, bytes.fromhex(receipt.block_hash))


def proposer_error(leader: str, problem: Mapping[str, Any]) -> errors.GoudError:
    """The error that the proposer raised, from its problem document."""
    kind = _BY_CODE.get(str(problem.get("code")))
    detail = str(problem.get("detail", "no detail"))
    if kind is NotLeader:
        return NotLeader(detail, None)
    if kind is not None:
        return kind(detail)
    return OutcomeUnknown(f"The proposer {leader} failed: {detail}")
