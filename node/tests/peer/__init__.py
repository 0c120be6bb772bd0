"""Tests of goud_node.peer."""

from __future__ import annotations
