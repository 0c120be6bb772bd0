"""Tests of blocks, rules, certificates and the ledger."""

from __future__ import annotations
