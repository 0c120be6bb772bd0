"""The command line of the backup engine."""

from __future__ import annotations

from goud_backup.cli.main import main

__all__ = ["main"]
