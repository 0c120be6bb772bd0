"""The account: who may call, what backups do when their hour comes, and what a restart finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goud_sandbox.aws.context import ACCOUNT

from .aws import KEY, REGION, ZONE, Account, refusal

READER = """{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::backups/*"},
  {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::backups"}]}"""
TRUST = """{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "arn:aws:iam::123456789012:user/operator"}}]}"""


def bucket(account: Account) -> Any:
    storage = account.client("s3")
    storage.create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": REGION})
    return storage


def test_the_operator_is_known_by_name(account: Account) -> None:
    assert account.client("sts").get_caller_identity()["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/operator"


@pytest.mark.parametrize(
    ("service", "call", "key_code", "signature_code"),
    [
        ("ec2", "describe_volumes", "AuthFailure", "AuthFailure"),
        ("sts", "get_caller_identity", "InvalidClientTokenId", "SignatureDoesNotMatch"),
        ("iam", "list_roles", "InvalidClientTokenId", "SignatureDoesNotMatch"),
        ("s3", "list_buckets", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        ("route53", "list_hosted_zones", "InvalidClientTokenId", "SignatureDoesNotMatch"),
        ("backup", "list_backup_vaults", "UnrecognizedClientException", "InvalidSignatureException"),
    ],
)
def test_strangers_are_refused_in_the_services_words(
    account: Account, service: str, call: str, key_code: str, signature_code: str
) -> None:
    assert refusal(getattr(account.client(service, key="AKIAUNKNOWN000000001"), call))[0] == key_code
    assert refusal(getattr(account.client(service, secret="wrong"), call))[0] == signature_code
    getattr(account.client(service), call)()


def test_odd_names_are_signed_right(account: Account) -> None:
    storage = bucket(account)
    name = "daily/2026-11-22 22:00+00:00/ü=~(1).tar"
    storage.put_object(Bucket="backups", Key=name, Body=b"x")
    assert storage.get_object(Bucket="backups", Key=name)["Body"].read() == b"x"
    assert [entry["Key"] for entry in storage.list_objects_v2(Bucket="backups", Prefix="daily/2026-11-22 ")["Contents"]]


def test_a_role_may_do_what_its_policies_say_and_nothing_else(account: Account) -> None:
    bucket(account)
    iam = account.client("iam")
    role = iam.create_role(RoleName="writer", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
    policy = iam.create_policy(PolicyName="writer", PolicyDocument=READER)["Policy"]["Arn"]
    iam.attach_role_policy(RoleName="writer", PolicyArn=policy)
    credentials = account.client("sts").assume_role(RoleArn=role, RoleSessionName="node1")["Credentials"]
    keys = (credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials["SessionToken"])
    storage = account.client("s3", *keys)
    storage.put_object(Bucket="backups", Key="one", Body=b"kept")
    assert storage.get_object(Bucket="backups", Key="one")["Body"].read() == b"kept"
    assert storage.list_objects_v2(Bucket="backups")["KeyCount"] == 1
    assert refusal(storage.delete_object, Bucket="backups", Key="one")[0] == "AccessDenied"
    batch = {"Objects": [{"Key": "one"}]}
    errors = storage.delete_objects(Bucket="backups", Delete=batch)["Errors"]
    assert [(error["Key"], error["Code"]) for error in errors] == [("one", "AccessDenied")]
    assert refusal(storage.put_object, Bucket="other", Key="one", Body=b"x")[0] in {"AccessDenied", "NoSuchBucket"}
    assert refusal(account.client("ec2", *keys).describe_volumes)[0] in {"AccessDenied", "UnauthorizedOperation"}
    pruner = READER.replace('"s3:PutObject"', '"s3:DeleteObject"')
    iam.put_role_policy(RoleName="writer", PolicyName="prune", PolicyDocument=pruner)
    assert "Errors" not in storage.delete_objects(Bucket="backups", Delete=batch)
    stranger = account.client("s3", keys[0], keys[1], "another-token")
    assert refusal(stranger.list_objects_v2, Bucket="backups")[0] == "InvalidToken"


def test_a_buckets_policy_denies_by_the_statements_that_hold(account: Account) -> None:
    storage = bucket(account)

    def deny(**condition: Any) -> None:
        statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::backups/*"}
        document = {"Version": "2012-10-17", "Statement": [statement | condition]}
        storage.put_bucket_policy(Bucket="backups", Policy=json.dumps(document))

    deny(Condition={"Bool": {"aws:SecureTransport": "false"}})
    storage.put_object(Bucket="backups", Key="one", Body=b"x")
    deny(Condition={"Bool": {"aws:SecureTransport": "true"}})
    assert refusal(storage.get_object, Bucket="backups", Key="one")[0] in {"AccessDenied", "403"}
    deny()
    assert refusal(storage.get_object, Bucket="backups", Key="one")[0] in {"AccessDenied", "403"}


def plan(account: Account, days: int = 7) -> tuple[Any, str]:
    backups = account.client("backup")
    backups.create_backup_vault(BackupVaultName="daily")
    rule = {"RuleName": "daily", "TargetBackupVaultName": "daily", "Lifecycle": {"DeleteAfterDays": days}}
    rule |= {"RecoveryPointTags": {"kind": "daily"}}
    plan = backups.create_backup_plan(BackupPlan={"BackupPlanName": "daily", "Rules": [rule]})
    tag = {"ConditionType": "STRINGEQUALS", "ConditionKey": "backup", "ConditionValue": "yes"}
    selection = {"SelectionName": "data", "IamRoleArn": f"arn:aws:iam::{ACCOUNT}:role/backup", "ListOfTags": [tag]}
    backups.create_backup_selection(BackupPlanId=plan["BackupPlanId"], BackupSelection=selection)
    return backups, plan["BackupPlanId"]


def snapshots(account: Account) -> list[Any]:
    return list(
        account.ec2.describe_snapshots(OwnerIds=[ACCOUNT], Filters=[{"Name": "tag:kind", "Values": ["daily"]}])[
            "Snapshots"
        ]
    )


def test_the_hour_of_the_plan_makes_snapshots_and_old_ones_expire(account: Account) -> None:
    backups, _ = plan(account)
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "backup", "Value": "yes"}, {"Key": "Name", "Value": "data"}]}]
    volume = account.volume(10, TagSpecifications=tags)
    account.volume(10)  # not selected
    first = account.amazon.run_schedules()
    assert [snapshot["SnapshotId"] for snapshot in snapshots(account)] == first
    labels = {tag["Key"]: tag["Value"] for tag in snapshots(account)[0]["Tags"]}
    assert (snapshots(account)[0]["VolumeId"], labels["Name"], labels["kind"]) == (volume, "data", "daily")
    account.advance(days=6)
    second = account.amazon.run_schedules()
    points = backups.list_recovery_points_by_backup_vault(BackupVaultName="daily")["RecoveryPoints"]
    assert [point["RecoveryPointArn"].rsplit("/", 1)[-1] for point in points] == first + second
    assert refusal(backups.delete_backup_vault, BackupVaultName="daily")[0] == "InvalidRequestException"
    account.advance(days=2)
    third = account.amazon.run_schedules()
    assert [snapshot["SnapshotId"] for snapshot in snapshots(account)] == second + third
    assert "managed by AWS Backup" in refusal(account.ec2.delete_snapshot, SnapshotId=second[0])[1]
    arn = f"arn:aws:ec2:{REGION}::snapshot/{second[0]}"
    backups.delete_recovery_point(BackupVaultName="daily", RecoveryPointArn=arn)
    assert [snapshot["SnapshotId"] for snapshot in snapshots(account)] == third


def test_a_plan_changes_and_goes_only_after_its_selections(account: Account) -> None:
    backups, identity = plan(account)
    rule = {"RuleName": "daily", "TargetBackupVaultName": "daily", "Lifecycle": {"DeleteAfterDays": 5}}
    backups.update_backup_plan(BackupPlanId=identity, BackupPlan={"BackupPlanName": "daily", "Rules": [rule]})
    rules = backups.get_backup_plan(BackupPlanId=identity)["BackupPlan"]["Rules"]
    assert rules[0]["Lifecycle"] == {"DeleteAfterDays": 5}
    assert refusal(backups.delete_backup_plan, BackupPlanId=identity)[0] == "InvalidRequestException"
    selection = backups.list_backup_selections(BackupPlanId=identity)["BackupSelectionsList"][0]
    assert selection["SelectionName"] == "data"
    backups.delete_backup_selection(BackupPlanId=identity, SelectionId=selection["SelectionId"])
    backups.delete_backup_plan(BackupPlanId=identity)
    assert backups.list_backup_plans()["BackupPlansList"] == []


def test_a_restarted_service_finds_everything_again(account: Account, make_account: Callable[[], Account]) -> None:
    bucket(account).put_object(Bucket="backups", Key="one", Body=b"kept")
    plan(account)
    volume, instance = account.volume(10, Encrypted=True), account.running_instance()
    account.ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
    account.becomes(lambda: account.describe_volume(volume)["Attachments"][0]["State"], "attached")
    account.grow(volume, 20)
    account.advance(hours=1)
    desired = account.amazon.desired()
    account.close()
    successor = make_account()
    assert successor.amazon.desired() == desired
    assert (successor.state(instance), successor.describe_volume(volume)["Size"]) == ("running", 20)
    assert successor.client("s3").get_object(Bucket="backups", Key="one")["Body"].read() == b"kept"
    assert successor.client("backup").list_backup_plans()["BackupPlansList"][0]["BackupPlanName"] == "daily"
    assert refusal(successor.ec2.modify_volume, VolumeId=volume, Size=30)[0] == "VolumeModificationRateExceeded"
    successor.advance(hours=5, minutes=1)
    successor.grow(volume, 30)


def test_a_service_that_was_killed_goes_on_with_what_was_under_way(
    account: Account, make_account: Callable[[], Account]
) -> None:
    volume = account.volume(10)
    account.hold = True
    instance = account.instance()
    account.ec2.modify_volume(VolumeId=volume, Size=20)
    other = account.ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeId"]
    successor = make_account()  # the first one never said goodbye
    successor.becomes(lambda: successor.state(instance), "running")
    successor.becomes(lambda: successor.modification(volume)["ModificationState"], "completed")
    successor.becomes(lambda: successor.describe_volume(other)["State"], "available")


def test_objects_live_in_files_and_leave_with_their_keys(account: Account, tmp_path: Path) -> None:
    storage, folder = bucket(account), tmp_path / "aws" / "objects"
    storage.put_object(Bucket="backups", Key="one", Body=b"x" * 100_000)
    assert sum(path.stat().st_size for path in folder.iterdir()) == 100_000
    storage.delete_object(Bucket="backups", Key="one")
    assert sum(path.stat().st_size for path in folder.iterdir()) == 0


def test_the_key_that_tests_use_is_the_operators() -> None:
    assert KEY.id.startswith("AKIA")
    assert len(KEY.id) == 20


def test_large_objects_go_in_parts_and_come_back_in_ranges(account: Account, tmp_path: Path) -> None:
    storage, source = bucket(account), tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 80_000)
    storage.upload_file(str(source), "backups", "large")
    assert storage.head_object(Bucket="backups", Key="large")["ContentLength"] == 20_480_000
    storage.download_file("backups", "large", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    part = storage.get_object(Bucket="backups", Key="large", Range="bytes=16777210-16777220")["Body"].read()
    assert part == source.read_bytes()[16777210:16777221]
    storage.put_object(Bucket="backups", Key="once", Body=b"x", IfNoneMatch="*", ChecksumAlgorithm="SHA256")
    assert refusal(storage.put_object, Bucket="backups", Key="once", Body=b"y", IfNoneMatch="*")[0] in {
        "PreconditionFailed",
        "412",
    }
