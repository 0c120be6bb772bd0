"""The signed interface between nodes and for the operator, port 9000."""

from __future__ import annotations
