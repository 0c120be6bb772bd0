"""What this repository promises of itself."""

from __future__ import annotations
