"""Which writes may be in the chain although nobody was told so. Of what shares a claim with one, "no" is not said.

A client repeats a request under its idempotency key, and the repeat has other bytes: each try is sealed anew. So a
doubt is about what the write claims, not about its bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from goud_node.chain.transactions import Claim

_MOST_CLAIMS = 16_384


class Doubts:
    """Of the writes that are under way by this node, and of the latest whose outcome it did not learn."""

    def __init__(self) -> None:
        self._open: Counter[Claim] = Counter()
        self._left: dict[Claim, None] = {}

    def begin(self, claims: Iterable[Claim]) -> None:
        """A write has left this node, and its answer is missing."""
        self._open.update(claims)

    def end(self, claims: Iterable[Claim]) -> None:
        """That answer is no longer waited for."""
        for claim in claims:
            self._open[claim] -= 1
            if self._open[claim] <= 0:
                del self._open[claim]

    def leave(self, claims: Iterable[Claim]) -> None:
        """A client was told that the outcome is unknown, or went away before it was known."""
        for claim in claims:
            self._left.pop(claim, None)
            self._left[claim] = None
        while len(self._left) > _MOST_CLAIMS:
            del self._left[next(iter(self._left))]

    def settle(self, claims: Iterable[Claim]) -> None:
        """It is in the chain."""
        for claim in claims:
            self._left.pop(claim, None)

    def cover(self, claims: Iterable[Claim]) -> bool:
        """Whether a write that claims any of it is in doubt."""
        return any(claim in self._open or claim in self._left for claim in claims)
