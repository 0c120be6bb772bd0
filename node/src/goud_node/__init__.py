"""The Goud Chain node: a replicated, append-only chain of encrypted collections."""

from __future__ import annotations
