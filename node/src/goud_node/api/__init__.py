"""The public HTTP interface, port 8080."""

from __future__ import annotations
