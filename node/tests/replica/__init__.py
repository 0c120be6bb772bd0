"""Tests of the protocol: the model, its planted bugs, and the replica around the steps."""

from __future__ import annotations
