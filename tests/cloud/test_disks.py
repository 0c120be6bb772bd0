"""What can happen to the disks of a cluster on machines."""

from __future__ import annotations

import time

import pytest

from tests.support.cluster import wait_until
from tests.support.machines import NODES, Machines

pytestmark = pytest.mark.cloud

GIB = 1 << 30
LARGER = ["-e", "expand_to_gb=23", "-e", '{"expand_nodes": ["node1"]}']


def sizes(machines: Machines, node: str) -> dict[str, int]:
    """What the machine and the node say of the data disk, bytes."""
    device = machines.run(node, f"blockdev --getsize64 {machines.host(node)['data_disk_device']}")
    usable = machines.run(node, "df --output=size --block-size=1 /srv/goud | tail -1")
    metric = machines.run(node, "curl -s 127.0.0.1:8080/api/metrics/prometheus | grep ^goud_volume_disk_capacity_bytes")
    return {"device": int(device), "file system": int(usable), "metric": int(float(metric.split()[-1]))}


def test_disks_grow_under_load(machines: Machines) -> None:
    before = {node: sizes(machines, node) for node in NODES}
    with machines.writing() as writers:
        recap = machines.playbook("expand", "-e", "expand_to_gb=22")
    assert recap.returncode == 0, recap.output
    machines.assert_nothing_failed(writers)
    for node in NODES:
        after = sizes(machines, node)
        assert (before[node]["device"], after["device"]) == (20 * GIB, 22 * GIB)
        assert after["file system"] - before[node]["file system"] > 1.9 * GIB
        assert after["metric"] == after["file system"]
    assert not machines.playbook("expand", "-e", "expand_to_gb=22").changes


def test_a_shrink_is_refused(machines: Machines) -> None:
    recap = machines.playbook("expand", "-e", "expand_to_gb=21")
    assert recap.returncode != 0
    assert "is less than these have" in recap.output
    assert recap.changes == 0


def test_a_resize_that_lies_is_red_at_its_level(machines: Machines) -> None:
    path = {"gcp": "/resize", "aws": "ModifyVolume"}[machines.provider]
    if machines.provider == "aws":
        assert "A volume changes once in six hours" in machines.playbook("expand", *LARGER).output
        machines.sandbox("advance", "7")
    machines.sandbox("fault", "api", "liar", "lie_device", "--path", path)
    try:
        recap = machines.playbook("expand", *LARGER)
    finally:
        machines.sandbox("fault", "clear")
    assert recap.returncode != 0
    assert "block device:" in recap.output
    assert sizes(machines, "node1")["device"] == 22 * GIB
    assert machines.playbook("verify").returncode == 0


def uptime(machines: Machines, node: str) -> float:
    """When the machine's init was started, seconds since 1970."""
    return float(machines.run(node, "stat --format=%Y /proc/1"))


def reboot(machines: Machines, node: str) -> None:
    before = uptime(machines, node)
    machines.run(node, "systemctl reboot", check=False)

    def back() -> bool:
        try:
            return uptime(machines, node) > before
        except (RuntimeError, ValueError):
            return False

    wait_until(f"{node} to be back", back, within=180, every=2)


def ready(machines: Machines, node: str) -> bool:
    return machines.run(node, "curl -s -o /dev/null -w '%{http_code}' 127.0.0.1:8080/readyz", check=False).startswith(
        "200"
    )


def test_a_rebooted_machine_comes_back_by_itself(machines: Machines) -> None:
    reboot(machines, "node2")
    wait_until("node2 to be ready", lambda: ready(machines, "node2"), within=120, every=2)
    assert machines.run("node2", "findmnt --noheadings --output FSTYPE /srv/goud") == "xfs"
    assert machines.playbook("verify").returncode == 0


def test_a_machine_without_its_disk_starts_no_node(machines: Machines) -> None:
    disk = machines.disk_id("node3")
    machines.sandbox("fault", "disk", "detach", disk)
    reboot(machines, "node3")
    time.sleep(45)  # longer than the machine waits for the device
    assert "inactive" in machines.run("node3", "systemctl is-active docker.service", check=False)
    assert not ready(machines, "node3")
    assert not machines.run("node3", "ls /srv/goud/node3", check=False).startswith("rocksdb")
    machines.sandbox("fault", "disk", "reattach", disk)
    reboot(machines, "node3")
    wait_until("node3 to be ready", lambda: ready(machines, "node3"), within=120, every=2)
    assert machines.playbook("verify").returncode == 0


def attach(machines: Machines, disk: str, machine: str) -> str:
    """Attach a disk to a machine of its zone by the provider's own means; its device there."""
    about = machines.host(machine)
    name = f"{machines.cluster}-{machine}"
    if machines.provider == "aws":
        machines.module(
            "amazon.aws.ec2_vol",
            name=disk,
            zone=about["goud_zone"],
            instance=about["aws_instance_id"],
            device_name="/dev/sdg",
        )
        return machines.run(machine, "ls /dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol*")
    project = f"https://compute.googleapis.com/compute/v1/projects/{machines.environment['GCP_PROJECT']}"
    place = f"{project}/zones/{about['goud_zone']}"
    machines.module(
        "goud_gcp_call",
        url=f"{place}/instances/{name}/attachDisk",
        body={"source": f"{place}/disks/{disk}", "deviceName": "restored"},
    )
    return "/dev/disk/by-id/google-restored"


def test_snapshots_are_taken_under_load_and_one_becomes_a_disk_that_holds_the_chain(machines: Machines) -> None:
    before = machines.snapshots()
    known = {row["snapshot"] for row in machines.rows("snapshots_list")}
    assert len(known) == len(before)
    with machines.writing() as writers:
        recap = machines.playbook("snapshot")
    assert recap.returncode == 0, recap.output
    machines.assert_nothing_failed(writers)
    assert len(machines.snapshots() - before) == len(NODES)
    new = [row for row in machines.rows("snapshots_list") if row["snapshot"] not in known]
    assert {row["state"] for row in new} == {"complete"}
    assert {row["disk"] for row in new} == {f"{machines.cluster}-{node}-data" for node in NODES}

    unknown = machines.playbook("snapshots_restore", "-e", "snapshots_restore_name=nobody")
    assert unknown.returncode != 0
    assert "There is no snapshot nobody" in unknown.output
    disks = set(machines.seen()["disks"])
    taken = next(row["snapshot"] for row in new if "-node1-" in row["disk"])
    wanted = ["-e", f"snapshots_restore_name={taken}", "-e", "snapshots_restore_disk=restored"]
    assert machines.playbook("snapshots_restore", "--check", *wanted).returncode == 0
    assert set(machines.seen()["disks"]) == disks
    for changes in (True, False):
        recap = machines.playbook("snapshots_restore", *wanted)
        assert recap.returncode == 0, recap.output
        assert bool(recap.changes) is changes, recap.output
    assert len(set(machines.seen()["disks"]) - disks) == 1

    device = attach(machines, "restored", "edge1")  # node1's zone
    try:
        machines.run("edge1", f"mkdir -p /mnt/restored && mount -o ro,nouuid {device} /mnt/restored")
        held = machines.run("edge1", "ls /mnt/restored/node1/checkpoints/*/CURRENT /mnt/restored/node1/chain_id")
    finally:
        machines.run("edge1", "umount /mnt/restored", check=False)
    assert len(held.splitlines()) == 2, held


def test_the_schedule_takes_snapshots_and_prune_leaves_each_disk_its_last(machines: Machines) -> None:
    before = machines.snapshots()
    machines.sandbox("run-schedules")
    scheduled = machines.snapshots() - before
    assert len(scheduled) == len(NODES)
    listed = machines.rows("snapshots_list")
    assert len(listed) == len(machines.snapshots())

    policy = ["-e", "cloud_disk_prune_keep_last=1", "-e", "cloud_disk_prune_keep_days=0"]
    recap = machines.playbook("snapshots_prune", *policy)
    assert recap.returncode == 0, recap.output
    assert "nothing was removed" in recap.output
    assert machines.snapshots() == before | scheduled
    recap = machines.playbook("snapshots_prune", *policy, "-e", "snapshots_prune_confirm=true")
    assert recap.returncode == 0, recap.output
    left = machines.rows("snapshots_list")
    disks = {f"{machines.cluster}-{node}-data" for node in NODES}
    assert sorted(row["disk"] for row in left if row["by"] == "hand") == sorted(disks)
    assert scheduled < machines.snapshots(), "the schedule's own are left to it"
    assert len(machines.snapshots()) == len(left) < len(before | scheduled)
    assert not machines.playbook("snapshots_prune", *policy, "-e", "snapshots_prune_confirm=true").changes
