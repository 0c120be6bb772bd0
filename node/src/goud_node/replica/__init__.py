"""The protocol of one node: propose, follow, countersign, trim, catch up."""

from __future__ import annotations
