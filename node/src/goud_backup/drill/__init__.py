"""The drill: the newest backup is restored to scratch, proven, served by a throw-away node, and asked for its tip."""

from __future__ import annotations

from goud_backup.drill.perform import perform, source_of
from goud_backup.drill.report import Report, reported

__all__ = ["Report", "perform", "reported", "source_of"]
