"""The real amazon.aws modules and the real inventory plugin make real machines; each test proves an effect on one.

In order: later tests use what the first one made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from goud_sandbox import control
from goud_sandbox.room.engine import Engine

from .aws_machines import ZONE, AwsBox
from .machines import wait_until

pytestmark = [pytest.mark.cloud, pytest.mark.filterwarnings("default")]

GIB = 1 << 30


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsBox]:
    sandbox = AwsBox(tmp_path_factory.mktemp("box"))
    try:
        yield sandbox
    finally:
        if sandbox.home.root.exists():
            sandbox.close()


@pytest.fixture(scope="module")
def device(box: AwsBox) -> str:
    return f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{box.volume()['VolumeId'].replace('-', '')}"


def test_the_modules_make_everything_and_a_second_run_changes_nothing(box: AwsBox) -> None:
    assert box.changes() == 8
    assert box.changes() == 0


def test_the_inventory_finds_the_machines_by_tag(box: AwsBox) -> None:
    inventory = box.inventory()
    assert sorted(inventory["role_node"]["hosts"]) == ["one", "two"]
    assert box.address("one") in str(inventory["_meta"]["hostvars"]["one"]["ansible_host"])


def test_the_other_modules_make_change_nothing_and_remove(box: AwsBox) -> None:
    assert box.changes(book="rest.yml") == 12
    assert box.changes(book="rest.yml") == 0


def test_ssh_with_the_host_key_that_the_console_tells(box: AwsBox, tmp_path: Path) -> None:
    text = box.service("ec2").get_console_output(InstanceId=box.machine("one"))["Output"]
    lines = text.split("-----BEGIN SSH HOST KEY KEYS-----\n")[1].split("\n-----END SSH HOST KEY KEYS-----")[0]
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("".join(f"{box.address('one')} {line}\n" for line in lines.splitlines()))
    assert box.ssh("one", "true", known_hosts=known_hosts).returncode == 0
    assert box.sudo("one", "cat /var/lib/boots") == "booted"
    known_hosts.write_text(f"{box.address('one')} ssh-ed25519 {'A' * 68}\n")
    assert box.ssh("one", "true", known_hosts=known_hosts).returncode != 0


def test_a_machine_installs_packages(box: AwsBox) -> None:
    box.sudo(
        "two", "apt-get -qq update && apt-get -qq install -y --no-install-recommends tree >/dev/null && tree --version"
    )


def test_the_disk_grows_under_its_mounted_file_system(box: AwsBox, device: str) -> None:
    box.sudo(
        "one", f"mkfs.xfs -q {device}; mkdir -p /mnt/data; echo '{device} /mnt/data xfs defaults 0 0' >>/etc/fstab"
    )
    box.sudo("one", "systemctl daemon-reload; mount /mnt/data; echo kept >/mnt/data/file")
    assert box.changes("-e", "size=3", book="volume.yml") == 1
    wait_until(lambda: box.sudo("one", f"blockdev --getsize64 {device}") == str(3 * GIB), event="the device's size")
    wait_until(lambda: box.volume()["Size"] == 3, event="the API's size")
    box.sudo("one", "xfs_growfs /mnt/data")
    assert int(box.sudo("one", "df --output=size -B1 /mnt/data | tail -1")) > 2.8 * GIB
    assert box.sudo("one", "cat /mnt/data/file") == "kept"
    assert box.changes("-e", "size=3", book="volume.yml") == 0


def test_growing_again_waits_six_hours_and_shrinking_is_refused(box: AwsBox, device: str) -> None:
    def refusal(size: int) -> str:
        """The module fails (its message does not tell why); the API's word for it."""
        result = box.play("-e", f"size={size}", book="volume.yml")["plays"][0]["tasks"][-1]["hosts"]["localhost"]
        assert result["failed"]
        with pytest.raises(ClientError) as error:
            box.service("ec2").modify_volume(VolumeId=box.volume()["VolumeId"], Size=size)
        return str(error.value.response["Error"]["Code"])

    assert refusal(4) in {"VolumeModificationRateExceeded", "IncorrectModificationState"}
    box.call("POST", "/clock/advance", {"seconds": 7 * 3600})
    assert refusal(2) == "InvalidParameterValue"
    box.call("PUT", "/faults/api/liar", {"kind": "lie_device", "path": "ModifyVolume$", "times": 1})
    assert box.changes("-e", "size=4", book="volume.yml") == 1
    wait_until(lambda: box.volume()["Size"] == 4, event="the API's size")
    assert box.sudo("one", f"blockdev --getsize64 {device}") == str(3 * GIB)


def test_security_groups_stand_between_the_machines_across_zones(box: AwsBox) -> None:
    private = box.instance("two")["PrivateIpAddress"]
    for port in (9000, 9001):
        box.sudo("two", f"systemd-run -q --unit=serve-{port} python3 -m http.server {port} --directory /usr/share/doc")

    def reaches(port: int) -> bool:
        return box.ssh("one", f"curl -sf -m 2 -o /dev/null http://{private}:{port}/").returncode == 0

    wait_until(lambda: reaches(9000), event="the peers' port")
    assert not reaches(9001)
    box.call("POST", f"/faults/machines/{box.machine('two')}/partition")
    assert not reaches(9000)
    box.call("POST", f"/faults/machines/{box.machine('two')}/heal")
    wait_until(lambda: reaches(9000), event="the healed network")


def test_the_hour_of_the_backup_plan_makes_a_snapshot_with_the_data(box: AwsBox) -> None:
    ec2 = box.service("ec2")
    snapshots = box.call("POST", "/schedules/run")["snapshots"]
    assert len(snapshots) == 1
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=snapshots, WaiterConfig={"Delay": 1})
    copy = ec2.create_volume(AvailabilityZone="eu-west-1b", SnapshotId=snapshots[0], VolumeType="gp3")["VolumeId"]
    wait_until(lambda: ec2.describe_volumes(VolumeIds=[copy])["Volumes"][0]["State"] == "available", event="the copy")
    ec2.attach_volume(VolumeId=copy, InstanceId=box.machine("two"), Device="/dev/sdg")
    link = f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{copy.replace('-', '')}"
    wait_until(lambda: box.ssh("two", f"test -b {link}").returncode == 0, event="the copy's device")
    box.sudo("two", f"mkdir -p /mnt/copy; mount -o nouuid {link} /mnt/copy")
    assert box.sudo("two", "cat /mnt/copy/file; umount /mnt/copy") == "kept"
    ec2.detach_volume(VolumeId=copy)
    ec2.delete_volume(VolumeId=copy)
    wait_until(lambda: box.ssh("two", f"test -e {link}").returncode != 0, event="the device's end")


def test_a_rebooted_machine_comes_back_with_its_disk_and_runs_its_user_data_once(box: AwsBox) -> None:
    box.sudo("one", "touch /run/before")
    box.service("ec2").reboot_instances(InstanceIds=[box.machine("one")])
    script = "test ! -e /run/before && mountpoint -q /mnt/data"
    wait_until(lambda: box.ssh("one", script).returncode == 0, 60, "the machine with its mount")
    assert box.sudo("one", "cat /mnt/data/file /var/lib/boots") == "kept\nbooted"
    assert box.state("one") == "running"


def test_a_killed_machine_is_stopped_and_starts_at_its_public_address(box: AwsBox) -> None:
    box.call("POST", f"/faults/machines/{box.machine('two')}/kill")
    wait_until(lambda: box.state("two") == "stopped", event="stopped")
    assert sorted(box.inventory()["role_node"]["hosts"]) == ["one"]
    box.service("ec2").start_instances(InstanceIds=[box.machine("two")])
    wait_until(lambda: box.state("two") == "running", event="running")
    wait_until(lambda: box.ssh("two", "true").returncode == 0, event="the machine")


def test_an_elastic_address_leads_to_the_machine_it_is_given_to(box: AwsBox) -> None:
    ec2 = box.service("ec2")
    edge = ec2.describe_addresses(Filters=[{"Name": "tag:Name", "Values": ["edge"]}])["Addresses"][0]
    ec2.associate_address(InstanceId=box.machine("two"), AllocationId=edge["AllocationId"])
    assert box.address("two") == edge["PublicIp"]
    wait_until(lambda: box.ssh("two", "hostname").returncode == 0, event="the machine at its new address")
    assert box.sudo("two", "hostname") == str(box.instance("two")["PrivateDnsName"]).split(".")[0]


def test_a_service_that_restarts_finds_everything_again(box: AwsBox) -> None:
    control.stop(box.home)
    control.up(box.home, box.settings)
    assert box.changes("-e", "size=4", book="volume.yml") == 0
    assert box.sudo("one", "cat /mnt/data/file") == "kept"


def test_termination_is_refused_until_it_is_allowed_and_the_data_outlives_the_machine(box: AwsBox) -> None:
    ec2, machine = box.service("ec2"), box.machine("one")
    with pytest.raises(ClientError, match="OperationNotPermitted"):
        ec2.terminate_instances(InstanceIds=[machine])
    ec2.modify_instance_attribute(InstanceId=machine, DisableApiTermination={"Value": False})
    ec2.terminate_instances(InstanceIds=[machine])
    wait_until(lambda: machine not in box.call("GET", "/status")["machines"], event="the machine's end")
    assert (box.volume()["State"], box.volume()["AvailabilityZone"]) == ("available", ZONE)
    assert box.volume()["VolumeId"] in box.call("GET", "/status")["disks"]


def test_down_leaves_nothing(box: AwsBox) -> None:
    engine = Engine(box.settings, box.home)
    control.down(box.home)
    label = {"label": [f"io.goud-chain.sandbox={box.settings.name}"]}
    assert engine.client.containers.list(all=True, filters=dict(label)) == []
    assert engine.client.volumes.list(filters=dict(label)) == []
    assert engine.client.networks.list(filters=dict(label)) == []
    assert not box.home.root.exists()
