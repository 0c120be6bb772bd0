"""One sandbox for each provider, and one cluster in it for all files: making one takes minutes.

Files go on where the one before ended, in the order of `FILES`; each can also be run alone. Nothing in roles, modules
or inventories knows that the account is a sandbox.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import ROOT
from tests.support.machines import Machines

FILES = ("test_account", "test_disks", "test_backups", "test_destroy")
# Not what an inventory takes by itself: another sandbox may stand on this machine, and networks must not overlap.
PLACES = {"gcp": ("127.0.51", 7510, "10.82.0.0/16"), "aws": ("127.0.52", 7520, "10.83.0.0/16")}
CHOSEN = os.environ.get("GOUD_TEST_PROVIDERS", "gcp aws").split()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    ordered = iter(sorted(here, key=lambda item: FILES.index(item.path.stem)))
    items[:] = [next(ordered) if item in here else item for item in items]


@pytest.fixture(scope="session", params=CHOSEN)
def account(request: pytest.FixtureRequest) -> Iterator[Machines]:
    """A provider's account, empty unless an earlier run was told to keep its machines."""
    provider = request.param
    loopback, port, network = PLACES[provider]
    made = Machines(provider, ROOT / ".state" / f"test-{provider}", loopback=loopback, port=port, network=network)
    try:
        made.make_zone()
        yield made
    finally:
        if not os.environ.get("GOUD_TEST_KEEP_MACHINES"):
            made.sandbox("down")


@pytest.fixture(scope="session")
def machines(account: Machines) -> Machines:
    """The account with a cluster in it, whichever test comes first."""
    if not account.seen()["machines"]:
        for verb in ("provision", "deploy"):
            recap = account.playbook(verb)
            assert recap.returncode == 0, recap.output
    return account
