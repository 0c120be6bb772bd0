"""Faults of the APIs themselves: calls that fail, take long, or say they did something and did not."""

from __future__ import annotations

import re
import threading
from dataclasses import asdict, dataclass
from typing import Literal

from goud_sandbox.documents import Documents

FAULTS = "fault-api"


@dataclass(frozen=True)
class ApiFault:
    """One order. ``method`` and ``path`` (regular expressions, the path with its host) choose the calls.

    ``fail`` answers ``status`` and ``reason``; ``slow`` waits ``seconds`` first; ``lie`` answers with an operation that
    is done and did nothing; ``lie_device`` lets a resize change what the API says but not the device.
    ``times`` counts down; 0 means until it is cleared.
    """

    id: str
    kind: Literal["fail", "slow", "lie", "lie_device"]
    path: str = ".*"
    method: str = ".*"
    status: int = 503
    reason: str = "backendError"
    message: str = "The sandbox was told to fail this call."
    seconds: float = 0.0
    times: int = 0


class ApiFaults:
    """The orders that stand; kept over restarts."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._lock = threading.Lock()

    def order(self, fault: ApiFault) -> None:
        """Add or replace an order."""
        for expression in (fault.path, fault.method):
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"{expression!r} is not a regular expression: {error}") from error
        self._documents.put(FAULTS, fault.id, asdict(fault))

    def clear(self, identity: str | None = None) -> None:
        """Withdraw one order, or all."""
        for key, _ in self._documents.items(FAULTS):
            if identity in {None, key}:
                self._documents.delete(FAULTS, key)

    def orders(self) -> list[ApiFault]:
        """The orders, by id."""
        return [ApiFault(**document) for _, document in self._documents.items(FAULTS)]

    def take(self, method: str, path: str, kinds: set[str]) -> list[ApiFault]:
        """The orders that apply to this call; each is counted down once."""
        faults = []
        with self._lock:
            for fault in self.orders():
                if fault.kind not in kinds or not re.fullmatch(fault.method, method) or not re.search(fault.path, path):
                    continue
                faults.append(fault)
                if fault.times == 1:
                    self._documents.delete(FAULTS, fault.id)
                elif fault.times > 1:
                    self._documents.put(FAULTS, fault.id, asdict(fault) | {"times": fault.times - 1})
        return faults
