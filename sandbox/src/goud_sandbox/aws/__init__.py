"""Amazon's side of the sandbox: moto's answers, completed where roles need more, over the machine room."""

from __future__ import annotations
