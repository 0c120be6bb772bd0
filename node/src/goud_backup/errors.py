"""What can go wrong with a backup. Each sentence names the thing, the cause and the next step."""

from __future__ import annotations

from goud_node.errors import GoudError, InvalidBlock


class BackupError(GoudError):
    """Base of this package's errors; the node's own (corrupt store, wrong chain) pass through unchanged."""

    code = "backup"


class RepositoryMissing(BackupError):
    code = "repository-missing"


class RepositoryExists(BackupError):
    code = "repository-exists"


class Locked(BackupError):
    """Somebody else works on the repository; the message says who, where and since when."""

    code = "locked"


class LockLost(BackupError):
    """Our lock was taken over while we were paused: nothing more may be written."""

    code = "lock-lost"


class TargetError(BackupError):
    """The store failed or cannot be reached."""

    code = "target"


class AccessRefused(TargetError):
    """The store does not accept the credential, or it may not do what was asked."""

    code = "access-refused"


class TargetFull(TargetError):
    code = "target-full"


class Missing(TargetError):
    """There is nothing under that name in the store."""

    code = "missing-object"


class PreconditionFailed(TargetError):
    """A conditional write lost: somebody else was first."""

    code = "precondition-failed"


class UnsafeStore(TargetError):
    """The store answers a conditional write whose condition is not met as done: no lock can be believed there."""

    code = "unsafe-store"


class Damaged(BackupError):
    """Something in the repository is not what it was when it was written; the message names the object."""

    code = "damaged"


class LaterFormat(Damaged):
    """A later release wrote it, as far as this one can tell: it is read by no other, and never moved aside."""


class NotVerified(BackupError):
    """A verification found damage."""

    code = "not-verified"


class WrongIdentity(BackupError):
    """The backup is encrypted and none of the given identities opens it."""

    code = "wrong-identity"


class EmptyBackup(BackupError):
    """The source holds no blocks: what is empty must never be taken for a backup."""

    code = "empty-backup"


class OtherHistory(InvalidBlock):
    """The source does not continue what is stored: the two part below."""

    code = "other-history"


class SourceError(BackupError):
    """The data to back up, or the node that holds it, is not usable."""

    code = "source"


class InUse(BackupError):
    """A running node holds the database."""

    code = "in-use"


class NoSuchBackup(BackupError):
    code = "no-such-backup"


class OutOfReach(BackupError):
    """No backup and no segments lead to the height or time that was asked for."""

    code = "out-of-reach"


class NoSpace(BackupError):
    code = "no-space"


class SecretsRefused(BackupError):
    """Secrets may only go into an encrypted repository."""

    code = "secrets-refused"


class NoCandidate(BackupError):
    """None of the nodes that may be worked on is healthy."""

    code = "no-candidate"


class NodeFailed(BackupError):
    """The throw-away node of a drill did not start, answer or end."""

    code = "node-failed"
