"""The ordered log that decides which block holds a height."""

from __future__ import annotations
