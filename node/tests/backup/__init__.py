"""Tests of the backup engine."""

from __future__ import annotations
