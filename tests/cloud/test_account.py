"""From an empty account to a cluster on machines."""

from __future__ import annotations

import time

import pytest

from tests.support.machines import Machines

pytestmark = pytest.mark.cloud


def test_without_credentials_the_inventory_says_what_to_set(account: Machines) -> None:
    bare = {key: value for key, value in account.environment.items() if not key.startswith(("GCP_", "AWS_", "GOOGLE_"))}
    recap = account.playbook("deploy", environment=bare)
    assert recap.returncode != 0
    assert {"gcp": "GCP_PROJECT", "aws": "AWS_ACCESS_KEY_ID"}[account.provider] in recap.output


def test_an_empty_account_can_be_rehearsed(account: Machines) -> None:
    recap = account.playbook("provision", "--check")
    assert recap.returncode == 0, recap.output
    assert account.seen()["machines"] == {}


def twice(account: Machines, verb: str) -> None:
    """Run a verb cold and again, with the time of each; the second run changes nothing."""
    for changes in (True, False):
        began = time.monotonic()
        recap = account.playbook(verb)
        assert recap.returncode == 0, recap.output
        print(f"{account.provider}: {verb}, {'cold' if changes else 'again'}: {time.monotonic() - began:.0f} s")
        assert bool(recap.changes) is changes, recap.output


def test_provision_makes_the_machines_and_a_second_run_changes_nothing(account: Machines) -> None:
    twice(account, "provision")
    account.forget()
    assert account.name_leads_to() == [account.host("edge1")["ansible_host"]]


def test_deploy_makes_the_cluster_and_a_second_run_changes_nothing(account: Machines) -> None:
    assert account.playbook("deploy", "--check").returncode == 0
    twice(account, "deploy")
    assert account.playbook("deploy", "--check", "--diff").returncode == 0
    assert account.playbook("verify").returncode == 0


def test_a_cluster_without_a_backup_is_not_destroyed(account: Machines) -> None:
    there = account.seen()
    recap = account.playbook("destroy", "-e", f"destroy_confirm={account.cluster}")
    assert recap.returncode != 0
    assert "The newest good backup is none" in " ".join(recap.output.split())
    assert "Nothing was removed" in recap.output
    assert account.seen()["disks"].keys() == there["disks"].keys()
