"""How bytes are hashed, compressed and sealed before they reach the store, and the way back."""

from __future__ import annotations
