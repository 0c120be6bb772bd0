"""The node as a process: everything put together, started, and ended in order."""

from __future__ import annotations

from goud_node.service.lifecycle import serve

__all__ = ["serve"]
