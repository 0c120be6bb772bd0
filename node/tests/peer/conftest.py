"""Fixtures of the peer tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .support import Caller, Live


@pytest.fixture
def caller(live: Live) -> Iterator[Caller]:
    made = Caller(live)
    yield made
    made.http.close()
