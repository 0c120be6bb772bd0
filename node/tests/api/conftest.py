"""Fixtures of the API tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from .support import Account, Live


@pytest.fixture
def new_account(url: str) -> Iterator[Callable[[], Account]]:
    """Makes accounts whose connections are closed after the test."""
    with ExitStack() as stack:

        def make() -> Account:
            account = Account(url)
            stack.callback(account.http.close)
            return account

        yield make


@pytest.fixture
def account(new_account: Callable[[], Account]) -> Account:
    return new_account()


@pytest.fixture
def url(live: Live) -> str:
    return live.url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=15, trust_env=False) as client:
        yield client
