"""Every error a node can name: a slug for machines, a sentence with cause and next step for people."""

from __future__ import annotations


class GoudError(Exception):
    """Base of all errors; `code` is the stable slug used in problem details and exit messages."""

    code = "error"
    height: int | None = None
    """The block that is to blame, where it is known to be one."""
    reported = False
    """Whether whoever raised it logs what causes it: the beginning, that it lasts, and the end."""


class ConfigurationError(GoudError):
    code = "configuration"


class StoreError(GoudError):
    code = "store"


class CorruptStore(StoreError):
    """The database or a checkpoint is damaged; the message names the file or key."""

    code = "corrupt-store"


class StoreInUse(StoreError):
    """Another process has the database open: nothing is known of its state."""

    code = "in-use"


class StoreFull(StoreError):
    """The file system has no space left; nothing was written."""

    code = "store-full"


class WrongChain(GoudError):
    code = "wrong-chain"


class UninitializedVolume(GoudError):
    code = "uninitialized-volume"


class SchemaMismatch(GoudError):
    code = "schema-mismatch"


class InvalidBlock(GoudError):
    code = "invalid-block"


class ConflictingBlock(GoudError):
    """Another block stands at a height this node already holds: the node stops, it never rewrites."""

    code = "conflicting-block"


class InvalidTransaction(GoudError):
    code = "invalid-transaction"


class IdempotencyConflict(InvalidTransaction):
    """The idempotency key was used before, for other content."""

    code = "idempotency-conflict"


class AlreadyExists(InvalidTransaction):
    code = "already-exists"


class Unavailable(GoudError):
    """It surely did not happen; retry after `retry_after` seconds."""

    code = "unavailable"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CoordinationFull(Unavailable):
    """etcd raised its space alarm: it takes no writes until compacted and defragmented."""

    code = "coordination-full"


class Draining(Unavailable):
    code = "draining"


class NotLeader(Unavailable):
    """This node is not the proposer now; `leader` is the one it knows, if any."""

    code = "not-leader"

    def __init__(self, message: str, leader: str | None = None) -> None:
        super().__init__(message)
        self.leader = leader


class OutcomeUnknown(GoudError):
    """The answer was lost: it may have happened. Read before deciding; a retry must be idempotent."""

    code = "outcome-unknown"


class EpochMismatch(GoudError):
    code = "epoch-mismatch"


class InvalidCursor(GoudError):
    """A page cursor that no page of ours ever gave out."""

    code = "invalid-cursor"
