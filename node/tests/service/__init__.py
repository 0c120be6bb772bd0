"""Tests of goud_node.service."""

from __future__ import annotations
