"""How work reports how far it is; the command line decides how that looks."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called from any thread."""

    def stage(self, name: str, total: int) -> None:
        """A new stage of `total` units (bytes or blocks, the name says which)."""
        ...

    def advance(self, units: int) -> None: ...


class Silent:
    """No report."""

    def stage(self, name: str, total: int) -> None:
        """Nothing."""

    def advance(self, units: int) -> None:
        """Nothing."""
