"""What the ordered log refuses, or cannot tell."""

from __future__ import annotations

from goud_node.errors import OutcomeUnknown, Unavailable


class HeightTrimmed(OutcomeUnknown):
    """The height is decided, but no longer in the log: certified blocks from peers tell how."""

    code = "height-trimmed"


class LogUnreadable(Unavailable):
    """A key of the log holds what no node of ours writes. Whoever reads it waits until somebody puts it right."""

    code = "log-unreadable"

    def __init__(self, key: bytes, reason: object, remedy: str = "") -> None:
        root = key.rpartition(b"/")[0].decode()
        super().__init__(
            f"the log's key {key.decode()} cannot be read ({reason}); "
            + (
                remedy
                or f"stop every node, delete all keys below {root}/ with etcdctl, and run `goud-node epoch start` on "
                "the node with the longest chain; a node that orders by itself is restored from a backup"
            )
        )


class HeightTaken(LogUnreadable):
    """The key of the next block holds something, although nothing is ordered there: a commit writes block and head."""

    def __init__(self, key: bytes) -> None:
        super().__init__(
            key, "no block is ordered there, so it is none", f"delete it, with `etcdctl del {key.decode()}`"
        )
