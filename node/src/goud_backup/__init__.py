"""The backup engine of Goud Chain: an incremental repository, block shipping, and restores that are proven."""

from __future__ import annotations
