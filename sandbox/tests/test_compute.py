"""Compute Engine's semantics: what it takes, what it refuses and in which words."""

from __future__ import annotations

import time
from typing import Any

import pytest

from goud_sandbox.gcp import schedules

from .conftest import PROJECT, REGION, WORLD, ZONE, Cloud


def test_a_call_without_a_token_is_refused(cloud: Cloud) -> None:
    cloud.client.headers.pop("authorization")
    assert cloud.refusal("GET", f"{ZONE}/disks")[:2] == (401, "authError")


def test_an_operation_takes_time_and_ends(cloud: Cloud) -> None:
    operation = cloud.call("POST", f"{ZONE}/disks", {"name": "data", "sizeGb": 10})
    assert operation["status"] == "PENDING"
    assert cloud.call("GET", f"{ZONE}/disks/data")["status"] == "CREATING"
    result = cloud.call("POST", f"{ZONE}/operations/{operation['name']}/wait")
    assert (result["status"], result["progress"], result["operationType"]) == ("DONE", 100, "insert")
    assert result["targetLink"].endswith("/disks/data")
    assert "_plan" not in result
    disk = cloud.call("GET", f"{ZONE}/disks/data")
    assert (disk["status"], disk["sizeGb"]) == ("READY", "10")


def test_what_the_room_cannot_make_ends_as_the_operations_error_and_is_undone(cloud: Cloud) -> None:
    cloud.room_errors["disk:gcp-disk-europe-west4-a-data"] = "no space left on device"
    operation = cloud.disk()
    assert operation["error"]["errors"][0]["message"] == "no space left on device"
    assert cloud.refusal("GET", f"{ZONE}/disks/data")[0] == 404


def test_an_operation_goes_on_after_a_restart(cloud: Cloud, make_cloud: Any) -> None:
    operation = cloud.call("POST", f"{ZONE}/disks", {"name": "data", "sizeGb": 10})
    successor = make_cloud()
    successor.google.operations.resume()
    result = successor.call("POST", f"{ZONE}/operations/{operation['name']}/wait")
    assert result["status"] == "DONE"
    assert successor.call("GET", f"{ZONE}/disks/data")["status"] == "READY"


def test_a_disk_grows_and_never_shrinks(cloud: Cloud) -> None:
    cloud.disk(size=50)
    assert cloud.do("POST", f"{ZONE}/disks/data/resize", {"sizeGb": "100"})["operationType"] == "resizeDisk"
    assert cloud.call("GET", f"{ZONE}/disks/data")["sizeGb"] == "100"
    status, reason, message = cloud.refusal("POST", f"{ZONE}/disks/data/resize", {"sizeGb": 50})
    assert (status, reason) == (400, "invalid")
    assert "larger than existing size '100'" in message
    assert cloud.call("GET", f"{ZONE}/disks/data")["sizeGb"] == "100"


def test_a_resize_beyond_the_quota_is_refused(cloud: Cloud) -> None:
    cloud.disk(size=100, type=f"projects/{PROJECT}/zones/europe-west4-a/diskTypes/pd-ssd")
    status, reason, message = cloud.refusal("POST", f"{ZONE}/disks/data/resize", {"sizeGb": 600})
    assert (status, reason) == (403, "quotaExceeded")
    assert "SSD_TOTAL_GB" in message
    assert cloud.call("GET", f"{ZONE}/disks/data")["sizeGb"] == "100"


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"name": "Upper", "sizeGb": 1}, 400, "resource.name"),
        ({"name": "none", "sizeGb": 0}, 400, "between 1 and"),
        ({"name": "odd", "sizeGb": "ten"}, 400, "integer"),
        ({"name": "image", "sizeGb": 20, "sourceImage": "projects/x/global/images/y"}, 404, "not found"),
        ({"name": "type", "sizeGb": 20, "type": "zones/europe-west4-a/diskTypes/floppy"}, 404, "floppy"),
    ],
)
def test_a_disk_that_makes_no_sense_is_refused(cloud: Cloud, body: dict[str, Any], status: int, word: str) -> None:
    refusal = cloud.refusal("POST", f"{ZONE}/disks", body)
    assert refusal[0] == status
    assert word in refusal[2]
    assert cloud.call("GET", f"{ZONE}/disks")["items"] == []


def test_places_that_do_not_exist_are_not_found(cloud: Cloud) -> None:
    assert cloud.refusal("GET", f"/compute/v1/projects/{PROJECT}/zones/mars-a/disks")[0] == 404
    assert cloud.refusal("GET", "/compute/v1/projects/other/zones/europe-west4-a/disks")[0] == 404


def test_labels_need_the_present_fingerprint(cloud: Cloud) -> None:
    cloud.disk(labels={"a": "1"})
    fingerprint = cloud.call("GET", f"{ZONE}/disks/data")["labelFingerprint"]
    wrong = {"labels": {"a": "2"}, "labelFingerprint": "AAAA"}
    assert cloud.refusal("POST", f"{ZONE}/disks/data/setLabels", wrong)[:2] == (412, "conditionNotMet")
    cloud.do("POST", f"{ZONE}/disks/data/setLabels", {"labels": {"a": "2"}, "labelFingerprint": fingerprint})
    assert cloud.call("GET", f"{ZONE}/disks/data")["labels"] == {"a": "2"}


def test_what_is_in_use_cannot_be_deleted(cloud: Cloud) -> None:
    cloud.network()
    cloud.disk()
    cloud.instance(disks=("data",))
    for path in (f"{ZONE}/disks/data", f"{WORLD}/networks/net", f"{REGION}/subnetworks/sub"):
        assert cloud.refusal("DELETE", path)[:2] == (400, "resourceInUseByAnotherResource"), path
    cloud.do("DELETE", f"{ZONE}/instances/vm")
    assert cloud.call("GET", f"{ZONE}/disks/data")["users"] == []
    assert cloud.refusal("GET", f"{ZONE}/disks/vm")[0] == 404  # the boot disk went with its machine
    for path in (f"{ZONE}/disks/data", f"{REGION}/subnetworks/sub", f"{WORLD}/networks/net"):
        cloud.do("DELETE", path)


def test_a_disk_can_be_in_one_machine_only(cloud: Cloud) -> None:
    cloud.network()
    cloud.disk()
    cloud.instance(disks=("data",))
    cloud.instance("other")
    source = {"source": f"projects/{PROJECT}/zones/europe-west4-a/disks/data"}
    refusal = cloud.refusal("POST", f"{ZONE}/instances/other/attachDisk", source)
    assert refusal[:2] == (400, "resourceInUseByAnotherResource")
    cloud.do("POST", f"{ZONE}/instances/vm/detachDisk", deviceName="data")
    cloud.do("POST", f"{ZONE}/instances/other/attachDisk", source | {"deviceName": "here"})
    assert [disk["deviceName"] for disk in cloud.call("GET", f"{ZONE}/instances/other")["disks"]][1:] == ["here"]
    links = {a.links for m in cloud.google.desired().machines for a in m.attachments}
    assert links == {("google-here", "scsi-0Google_PersistentDisk_here")}


def test_deletion_protection_holds(cloud: Cloud) -> None:
    cloud.network()
    cloud.instance(deletionProtection=True)
    assert "protected against deletion" in cloud.refusal("DELETE", f"{ZONE}/instances/vm")[2]
    cloud.do("POST", f"{ZONE}/instances/vm/setDeletionProtection", deletionProtection="false")
    cloud.do("DELETE", f"{ZONE}/instances/vm")


def test_a_refused_instance_leaves_nothing_behind(cloud: Cloud) -> None:
    cloud.network()
    cloud.room_errors["machine:gcp-europe-west4-a-vm"] = "address already in use"
    assert "already in use" in str(cloud.instance()["error"])
    assert cloud.call("GET", f"{ZONE}/instances")["items"] == []
    assert cloud.call("GET", f"{ZONE}/disks")["items"] == []


def test_power(cloud: Cloud) -> None:
    cloud.network()
    cloud.instance()
    assert cloud.refusal("POST", f"{ZONE}/instances/vm/setMachineType", {"machineType": "e2-small"})[0] == 400
    cloud.do("POST", f"{ZONE}/instances/vm/stop")
    assert cloud.call("GET", f"{ZONE}/instances/vm")["status"] == "TERMINATED"
    assert not cloud.google.desired().machines[0].running
    cloud.do("POST", f"{ZONE}/instances/vm/setMachineType", {"machineType": "e2-small"})
    cloud.do("POST", f"{ZONE}/instances/vm/start")
    assert cloud.call("GET", f"{ZONE}/instances/vm")["status"] == "RUNNING"
    cloud.google.on_power_off("gcp-europe-west4-a-vm")
    assert cloud.call("GET", f"{ZONE}/instances/vm")["status"] == "TERMINATED"


def test_the_quota_counts_processors_of_running_machines(cloud: Cloud) -> None:
    cloud.network()
    for number in range(4):
        cloud.instance(f"vm-{number}")
    body = {"name": "vm-5", "machineType": "e2-medium", "disks": [{"boot": True}], "networkInterfaces": [{}]}
    assert cloud.refusal("POST", f"{ZONE}/instances", body)[:2] == (403, "quotaExceeded")


def test_addresses_are_given_out_once(cloud: Cloud) -> None:
    cloud.network()
    cloud.do("POST", f"{REGION}/addresses", {"name": "edge"})
    address = cloud.call("GET", f"{REGION}/addresses/edge")["address"]
    cloud.instance("a")
    interface = {"subnetwork": f"projects/{PROJECT}/regions/europe-west4/subnetworks/sub"}
    cloud.instance("b", networkInterfaces=[interface | {"accessConfigs": [{"natIP": address}]}])
    machines = {machine.hostname: machine for machine in cloud.google.desired().machines}
    assert machines["b"].external == address
    assert machines["a"].external != address
    assert machines["a"].address != machines["b"].address
    assert cloud.call("GET", f"{REGION}/addresses/edge")["status"] == "IN_USE"
    assert cloud.refusal("DELETE", f"{REGION}/addresses/edge")[:2] == (400, "resourceInUseByAnotherResource")


def test_a_snapshot_is_of_the_disks_size_and_makes_a_disk(cloud: Cloud) -> None:
    cloud.disk(size=10)
    cloud.do("POST", f"{ZONE}/disks/data/createSnapshot", {"name": "snap"})
    snapshot = cloud.call("GET", f"{WORLD}/snapshots/snap")
    assert (snapshot["status"], snapshot["diskSizeGb"]) == ("READY", "10")
    assert "_room" not in snapshot
    smaller = {"name": "copy", "sizeGb": 5, "sourceSnapshot": "global/snapshots/snap"}
    assert "smaller than the source" in cloud.refusal("POST", f"{ZONE}/disks", smaller)[2]
    cloud.do("POST", f"{ZONE}/disks", {"name": "copy", "sourceSnapshot": "global/snapshots/snap"})
    assert cloud.call("GET", f"{ZONE}/disks/copy")["sizeGb"] == "10"
    copy = next(disk for disk in cloud.google.desired().disks if disk.id.endswith("copy"))
    assert copy.source == "gcp-snapshot-snap"
    cloud.do("DELETE", f"{ZONE}/disks/data")
    assert [snapshot.id for snapshot in cloud.google.desired().snapshots] == ["gcp-snapshot-snap"]


def test_a_schedule_with_disks_stays(cloud: Cloud) -> None:
    schedule = {"dailySchedule": {"daysInCycle": 1, "startTime": "04:00"}}
    policy = {"name": "daily", "snapshotSchedulePolicy": {"schedule": schedule}}
    cloud.do("POST", f"{REGION}/resourcePolicies", policy)
    cloud.disk()
    link = {"resourcePolicies": [f"projects/{PROJECT}/regions/europe-west4/resourcePolicies/daily"]}
    cloud.do("POST", f"{ZONE}/disks/data/addResourcePolicies", link)
    refusal = cloud.refusal("DELETE", f"{REGION}/resourcePolicies/daily")
    assert refusal[:2] == (400, "resourceInUseByAnotherResource")
    cloud.do("POST", f"{ZONE}/disks/data/removeResourcePolicies", link)
    cloud.do("DELETE", f"{REGION}/resourcePolicies/daily")


def test_the_schedule_makes_snapshots_and_lets_old_ones_go(cloud: Cloud) -> None:
    policy = {"name": "daily", "snapshotSchedulePolicy": {"retentionPolicy": {"maxRetentionDays": 7}}}
    cloud.do("POST", f"{REGION}/resourcePolicies", policy)
    link = f"projects/{PROJECT}/regions/europe-west4/resourcePolicies/daily"
    cloud.disk(resourcePolicies=[link])
    cloud.disk("other")
    cloud.do("POST", f"{ZONE}/disks/data/createSnapshot", {"name": "by-hand"})
    old = schedules.run(cloud.google.compute)
    for name in (*old, "by-hand"):
        long_ago = {"creationTimestamp": "2020-01-01T00:00:00.000+00:00"}
        cloud.google.base.change(f"projects/{PROJECT}/global/snapshots/{name}", long_ago)
    new = schedules.run(cloud.google.compute)

    def names() -> set[str]:
        return {snapshot["name"] for snapshot in cloud.call("GET", f"{WORLD}/snapshots")["items"]}

    deadline = time.monotonic() + 10
    while set(old) & names() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert names() == {*new, "by-hand"}
    assert len(new) == 1


def test_subnetworks_do_not_overlap(cloud: Cloud) -> None:
    cloud.network()
    body = {"name": "two", "network": f"projects/{PROJECT}/global/networks/net", "ipCidrRange": "10.1.0.128/25"}
    assert "overlaps" in cloud.refusal("POST", f"{REGION}/subnetworks", body)[2]


def test_lists_are_filtered_and_paged(cloud: Cloud) -> None:
    for number in range(3):
        cloud.disk(f"disk-{number}", labels={"n": str(number)})
    disks = cloud.call("GET", f"{ZONE}/disks", filter="(labels.n = 1) (status = READY)")["items"]
    assert [disk["name"] for disk in disks] == ["disk-1"]
    first = cloud.call("GET", f"{ZONE}/disks", maxResults="2")
    second = cloud.call("GET", f"{ZONE}/disks", maxResults="2", pageToken=first["nextPageToken"])
    assert [disk["name"] for disk in first["items"] + second["items"]] == ["disk-0", "disk-1", "disk-2"]
    assert "nextPageToken" not in second
    assert cloud.refusal("GET", f"{ZONE}/disks", filter="name = a OR name = b")[0] == 400


def test_aggregated_lists_have_every_zone(cloud: Cloud) -> None:
    cloud.disk()
    items = cloud.call("GET", f"/compute/v1/projects/{PROJECT}/aggregated/disks")["items"]
    assert [disk["name"] for disk in items["zones/europe-west4-a"]["disks"]] == ["data"]
    assert items["zones/us-east1-b"]["warning"]["code"] == "NO_RESULTS_ON_PAGE"


def test_guest_attributes_carry_host_keys_when_enabled(cloud: Cloud) -> None:
    cloud.network()
    cloud.google.compute.instances.host_keys = lambda _: {"ssh-ed25519": "AAAA"}
    cloud.instance("closed")
    assert cloud.refusal("GET", f"{ZONE}/instances/closed/getGuestAttributes", queryPath="hostkeys/")[0] == 403
    cloud.instance("open", metadata={"items": [{"key": "enable-guest-attributes", "value": "TRUE"}]})
    attributes = cloud.call("GET", f"{ZONE}/instances/open/getGuestAttributes", queryPath="hostkeys/")
    assert attributes["queryValue"]["items"] == [{"namespace": "hostkeys", "key": "ssh-ed25519", "value": "AAAA"}]


def test_users_and_keys_come_from_metadata(cloud: Cloud) -> None:
    cloud.network()
    keys = "deploy:ssh-ed25519 AAAA one\ndeploy:ssh-rsa BBBB two\nnot a key"
    cloud.instance(metadata={"items": [{"key": "ssh-keys", "value": keys}]})
    assert cloud.google.desired().machines[0].users == {"deploy": ("ssh-ed25519 AAAA one", "ssh-rsa BBBB two")}
    before = cloud.call("GET", f"{ZONE}/instances/vm")["metadata"]["fingerprint"]
    assert cloud.refusal("POST", f"{ZONE}/instances/vm/setMetadata", {"fingerprint": "x"})[0] == 412
    cloud.do("POST", f"{ZONE}/instances/vm/setMetadata", {"fingerprint": before, "items": []})
    assert cloud.google.desired().machines[0].users == {}
