"""An Amazon account over a room that does as it is told; clients are boto3's."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped] # it has no types
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.sts.models import sts_backends

from goud_sandbox.apifaults import ApiFaults
from goud_sandbox.aws.app import Amazon
from goud_sandbox.aws.context import ACCOUNT, Context, Key
from goud_sandbox.documents import Documents
from goud_sandbox.settings import Settings

REGION, ZONE, IMAGE = "eu-west-1", "eu-west-1a", "ami-0d13a64d13a64d130"
KEY = Key("AKIASANDBOXTESTS0001", "secret-of-the-operator")
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl test"
QUICK = Config(retries={"max_attempts": 0}, connect_timeout=5, read_timeout=30)


class Account:
    """One account; ``room_errors`` makes its room fail, ``hold`` makes it wait."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(operation_seconds=0.02, quota_ebs_gb=500, quota_cpus=8, loopback="127.0.31")
        self.documents = Documents(folder / "documents.db")
        self.faults = ApiFaults(self.documents)
        self.room_errors: dict[str, str] = {}
        self.hold = False
        self.reboots: list[str] = []
        context = Context(
            settings,
            console=lambda machine: f"boot of {machine}\n",
            host_keys=lambda _: {"ssh-ed25519": "AAAAhost"},
            reboot=self.reboots.append,
        )
        self.amazon = Amazon(
            self.documents, context, self.faults, operator=KEY, folder=folder / "aws", settle=self._settle
        )
        self.amazon.start(0)
        self.ec2 = self.client("ec2")

    def _settle(self, *names: str) -> str | None:
        while self.hold:
            time.sleep(0.01)
        return next((self.room_errors[name] for name in names if name in self.room_errors), None)

    def client(self, service: str, key: str = KEY.id, secret: str = KEY.secret, token: str | None = None) -> Any:
        return boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{self.amazon.port}",
            region_name=REGION,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_session_token=token,
            config=QUICK,
        )

    def close(self) -> None:
        self.hold = False
        self.amazon.stop()
        self.documents.close()

    def network(self) -> str:
        vpc = self.ec2.create_vpc(CidrBlock="10.31.0.0/16")["Vpc"]["VpcId"]
        answer = self.ec2.create_subnet(VpcId=vpc, CidrBlock="10.31.1.0/24", AvailabilityZone=ZONE)
        return str(answer["Subnet"]["SubnetId"])

    def volume(self, size: int = 10, **fields: Any) -> str:
        answer = self.ec2.create_volume(AvailabilityZone=ZONE, Size=size, VolumeType="gp3", **fields)
        self.becomes(lambda: self.describe_volume(answer["VolumeId"])["State"], "available")
        return str(answer["VolumeId"])

    def describe_volume(self, volume: str) -> Any:
        return self.ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]

    def modification(self, volume: str) -> Any:
        return self.ec2.describe_volumes_modifications(VolumeIds=[volume])["VolumesModifications"][0]

    def grow(self, volume: str, size: int) -> None:
        self.ec2.modify_volume(VolumeId=volume, Size=size)
        self.becomes(lambda: self.modification(volume)["ModificationState"], "completed")

    def instance(self, **fields: Any) -> str:
        options = {"ImageId": IMAGE, "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1} | fields
        if "SubnetId" not in options and "NetworkInterfaces" not in options:
            options["SubnetId"] = self.network()
        return str(self.ec2.run_instances(**options)["Instances"][0]["InstanceId"])

    def describe_instance(self, instance: str) -> Any:
        return self.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]

    def state(self, instance: str) -> str:
        return str(self.describe_instance(instance)["State"]["Name"])

    def running_instance(self, **fields: Any) -> str:
        instance = self.instance(**fields)
        self.becomes(lambda: self.state(instance), "running")
        return instance

    @staticmethod
    def expire(key: str) -> None:
        """Let the end of a session come."""
        session = sts_backends[ACCOUNT]["aws"].get_assumed_role_from_access_key(key)
        assert session is not None
        session.expiration -= timedelta(hours=12)

    @staticmethod
    def becomes(probe: Callable[[], Any], value: Any, seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while (current := probe()) != value:
            assert time.monotonic() < deadline, f"{current!r} did not become {value!r}"
            time.sleep(0.02)

    def advance(self, **span: float) -> None:
        self.amazon.advance(timedelta(**span).total_seconds())


def refusal(call: Callable[..., Any], **arguments: Any) -> tuple[str, str]:
    """Code and message of the error that the call must end in."""
    try:
        answer = call(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"]), str(error.response["Error"].get("Message", ""))
    raise AssertionError(f"it was not refused: {answer}")
