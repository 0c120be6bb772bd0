"""Instances: states that follow the machine, quotas, the console, and the one image there is."""

from __future__ import annotations

import base64
from typing import Any

from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.ec2 import urls
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import instances as moto_instances
from moto.ec2.models.amis import Ami
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Instance, InstanceState, MetadataOptions, StateReason
from moto.ec2.responses import EC2Response

from goud_sandbox.aws.context import current
from goud_sandbox.aws.volumes import EbsVolume, Volumes

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
UNDER_WAY = {"pending": "running", "stopping": "stopped", "shutting-down": "terminated"}
DEBIAN = "136693071363"  # the account that publishes Debian's images
IMAGES = {"amd64": ("ami-0d13a64d13a64d130", "x86_64"), "arm64": ("ami-0d13a64d13a64d131", "arm64")}
IMAGE_DATE = "20260101-2345"
ROOT_DEVICE = "/dev/xvda"


class Guest(Instance):
    """An instance. ``published`` is the public address its machine was made with."""

    published: str | None = None

    def turn(self, state: str) -> None:
        """Move to a state."""
        self._state.name, self._state.code = state, CODES[state]

    def fail(self, message: str) -> None:
        """It could not be made: terminated, with the reason where the API tells it."""
        self.terminate()
        self.state_reason = StateReason(f"Server.InternalError: {message}", "Server.InternalError")

    def power_off(self) -> None:
        """Its system powered off."""
        self.stop()
        text = "Client.InstanceInitiatedShutdown"
        self.state_reason = StateReason(f"{text}: Instance initiated shutdown", text)

    @property
    def script(self) -> str:
        """The user data when it is a script, else nothing."""
        if not self.user_data:
            return ""
        text = base64.b64decode(str(self.user_data)).decode(errors="replace")
        return text if text.startswith("#!") else ""


class Instances(Volumes):
    """EC2's backend whose instances are running when their machines are."""

    _url_module = urls  # moto looks for it beside the class

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        for architecture, (identity, name) in IMAGES.items():
            self.amis[identity] = self._image(identity, architecture, name)

    def _image(self, identity: str, debian: str, architecture: str) -> Ami:
        image = Ami(
            self,
            identity,
            name=f"debian-13-{debian}-{IMAGE_DATE}",
            description=f"Debian 13 ({IMAGE_DATE})",
            owner_id=DEBIAN,
            public=True,
            virtualization_type="hvm",
            hypervisor="xen",
            architecture=architecture,
            root_device_type="ebs",
            root_device_name=ROOT_DEVICE,
            image_location=f"amazon/debian-13-{debian}-{IMAGE_DATE}",
            region_name=f"{self.region_name}a",
        )
        image.owner_alias = "amazon"
        return image

    def run_instances(self, image_id: str, count: int, *arguments: Any, **options: Any) -> Any:
        """Machines that are ``pending`` until the room has them."""
        if image_id not in self.amis:
            raise EC2ClientError("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
        name = options.get("key_name")
        if name and name not in self.key_pairs:
            raise EC2ClientError("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist")
        self._vcpus_within_quota(str(options.get("instance_type")), int(count))
        reservation = super().run_instances(image_id, count, *arguments, **options)
        for instance in reservation.instances:
            self._complete(instance)
        return reservation

    def _complete(self, instance: Instance) -> None:
        assert isinstance(instance, Guest)  # noqa: S101 -- moto makes no others
        root = self._root_device(instance)
        if root is None:
            instance.root_device_name = ROOT_DEVICE
            instance.add_block_device(8, ROOT_DEVICE, None, False, True, None, "gp3")
            root = ROOT_DEVICE
        for device, block in instance.get_block_device_mapping:
            volume = self.get_volume(block.volume_id)
            if isinstance(volume, EbsVolume) and device == root:
                volume.boot, volume.phase = True, "available"
                if volume.attachment:
                    volume.attachment.status = "attached"
        for nic in instance.nics.values():
            nic.delete_on_termination = True
        instance.root_device_name = root
        instance.published = instance.public_ip
        instance.turn("pending")

    @staticmethod
    def _root_device(instance: Instance) -> str | None:
        devices = list(instance.block_device_mapping)
        return next((device for device in (ROOT_DEVICE, "/dev/sda1") if device in devices), None)

    def _vcpus_within_quota(self, kind: str, count: int) -> None:
        if kind not in INSTANCE_TYPES:
            raise EC2ClientError("InvalidParameterValue", f"Invalid value '{kind}' for InstanceType.")
        alive = [instance for instance in self.all_instances() if instance.state in {"pending", "running"}]
        total = sum(vcpus(instance.instance_type) for instance in alive)
        limit = current.settings.quota_cpus
        if total + count * vcpus(kind) > limit:
            raise EC2ClientError(
                "VcpuLimitExceeded",
                f"You have requested more vCPU capacity than your current vCPU limit of {limit} allows "
                "for the instance bucket that the specified instance type belongs to.",
            )

    def start_instances(self, instance_ids: list[str]) -> list[tuple[Instance, InstanceState]]:
        """Start the stopped; harmless for those that run."""
        for instance in self.get_multi_instances_by_id(instance_ids):
            if instance.state not in {"stopped", "running", "pending"}:
                self._not_in_a_state(instance, "started")
        changes = super().start_instances(instance_ids)
        for instance, before in changes:
            _turn(instance, before, "pending", exceptions={"running"})
        return changes

    def stop_instances(self, instance_ids: list[str]) -> list[tuple[Instance, InstanceState]]:
        """Stop in order; harmless for those that are stopped."""
        for instance in self.get_multi_instances_by_id(instance_ids):
            if instance.state in {"terminated", "shutting-down"}:
                self._not_in_a_state(instance, "stopped")
        changes = super().stop_instances(instance_ids)
        for instance, before in changes:
            _turn(instance, before, "stopping", exceptions={"stopped"})
        return changes

    def terminate_instances(self, instance_ids: list[str]) -> list[tuple[Instance, InstanceState]]:
        """Terminate; volumes that are to go with them go."""
        terminations = {
            instance.id for instance in self.get_multi_instances_by_id(instance_ids) if instance.state == "terminated"
        }
        changes = (
            super().terminate_instances([identity for identity in instance_ids if identity not in terminations])
            if set(instance_ids) - terminations
            else []
        )
        for instance, before in changes:
            _turn(instance, before, "shutting-down", exceptions={"terminated"})
        return changes

    def reboot_instances(self, instance_ids: list[str]) -> list[Instance]:
        """Ask the systems to reboot."""
        instances = super().reboot_instances(instance_ids)
        for instance in instances:
            current.reboot(instance.id)
        return instances

    @staticmethod
    def _not_in_a_state(instance: Instance, action: str) -> None:
        raise EC2ClientError(
            "IncorrectInstanceState",
            f"The instance '{instance.id}' is not in a state from which it can be {action}.",
        )

    def modify_instance_metadata_options(self, instance_id: str, *arguments: Any, **options: Any) -> MetadataOptions:
        """Options that are not given stay as they are; moto forgets them."""
        before = vars(self.get_instance(instance_id).metadata_options)
        after = super().modify_instance_metadata_options(instance_id, *arguments, **options)
        for key, value in vars(after).items():
            if value is None or (key == "http_put_response_hop_limit" and not options.get("hop_limit")):
                setattr(after, key, before[key])
        return after


def _turn(instance: Instance, before: InstanceState, state: str, *, exceptions: set[str]) -> None:
    assert isinstance(instance, Guest)  # noqa: S101 -- moto makes no others
    instance.turn(before.name if before.name in exceptions else state)


def vcpus(kind: str) -> int:
    """Virtual processors of an instance type."""
    return int(INSTANCE_TYPES[kind]["VCpuInfo"]["DefaultVCpus"])


def console(instance: Instance) -> str:
    """The console's text, with the host keys the way cloud-init tells them; 64 KiB at most."""
    text = current.console(instance.id)[-60_000:]
    keys = current.host_keys(instance.id)
    if not keys:
        return text
    name = str(instance.private_dns_name).split(".", 1)[0]
    lines = [f"{kind} {key} root@{name}" for kind, key in sorted(keys.items())]
    begin, end = (f"-----{word} SSH HOST KEY KEYS-----" for word in ("BEGIN", "END"))
    return "\n".join([text.rstrip(), begin, *lines, end, ""])


def get_console_output(response: EC2Response) -> ActionResult:
    """The machine's console in place of moto's sample."""
    instance = response.ec2_backend.get_instance(response._get_param("InstanceId"))
    output = Base64EncodedString.from_raw_string(console(instance))
    return ActionResult({"InstanceId": instance.id, "Timestamp": current.now(), "Output": output})


def install() -> None:
    """Let moto make these in place of its own."""
    vars(moto_instances)["Instance"] = Guest
    type.__setattr__(EC2Response, "get_console_output", get_console_output)
