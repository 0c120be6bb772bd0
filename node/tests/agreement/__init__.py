"""Tests of the ordered log, alone and under replicas."""

from __future__ import annotations
