"""Tests of goud_node.api."""

from __future__ import annotations
