"""The command line of a node."""

from __future__ import annotations

from goud_node.cli.main import app, main

__all__ = ["app", "main"]
