"""What all tests of the protocol share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pytest

from goud_node.chain import certificate, keys, rules


@pytest.fixture(autouse=True, scope="package")
def _remember_verifications() -> Iterator[None]:
    """Signatures stay real; each is verified once instead of once per schedule and node."""
    remembered = lru_cache(maxsize=200_000)(keys.verify)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "verify", remembered)
        patch.setattr(certificate, "verify", remembered)
        yield
