"""`python -m goud_node.cli`: the same as the command `goud-node`."""

from __future__ import annotations

from goud_node.cli import main

main()
