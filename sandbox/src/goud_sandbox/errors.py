"""Errors of the sandbox: each names the thing, the cause and the next step."""

from __future__ import annotations


class SandboxError(Exception):
    """Something the operator of the sandbox must know."""


class NotRunning(SandboxError):
    """The sandbox's service does not answer."""


class EngineError(SandboxError):
    """Docker Engine is missing, or refused what the machine room needs."""


class KeeperError(SandboxError):
    """The keeper could not do a thing to a disk or to the firewall."""


class UnknownTarget(SandboxError):
    """A fault was ordered for a machine or disk that is not in the room."""
