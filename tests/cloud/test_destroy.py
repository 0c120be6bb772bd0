"""Removing a cluster from its provider: the last thing done to it."""

from __future__ import annotations

import pytest

from tests.support.machines import Machines

pytestmark = pytest.mark.cloud


def test_destroy_shows_its_plan_and_wants_a_young_backup(machines: Machines) -> None:
    there = machines.seen()

    def refused(why: str, *arguments: str) -> None:
        recap = machines.playbook("destroy", *arguments)
        assert recap.returncode != 0, recap.output
        assert why in " ".join(recap.output.split())
        assert "Nothing was removed" in recap.output
        assert machines.seen()["machines"].keys() == there["machines"].keys()
        assert machines.seen()["disks"].keys() == there["disks"].keys()

    plan = machines.playbook("destroy")
    assert plan.returncode == 0, plan.output
    assert "Nothing was removed" in plan.output
    assert machines.seen()["disks"].keys() == there["disks"].keys()
    confirmed = f"destroy_confirm={machines.cluster}"
    refused("destroy_confirm names 'other'", "-e", "destroy_confirm=other")
    assert machines.playbook("backup").returncode == 0
    refused("The newest good backup is 0.0 h old", "-e", confirmed, "-e", "destroy_backup_max_age_hours=0")
    assert machines.playbook("destroy", "--check", "-e", confirmed).returncode == 0
    assert machines.seen()["machines"].keys() == there["machines"].keys()
    assert machines.playbook("verify").returncode == 0


def test_destroy_leaves_backups_and_snapshots_until_they_are_named(machines: Machines) -> None:
    confirmed = f"destroy_confirm={machines.cluster}"
    kept = machines.snapshots()
    assert machines.name_leads_to() == [machines.host("edge1")["ansible_host"]]
    recap = machines.playbook("destroy", "-e", confirmed)
    assert recap.returncode == 0, recap.output
    assert machines.seen()["machines"] == {}
    assert machines.name_leads_to() == [], "the name leads to an address that somebody else may get"
    assert set(machines.seen()["disks"]) == kept
    again = machines.playbook("destroy", "-e", confirmed)
    assert again.returncode == 0, again.output
    assert not again.changes, again.output
    assert machines.bucket in again.output
    recap = machines.playbook("destroy", "-e", confirmed, "-e", "destroy_backups=true")
    assert recap.returncode == 0, recap.output
    assert machines.seen()["disks"] == {}
    left = {row["what"]: row["names"] for row in machines.rows("destroy")}
    assert (left["goes for good"], left["stays"]) == ("nothing", "nothing")
