"""The disk as the kernel and systemd tell it."""

from __future__ import annotations

import json

from testinfra.host import Host

testinfra_hosts = ["ansible://one?force_ansible=True"]  # the inventory is templated, which only Ansible reads
DEVICE = "/dev/disk/by-id/google-data"


def test_it_is_mounted_by_uuid(host: Host) -> None:
    with host.sudo():
        uuid = host.check_output(f"blkid -p -s UUID -o value {DEVICE}")
        mounted = json.loads(host.check_output("findmnt --json --bytes --output SOURCE,FSTYPE,OPTIONS /srv/goud"))
    (row,) = mounted["filesystems"]
    assert row["source"] == host.check_output(f"readlink -f {DEVICE}")
    assert row["fstype"] == "xfs"
    assert "noatime" in row["options"]
    assert f"UUID={uuid} /srv/goud xfs" in host.file("/etc/fstab").content_string


def test_it_has_grown_to_its_device(host: Host) -> None:
    with host.sudo():
        device = int(host.check_output(f"blockdev --getsize64 {DEVICE}"))
        data = next(line for line in host.check_output("xfs_info /srv/goud").splitlines() if line.startswith("data"))
    blocks = int(data.split("blocks=")[1].split(",")[0])
    assert device == 3 * 2**30 == blocks * 4096


def test_directories_are_whose_they_should_be(host: Host) -> None:
    with host.sudo():
        folder = host.file("/srv/goud/node1")
        assert (folder.uid, folder.gid, folder.mode) == (10001, 10001, 0o700)


def test_the_engine_requires_it(host: Host) -> None:
    told = host.check_output("systemctl show docker.service --property=Requires --property=Asserts")
    assert "srv-goud.mount" in told
    assert host.service("docker").is_running
