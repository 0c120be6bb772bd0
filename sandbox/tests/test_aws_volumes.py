"""EBS's semantics: what takes time, what is refused and in which words."""

from __future__ import annotations

from typing import Any

from goud_sandbox.apifaults import ApiFault
from goud_sandbox.room.model import Disk

from .aws import ZONE, Account, refusal

GIB = 1 << 30


def disk(account: Account, volume: str) -> Disk:
    return next(disk for disk in account.amazon.desired().disks if disk.id == volume)


def test_a_volume_is_creating_until_the_room_has_it(account: Account) -> None:
    account.hold = True
    answer = account.ec2.create_volume(AvailabilityZone=ZONE, Size=2, VolumeType="gp3", Encrypted=True)
    volume = answer["VolumeId"]
    assert answer["State"] == account.describe_volume(volume)["State"] == "creating"
    assert disk(account, volume) == Disk(volume, 2 * GIB)
    account.hold = False
    account.becomes(lambda: account.describe_volume(volume)["State"], "available")
    document = account.describe_volume(volume)
    assert (document["MultiAttachEnabled"], document["Encrypted"], document["Iops"], document["Throughput"]) == (
        False,
        True,
        3000,
        125,
    )


def test_a_volume_that_the_room_cannot_make_is_an_error(account: Account) -> None:
    account.hold = True
    volume = account.ec2.create_volume(AvailabilityZone=ZONE, Size=2)["VolumeId"]
    account.room_errors[f"disk:{volume}"] = "no space left on device"
    account.hold = False
    account.becomes(lambda: account.describe_volume(volume)["State"], "error")


def test_growth_goes_through_ebs_states_and_the_size_shows_when_the_device_has_it(account: Account) -> None:
    volume = account.volume(10)
    account.hold = True
    answer = account.ec2.modify_volume(VolumeId=volume, Size=20)["VolumeModification"]
    assert (answer["ModificationState"], answer["OriginalSize"], answer["TargetSize"]) == ("modifying", 10, 20)
    assert account.describe_volume(volume)["Size"] == 10
    assert disk(account, volume).size == 20 * GIB
    assert refusal(account.ec2.modify_volume, VolumeId=volume, Size=30)[0] == "IncorrectModificationState"
    account.hold = False
    account.becomes(lambda: account.modification(volume)["ModificationState"], "completed")
    assert (account.describe_volume(volume)["Size"], account.modification(volume)["Progress"]) == (20, 100)


def test_growth_that_the_room_refuses_fails_and_changes_nothing(account: Account) -> None:
    volume = account.volume(10)
    account.room_errors[f"disk:{volume}"] = "disk full"
    account.ec2.modify_volume(VolumeId=volume, Size=20)
    account.becomes(lambda: account.modification(volume)["ModificationState"], "failed")
    assert account.modification(volume)["StatusMessage"] == "disk full"
    assert account.describe_volume(volume)["Size"] == 10
    assert disk(account, volume).size == 10 * GIB


def test_a_volume_never_shrinks(account: Account) -> None:
    volume = account.volume(10)
    assert refusal(account.ec2.modify_volume, VolumeId=volume, Size=5) == (
        "InvalidParameterValue",
        "New size cannot be smaller than existing size",
    )


def test_a_volume_grows_again_only_after_six_hours(account: Account) -> None:
    volume = account.volume(10)
    account.grow(volume, 20)
    code, message = refusal(account.ec2.modify_volume, VolumeId=volume, Size=30)
    assert code == "VolumeModificationRateExceeded"
    assert "at least 6 hours" in message
    account.advance(hours=5, minutes=59)
    assert refusal(account.ec2.modify_volume, VolumeId=volume, Size=30)[0] == "VolumeModificationRateExceeded"
    account.advance(minutes=2)
    account.grow(volume, 30)
    assert account.describe_volume(volume)["Size"] == 30


def test_quotas_refuse_what_is_too_much(account: Account) -> None:
    volume = account.volume(400)
    assert refusal(account.ec2.create_volume, AvailabilityZone=ZONE, Size=101)[0] == "VolumeLimitExceeded"
    assert refusal(account.ec2.modify_volume, VolumeId=volume, Size=501)[0] == "VolumeLimitExceeded"
    assert account.describe_volume(volume)["Size"] == 400


def test_a_snapshot_keeps_its_size_and_makes_volumes(account: Account) -> None:
    volume = account.volume(10)
    account.hold = True
    answer = account.ec2.create_snapshot(VolumeId=volume, Description="before")
    snapshot = answer["SnapshotId"]
    assert (answer["State"], answer["VolumeSize"]) == ("pending", 10)
    assert refusal(account.ec2.create_volume, AvailabilityZone=ZONE, SnapshotId=snapshot)[0] == "IncorrectState"
    account.hold = False
    account.ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[snapshot], WaiterConfig={"Delay": 1})
    account.grow(volume, 20)
    assert account.ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["VolumeSize"] == 10
    small = refusal(account.ec2.create_volume, AvailabilityZone=ZONE, SnapshotId=snapshot, Size=5)
    assert small[0] == "InvalidParameterValue"
    copy = account.ec2.create_volume(AvailabilityZone=ZONE, SnapshotId=snapshot)["VolumeId"]
    assert disk(account, copy) == Disk(copy, 10 * GIB, snapshot)
    account.ec2.delete_volume(VolumeId=volume)
    assert snapshot in {image.id for image in account.amazon.desired().snapshots}


def test_a_volume_is_attached_in_its_zone_and_not_deleted_while_it_is(account: Account) -> None:
    volume, distant = account.volume(), account.ec2.create_volume(AvailabilityZone="eu-west-1b", Size=1)["VolumeId"]
    instance = account.running_instance()
    account.becomes(lambda: account.describe_volume(distant)["State"], "available")
    target = {"InstanceId": instance, "Device": "/dev/sdf"}
    assert refusal(account.ec2.attach_volume, VolumeId=distant, **target)[0] == "InvalidVolume.ZoneMismatch"
    account.ec2.attach_volume(VolumeId=volume, **target)
    account.becomes(lambda: account.describe_volume(volume)["Attachments"][0]["State"], "attached")
    machine = account.amazon.desired().machines[0]
    name = f"nvme-Amazon_Elastic_Block_Store_{volume.replace('-', '')}"
    assert [(attachment.disk, attachment.links[0]) for attachment in machine.attachments] == [(volume, name)]
    assert refusal(account.ec2.attach_volume, VolumeId=volume, **target)[0] == "VolumeInUse"
    assert refusal(account.ec2.delete_volume, VolumeId=volume)[0] == "VolumeInUse"
    account.ec2.detach_volume(VolumeId=volume)
    assert account.amazon.desired().machines[0].attachments == ()
    assert refusal(account.ec2.detach_volume, VolumeId=volume)[0] in {"IncorrectState", "InvalidInstanceID.NotFound"}
    account.ec2.attach_volume(VolumeId=volume, **target)
    account.ec2.terminate_instances(InstanceIds=[instance])
    account.becomes(lambda: account.describe_volume(volume)["State"], "available")  # the data outlives the machine


def test_a_lie_says_done_and_changes_nothing(account: Account) -> None:
    volume = account.volume(10)
    account.faults.order(ApiFault("one", "lie", path="ModifyVolume$", times=1))
    answer: Any = account.ec2.modify_volume(VolumeId=volume, Size=20)["VolumeModification"]
    assert (answer["TargetSize"], answer["ModificationState"]) == (20, "modifying")
    assert account.ec2.describe_volumes_modifications()["VolumesModifications"] == []
    assert account.describe_volume(volume)["Size"] == 10
    account.grow(volume, 20)  # and no cool-down was started


def test_a_lie_about_the_device_changes_the_api_only(account: Account) -> None:
    volume = account.volume(10)
    account.faults.order(ApiFault("one", "lie_device", path="ModifyVolume$", times=1))
    account.grow(volume, 20)
    assert account.describe_volume(volume)["Size"] == 20
    assert disk(account, volume).size == 10 * GIB
    account.advance(hours=7)
    account.grow(volume, 30)
    assert disk(account, volume).size == 30 * GIB


def test_calls_fail_as_ordered(account: Account) -> None:
    account.faults.order(ApiFault("one", "fail", path="ec2.*/DescribeVolumes$", times=1))
    assert refusal(account.ec2.describe_volumes)[0] == "Unavailable"
    account.faults.order(
        ApiFault("two", "fail", path="s3.*/backups/", status=500, reason="InternalError", method="PUT", times=1)
    )
    storage = account.client("s3")
    storage.create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert refusal(storage.put_object, Bucket="backups", Key="one", Body=b"x")[0] == "InternalError"
    storage.put_object(Bucket="backups", Key="one", Body=b"x")
    assert account.faults.orders() == []
