"""EBS: volumes that take their time, grow at most every six hours and never shrink; snapshots that keep their size."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend, elastic_block_store
from moto.ec2.models.elastic_block_store import Snapshot, Volume, VolumeAttachment, VolumeModification

from goud_sandbox.aws.context import current

GP3_MEBIBYTES_PER_SECOND = 125
GP2_IOPS_PER_GIB, GP2_LEAST, GP2_MOST = 3, 100, 16000
UNDER_WAY = {"modifying", "optimizing"}
LARGEST_GIB = 16384
BACKUP_TAG = "aws:backup:source-resource"


class Modification(VolumeModification):
    """A change of a volume: ``modifying`` until the device has it, ``optimizing`` for a while, then ``completed``."""

    def __init__(self, volume: Volume, *arguments: Any, **options: Any) -> None:
        super().__init__(volume, *arguments, **options)
        self.stage = "modifying"
        self.status_message: str | None = None
        self.original_size, self.target_size = volume.size, self.target_size or volume.size
        self.original_volume_type = volume.volume_type
        self.target_volume_type = self.target_volume_type or volume.volume_type
        self.original_throughput = volume.throughput
        self.target_throughput = self.target_throughput or volume.throughput
        self.original_iops = self.original_iops or volume.iops
        self.target_iops = self.target_iops or volume.iops
        self.original_multi_attach_enabled = self.target_multi_attach_enabled = bool(volume.multi_attach_enabled)
        self.start_time = current.now()
        self.end_time = None  # type: ignore[assignment] # moto's are over when they begin

    @property
    def modification_state(self) -> str:
        """EBS's word."""
        return self.stage

    @property
    def progress(self) -> int:
        """Percent."""
        return {"modifying": 0, "optimizing": 50, "failed": 0}.get(self.stage, 100)

    def get_filter_value(self, filter_name: str) -> Any:
        """moto's filters, and the one by state."""
        return self.stage if filter_name == "modification-state" else super().get_filter_value(filter_name)


class EbsVolume(Volume):
    """A volume. ``device_gib`` is what the machine has, ``size`` what the API tells; ``boot`` has no device here."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.size = int(self.size)
        self.device_gib = self.size
        self.snapshot_id = self.snapshot_id or ""  # EBS tells it empty, and the modules read it
        self.multi_attach_enabled = str(self.multi_attach_enabled).lower() == "true"
        if self.volume_type == "gp3":
            self.throughput = int(self.throughput or GP3_MEBIBYTES_PER_SECOND)
        if self.volume_type == "gp2":
            self.iops = min(max(self.size * GP2_IOPS_PER_GIB, GP2_LEAST), GP2_MOST)
        self.boot = False
        self.phase = "creating"

    @property
    def status(self) -> str:
        """EBS's word."""
        return self.phase if self.phase != "available" else super().status

    @property
    def modification(self) -> Modification | None:
        """The latest change."""
        latest = self.modifications[-1] if self.modifications else None
        return latest if isinstance(latest, Modification) else None

    @property
    def under_way(self) -> bool:
        """Whether it has yet to become what the API promised."""
        change = self.modification
        attachment_pending = bool(self.attachment and self.attachment.status == "attaching")
        return self.phase == "creating" or attachment_pending or bool(change and change.stage in UNDER_WAY)


class EbsSnapshot(Snapshot):
    """A copy of a volume, as large as that was then. ``source`` is the room's disk or snapshot it is copied from."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gib = int(self.volume.size)
        self.source: str = self.volume.id
        self.boot = bool(self.volume.boot or self.from_ami)
        self.status = "completed" if self.boot else "pending"

    @property
    def volume_size(self) -> int:
        """GiB."""
        return self.gib

    @property
    def progress(self) -> str:
        """As EBS writes it."""
        return "0%" if self.status == "pending" else "100%"


class Volumes(EC2Backend):
    """EC2's backend with EBS's refusals and life cycles."""

    def create_volume(self, *arguments: Any, **options: Any) -> Any:
        """A volume that is ``creating`` until the room has it."""
        snapshot = self.snapshots.get(options.get("snapshot_id") or "")
        option = options.get("size")
        size = int(option or (snapshot.volume_size if snapshot else 0))
        if size and size > LARGEST_GIB:
            raise EC2ClientError("InvalidParameterValue", f"Volume of {size}GiB is too large for volume type.")
        if snapshot and size < snapshot.volume_size:
            raise EC2ClientError(
                "InvalidParameterValue",
                f"Volume of {size}GiB is smaller than snapshot '{snapshot.id}', "
                f"expect size >= {snapshot.volume_size}GiB",
            )
        if snapshot and snapshot.status != "completed":
            raise EC2ClientError("IncorrectState", f"Snapshot is in invalid state - {snapshot.status}")
        self._within_quota(size)
        return super().create_volume(*arguments, **(options | {"size": size or option}))

    def modify_volume(self, volume_id: str, target_size: int | None = None, *arguments: Any, **options: Any) -> Any:
        """Growth and changes of type; refused in EBS's words when too small, too soon or too much."""
        volume = self.get_volume(volume_id)
        new_size = int(target_size) if target_size else None
        if new_size is not None and new_size < volume.size:
            raise EC2ClientError("InvalidParameterValue", "New size cannot be smaller than existing size")
        if new_size is not None and new_size > LARGEST_GIB:
            raise EC2ClientError("InvalidParameterValue", f"Volume of {new_size}GiB is too large for volume type.")
        if volume.status not in {"available", "in-use"}:
            raise EC2ClientError("IncorrectState", f"Volume {volume_id} is in state {volume.status}.")
        self._cool(volume)
        self._within_quota((new_size or volume.size) - volume.size)
        api_size = volume.size
        super().modify_volume(volume_id, new_size, *arguments, **options)
        volume.size = api_size  # the new size shows when the device has it
        volume.modifications = volume.modifications[-1:]  # the API tells only the latest
        if new_size and not current.lie_device(volume_id):
            volume.device_gib = new_size  # type: ignore[attr-defined] # every volume is an EbsVolume
        return volume

    @staticmethod
    def _cool(volume: Volume) -> None:
        latest = volume.modifications[-1] if volume.modifications else None
        if not isinstance(latest, Modification):
            return
        if latest.stage in UNDER_WAY:
            raise EC2ClientError("IncorrectModificationState", f"Volume {volume.id} is currently being modified.")
        hours = current.settings.modification_hours
        if latest.stage == "completed" and current.now() - latest.start_time < timedelta(hours=hours):
            raise EC2ClientError(
                "VolumeModificationRateExceeded",
                "You've reached the maximum modification rate per volume limit. "
                f"Wait at least {hours:g} hours between modifications per EBS volume.",
            )

    def _within_quota(self, more_gib: int) -> None:
        limit = current.settings.quota_ebs_gb
        total = sum(int(volume.size) for volume in self.volumes.values())
        if more_gib > 0 and total + more_gib > limit:
            raise EC2ClientError(
                "VolumeLimitExceeded",
                f"You have exceeded your maximum storage quota of {limit} GiB in this region: {total} GiB are in use.",
            )

    def attach_volume(
        self, volume_id: str, instance_id: str, device_path: str, delete_on_termination: bool = False
    ) -> VolumeAttachment | None:
        """Put a free volume of the same zone into the machine."""
        volume, instance = self.get_volume(volume_id), self.get_instance(instance_id)
        if volume.status != "available" and volume.phase != "creating":  # type: ignore[attr-defined] # an EbsVolume
            raise EC2ClientError("VolumeInUse", f"{volume_id} is already attached to an instance")
        if volume.availability_zone != instance.availability_zone:
            raise EC2ClientError(
                "InvalidVolume.ZoneMismatch",
                f"The volume '{volume_id}' is not in the same availability zone as instance '{instance_id}'",
            )
        if device_path in instance.block_device_mapping:
            raise EC2ClientError(
                "InvalidParameterValue",
                f"Invalid value '{device_path}' for unixDevice. Attachment point {device_path} is already in use",
            )
        attachment = super().attach_volume(volume_id, instance_id, device_path, delete_on_termination)
        if attachment:
            attachment.status = "attaching"
        return attachment

    def detach_volume(self, volume_id: str, instance_id: str, device_path: str) -> VolumeAttachment:
        """Take it out; the machine and the device may be left out of the call."""
        attachment = self.get_volume(volume_id).attachment
        return super().detach_volume(
            volume_id, instance_id or (attachment.instance.id if attachment else ""), device_path
        )

    def delete_snapshot(self, snapshot_id: str) -> Snapshot:
        """What AWS Backup made goes with its recovery point only."""
        if any(tag["key"] == BACKUP_TAG for tag in self.get_snapshot(snapshot_id).get_tags()):
            raise EC2ClientError(
                "InvalidParameterValue",
                "This snapshot is managed by AWS Backup service and cannot be deleted via EC2 APIs. "
                "If you wish to delete this snapshot, please do so via the Backup console.",
            )
        return super().delete_snapshot(snapshot_id)

    def copy_snapshot(
        self, source_snapshot_id: str, source_region: str, description: str, kms_key_id: str | None
    ) -> Any:
        """A snapshot of a snapshot."""
        snapshot = super().copy_snapshot(source_snapshot_id, source_region, description, kms_key_id)
        snapshot.source = source_snapshot_id  # type: ignore[attr-defined] # every snapshot is an EbsSnapshot
        return snapshot


def install() -> None:
    """Let moto make these in place of its own."""
    vars(elastic_block_store).update(Volume=EbsVolume, Snapshot=EbsSnapshot, VolumeModification=Modification)
