"""Blocks, keys, certificates, rules, and the ledger that holds them."""

from __future__ import annotations
