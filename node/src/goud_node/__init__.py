"""The Goud Chain node: a replicated, append-only chain of encrypted collections."""

from __future__ import annotations

__version__ = "0.1.0"
"""Of the distribution, which holds the node and the backup engine."""
